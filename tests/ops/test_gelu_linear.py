"""Products around a GELU: the same values as separate steps, eagerly and as operators of a compiler."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m4v.ops import gelu_linear as products
from m4v.ops.gelu_linear import gelu_linear, has_epilogue, linear_of_parts
from tests.assertions import assert_relative_close


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_gelu_of_a_linear_map() -> None:
    tokens, weight, bias = _normal(2, 5, 6), _normal(8, 6), _normal(8)
    mapped = tokens @ weight.T + bias
    expected = 0.5 * mapped * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (mapped + 0.044715 * mapped**3)))
    assert_relative_close(gelu_linear(tokens, weight, bias), expected, 1e-14)


def test_two_parts_are_one_map_of_both_side_by_side() -> None:
    first, second, weight, bias = _normal(2, 5, 3), _normal(2, 5, 6), _normal(4, 9), _normal(4)
    expected = torch.cat([first, second], dim=-1) @ weight.T + bias
    assert_relative_close(linear_of_parts(first, second, weight, bias), expected, 1e-14)
    halves = [tensor.bfloat16() for tensor in (first, second, weight, bias)]
    found = linear_of_parts(*halves)
    assert found.dtype == torch.bfloat16
    assert_relative_close(found, torch.cat(halves[:2], dim=-1).double() @ halves[2].double().T + halves[3], 1e-2)


def test_parts_may_be_slices_of_wider_rows() -> None:
    rows, weight, bias = _normal(2, 5, 12), _normal(4, 9), _normal(4)
    found = linear_of_parts(rows[..., 1:4], rows[..., 4:10], weight, bias)
    assert_relative_close(found, rows[..., 1:10] @ weight.T + bias, 1e-14)


def test_a_compiler_takes_each_as_one_operator() -> None:
    def both(tokens: Tensor, up: Tensor, bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensor:
        return linear_of_parts(tokens, gelu_linear(tokens, up, bias), out, out_bias)

    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    inputs = (_normal(2, 5, 6), _normal(8, 6), _normal(8), _normal(3, 14), _normal(3))
    with torch.no_grad():
        expected = both(*inputs)
        assert torch.equal(torch.compile(both, fullgraph=True, dynamic=True, backend=backend)(*inputs), expected)
        assert torch.equal(torch.compile(both, fullgraph=True, backend="aot_eager")(*inputs), expected)
    assert [name for name in seen if "m4v" in name] == ["m4v.gelu_linear.default", "m4v.linear_of_parts.default"]


@pytest.mark.parametrize("operator", ["_gelu_linear_op", "_linear_of_parts_op"])
def test_operators_keep_to_what_they_declare(operator: str) -> None:
    shapes = {"_gelu_linear_op": ((2, 5, 6), (8, 6), (8,)), "_linear_of_parts_op": ((2, 5, 3), (2, 5, 6), (4, 9), (4,))}
    inputs = tuple(_normal(*shape) for shape in shapes[operator])
    torch.library.opcheck(getattr(products, operator), inputs)


def test_the_processor_has_no_epilogue() -> None:
    with torch.no_grad():
        assert not has_epilogue(torch.zeros(2, 3, dtype=torch.bfloat16))


@pytest.mark.gpu
def test_on_a_gpu_the_epilogue_is_the_activation() -> None:
    tokens, weight, bias = (tensor.cuda() for tensor in (_normal(2, 50, 64), _normal(128, 64) / 8, _normal(128)))
    halves = [tensor.bfloat16() for tensor in (tokens, weight, bias)]
    with torch.no_grad():
        assert has_epilogue(halves[0])
        expected = F.gelu(F.linear(*(half.double() for half in halves)), approximate="tanh")
        assert_relative_close(gelu_linear(*halves), expected, 4e-3)
        with torch.autocast("cuda", torch.bfloat16):
            assert not has_epilogue(halves[0])
    assert not has_epilogue(halves[0])
    assert not has_epilogue(tokens)
