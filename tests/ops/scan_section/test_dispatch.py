"""The door of the scan section: which backend runs, what is refused, and that indices are checked."""

import dataclasses
import logging
import subprocess
import sys
from typing import Any

import pytest
import torch

from m4v.core.errors import UserError
from m4v.ops.scan_section import dispatch
from m4v.ops.scan_section.interface import check_order, kernel_index
from tests.ops.scan_section.cases import NUM_KINDS, Case, split

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CASE = Case(frames=((2, 3),), num_text=3, prompt_lengths=(2, 3))


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch._choose.cache_clear()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(dispatch, "find_spec", lambda _: "found")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def test_a_cpu_runs_plain_torch() -> None:
    assert dispatch.choose_backend(CPU, torch.float32, 64, 64) == "reference"


def test_a_gpu_runs_the_kernels() -> None:
    assert dispatch.choose_backend(GPU, torch.bfloat16, 64, 64) == "triton"
    assert dispatch.choose_backend(GPU, torch.bfloat16, 64, 64, "reference") == "reference"


@pytest.mark.parametrize(
    ("dtype", "head_dim", "words"),
    [(torch.float64, 64, "rows are float64"), (torch.bfloat16, 48, "heads are 48 wide")],
)
def test_what_kernels_cannot_do_falls_back_with_one_line(
    dtype: torch.dtype, head_dim: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert dispatch.choose_backend(GPU, dtype, head_dim, head_dim) == "reference"
    assert len(caplog.messages) == 1
    assert words in caplog.messages[0]


def test_an_old_gpu_falls_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert dispatch.choose_backend(GPU, torch.float16, 64, 64) == "reference"
    assert "compute capability 7.5" in caplog.text


def test_a_missing_package_falls_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda _: None)
    assert dispatch.choose_backend(GPU, torch.float16, 64, 64) == "reference"
    assert "pip install triton" in caplog.text


def test_the_door_opens_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from m4v.ops.scan_section.dispatch import choose_backend
sys.stdout.write(choose_backend(torch.device("cpu"), torch.float32, 64, 64))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["reference"], done.stderr


def test_a_forced_backend_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the device is cpu.*Leave the backend to auto"):
        dispatch.choose_backend(CPU, torch.float32, 64, 64, "triton")
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "triton")
    with pytest.raises(UserError, match="M4V_SCAN_BACKEND"):
        dispatch.choose_backend(CPU, torch.float32, 64, 64)
    assert dispatch.choose_backend(CPU, torch.float32, 64, 64, "reference") == "reference"


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "tritn")
    with pytest.raises(UserError, match=r"'tritn'; expected one of auto, triton, reference"):
        dispatch.choose_backend(CPU, torch.float32, 64, 64)


def test_plans_are_translated_where_kernels_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for asked in ("auto", "reference", "triton"):
        monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", asked)
        found.append((dispatch.may_run_kernels(CPU), dispatch.may_run_kernels(GPU)))
    assert found == [(False, True), (False, False), (True, True)]


def test_a_backend_describes_itself_without_a_log_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert dispatch.describe_backend(CPU).startswith("plain torch, because the device is cpu")
    assert dispatch.describe_backend(GPU) == ("Triton kernels, because this is an NVIDIA GPU of compute capability 9.0")
    assert dispatch.describe_backend(GPU, head_dim=8).startswith("plain torch, because heads are 8 wide")
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "triton")
    assert dispatch.describe_backend(GPU) == "Triton kernels, because M4V_SCAN_BACKEND is triton"
    assert dispatch.describe_backend(CPU).startswith("none, because M4V_SCAN_BACKEND is triton, but the device is cpu")
    monkeypatch.setattr(dispatch, "_FROM_ENVIRONMENT", "tritn")
    assert dispatch.describe_backend(CPU).startswith("none, because M4V_SCAN_BACKEND is 'tritn'")
    assert not caplog.messages


def test_rows_need_not_be_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = dataclasses.replace(CASE, num_heads=1, prompt_lengths=(2,))
    (rows, *others), weights, _ = split(case.tensors(torch.float32))
    arguments = (*others, weights, case.order(), case.scan_options())
    expected = dispatch.scan_section(rows, *arguments, backend="triton").mixed
    wider = torch.cat([rows, torch.full_like(rows, torch.nan)], dim=-1)[..., : rows.shape[-1]]
    for layout in (wider, rows.transpose(1, 2).contiguous().transpose(1, 2)):
        assert not layout.is_contiguous()
        assert torch.equal(dispatch.scan_section(layout, *arguments, backend="triton").mixed, expected)


