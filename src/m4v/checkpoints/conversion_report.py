"""What a conversion did with every tensor, for people and for `conversion.json` (torch-free)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

Fate = Literal["copied", "renamed", "derived", "new"]
_EXAMPLES = 3


@dataclass(frozen=True)
class TensorFate:
    """Where one tensor of the result comes from.

    Attributes:
        name: Its name in the result.
        fate: "copied" (same name, same values), "renamed" (another name, same values), "derived" (computed from tensors
            of the source) or "new" (freshly initialised).
        source: Name or names in the source, or for new tensors the rule that made them.
    """

    name: str
    fate: Fate
    source: str


@dataclass(frozen=True)
class ConversionReport:
    """The fate of every tensor of the result, and what of the source the result does not hold.

    Attributes:
        fates: One entry per tensor of the result, in its order.
        left_out: Tensors of the source that nothing in the result was made of.
    """

    fates: tuple[TensorFate, ...]
    left_out: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Tensors by fate, every fate named."""
        found = Counter(tensor.fate for tensor in self.fates)
        return {fate: found[fate] for fate in get_args(Fate)}

    def to_plain(self) -> dict[str, Any]:
        """JSON types: `counts`, `tensors` (name -> fate and source) and `left_out`."""
        tensors = {tensor.name: {"fate": tensor.fate, "source": tensor.source} for tensor in self.fates}
        return {"counts": self.counts(), "tensors": tensors, "left_out": list(self.left_out)}

    def lines(self) -> Iterator[str]:
        """Yield a few lines for the terminal: how many tensors had each fate, with examples of what was computed."""
        counts = self.counts()
        shown = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
        yield f"{len(self.fates)} tensors: {shown}."
        for fate in ("renamed", "derived", "new"):
            chosen = [tensor for tensor in self.fates if tensor.fate == fate]
            for tensor in chosen[:_EXAMPLES]:
                yield f"  {fate}: {tensor.name} <- {tensor.source}"
            if len(chosen) > _EXAMPLES:
                yield f"  ... and {len(chosen) - _EXAMPLES} more {fate}"
        if self.left_out:
            more = f", and {len(self.left_out) - _EXAMPLES} more" if len(self.left_out) > _EXAMPLES else ""
            yield f"  not carried over: {', '.join(self.left_out[:_EXAMPLES])}{more}"
