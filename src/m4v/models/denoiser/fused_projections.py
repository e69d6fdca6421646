"""Linear maps of one input as one matrix product, for prediction, without a second copy of their weights.

The parameters of the maps become views of one tensor: names, values and files stay what they are, and loading into them
loads the joint matrix too. What replaces parameters or modules (moving, adapters, quantisation) ends the sharing, which
is noticed before the next use.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.errors import UserError

logger = logging.getLogger(__name__)


class FusedLinear(nn.Module):
    """Several linear maps of the same input, side by side.

    Buffers, not parameters, and outside the state dict: graph compilers take them as they take weights, and files know
    nothing of them.

    Args:
        linears: Maps for which `why_not_fused` finds no obstacle.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        self.register_buffer("weight", torch.cat([linear.weight.detach() for linear in linears]), persistent=False)
        self.register_buffer("bias", torch.cat([linear.bias.detach() for linear in linears]), persistent=False)
        views = zip(linears, self.weight.split(self.sizes), self.bias.split(self.sizes), strict=True)
        for linear, weight, bias in views:
            linear.weight.data, linear.bias.data = weight, bias

    def forward(self, tokens: Float[Tensor, "... i"], end: int | None = None) -> Float[Tensor, "... o"]:
        """Outputs of all maps side by side, or of those before `end`, counted as slices count."""
        if end is None:
            return F.linear(tokens, self.weight, self.bias)
        rows = sum(self.sizes[:end])
        return F.linear(tokens, self.weight[:rows], self.bias[:rows])


class _Link(NamedTuple):
    """How to tell that one map still reads its part of a joint matrix.

    Attributes:
        joint: Holds the joint matrix.
        siblings: Modules beside the map, by name.
        name: The map's own.
        weight_offset: Bytes from the beginning of the joint matrix to the map's.
        bias_offset: The same for biases.
    """

    joint: FusedLinear
    siblings: Mapping[str, nn.Module | None]
    name: str
    linear: nn.Linear
    weight_offset: int
    bias_offset: int

    def holds(self) -> bool:
        """Whether the map is in its place, still plain, and in the memory of the joint matrix.

        Goes past the attribute access of modules, which is slow: this runs for every map in every call.
        """
        linear, weights, joint = self.linear, self.linear._parameters, self.joint._buffers
        weight, bias, joint_weight, joint_bias = weights["weight"], weights["bias"], joint["weight"], joint["bias"]
        if weight is None or bias is None or joint_weight is None or joint_bias is None:
            return False
        return (
            self.siblings.get(self.name) is linear
            and weight.data_ptr() - joint_weight.data_ptr() == self.weight_offset
            and bias.data_ptr() - joint_bias.data_ptr() == self.bias_offset
            and "forward" not in linear.__dict__
            and not linear._forward_pre_hooks
            and not linear._forward_hooks
        )