@pytest.mark.parametrize("name", ["rows", "register_rows", "dt", "A_log", "conv_weight", "norm_b"])
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    tensors = CASE.tensors(torch.float32)
    value = tensors[name]
    assert value is not None
    tensors[name] = value[..., :-1] if name != "conv_weight" else value[:-1]
    rows, weights, _ = split(tensors)
    with pytest.raises(UserError, match="of the scan section has shape"):
        dispatch.scan_section(*rows, weights, CASE.order(), CASE.scan_options())


def test_what_kernels_would_read_unchecked_is_refused() -> None:
    rows, weights, _ = split(CASE.tensors(torch.float32))
    order, options = CASE.order(), CASE.scan_options()
    assert order.kernel_index is not None
    other_batch = order._replace(kernel_index=order.kernel_index._replace(source=order.kernel_index.source[:1]))
    with pytest.raises(UserError, match="kernel_index of the scan section has shape"):
        dispatch.scan_section(*rows, weights, other_batch, options)
    no_registers = (rows[0], rows[1][:0], rows[2], rows[3][:0])
    with pytest.raises(UserError, match="has 1 registers, but register_rows has no rows"):
        dispatch.scan_section(*no_registers, weights, order, options)


@pytest.mark.parametrize("name", ["register_rows", "A_log", "is_real"])
def test_parts_on_other_devices_are_refused(name: str) -> None:
    tensors = CASE.tensors(torch.float32)
    order = CASE.order()
    if name == "is_real":
        order = order._replace(is_real=order.is_real.to("meta"))
    else:
        value = tensors[name]
        assert value is not None
        tensors[name] = value.to("meta")
    rows, weights, _ = split(tensors)
    with pytest.raises(UserError, match=f"{name} of the scan section is on meta, rows are on cpu"):
        dispatch.scan_section(*rows, weights, order, CASE.scan_options())


def test_registers_of_another_precision_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = dataclasses.replace(CASE, num_heads=1, prompt_lengths=(2,))
    (rows, register_rows, dt, register_dt), weights, _ = split(case.tensors(torch.float32))
    register_rows, register_dt = register_rows.bfloat16().float(), register_dt.bfloat16().float()
    arguments = (weights, case.order(), case.scan_options())
    expected = dispatch.scan_section(rows, register_rows, dt, register_dt, *arguments, backend="triton").mixed
    narrow = (rows, register_rows.bfloat16(), dt, register_dt.bfloat16())
    assert torch.equal(dispatch.scan_section(*narrow, *arguments, backend="triton").mixed, expected)


@pytest.mark.parametrize("name", ["conv_bias", "norm_c"])
def test_halves_of_a_pair_are_refused(name: str) -> None:
    rows, weights, _ = split(CASE.tensors(torch.float32) | {name: None})
    with pytest.raises(UserError, match=f"{name} of the scan section one is missing"):
        dispatch.scan_section(*rows, weights, CASE.order(), CASE.scan_options())


def test_the_kernel_index_agrees_with_the_row_order() -> None:
    order = CASE.order()
    index = kernel_index(order.rows, order.is_real)
    num_rows = order.rows.positions.shape[1]
    row = torch.where(index.source < 0, ~index.source, index.source)
    is_register = torch.zeros_like(order.is_real)
    is_register[:, order.rows.register_positions] = True
    assert torch.equal(index.source >= 0, order.is_real)
    assert torch.equal(row >= num_rows, is_register)
    assert torch.equal(row[~is_register].long(), order.rows.index[~is_register])
    stored = torch.where(index.destination < num_rows, index.destination, index.destination - num_rows)
    assert torch.equal(stored[~is_register], row[~is_register])
    for slots in index.destination:
        assert torch.equal(slots.sort().values.long(), torch.arange(len(slots)))


@pytest.mark.parametrize(
    "field", ["index", "positions", "text_copy_positions", "register_positions", "register_levels"]
)
def test_an_index_out_of_range_is_found(field: str) -> None:
    order = CASE.order().rows
    check_order(order, NUM_KINDS)
    values: Any = getattr(order, field).clone()
    values[..., 0] = 10_000
    with pytest.raises(UserError, match=f"{field} of the scan order"):
        check_order(order._replace(**{field: values}), NUM_KINDS)


def test_an_order_that_leaves_gaps_is_found() -> None:
    order = dataclasses.replace(CASE, both_ends=False).order().rows
    with pytest.raises(UserError, match="rows, text copies and registers fill"):
        check_order(order._replace(positions=order.positions[:, 1:]), NUM_KINDS)
