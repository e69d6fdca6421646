"""torch generators seeded by purpose and counter, so that no random state has to be saved or shared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m4v.core.seeds import fold_seed


def generator_for(seed: int, *indices: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator for one purpose, for example `generator_for(seed, "noise", step)`."""
    return torch.Generator(device=device).manual_seed(fold_seed(seed, *indices))


@dataclass(frozen=True)
class RowsGenerator:
    """A generator of draws for a whole batch, of which the caller holds only some rows.

    The whole is drawn and the rows are cut out of it: every rank gets what one rank alone would have drawn for these
    rows, bit for bit. Generators per row would draw less, but cost a kernel per row, which a device with a thousand
    rows of a small model feels more than numbers thrown away.

    Attributes:
        generator: Draws for the whole batch.
        num_rows: Rows of the whole batch.
        start: First row held.
    """

    generator: torch.Generator
    num_rows: int
    start: int

    @property
    def device(self) -> torch.device:
        """Where numbers are drawn."""
        return self.generator.device


RowGenerator = torch.Generator | RowsGenerator


def draw(
    law: Callable[..., Tensor], shape: Sequence[int], generator: RowGenerator, *, row_dim: int = 0, **options: object
) -> Tensor:
    """Draw numbers on the generator's device.

    Args:
        law: `torch.randn`, `torch.rand`, or a partial `torch.randint`.
        shape: Of the result.
        generator: Draws for these rows, or for a batch that they belong to.
        row_dim: Dimension of the rows.
        options: More keyword arguments of `law`.
    """
    if isinstance(generator, torch.Generator):
        return law(tuple(shape), generator=generator, device=generator.device, **options)
    whole = list(shape)
    whole[row_dim] = generator.num_rows
    drawn = law(tuple(whole), generator=generator.generator, device=generator.device, **options)
    return drawn.narrow(row_dim, generator.start, shape[row_dim])
