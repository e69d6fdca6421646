"""How each tensor of a converted model is made, as data: the whole is checked before the first byte is written."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from m4v.checkpoints.conversion_report import ConversionReport, Fate, TensorFate
from m4v.checkpoints.tensor_files import TensorSpec
from m4v.core.errors import UserError, shorten
from m4v.core.files import require_free_space

logger = logging.getLogger(__name__)

Advance = Callable[[int, int], None]
"""Told how many tensors are made by now, and how many there are."""

Write = Callable[[Mapping[str, TensorSpec], Callable[[str], Tensor]], Any]
"""Writes tensors of given types and shapes, which it asks for by name."""

_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Tensors(Protocol):
    """Named tensors that are read one at a time."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Type and shape by name, in order."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        ...


@dataclass(frozen=True)
class RenamedTensors:
    """Tensors under other names.

    Attributes:
        tensors: The tensors under their own names.
        own_names: New name -> own name, in the order wanted.
    """

    tensors: Tensors
    own_names: Mapping[str, str]

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Type and shape by new name."""
        own_specs = self.tensors.specs
        return {name: own_specs[own] for name, own in self.own_names.items()}

    def read(self, name: str) -> Tensor:
        """Read one by its new name."""
        return self.tensors.read(self.own_names[name])

    def under_own_names(self, report: ConversionReport) -> ConversionReport:
        """Tell of the sources in a report by the names that they had at first."""
        return ConversionReport(
            tuple(self._under_own_name(tensor) for tensor in report.fates),
            tuple(self.own_names[name] for name in report.left_out),
        )

    def _under_own_name(self, tensor: TensorFate) -> TensorFate:
        own = self.own_names.get(tensor.source, tensor.source)
        is_renamed = tensor.fate == "copied" and own != tensor.name
        return replace(tensor, source=own, fate="renamed" if is_renamed else tensor.fate)


@dataclass(frozen=True)
class Recipe:
    """How one tensor is made.

    Attributes:
        name: Its name in the result.
        spec: Its type and shape.
        make: Makes it; called once, when it is written.
        fate: What kind of recipe this is.
        source: Where the tensor comes from, in words or names.
        ingredients: Tensors of the source that it is made of.
    """

    name: str
    spec: TensorSpec
    make: Callable[[], Tensor]
    fate: Fate
    source: str
    ingredients: tuple[str, ...] = ()

    def in_dtype(self, dtype: torch.dtype) -> "Recipe":
        """The same tensor in another precision."""
        if self.spec.dtype == dtype or not self.spec.dtype.is_floating_point:
            return self

        def cast() -> Tensor:
            value = self.make()
            rounded = value.to(dtype)
            if _is_finite(value) and not _is_finite(rounded):
                raise UserError(
                    f"{self.source} has values up to {value.abs().max().item():.3g}, which {dtype} cannot hold. "
                    "Choose another precision, or keep that of the files."
                )
            return rounded

        return replace(self, spec=TensorSpec(dtype, self.spec.shape), make=cast)


def taken(name: str, source: Tensors, source_name: str | None = None) -> Recipe:
    """Take a tensor over bit for bit, perhaps under another name."""
    origin = name if source_name is None else source_name
    fate: Fate = "copied" if origin == name else "renamed"
    return Recipe(name, source.specs[origin], lambda: source.read(origin), fate, origin, (origin,))


def make_tensors(
    recipes: Iterable[Recipe], source: Tensors, place: Path, write: Write, on_progress: Advance | None = None
) -> ConversionReport:
    """Make every tensor as it is written, so that memory holds one at a time.

    Args:
        recipes: One per tensor of the result.
        source: What the recipes read, to tell what none of them used.
        place: Where they go in the end, to see first whether there is room.
        write: Writes tensors of given types and shapes; asks for each by name, once.
        on_progress: Told after every tensor.

    Raises:
        UserError: if there is no room, or a value leaves the range of the precision asked for.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    require_free_space(place, sum(recipe.spec.nbytes for recipe in by_name.values()))
    num_made = 0
    strange: list[str] = []

    def make(name: str) -> Tensor:
        nonlocal num_made
        tensor = by_name[name].make()
        if not _is_finite(tensor):
            strange.append(by_name[name].source)
        num_made += 1
        if on_progress is not None:
            on_progress(num_made, len(by_name))
        return tensor

    write({name: recipe.spec for name, recipe in by_name.items()}, make)
    if strange:
        logger.warning(
            "%d tensors hold values that are infinite or no numbers, so videos will be black; they are written as "
            "they are: %s. Download the weights again.",
            len(strange),
            shorten(strange),
        )
    used = {name for recipe in by_name.values() for name in recipe.ingredients}
    return ConversionReport(
        tuple(TensorFate(recipe.name, recipe.fate, recipe.source) for recipe in by_name.values()),
        tuple(name for name in source.specs if name not in used),
    )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; types of eight bits and whole numbers are not looked at."""
    if tensor.dtype not in _CHECKED or tensor.numel() == 0:
        return True
    # Extremes need no memory of the tensor's size, and a single NaN makes both of them NaN.
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))
