"""Settings of a stage of pyramid flow matching (torch-free; Sec. 4.1, Appendix A.3)."""

from dataclasses import dataclass
from typing import Literal

from m4v.training.optim_config import OptimConfig, PerDevice, require


def check_mixture(images_per_window: int, videos_per_window: int, text_drop: float) -> None:
    """Refuse a mixture of images and videos that cannot be drawn.

    Raises:
        UserError: if a share is negative, all are 0, or `text_drop` is not a probability.
    """
    require(
        min(images_per_window, videos_per_window) >= 0 and images_per_window + videos_per_window > 0,
        f"The mixture is {images_per_window} image and {videos_per_window} video batches; "
        "neither may be negative and one must be above 0.",
    )
    require(0 <= text_drop <= 1, f"text_drop is {text_drop}; it must be in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class FlowStageConfig:
    """A stage that trains the denoiser and the text encoder by pyramid flow matching; 0 steps skip it.

    Attributes:
        steps: Optimiser steps.
        batch_size: Items (one unit at one level) per step; split evenly over the columns.
        optim: Optimiser settings.
        images_per_window: Image batches in every window of the mixture.
        videos_per_window: Video batches in every window; 1 and 8 is the paper's mixture, 1 and 0 is text-to-image.
        columns: Columns per pyramid level, coarsest first; a column has one level, one unit and an equal batch share.
        unit_rule: `uniform` draws the unit of every column independently; `complement` gives the finest level a
            unit and the others its mirror image, which balances sequence lengths (Pyramid-Flow).
        corruption: Largest noise share eta of the history (Appendix A.3), in [0, 1].
        corruption_rule: `linear` grows from the oldest to the newest frame (the paper), `constant` is one level for all
            (Pyramid-Flow).
        text_drop: Share of captions replaced by the empty prompt, for classifier-free guidance.
        history_window: Most history units an item sees; unset means all.
        train_text: Train the text encoder too. Models with text encoders of their own origin (Pyramid-Flow's CLIP and
            T5) keep them as they are, whatever this says.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=32, accelerator=1024)
    optim: OptimConfig = OptimConfig()
    images_per_window: int = 1
    videos_per_window: int = 8
    columns: tuple[int, ...] = (1, 2, 1)
    unit_rule: Literal["uniform", "complement"] = "uniform"
    corruption: float = 1 / 3
    corruption_rule: Literal["linear", "constant"] = "linear"
    text_drop: float = 0.1
    history_window: int | None = None
    train_text: bool = True

    def __post_init__(self) -> None:
        check_mixture(self.images_per_window, self.videos_per_window, self.text_drop)
        require(
            min(self.columns, default=0) >= 0 and sum(self.columns) > 0,
            f"columns is {self.columns}; give a count of at least 0 per level, not all 0.",
        )
        for size in (self.batch_size.cpu, self.batch_size.accelerator):
            require(
                size > 0 and size % sum(self.columns) == 0,
                f"batch_size is {size}, but it must be a multiple of the {sum(self.columns)} columns.",
            )
        require(0 <= self.corruption <= 1, f"corruption is {self.corruption}; it must be in [0, 1].")
