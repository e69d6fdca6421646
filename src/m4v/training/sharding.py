"""Networks spread over ranks and memory: FSDP2 per block, fp32 state-space parameters, recomputed activations.

The order that composes (as in torchtitan): recomputed activations, then compilation of blocks, then sharding.
DeepSpeed's ZeRO-3, with which the paper trains, is the same division of weights, gradients and moments.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from m4v.core.errors import UserError
from m4v.models.denoiser.sharded_context import shard_sequence
from m4v.training.parallel import Parallel


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network of diffusers' or transformers' kind, in order; none for other networks."""
    names = set(getattr(network, "_no_split_modules", None) or ())
    return [module for module in network.modules() if type(module).__name__ in names]


def recompute_activations(network: nn.Module, share: float) -> int:
    """Compute activations of a share of the blocks again in the backward pass, evenly spread over depth.

    Args:
        network: A denoiser; it hands its blocks to a checkpointing function, as diffusers' networks do.
        share: 0 to 1.

    Returns:
        The number of such blocks.

    Raises:
        UserError: if the network cannot do so.
    """
    blocks = blocks_of(network)
    chosen = {
        id(block) for index, block in enumerate(blocks) if int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
    }
    if not chosen:
        return 0
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise UserError(
            f"{type(network).__name__} cannot compute activations again; set parallel.checkpoint_share to 0."
        )

    def run(block: nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if id(block) in chosen else block(*inputs)

    denoiser: Any = network
    denoiser.enable_gradient_checkpointing(run)
    return len(chosen)


class ShardedNetworks:
    """Networks of a run that are spread over the ranks, and plain copies of them for looking and exporting.

    Args:
        parallel: The ranks.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        self.networks: dict[str, nn.Module] = {}
        self._outlines: dict[str, nn.Module] = {}
        self._shared: dict[nn.Module, Any] = {}

    def add(self, networks: Mapping[str, nn.Module], *, in_bf16: bool) -> None:
        """Shard networks in place, unless they are; those without repeated blocks stay whole on every rank.

        Args:
            networks: By name.
            in_bf16: Gather weights in bf16. State-space parameters then stay whole, and in fp32, on every rank.
        """
        if not self.parallel.is_sharded:
            return
        for name, network in networks.items():
            if name in self.networks or not blocks_of(network):
                continue
            if self.parallel.is_main:
                self._outlines[name] = with_parameters(network, lambda value: torch.empty_like(value, device="meta"))
            shard(network, self.parallel, in_bf16=in_bf16)
            self.networks[name] = network

    def share_sequences(self, denoiser: nn.Module) -> None:
        """Let ranks compute each sequence of a denoiser together, if they are to; after `add`.

        Raises:
            UserError: if the network cannot be split, or not by so many ranks.
        """
        if self.parallel.sequence is not None and denoiser not in self._shared:
            shard_sequence(denoiser, self.parallel.sequence)
            self._shared[denoiser] = denoiser.build_context

    def synchronise(self, is_last: bool) -> None:
        """Say whether the next backward pass is the last of a step, after which gradients are shared out."""
        for network in self.networks.values():
            assert isinstance(network, FSDPModule)
            network.set_requires_gradient_sync(is_last or not self.parallel.config.reduce_once)

    @contextlib.contextmanager
    def whole(self, owner: Any) -> Iterator[bool]:
        """Put plain copies in the place of sharded networks, on rank 0; every rank must call it.

        Args:
            owner: Has the networks as attributes.

        Yields:
            Whether this rank has whole networks, and is to look or write; the others go on once it is done.
        """
        copies = self._copies()
        with _replaced(owner, copies), self._whole_sequences():
            yield self.parallel.is_main
        self.parallel.wait()

    @contextlib.contextmanager
    def _whole_sequences(self) -> Iterator[None]:
        """Let denoisers that are no copies compute alone for the duration: the other ranks only wait."""
        for denoiser in self._shared:
            del denoiser.build_context
        try:
            yield
        finally:
            for denoiser, build_context in self._shared.items():
                setattr(denoiser, "build_context", build_context)  # noqa: B010 - a plain attribute, not a module's

    def _copies(self) -> dict[str, nn.Module]:
        copies: dict[str, nn.Module] = {}
        for name, network in self.networks.items():
            gathered = gather_parameters(network, keep=self.parallel.is_main)
            if self.parallel.is_main:
                copies[name] = _filled(self._outlines[name], gathered, network)
        return copies


def shard(network: nn.Module, parallel: Parallel, *, in_bf16: bool) -> None:
    """Shard a network in place with FSDP2: each block, then the rest; gradients are averaged in fp32."""
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if in_bf16 else None,
        reduce_dtype=torch.float32,
        # Autocast decides per operation, as it does on one device; positions and times must not be rounded.
        cast_forward_inputs=False,
    )
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ()) if in_bf16 else set()
    ignored = {value for name, value in network.named_parameters() if kept & set(name.split("."))}
    for module in [*blocks_of(network), network]:
        fully_shard(module, mesh=parallel.mesh, mp_policy=policy, ignored_params=ignored)


def average_whole_gradients(parallel: Parallel, parameters: list[nn.Parameter]) -> None:
    """Average the gradients of parameters that every rank holds whole, in one exchange; FSDP sees to the others."""
    if parallel.world == 1:
        return
    gradients = [value.grad for value in parameters if value.grad is not None and not isinstance(value, DTensor)]
    if not gradients:
        return
    joint = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joint)
    joint /= parallel.world
    parts = joint.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(to) for part, to in zip(parts, gradients, strict=True)])


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `limit`, and return the norm before that.

    Sharded and whole parameters may be mixed; the norm is that of the whole gradient, on every rank.
    """
    split: list[list[Any]] = [
        [value for value in parameters if isinstance(value, DTensor)],
        [value for value in parameters if not isinstance(value, DTensor)],
    ]
    if not split[0]:
        return nn.utils.clip_grad_norm_(parameters, limit)
    norms = []
    for group in split:
        norm: Tensor = nn.utils.get_total_norm([value.grad for value in group if value.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm.to(split[0][0].device))
    total = torch.linalg.vector_norm(torch.stack(norms))
    scale = (limit / (total + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(value.grad) for value in parameters if value.grad is not None], scale)
    return total


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; the tensor itself where it is whole."""
    return value.to_local() if isinstance(value, DTensor) else value


@torch.no_grad()
def gather_parameters(network: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Whole parameters by name; a collective call, whose result is only held where it is kept."""
    found = {}
    for name, value in network.named_parameters():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            found[name] = whole.detach()
    return found


def with_parameters(network: nn.Module, make: Callable[[Tensor], Tensor]) -> Any:
    """Copy a network with other parameters in it; tied parameters stay tied."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(make(value.detach()), requires_grad=value.requires_grad)
        for value in network.parameters()
    }
    return copy.deepcopy(network, memo)


@torch.no_grad()
def _filled(outline: nn.Module, parameters: Mapping[str, Tensor], original: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {
        id(value): nn.Parameter(parameters[name].clone(), requires_grad=value.requires_grad)
        for name, value in outline.named_parameters()
    }
    filled: nn.Module = copy.deepcopy(outline, memo)
    buffers = dict(original.named_buffers())
    for name, buffer in filled.named_buffers():
        buffer.copy_(buffers[name])
    return filled.eval()


@contextlib.contextmanager
def _replaced(owner: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes for the duration."""
    kept = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)
