"""Which kind of batch each training step takes (Sec. D: images to videos 1:8; Fig. 8 shows what more images do)."""

from dataclasses import dataclass
from typing import NamedTuple

from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed


class MixedStep(NamedTuple):
    """One step of a mixture: the kind of its batch, and how many batches of that kind came before it."""

    kind: str
    kind_step: int


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A ratio of batch kinds, exact in every window of as many batches as the ratio sums to.

    Windows follow each other without overlap; inside each, the order is shuffled anew, so that no kind keeps meeting
    the same phase of anything else that is periodic. Everything is a pure function of seed and step: a resumed run goes
    on exactly where it stopped.

    Attributes:
        parts: Kinds and their batches per window, such as `(("image", 1), ("video", 8))`.
    """

    parts: tuple[tuple[str, int], ...] = (("image", 1), ("video", 8))

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.parts]
        if len(set(kinds)) < len(kinds):
            raise UserError(f"The mixture names a kind twice: {', '.join(kinds)}.")
        if min((count for _, count in self.parts), default=0) < 0 or self.window == 0:
            ratio = ":".join(str(count) for _, count in self.parts) or "empty"
            raise UserError(f"The mixture is {ratio}; counts must be at least 0, and one of them above 0.")

    @property
    def window(self) -> int:
        """Batches per window."""
        return sum(count for _, count in self.parts)

    def at(self, seed: int, step: int) -> MixedStep:
        """Tell what step `step` (from 0) takes."""
        window, position = divmod(step, self.window)
        kinds = [kind for kind, count in self.parts for _ in range(count)]
        places = sorted(range(self.window), key=lambda place: fold_seed(seed, "mixture", window, place))
        order = [kinds[place] for place in places]
        kind = order[position]
        return MixedStep(kind, window * order.count(kind) + order[:position].count(kind))
