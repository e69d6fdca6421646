"""Walking a sequence in strips changes neither outputs nor gradients, and keeps no scores of the whole sequence."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from m4v.ops.scan_section import reference
from m4v.ops.ssd import reference as ssd_reference
from tests.assertions import assert_relative_close, nan_poisoned_memory
from tests.ops.recurrences import ssd_inputs, ssd_recurrence
from tests.ops.scan_section.cases import Case, cotangents, leaves, split

CASES = {
    "padding, registers, an initial state": Case(frames=((2, 3), (4, 5), (8, 9)), initial=True),
    "no convolution": Case(frames=((2, 3), (4, 5), (8, 9)), conv_width=0),
    "a convolution longer than a chunk": Case(frames=((2, 3), (4, 5), (8, 9)), conv_width=19),
    "no registers, text once": Case(frames=((8, 9), (8, 9)), registers=False, both_ends=False, rotary=False),
}


def _run(case: Case, with_grad: bool) -> list[Tensor]:
    tensors = case.tensors()
    inputs = leaves(tensors) if with_grad else {}
    (rows, *others), weights, state = split(tensors)
    with torch.set_grad_enabled(with_grad):
        out = reference.scan_section(rows, *others, weights, case.order(), case.scan_options(), state)
    if not with_grad:
        return list(out)
    return [*out, *torch.autograd.grad(tuple(out), tuple(inputs.values()), cotangents(out))]


@pytest.mark.parametrize("with_grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_strips_change_nothing(case: Case, with_grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(case, with_grad)
    lengths = []
    mix = reference._mix_strip

    def watched(rows: Tensor, *arguments: Any) -> Any:
        lengths.append(rows.shape[1])
        return mix(rows, *arguments)

    monkeypatch.setattr(reference, "_mix_strip", watched)
    monkeypatch.setattr(reference, "_STRIP_BYTES", 1)
    with nan_poisoned_memory():
        walked = _run(case, with_grad)
    assert len(lengths) > 2
    for number, (actual, expected) in enumerate(zip(walked, whole, strict=True)):
        if expected.numel():
            assert_relative_close(actual, expected, 1e-12, f"value {number}")


@pytest.mark.parametrize("packed", [False, True])
def test_groups_of_a_scan_equal_the_recurrence_and_its_gradients(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssd_reference, "_group_bytes", lambda device: 1)
    inputs = ssd_inputs(90)
    ids = torch.tensor([0] * 40 + [7] * 50).expand(2, -1) if packed else None

    def run(function: Any, **more: Any) -> list[Tensor]:
        named = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        y, state = function(**named, **more)
        loss = y.square().sum() + state.square().sum()
        return [y, state, *torch.autograd.grad(loss, list(named.values()))]

    if packed:
        monkeypatch.undo()
        expected = run(ssd_reference.ssd, sequence_ids=ids, chunk_size=90)
        monkeypatch.setattr(ssd_reference, "_group_bytes", lambda device: 1)
    else:
        expected = run(ssd_recurrence)
    for actual, wanted in zip(run(ssd_reference.ssd, sequence_ids=ids, chunk_size=16), expected, strict=True):
        assert_relative_close(actual, wanted, 1e-11)


class _LargestResult(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, views of the source left out."""

    def __init__(self, source: Tensor) -> None:
        super().__init__()
        self.source = source.data_ptr()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() != self.source:
            self.elements = max(self.elements, out.numel())
        return out


def test_nothing_but_outputs_exists_for_the_whole_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_STRIP_BYTES", 2**15)
    case = Case(frames=((8, 8),) * 30, num_heads=1, prompt_lengths=(6,), registers=False, both_ends=False)
    (rows, *others), weights, _ = split(case.tensors(torch.float32))
    order, options = case.order(), case.scan_options()
    with _LargestResult(rows) as largest, torch.no_grad():
        out = reference.scan_section(rows, *others, weights, order, options)
    assert largest.elements == out.mixed.numel() < rows.numel() // 2


def test_fake_tensors_pass_through_several_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_STRIP_BYTES", 1)
    case = CASES["padding, registers, an initial state"]
    order, options = case.order(), case.scan_options()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fake = {name: None if value is None else mode.from_tensor(value) for name, value in case.tensors().items()}
        arguments, weights, state = split(fake)
        out = reference.scan_section(*arguments, weights, order, options, state)
    assert out.mixed.shape == (2, 6 + 98, 64)


def test_half_precision_is_multiplied_where_the_processor_can() -> None:
    units = ssd_reference._half_precision_units
    assert units({}) == frozenset()
    assert units({"avx512_bf16": True, "avx512_fp16": False}) == {torch.bfloat16}
    assert units({"fp16_arith": True, "bf16": True}) == {torch.bfloat16, torch.float16}
