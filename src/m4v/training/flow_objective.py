"""Objective of the denoiser stages: pyramid flow matching with compressed, corrupted history (Sec. 3.1, A.3)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import T5EncoderModel

from m4v.core.generators import generator_for
from m4v.core.level_clip import LevelClip
from m4v.core.seeds import fold_seed
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.corruption import ConstantCorruption, HistoryCorruption, LinearCorruption, NoCorruption
from m4v.flow.history import history_clips
from m4v.flow.pyramid import latent_pyramid, split_frames
from m4v.flow.pyramid_flow import PyramidFlow
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.unit_choice import ComplementUnits, UniformUnits, UnitChoice
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.encoder import encode_ids, token_states
from m4v.training.bank_draws import BankDraws
from m4v.training.column_loss import ColumnLosses
from m4v.training.config import FlowStageConfig, StageName
from m4v.training.latent_bank import LatentBank
from m4v.training.loop import LossTerm
from m4v.training.precision import autocast
from m4v.training.row_share import ALL_ROWS, Piece, RowShare, generator_of_rows


@dataclass(frozen=True)
class Column:
    """Rows of a batch that share pyramid level and unit, and so a sequence layout.

    Attributes:
        level: Spatial pyramid level, 0 = coarsest.
        unit: Unit being denoised; the units before it are the history.
        rows: Slice of what `batch` gives, which holds only the rows of this rank.
        piece: Which column of the whole batch this is, and which rows of it.
    """

    level: int
    unit: int
    rows: slice
    piece: Piece


@dataclass(frozen=True, kw_only=True)
class ColumnInputs:
    """What the denoiser is asked in one column, and the answer.

    Attributes:
        clips: Compressed and corrupted history, oldest first, then the noisy frame.
        timesteps: Scheduler units, one per row.
        text: Encoded captions; the text encoder's graph hangs on them.
        velocity: What is to be predicted.
    """

    clips: tuple[LevelClip, ...]
    timesteps: Float[Tensor, "b"]
    text: TextConditioning
    velocity: Float[Tensor, "b c 1 h w"]


class PyramidFlowObjective:
    """Joint training of denoiser and text encoder on a bank of latents.

    Every step has one kind: an image step trains unit 0 in all columns, a video step draws a unit per column.

    Args:
        transformer: Trained in place.
        text_encoder: Trained in place, unless the settings or a second text encoder say otherwise.
        bank: Latents and captions, on the device of the networks.
        schedule: Tables of the pyramid.
        config: Mixture, columns, corruption, caption drop.
        stage: Name that separates the random draws of stages.
        batch_size: Items per step, a multiple of the columns.
        seed: Root of every random draw.
        use_bf16: Whether the forward pass runs in bf16.
        use_graphs: Record a device graph per layout; see `ColumnLosses`.
        share: Which rows of every batch are computed here; all by default.
        images: Still pictures for the image steps; None: they take the first frames of clips.
        pooled_encoder: CLIP's text network for the pooled vector; then no text encoder is trained.
    """

    def __init__(
        self,
        transformer: M4VTransformer3DModel,
        text_encoder: T5EncoderModel,
        bank: LatentBank,
        schedule: PyramidSchedule,
        config: FlowStageConfig,
        *,
        stage: StageName,
        batch_size: int,
        seed: int,
        use_bf16: bool,
        use_graphs: bool = False,
        share: RowShare = ALL_ROWS,
        images: LatentBank | None = None,
        pooled_encoder: nn.Module | None = None,
    ) -> None:
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.pooled_encoder = pooled_encoder
        self.trains_text = config.train_text and pooled_encoder is None
        self.bank = bank
        self.schedule = schedule
        self.config = config
        self.seed = fold_seed(seed, stage)
        self.batch_size = batch_size
        self.use_bf16 = use_bf16
        self.device = bank.latents.device
        self.flow = PyramidFlow(schedule)
        self.draws = BankDraws(
            bank,
            self.seed,
            batch_size,
            images_per_window=config.images_per_window,
            videos_per_window=config.videos_per_window,
            text_drop=config.text_drop,
            num_columns=sum(config.columns),
            share=share,
            images=images,
        )
        self.losses = ColumnLosses(transformer, use_bf16=use_bf16, use_graphs=use_graphs)
        self.corruption = _corruption(config)
        self.unit_choice: UnitChoice = (
            UniformUnits(seed=self.seed) if config.unit_rule == "uniform" else ComplementUnits(max_units=bank.num_units)
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Denoiser, and the text encoder if it is trained."""
        trained: dict[str, nn.Module] = {"transformer": self.transformer}
        return trained | ({"text_encoder": self.text_encoder} if self.trains_text else {})

    def columns(self, step: int) -> tuple[Column, ...]:
        """Levels and units of the columns, or parts of them, that this rank computes; coarsest level first."""
        levels = [level for level, count in enumerate(self.config.columns) for _ in range(count)]
        is_image = self.draws.is_image_step(step)
        found, first = [], 0
        for piece in self.draws.pieces:
            level, last = levels[piece.column], first + piece.stop - piece.start
            unit = 0 if is_image else self._unit(step, piece.column, level)
            found.append(Column(level, unit, slice(first, last), piece))
            first = last
        return tuple(found)

    def _unit(self, step: int, column: int, level: int) -> int:
        units = self.unit_choice.units(
            step=step, rank=column, num_units=self.bank.num_units, num_levels=self.schedule.num_levels
        )
        return units[level]

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take clips and captions; see `BankDraws.batch`."""
        return self.draws.batch(step)

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Compute the columns one after the other; each weighs by its share of the rows."""
        columns = self.columns(step)
        for column in columns:
            inputs = self.column_inputs(batch, column, step)
            loss = self.losses(inputs.clips, inputs.timesteps, inputs.text, inputs.velocity)
            yield LossTerm(
                loss=loss,
                weight=1.0 / len(columns),
                metrics={f"loss/level-{column.level}": loss.detach(), f"loss/unit-{column.unit}": loss.detach()},
                kind=f"{self.draws.kind(step)}/level-{column.level}",
                is_last=column is columns[-1],
            )

    def column_inputs(self, batch: Mapping[str, Tensor], column: Column, step: int) -> ColumnInputs:
        """What the denoiser is asked in one column: a function of batch, step, and the column's place in the whole."""
        latents = batch["latents"][column.rows]
        past, current = latents[:, :, : column.unit], latents[:, :, column.unit : column.unit + 1]
        piece = column.piece
        noise_generator = generator_of_rows(
            generator_for(self.seed, "noise", step, piece.column, device=self.device), piece
        )
        target = self.flow.training_sample(
            current,
            column.level,
            noise_generator=noise_generator,
            # A CPU draw: the index looks up small tables, and a device draw would have to be waited for.
            timestep_generator=generator_of_rows(generator_for(self.seed, "timestep", step, piece.column), piece),
        )
        history = history_clips(
            split_frames(latent_pyramid(past, self.flow.num_levels)),
            column.level,
            self.config.history_window,
            self.schedule.config.history_halvings,
        )
        history = self.corruption(history, noise_generator)
        text = self.encode({name: value[column.rows] for name, value in batch.items() if name != "latents"})
        clips = (*history, LevelClip(target.noisy_latents, column.level))
        return ColumnInputs(clips=clips, timesteps=target.timesteps, text=text, velocity=target.velocity)

    def encode(self, batch: Mapping[str, Tensor]) -> TextConditioning:
        """Encode captions; a second, frozen text encoder gives the pooled vector if there is one."""
        with autocast(self.use_bf16, self.device), torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled()):
            if self.pooled_encoder is None:
                return encode_ids(self.text_encoder, batch["token_ids"], batch["token_mask"])
            tokens = token_states(self.text_encoder, batch["token_ids"], batch["token_mask"])
            pooled = self.pooled_encoder(input_ids=batch["pooled_ids"]).pooler_output
            return TextConditioning(tokens.float(), batch["token_mask"], pooled.float())

    def num_items(self, step: int) -> int:
        """Items per step."""
        return self.batch_size

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches so far in this stage."""
        return self.draws.facts(step)


def _corruption(config: FlowStageConfig) -> HistoryCorruption:
    if config.corruption == 0:
        return NoCorruption()
    return (LinearCorruption if config.corruption_rule == "linear" else ConstantCorruption)(config.corruption)
