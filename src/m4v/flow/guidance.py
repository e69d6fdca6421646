"""Classifier-free guidance and its strength over the units of a video (settings of Sec. 3.1's base model)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Pushes the velocity away from the negative prompt's.

    Attributes:
        scale: Strength, at least 0. 1 follows the positive prompt alone, more exaggerates its difference from the
            negative one; 0 switches guidance off, as in Pyramid-Flow.

    Raises:
        UserError: when the scale is negative.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise UserError(f"The guidance scale is {self.scale}; expected 0 or more (1 switches guidance off).")

    @property
    def needs_negative(self) -> bool:
        """Whether guidance changes the velocity: 0 means off, and 1 is the positive velocity itself."""
        return self.scale not in (0, 1)

    def combine(
        self, negative: Float[Tensor, "b c t h w"], positive: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Extrapolate from the negative through the positive velocity."""
        return negative + self.scale * (positive - negative)


@dataclass(frozen=True, kw_only=True)
class LinearDecay:
    """Guidance that weakens by a fixed amount per unit, down to a floor.

    Attributes:
        slope: Loss per unit, at least 0.
        minimum: Floor, at least 0.

    Raises:
        UserError: when a value is negative.

    Source: Pyramid-Flow's linear guidance option.
    """

    slope: float = 0.5
    minimum: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.slope < float("inf") and 0 <= self.minimum < float("inf")):
            raise UserError(f"Guidance decay is slope {self.slope}, minimum {self.minimum}; expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class UnitGuidance:
    """Guidance scales of the first unit (the image) and of the later ones (the motion).

    Attributes:
        first: Scale of unit 0.
        later: Scale of units from 1 on.
        decay: When given, every unit u gets `max(first - slope * u, minimum)` and `later` is not used.

    Source: Pyramid-Flow's recommended inference settings.
    """

    first: float = 7.0
    later: float = 5.0
    decay: LinearDecay | None = None

    def for_unit(self, unit: int) -> ClassifierFreeGuidance:
        """Give the guidance of one unit, counted from 0.

        Raises:
            UserError: when the scale is negative.
        """
        if self.decay is not None:
            return ClassifierFreeGuidance(max(self.first - self.decay.slope * unit, self.decay.minimum))
        return ClassifierFreeGuidance(self.first if unit == 0 else self.later)
