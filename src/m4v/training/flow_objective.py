"""Objective of the denoiser stages: pyramid flow matching with compressed, corrupted history (Sec. 3.1, A.3)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import T5EncoderModel

from m4v.core.generators import generator_for
from m4v.core.level_clip import LevelClip
from m4v.core.seeds import fold_seed
from m4v.flow.corruption import ConstantCorruption, HistoryCorruption, LinearCorruption, NoCorruption
from m4v.flow.history import history_clips
from m4v.flow.pyramid import latent_pyramid, split_frames
from m4v.flow.pyramid_flow import PyramidFlow
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.unit_choice import ComplementUnits, UniformUnits, UnitChoice
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.encoder import encode_ids
from m4v.training.bank_draws import BankDraws
from m4v.training.column_loss import ColumnLosses
from m4v.training.config import FlowStageConfig, StageName
from m4v.training.latent_bank import LatentBank
from m4v.training.loop import LossTerm
from m4v.training.precision import autocast


@dataclass(frozen=True)
class Column:
    """Rows of a batch that share pyramid level and unit, and so a sequence layout.

    Attributes:
        level: Spatial pyramid level, 0 = coarsest.
        unit: Unit being denoised; the units before it are the history.
        rows: Slice of the batch.
    """

    level: int
    unit: int
    rows: slice


class PyramidFlowObjective:
    """Joint training of denoiser and text encoder on a bank of latents.

    Every step has one kind: an image step trains unit 0 in all columns, a video step draws a unit per column.

    Args:
        transformer: Trained in place.
        text_encoder: Trained in place.
        bank: Latents and captions, on the device of the networks.
        schedule: Tables of the pyramid.
        config: Mixture, columns, corruption, caption drop.
        stage: Name that separates the random draws of stages.
        batch_size: Items per step, a multiple of the columns.
        seed: Root of every random draw.
        use_bf16: Whether the forward pass runs in bf16.
        use_graphs: Record a device graph per layout; see `ColumnLosses`.
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
    ) -> None:
        self.transformer = transformer
        self.text_encoder = text_encoder
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
        )
        self.losses = ColumnLosses(transformer, use_bf16=use_bf16, use_graphs=use_graphs)
        self.corruption = _corruption(config)
        self.unit_choice: UnitChoice = (
            UniformUnits(seed=self.seed) if config.unit_rule == "uniform" else ComplementUnits(max_units=bank.num_units)
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Denoiser and text encoder."""
        return {"transformer": self.transformer, "text_encoder": self.text_encoder}

    def columns(self, step: int) -> tuple[Column, ...]:
        """Levels and units of a step's columns, coarsest level first."""
        levels = [level for level, count in enumerate(self.config.columns) for _ in range(count)]
        num_rows = self.batch_size // len(levels)
        is_image = self.draws.is_image_step(step)
        return tuple(
            Column(
                level,
                0 if is_image else self._unit(step, index, level),
                slice(index * num_rows, (index + 1) * num_rows),
            )
            for index, level in enumerate(levels)
        )

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
        for index, column in enumerate(columns):
            loss = self._column_loss(batch, column, step, index)
            yield LossTerm(
                loss=loss,
                weight=1.0 / len(columns),
                metrics={f"loss/level-{column.level}": loss.detach(), f"loss/unit-{column.unit}": loss.detach()},
            )

    def _column_loss(self, batch: Mapping[str, Tensor], column: Column, step: int, index: int) -> Tensor:
        latents = batch["latents"][column.rows]
        past, current = latents[:, :, : column.unit], latents[:, :, column.unit : column.unit + 1]
        noise_generator = generator_for(self.seed, "noise", step, index, device=self.device)
        target = self.flow.training_sample(
            current,
            column.level,
            noise_generator=noise_generator,
            # A CPU draw: the index looks up small tables, and a device draw would have to be waited for.
            timestep_generator=generator_for(self.seed, "timestep", step, index),
        )
        history = history_clips(
            split_frames(latent_pyramid(past, self.flow.num_levels)),
            column.level,
            self.config.history_window,
            self.schedule.config.history_halvings,
        )
        history = self.corruption(history, noise_generator)
        with autocast(self.use_bf16, self.device):
            text = encode_ids(self.text_encoder, batch["token_ids"][column.rows], batch["token_mask"][column.rows])
        clips = [*history, LevelClip(target.noisy_latents, column.level)]
        return self.losses(clips, target.timesteps, text, target.velocity)

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
