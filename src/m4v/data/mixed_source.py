"""Several sources as one, in fixed shares (Appendix D: every stage names its data sets)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from m4v.core.errors import UserError
from m4v.data.clip import Clip
from m4v.data.mixing import Mixture
from m4v.data.source import ClipSource

_ORDER = 0


@dataclass(frozen=True)
class WeightedSource:
    """A source with its share.

    Attributes:
        name: For the log.
        source: The clips.
        weight: Clips per window of the mixture, at least 1.
    """

    name: str
    source: ClipSource
    weight: int = 1


class MixedSource:
    """Clips of several sources in the ratio of their weights, exact in every window of as many clips as these sum to.

    Clip `index` is a pure function of the index. A source that is too short for its share starts again; none is read
    beyond what makes the longest one, measured by its share, come once.

    Args:
        parts: At least one source; names must differ.
        num_clips: Most clips.

    Raises:
        UserError: if there are no parts, or names repeat.
    """

    def __init__(self, parts: Sequence[WeightedSource], num_clips: int) -> None:
        if not parts:
            raise UserError("There is no source to mix; name at least one.")
        self._sources = {part.name: part.source for part in parts}
        self._mixture = Mixture(parts=tuple((part.name, part.weight) for part in parts))
        window = self._mixture.window
        longest = max(ceil(len(part.source) * window / part.weight) for part in parts)
        self._num_clips = min(num_clips, longest)

    def __len__(self) -> int:
        """Count the clips."""
        return self._num_clips

    def clip(self, index: int) -> Clip:
        """Take clip `index`; its `source` begins with the name of the source.

        Raises:
            UnusableClip: if this clip cannot be used.
        """
        name, number = self._mixture.at(_ORDER, index)
        source = self._sources[name]
        clip = source.clip(number % len(source))
        return replace(clip, source=f"{name}: {clip.source}")

    def counts(self) -> dict[str, int]:
        """Clips that every source gives, unusable ones included."""
        window = self._mixture.window
        full, rest = divmod(self._num_clips, window)
        counts = {name: full * weight for name, weight in self._mixture.parts}
        for index in range(full * window, full * window + rest):
            counts[self._mixture.at(_ORDER, index).kind] += 1
        return counts
