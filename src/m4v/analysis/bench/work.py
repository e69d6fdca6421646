"""Work as contenders: forward, or forward and backward, eagerly or recorded."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m4v.analysis.bench.attention_partners import AttentionInputs
from m4v.analysis.bench.clock import Clock, Comparison, Contender
from m4v.analysis.bench.scan_case import SectionInputs


@dataclass(frozen=True)
class Work:
    """Something to compare.

    Attributes:
        run: Returns the result.
        leaves: What gradients are taken of.
    """

    run: Callable[[], Tensor]
    leaves: Sequence[Tensor]


def section_work(inputs: SectionInputs) -> Work:
    """Our scan section."""
    return Work(inputs.mix, inputs.leaves)


def attention_work(inputs: AttentionInputs, core: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Work:
    """Attention by some core."""
    return Work(lambda: inputs.attend(core), inputs.leaves)


def work_contender(
    name: str,
    works: Sequence[Work],
    with_backward: bool,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Contender:
    """One side of a comparison: the same work on several inputs, forward or forward and backward."""
    calls = []
    for work in works:
        calls.append(_both(work) if with_backward else _forward(work))
    return Contender(name=name, calls=calls, context=context)


def _forward(work: Work) -> Callable[[], Tensor]:
    @torch.no_grad()
    def call() -> Tensor:
        return work.run()

    return call


def _both(work: Work) -> Callable[[], Any]:
    """Forward and backward; gradients are returned, not accumulated, so that graphs can record the call."""
    with torch.no_grad():
        direction = torch.randn_like(work.run())

    def call() -> Any:
        return torch.autograd.grad(work.run(), list(work.leaves), direction, allow_unused=True)

    return call


def replayed(clock: Clock, contenders: Sequence[Contender]) -> Comparison:
    """Compare recordings of contenders; one that cannot be recorded is reported."""
    problems: dict[str, str] = {}
    recorded = []
    for contender in contenders:
        with clock.reporting(problems, contender.name):
            recorded.append(clock.record(contender))
    replayed = clock.compare(recorded)
    replayed.problems.update(problems)
    return replayed
