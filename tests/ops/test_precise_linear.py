"""Split products equal single precision, although only bf16 numbers are multiplied."""

import pytest
import torch
from torch import Tensor

from m4v.ops import precise_linear as module
from m4v.ops.precise_linear import precise_linear
from tests.assertions import assert_relative_close, relative_error

# Two bf16 halves keep 16 bits of a number.
SIXTEEN_BITS = 2.0**-16


def _inputs(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 37, 64), (5, 64), (5,))
    tokens, weight, bias = (torch.randn(*shape, generator=generator).to(device) for shape in shapes)
    return tokens.bfloat16().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def _check_split(found: Tensor, inputs: tuple[Tensor, ...]) -> None:
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = exact[0] @ exact[1].T + exact[2]
    assert found.dtype == torch.float32
    assert_relative_close(found, expected, SIXTEEN_BITS)
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.device)
    grads = torch.autograd.grad(found, inputs, along)
    expected_grads = torch.autograd.grad(expected, exact, along.double())
    # The tokens' gradient is rounded to bf16, once.
    for grad, exact_grad, tolerance in zip(grads, expected_grads, (2.0**-8, SIXTEEN_BITS, 1e-6), strict=True):
        assert_relative_close(grad, exact_grad, tolerance)
    assert grads[0].dtype == torch.bfloat16
    assert relative_error(grads[0], expected_grads[0].bfloat16()) < 2.0**-10


def test_halves_multiply_like_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(left: Tensor, right: Tensor) -> Tensor:
        assert left.dtype == right.dtype == torch.bfloat16
        return left.float() @ right.float()

    monkeypatch.setattr(module, "_product", product)
    tokens, weight, bias = _inputs()
    found = module._SplitLinear.apply(tokens.flatten(0, 1), weight, bias).view(*tokens.shape[:2], -1)
    _check_split(found, (tokens, weight, bias))


@pytest.mark.slow
def test_a_compiler_leaves_the_low_half_what_it_is() -> None:
    # It computes in single precision what is called bf16, which must not be taken for the high half.
    values = _inputs()[1].detach()
    assert all(map(torch.equal, torch.compile(module._halves)(values), module._halves(values)))
    assert module._halves(values)[1].any()


@pytest.mark.gpu
def test_a_gpu_multiplies_halves() -> None:
    inputs = _inputs("cuda")
    _check_split(precise_linear(*inputs), inputs)
    compiled = torch.compile(precise_linear, fullgraph=True)
    _check_split(compiled(*inputs), inputs)
    assert precise_linear(inputs[0][:, :0], *inputs[1:]).shape == (2, 0, 5)


def test_elsewhere_weights_decide_the_precision() -> None:
    tokens, weight, bias = _inputs()
    exact = tokens.double() @ weight.double().T + bias.double()
    assert_relative_close(precise_linear(tokens, weight, bias), exact, 1e-6)
    assert precise_linear(tokens.double(), weight.double(), bias.double()).dtype == torch.float64
    assert precise_linear(tokens.to("meta"), weight.to("meta"), bias.to("meta")).shape == exact.shape


def test_autocast_rounds_tokens_but_not_weights() -> None:
    tokens, weight, bias = _inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = precise_linear(tokens.float(), weight, bias)
    assert_relative_close(found, tokens.double() @ weight.double().T + bias.double(), 1e-6)
