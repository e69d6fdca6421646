"""The most memory that tensors of a computation occupy at once, found without computing anything.

A network's own code runs on the meta device, where tensors have shapes but no content, and every storage is counted
from the operation that makes it until the last tensor on it is gone. So the estimate follows the code: there is no
second description of the network to keep true. Not seen: workspaces inside kernels, memory an allocator holds back.
Where a fused kernel takes the place of plain torch on an accelerator, less is needed than is found here.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts bytes of the storages that operations inside the block make.

    Attributes:
        live: Bytes occupied now.
        peak: The most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def add(self, values: Any) -> None:
        """Count the storages of (nested) tensors that are not counted yet."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                self._add_storage(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)

    def _add_storage(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def ignore(self, values: Any) -> None:
        """Leave the storages of tensors, such as weights, out of the count for good."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tree_leaves(values))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result


class FusedAttention(TorchFunctionMode):
    """Makes the meta device's attention take the memory that fused kernels take: the output and the mask as numbers.

    On its own that device writes out all pairs of tokens, which no kernel used for inference does.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **options)
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | options
        query, mask = named["query"], named.get("attn_mask")
        # Kernels add the mask to the scores, so a mask of yes and no becomes numbers first.
        added = mask.to(query.dtype) if mask is not None and mask.dtype == torch.bool else mask
        result = query.new_empty(*query.shape[:-1], named["value"].shape[-1])
        del added
        return result


def peak_bytes(function: Callable[..., object], *inputs: Any, weights: Any = ()) -> int:
    """Run a function without gradients and return the most bytes its tensors occupied at once.

    Args:
        function: Works on meta tensors.
        inputs: Its arguments; tensors among them count from the start.
        weights: Tensors that are accounted for elsewhere.
    """
    tracker = LiveTensors()
    tracker.ignore(weights)
    tracker.add(inputs)
    with torch.no_grad(), FusedAttention(), tracker:
        function(*inputs)
    return tracker.peak