class SharesInput(nn.Module):
    """A module that applies several linear maps to one input, and may do so by one matrix product."""

    fused: FusedLinear | None

    def __init__(self) -> None:
        super().__init__()
        self.fused = None

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Maps of one and the same input, in the order of their outputs; none if there is no such input."""
        raise NotImplementedError

    @property
    def is_fused(self) -> bool:
        """Whether the joint product is in use: never with gradients, which belong to the single maps."""
        return self.fused is not None and not torch.is_grad_enabled()

    def project(self, tokens: Float[Tensor, "... i"], end: int | None = None) -> tuple[Float[Tensor, "... o"], ...]:
        """Output of each map, in order; of those before `end` only where it is given."""
        if self.fused is not None and not torch.is_grad_enabled():
            parts: tuple[Tensor, ...] = self.fused(tokens, end).split(self.fused.sizes[:end], dim=-1)
            return parts
        return tuple(projection(tokens) for projection in self.shared_projections()[:end])


class FusesProjections(SharesInput):
    """A network that merges the linear maps of its parts, and its own."""

    def __init__(self) -> None:
        super().__init__()
        self._fused_parts: list[SharesInput] = []
        self._links: list[_Link] = []

    def fuse_projections(self) -> None:
        """Merge linear maps of one input into one matrix product, for prediction.

        Merged are the input projections and the feed-forward of a single-stream block (in half precision on a GPU for
        short sequences only: a product of its own can end in the GELU); queries, keys and values elsewhere; and the
        modulations of all blocks, which are then computed once per step. Parameters keep their
        names, values and files, and take no more memory; calls with gradients use the single maps. Moving the network
        merges anew; adapters, quantisation and offloading by layers end it.

        Raises:
            UserError: if a layer is quantised, adapted or watched by hooks, or layers differ in format or device.
        """
        self.unfuse_projections()
        # Parents come first: what a block merges, its mixer does not merge again.
        groups: list[tuple[SharesInput, tuple[nn.Linear, ...]]] = []
        taken: set[nn.Linear] = set()
        for module in self.modules():
            if not isinstance(module, SharesInput):
                continue
            linears = module.shared_projections()
            if linears and taken.isdisjoint(linears):
                groups.append((module, linears))
                taken.update(linears)
        names = {module: name for name, module in self.named_modules()}
        for _, linears in groups:
            require_fusable({names[linear]: linear for linear in linears})
        for module, linears in groups:
            module.fused = FusedLinear(linears)
            for linear in linears:
                parent, _, own_name = names[linear].rpartition(".")
                offsets = (
                    part.data_ptr() - joint.data_ptr()
                    for part, joint in ((linear.weight, module.fused.weight), (linear.bias, module.fused.bias))
                )
                siblings = self.get_submodule(parent)._modules
                self._links.append(_Link(module.fused, siblings, own_name, linear, *offsets))
        self._fused_parts = [module for module, _ in groups]

    def unfuse_projections(self) -> None:
        """Compute every linear map by itself again."""
        for module in self._fused_parts:
            module.fused = None
        self._fused_parts, self._links = [], []

    def end_stale_fusion(self) -> None:
        """Return to single maps if something has replaced parameters or layers since they were merged.

        For the beginning of each call; nothing here waits for the device.
        """
        if torch.compiler.is_compiling() or all(link.holds() for link in self._links):
            return
        logger.warning("Projections are no longer fused: layers have been replaced, adapted or offloaded.")
        self.unfuse_projections()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; parameters get memory of their own by this, so that what was merged is merged anew."""
        was_fused = bool(self._fused_parts)
        self.unfuse_projections()
        super()._apply(fn, recurse)
        if was_fused:
            self.fuse_projections()
        return self


def is_plain(linear: nn.Module) -> bool:
    """Whether a module is nothing but a matrix and a bias: no adapter, quantisation or hook."""
    return (
        type(linear) is nn.Linear
        and "forward" not in linear.__dict__  # where libraries hang their hooks
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
        and type(linear.weight) is nn.Parameter  # quantised ones are of other types
        and linear.bias is not None
    )


def require_fusable(linears: dict[str, nn.Module]) -> None:
    """Check that one matrix product can stand for these maps.

    Args:
        linears: By full name.

    Raises:
        UserError: naming the module that is in the way.
    """
    formats = set()
    for name, linear in linears.items():
        if not is_plain(linear):
            kind = type(linear).__name__
            raise UserError(
                f"{name} is a {kind} that is quantised, adapted or watched by hooks; fuse_projections() needs plain "
                "linear layers. Call it before offloading or quantising, and merge LoRA weights with fuse_lora() and "
                "unload_lora_weights() first."
            )
        assert isinstance(linear, nn.Linear)
        formats.add((linear.weight.dtype, linear.weight.device, linear.bias.dtype))
    if len(formats) > 1:
        found = "; ".join(sorted(f"{str(dtype).removeprefix('torch.')} on {device}" for dtype, device, _ in formats))
        raise UserError(
            f"{', '.join(linears)} are not of one number format on one device ({found}); fuse_projections() needs "
            "that. Move the whole model first."
        )
