"""The pooling kernel, interpreted, against means written out cell by cell."""

import pytest
import torch
from torch import Tensor

from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.time_plan import time_plan
from m4v.ops.cell_pooling import custom_op, pooling
from m4v.ops.cell_pooling.pooling import CellIndex, pool
from m4v.ops.scan_section import dispatch
from tests.assertions import assert_relative_close, nan_poisoned_memory

LEVELS = {"pooled and cut": (0, 1, 2, 1), "all pooled but one": (2, 2, 0), "cut alone": (0, 0, 2)}


def _index(levels: tuple[int, ...]) -> CellIndex:
    frames = tuple(FrameGrid(level, 2**level, 2 * 2**level) for level in levels)
    index = time_plan(SequenceLayout(frames, 0), torch.device("cpu")).cells
    assert index is not None
    return index


def _means(rows: Tensor, index: CellIndex) -> Tensor:
    num_cells = len(index.first)
    return torch.stack([rows[:, index.cell == cell].mean(1) for cell in range(num_cells)], dim=1)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("width", [24, 4096 + 16])
def test_equals_the_means(levels: tuple[int, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(levels)
    num_rows = sum(2 * 4**level for level in levels)
    history = sum(2 * 4**level for level in levels[:-1])
    wide = torch.randn(2, 3 + num_rows, width, generator=torch.Generator().manual_seed(0))
    rows = wide[:, 3:]  # what follows the text
    # In history, rows of one cell share it; the rows of the last frame are a cell each.
    assert index.cell[history:].unique().numel() == num_rows - history
    with nan_poisoned_memory():
        cells = custom_op.pool(rows, index.first, index.line, index.sizes, index.members)
    assert_relative_close(cells, _means(rows.double(), index), 1e-6)
    dispatch._choose.cache_clear()
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "triton")
    with torch.no_grad():
        assert torch.equal(pool(rows, index), cells)
    dispatch._choose.cache_clear()
    assert_relative_close(pooling._pool(rows, index), cells, 1e-6)


def test_half_precision_is_added_in_single() -> None:
    index = _index((2, 0))
    rows = torch.full((1, 34, 16), 256.0, dtype=torch.bfloat16)
    rows[:, 1::2] = 1.0  # lost beside 256 in bfloat16 sums
    cells = custom_op.pool(rows, index.first, index.line, index.sizes, index.members)
    assert torch.equal(cells, _means(rows.double(), index).bfloat16())


def test_operator_is_sound() -> None:
    index = _index((1, 0, 1))
    rows = torch.randn(1, 18, 8)
    torch.library.opcheck(custom_op.pool, (rows, index.first, index.line, index.sizes, index.members))
