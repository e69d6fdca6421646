"""The operator is one that torch can trace, differentiate, checkpoint and reason about without running it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from m4v.ops.scan_section import custom_op
from m4v.ops.scan_section.dispatch import scan_section
from tests.ops.scan_section.cases import Case, leaves, split

CASE = Case(frames=((2, 3),), num_text=3, prompt_lengths=(2,), num_heads=1, initial=True)


def _section(case: Case, tensors: dict[str, Tensor | None]) -> Callable[[Tensor], Tensor]:
    order, options = case.order(), case.scan_options()
    (_, *others), weights, initial_state = split(tensors)
    return lambda rows: scan_section(rows, *others, weights, order, options, initial_state, backend="triton").mixed


def test_torch_accepts_its_registration() -> None:
    tensors = CASE.tensors(torch.float32)
    leaves(tensors)
    rows, weights, initial_state = split(tensors)
    order = CASE.order()
    assert order.rotary is not None
    assert order.kernel_index is not None
    settings = (32, True, False, 1e-6, 1e-5)
    arguments = (*rows, *weights, initial_state, *order.rotary, *order.kernel_index, *settings)
    torch.library.opcheck(custom_op._forward, arguments)


def test_absent_inputs_have_gradients_of_known_shape() -> None:
    case = Case(
        frames=((1, 2),), num_text=0, prompt_lengths=(0,), num_heads=1, registers=False, conv_width=0, norm=False
    )
    rows, weights, _ = split(case.tensors(torch.float32))
    index = case.order().kernel_index
    assert index is not None
    arguments = (*rows, *weights, None, None, None, *index, 32, True, False, 1e-6, 1e-5)
    mixed, final_state, entering = custom_op._forward(*arguments)
    torch.library.opcheck(
        custom_op._backward,
        (*arguments, entering, final_state, mixed, None),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_compiled_graph_has_no_break_and_the_same_gradients() -> None:
    tensors = CASE.tensors(torch.float32)
    inputs = leaves(tensors)
    function = _section(CASE, tensors)
    eager = function(inputs["rows"])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(inputs["rows"])
    assert torch.equal(compiled, eager)
    grads = (torch.autograd.grad(out.square().sum(), list(inputs.values())) for out in (compiled, eager))
    assert all(torch.equal(first, second) for first, second in zip(*grads, strict=True))


def test_checkpointing_changes_nothing() -> None:
    tensors = CASE.tensors(torch.float32)
    rows = leaves(tensors)["rows"]
    function = _section(CASE, tensors)
    (plain,) = torch.autograd.grad(function(rows).square().sum(), rows)
    (again,) = torch.autograd.grad(checkpoint(function, rows, use_reentrant=False).square().sum(), rows)
    assert torch.equal(plain, again)


def test_shapes_are_known_without_running() -> None:
    tensors = CASE.tensors(torch.float32)
    real = _section(CASE, tensors)(tensors["rows"])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: None if value is None else mode.from_tensor(value) for name, value in tensors.items()}
        shaped = _section(CASE, fake)(fake["rows"])
    assert (shaped.shape, shaped.dtype, shaped.stride()) == (real.shape, real.dtype, real.stride())
