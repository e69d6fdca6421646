"""Objective of the reward stage: flow matching plus rewards of decoded one-step estimates (Sec. 3.4, Eqs. 5 and 6)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.generators import generator_for
from m4v.core.level_clip import LevelClip
from m4v.core.seeds import fold_seed
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.history import history_clips
from m4v.flow.noise import standard_normal
from m4v.flow.one_step import one_step_estimate
from m4v.flow.path import sample_path
from m4v.flow.pyramid import latent_pyramid, noise_pyramid, split_frames
from m4v.flow.timesteps import sample_timestep_index
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.rewards.protocol import RewardModel
from m4v.training.bank_draws import BankDraws
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.loop import LossTerm
from m4v.training.precision import autocast
from m4v.training.reward_config import RewardStageConfig
from m4v.training.reward_decoding import DecodedUnit, decode_unit
from m4v.training.row_share import Piece, RowShare, generator_of_rows

_PREFIX = "reward_"


class CaptionReader(Protocol):
    """What turns token ids back into words; a tokenizer."""

    def batch_decode(self, sequences: Tensor, *, skip_special_tokens: bool) -> list[str]:
        """Spell rows of ids."""


class RewardObjective:
    """The flow loss, whose columns it leaves as they are, and one more forward pass that is decoded and scored.

    The scored rows have clips, captions (never dropped), noise and timesteps of their own. Captions are encoded without
    a graph there, so the reward reaches the denoiser alone: a text encoder that rewards can bend would learn to say
    what is drawn instead of what was asked. With weight 0 nothing is added: the stage is the flow stage bit for bit.

    Args:
        flow: Flow matching; its networks are what is trained.
        vae: Frozen.
        rewards: Frozen; in the order of the settings.
        reader: Tokenizer of the captions.
        config: Weights, units, levels.
        num_rows: Clips scored per step.
        share: Which rows are computed here.

    Source: Sec. 3.4, Eqs. 5 and 6.
    """

    def __init__(
        self,
        flow: PyramidFlowObjective,
        vae: CausalVideoVAE,
        rewards: Sequence[RewardModel],
        reader: CaptionReader,
        config: RewardStageConfig,
        *,
        num_rows: int,
        share: RowShare = RowShare(),  # noqa: B008 - frozen
    ) -> None:
        self.flow = flow
        self.vae = vae.requires_grad_(False).eval()
        self.rewards = rewards
        self.factors = dict(zip((reward.name for reward in rewards), config.factors, strict=True))
        self.reader = reader
        self.config = config
        self.seed = fold_seed(flow.seed, "reward")
        self.device = flow.device
        self.draws = BankDraws(
            flow.bank,
            self.seed,
            num_rows,
            images_per_window=0,
            videos_per_window=1,
            text_drop=0.0,
            share=share,
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What the flow loss trains."""
        return self.flow.modules

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take the rows of the flow loss and, under names of their own, those that are scored."""
        batch = self.flow.batch(step)
        if self.config.weight:
            batch |= {_PREFIX + name: value for name, value in self.draws.batch(step).items()}
        return batch

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Give the columns of the flow loss, then the reward loss."""
        yield from self.flow.terms(batch, step)
        if not self.config.weight:
            return
        pieces, first = self.draws.pieces, 0
        for piece in pieces:
            last = first + piece.stop - piece.start
            yield self._reward_term(batch, slice(first, last), piece, step, 1.0 / len(pieces))
            first = last

    def place(self, step: int) -> tuple[int, int]:
        """Level and unit that are scored in a step."""
        generator = generator_for(self.seed, "place", step)
        num_units, num_levels = self.flow.bank.num_units, self.flow.schedule.num_levels
        count = min(self.config.last_units, num_units)
        unit = num_units - 1 - int(torch.randint(count, (), generator=generator))
        level = num_levels - 1
        if self.config.levels == "any":
            level = int(torch.randint(num_levels, (), generator=generator))
        return level, unit

    def _reward_term(self, batch: Mapping[str, Tensor], rows: slice, piece: Piece, step: int, share: float) -> LossTerm:
        level, unit = self.place(step)
        latents = batch[_PREFIX + "latents"][rows]
        captions = {
            name.removeprefix(_PREFIX): value[rows]
            for name, value in batch.items()
            if name.startswith(_PREFIX) and name != _PREFIX + "latents"
        }
        with torch.no_grad():
            text = self.flow.encode(captions)
        estimate = self.estimate(latents, text, level, unit, step, piece)
        history = latent_pyramid(latents[:, :, :unit], self.flow.schedule.num_levels)[level]
        with autocast(self.flow.use_bf16, self.device):
            decoded = decode_unit(self.vae, history, estimate, self.config.context_units)
        prompts = self.reader.batch_decode(captions["token_ids"], skip_special_tokens=True)
        values = self.score(decoded, prompts, step)
        loss = -torch.stack([self.factors[name] * value.mean() for name, value in values.items()]).sum()
        metrics = {f"reward/{name}": value.detach().mean() for name, value in values.items()}
        return LossTerm(
            loss=loss,
            weight=self.config.weight * share,
            metrics={"loss/reward": loss.detach(), **metrics, f"reward/unit-{unit}": -loss.detach()},
            kind=f"reward/level-{level}",
        )

    def estimate(
        self,
        latents: Float[Tensor, "b c t h w"],
        text: TextConditioning,
        level: int,
        unit: int,
        step: int,
        piece: Piece,
    ) -> Float[Tensor, "b c 1 _h _w"]:
        """Clean latents of a unit that one velocity prediction implies (Eq. 5), with the sigmas of its level.

        Args:
            latents: Clean clips.
            text: Encoded captions.
            level: Spatial pyramid level.
            unit: Unit to estimate; history is corrupted as in the flow loss.
            step: Stage step, which noise and timesteps are drawn for.
            piece: Rows of the step's scored clips that these are.
        """
        flow, schedule = self.flow, self.flow.schedule
        past, current = latents[:, :, :unit], latents[:, :, unit : unit + 1]
        noise_generator = generator_of_rows(generator_for(self.seed, "noise", step, device=self.device), piece)
        timestep_generator = generator_of_rows(generator_for(self.seed, "timestep", step), piece)
        noise = noise_pyramid(standard_normal(current.shape, noise_generator, self.device), schedule.num_levels)
        index = sample_timestep_index(schedule, len(current), timestep_generator)
        sample = sample_path(schedule, latent_pyramid(current, schedule.num_levels), noise, level, index)
        history = history_clips(
            split_frames(latent_pyramid(past, schedule.num_levels)),
            level,
            flow.config.history_window,
            schedule.config.history_halvings,
        )
        clips = (*flow.corruption(history, noise_generator), LevelClip(sample.noisy_latents, level))
        with autocast(flow.use_bf16, self.device):
            velocity = flow.transformer(clips, sample.timesteps, text)
        return one_step_estimate(schedule, sample.noisy_latents, velocity, sample.level_sigma, level, noise[level])

    def score(self, decoded: DecodedUnit, prompts: Sequence[str], step: int) -> dict[str, Float[Tensor, " b"]]:
        """Ask every reward; scorers of single frames see a few frames of the unit, drawn for the step."""
        num_frames = decoded.frames.shape[1]
        generator = generator_for(self.seed, "frames", step)
        chosen = torch.randperm(num_frames, generator=generator)[: self.config.decoded_frames].sort().values
        few = decoded.frames[:, chosen.to(self.device)]
        return {
            reward.name: reward(few if reward.sees == "frames" else decoded.clip, prompts) for reward in self.rewards
        }

    def num_items(self, step: int) -> int:
        """Items of the flow loss."""
        return self.flow.num_items(step)

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches of the flow loss so far in this stage."""
        return self.flow.facts(step)
