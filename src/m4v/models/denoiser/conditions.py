"""What one evaluation of a denoiser may keep for the next: everything that depends on prompts and sizes alone.

Between the solver steps of a video only latents and timestep change. Scan orders bound to the prompts, rotations,
visibility and the prompts' projections do not, and they are many small operations: a caller that evaluates a network
repeatedly opens a scope in which the network recalls them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning

Value = TypeVar("Value")


class Conditions:
    """Values computed from tensors that are still the same objects with the same content.

    Args:
        max_entries: Beyond as many, the value used longest ago is forgotten.
    """

    def __init__(self, max_entries: int = 8) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[tuple[Tensor, ...], object]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, name: Hashable, sources: Sequence[Tensor], build: Callable[[], Value]) -> Value:
        """Return what `build` gave for these sources, calling it the first time.

        Args:
            name: What the value is, with all it depends on besides the sources.
            sources: Compared by identity and version, so that a tensor changed in place counts as another one.
            build: Computes the value.
        """
        key = (name, *((id(source), _version(source)) for source in sources))
        if key in self._entries:
            self._entries.move_to_end(key)
        else:
            # Sources are kept too: while they live, no other tensor can take over their identity.
            self._entries[key] = (tuple(sources), build())
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        value: Value = self._entries[key][1]  # type: ignore[assignment]
        return value


def _version(tensor: Tensor) -> int:
    """Count of in-place changes; tensors made in inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


class ReusesConditions:
    """Lets a denoiser recall conditions inside a scope that its caller opens; outside, everything is computed anew.

    Weights must not change inside a scope. It has no effect where gradients are recorded.
    """

    _conditions: Conditions | None = None

    @contextmanager
    def reusing_conditions(self, conditions: Conditions | None = None) -> Iterator[Conditions]:
        """Recall what evaluations of this scope have in common.

        Args:
            conditions: What an earlier scope left; None begins with nothing. Nothing remains in the network itself.

        Example:
            >>> with model.reusing_conditions():
            ...     for timestep in timesteps:
            ...         velocity = model(clips, timestep, text)
        """
        outer = self._conditions
        self._conditions = Conditions() if conditions is None else conditions
        try:
            yield self._conditions
        finally:
            self._conditions = outer

    @property
    def _recalls(self) -> bool:
        """Whether values computed now are there for the next evaluation."""
        return self._conditions is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def _recall(self, name: Hashable, sources: Sequence[Tensor], build: Callable[[], Value]) -> Value:
        """Compute a value, or recall it inside a scope."""
        if self._conditions is None or not self._recalls:
            return build()
        return self._conditions.recall(name, sources, build)


def reusing_conditions(network: Any, conditions: Conditions | None = None) -> AbstractContextManager[Conditions | None]:
    """Open the scope of `ReusesConditions.reusing_conditions`, or one without effect for a network that has none."""
    if not hasattr(network, "reusing_conditions"):
        return nullcontext()
    scope: AbstractContextManager[Conditions] = network.reusing_conditions(conditions)
    return scope


def with_shared_conditions(network: Any, evaluate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let all evaluations through the returned function share conditions, which live as long as it does.

    Args:
        network: Where the scope is opened.
        evaluate: Takes clips, timesteps and text to the network.
    """
    conditions = Conditions()

    def recalling(
        clips: Sequence[LevelClip], timesteps: Float[Tensor, "b"], text: TextConditioning
    ) -> Float[Tensor, "b c t h w"]:
        with reusing_conditions(network, conditions):
            return evaluate(clips, timesteps, text)

    return recalling
