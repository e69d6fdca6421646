"""Which rows of a step's batch one rank computes, and in which parts: the same batch for any number of ranks.

A batch is C columns of equal length. With W ranks and A parts each, every column is cut into as many equal runs of
rows as divide both its length and W x A; what is left of W x A is spread over whole columns. All parts therefore hold
equally many rows, and all ranks call the network equally often, which collective operations need.
"""

from dataclasses import dataclass
from math import gcd

import torch

from m4v.core.errors import UserError
from m4v.core.generators import RowGenerator, RowsGenerator


@dataclass(frozen=True)
class Piece:
    """A run of rows of one column.

    Attributes:
        column: Column of the whole batch.
        start: First row, counted within the column.
        stop: One past the last row.
        length: Rows of the whole column.
    """

    column: int
    start: int
    stop: int
    length: int

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole column."""
        return self.stop - self.start == self.length


@dataclass(frozen=True, kw_only=True)
class RowShare:
    """The share of one rank.

    Attributes:
        rank: Number of the rank.
        world: Number of ranks.
        accumulate: Parts per rank, computed one after the other.
    """

    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def pieces(self, batch_size: int, num_columns: int = 1) -> tuple[Piece, ...]:
        """What this rank computes, in order.

        Args:
            batch_size: Rows of the whole batch, a multiple of the columns.
            num_columns: Columns of the whole batch.

        Raises:
            UserError: if the batch cannot be cut into equal parts.
        """
        length = batch_size // num_columns
        num_parts = self.world * self.accumulate
        row_parts = gcd(length, num_parts)
        column_groups = num_parts // row_parts
        if num_columns % column_groups:
            raise UserError(
                f"A batch of {batch_size} in {num_columns} columns of {length} cannot be shared evenly by {self.world} "
                f"ranks with {self.accumulate} parts each; make it a multiple of {num_columns * num_parts}, or change "
                "parallel.accumulate or the number of ranks."
            )
        rows = length // row_parts
        found = []
        for part in range(self.accumulate):
            # Consecutive parts of a rank are far apart, so that it gets coarse and fine columns.
            number = self.rank + part * self.world
            start = number % row_parts * rows
            found += [
                Piece(column, start, start + rows, length)
                for column in range(number // row_parts, num_columns, column_groups)
            ]
        return tuple(found)

    def rows(self, batch_size: int, num_columns: int = 1) -> tuple[int, ...]:
        """Row numbers of the whole batch that this rank computes, in the order of `pieces`."""
        return tuple(
            piece.column * piece.length + row
            for piece in self.pieces(batch_size, num_columns)
            for row in range(piece.start, piece.stop)
        )


ALL_ROWS = RowShare()
"""The share of a process that is alone."""


def generator_of_rows(generator: torch.Generator, piece: Piece) -> RowGenerator:
    """Make a column's generator give only the draws of a piece of it."""
    return generator if piece.is_whole else RowsGenerator(generator, piece.length, piece.start)
