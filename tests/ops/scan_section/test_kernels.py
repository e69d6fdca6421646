"""The kernels, interpreted in single precision, against the float64 definition: outputs, states and every gradient."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from m4v.ops.scan_section import custom_op, launch, reference
from m4v.ops.scan_section.interface import SectionOutput
from tests.assertions import assert_relative_close, nan_poisoned_memory
from tests.ops.kernel_bounds import kernel_bounds
from tests.ops.scan_section.cases import Case, cotangents, leaves, split

TOLERANCE = 1e-5
PER_HEAD = ("A_log", "D", "dt_bias")
ONE_FRAME = Case(frames=((3, 5),), num_text=3, prompt_lengths=(2,), num_heads=1)


def _run(case: Case, tensors: dict[str, Tensor | None], monkeypatch: pytest.MonkeyPatch) -> SectionOutput:
    monkeypatch.setattr(custom_op, "segment_tokens", lambda *_: case.segment)
    rows, weights, initial_state = split(tensors)
    return custom_op.scan_section(*rows, weights, case.order(), case.scan_options(), initial_state)


def _check(case: Case, monkeypatch: pytest.MonkeyPatch, tolerance: float = TOLERANCE) -> None:
    tensors, exact = case.tensors(torch.float32), case.tensors(torch.float64)
    inputs, exact_inputs = leaves(tensors), leaves(exact)
    output = _run(case, tensors, monkeypatch)
    rows, weights, initial_state = split(exact)
    expected = reference.scan_section(*rows, weights, case.order(), case.scan_options(), initial_state)
    for name, value in output._asdict().items():
        assert_relative_close(value, getattr(expected, name), tolerance, name)
    along = cotangents(output)
    grads = torch.autograd.grad(output, list(inputs.values()), along)
    wide = [part.double() for part in along]
    expected_grads = torch.autograd.grad(expected, list(exact_inputs.values()), wide, materialize_grads=True)
    for name, grad, exact_grad in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == torch.float32, name
        if name in PER_HEAD:
            # One number out of a sum over all tokens and channels: rounding is measured by what went in.
            summed = math.sqrt(output.mixed[0, :, : case.head_dim].numel())
            assert_close(grad.double(), exact_grad, rtol=tolerance, atol=tolerance * summed)
        elif exact_grad.numel():
            assert_relative_close(grad, exact_grad, tolerance, f"gradient of {name}")


CASES: dict[str, Case] = {
    "prompts of two lengths": Case(),
    "state in and zero-order hold": Case(initial=True, zoh=True, prompt_lengths=(0, 6), num_heads=1),
    "one segment": Case(segment=512, num_heads=3, prompt_lengths=(4,)),
    "many segments": Case(frames=((3, 4), (4, 8), (7, 11)), prompt_lengths=(5,), num_heads=1, initial=True),
    "text once": Case(both_ends=False, prompt_lengths=(4,)),
    "no registers": Case(registers=False, prompt_lengths=(3,)),
    "no text": Case(num_text=0, prompt_lengths=(0, 0), num_heads=1),
    "no convolution": Case(conv_width=0, prompt_lengths=(3,)),
    "no convolution, nothing on B and C": Case(conv_width=0, norm=False, rotary=False, prompt_lengths=(3,)),
    "convolution without SiLU": Case(silu=False, norm=False, rotary=False, prompt_lengths=(3,)),
    "more taps than are loaded together": Case(conv_width=7, prompt_lengths=(3,), num_heads=1),
    "two taps": Case(conv_width=2, prompt_lengths=(3,), rotary=False),
    "wider state": Case(state_dim=64, rotary=False, prompt_lengths=(2,), num_heads=1),
    "heads of 16": Case(head_dim=16, state_dim=16, prompt_lengths=(2,), num_heads=1),
    "narrower state": Case(head_dim=64, prompt_lengths=(2,), num_heads=1),
    "shorter than a tile": Case(frames=((1, 1),), num_text=1, prompt_lengths=(1, 0), num_heads=1, initial=True),
    "shorter than the convolution": Case(
        frames=((1, 3),), num_text=0, prompt_lengths=(0,), registers=False, num_heads=1
    ),
    "minute steps": Case(dt_shift=-12.0, prompt_lengths=(3,), initial=True, zoh=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_equal_the_definition(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with kernel_bounds():
        _check(case, monkeypatch)


@pytest.mark.parametrize("path", "bcdefgh")
def test_every_scan_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(dataclasses.replace(ONE_FRAME, path=path), monkeypatch)


def test_large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # Up to A dt = -200. No registers: their steps act through the state alone, so nothing of their gradients is left.
    _check(dataclasses.replace(ONE_FRAME, dt_shift=10.0, registers=False, num_heads=2), monkeypatch, 1e-4)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("dt_shift", [-300.0, 1000.0])
def test_steps_of_nothing_and_of_everything_stay_finite(dt_shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dataclasses.replace(ONE_FRAME, dt_shift=dt_shift, initial=True, num_heads=2)
    tensors = case.tensors(torch.float32)
    inputs = leaves(tensors)
    output = _run(case, tensors, monkeypatch)
    grads = torch.autograd.grad(output, list(inputs.values()), cotangents(output))
    assert all(value.isfinite().all() for value in (*output, *grads))
    if dt_shift < 0:
        initial_state = tensors["initial_state"]
        assert initial_state is not None
        assert torch.equal(output.final_state, initial_state)


def test_tiles_by_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU in half precision; tiles of all but the last head run on into the next.
    tiling = launch.tiling
    monkeypatch.setattr(launch, "tiling", lambda *widths: tiling(*widths)._replace(descriptors=True, gated_stages=3))
    _check(dataclasses.replace(ONE_FRAME, num_heads=2), monkeypatch, 3e-5)


def test_no_memory_is_read_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with nan_poisoned_memory():
        _check(Case(initial=True, num_heads=1), monkeypatch)


def test_gradients_are_the_same_on_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for _ in range(2):
        tensors = ONE_FRAME.tensors(torch.float32)
        inputs = leaves(tensors)
        output = _run(ONE_FRAME, tensors, monkeypatch)
        runs.append((*output, *torch.autograd.grad(output, list(inputs.values()), cotangents(output))))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_rows_may_be_a_slice_of_a_wider_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = ONE_FRAME.tensors(torch.float32)
    whole = _run(ONE_FRAME, tensors, monkeypatch).mixed
    for name in ("rows", "dt"):
        value = tensors[name]
        assert value is not None
        tensors[name] = torch.cat([value, value + 1], dim=-1)[..., : value.shape[-1]]
    assert torch.equal(_run(ONE_FRAME, tensors, monkeypatch).mixed, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_keep_their_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"A_log", "D", "dt_bias", "dt", "register_dt"}
    tensors = {
        name: value if value is None or name in wide else value.to(dtype)
        for name, value in ONE_FRAME.tensors(torch.float32).items()
    }
    inputs = leaves(tensors)
    output = _run(ONE_FRAME, tensors, monkeypatch)
    assert output.mixed.dtype == dtype
    assert output.final_state.dtype == torch.float32
    rows, weights, _ = split({name: None if value is None else value.double() for name, value in tensors.items()})
    expected = reference.scan_section(*rows, weights, ONE_FRAME.order(), ONE_FRAME.scan_options())
    # The interpreter cuts digits off where a GPU rounds.
    assert_relative_close(output.mixed, expected.mixed, 8e-3)
    grads = torch.autograd.grad(output, list(inputs.values()), cotangents(output))
    expected_grads = torch.autograd.grad(
        expected, list(inputs.values()), [part.double() for part in cotangents(output)]
    )
    for name, grad, exact_grad in zip(inputs, grads, expected_grads, strict=True):
        assert grad.dtype == inputs[name].dtype, name
        assert_relative_close(grad, exact_grad, 2e-2, f"gradient of {name}")


@pytest.mark.parametrize(("num_tokens", "segment"), [(1, 512), (512, 512), (513, 256), (16384, 1024), (65536, 4096)])
def test_segments_fill_the_gpu_and_no_more(num_tokens: int, segment: int) -> None:
    assert custom_op.segment_tokens(num_tokens, 30) == segment
