"""The one training loop; what is trained is an objective behind a protocol (Appendix D: every stage shares it)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.training.guard import nothing_known, save_batch
from m4v.training.lr_schedule import lr_at
from m4v.training.metrics import MeanMeter, MetricSink
from m4v.training.optimizer import set_lr
from m4v.training.progress import OnProgress, Pace, Progress
from m4v.training.sharding import average_whole_gradients, clip_gradients
from m4v.training.state import TrainState
from m4v.training.stopping import StopSignal


class TrainingDiverged(UserError):
    """The loss or the gradient became NaN or infinite; the message names the step and the saved batch."""


@dataclass(frozen=True)
class LossTerm:
    """One summand of a step's loss; its graph is freed before the next one is computed.

    Attributes:
        loss: Scalar, in 32 bits.
        weight: Its share of the step's loss.
        metrics: Device scalars to log as means.
        kind: What its usual size depends on; a guard compares it with others of its kind.
        is_last: Whether the step has no more summands. Ranks exchange gradients after such a one; saying so for every
            summand is right too, and exchanges more.
    """

    loss: Tensor
    weight: float
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    kind: str = "loss"
    is_last: bool = True


class Objective(Protocol):
    """What a stage trains. Batches and random draws are pure functions of the stage step."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Networks being trained, by name."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """Make the batch of a step; named tensors, so that a bad one can be saved."""

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Compute the summands of the step's loss one after the other."""

    def num_items(self, step: int) -> int:
        """Items the step trains on, for throughput and the training facts."""

    def facts(self, step: int) -> Mapping[str, float]:
        """Numbers about the data up to and including a step, known without the device."""


@dataclass
class Periodic:
    """An action between steps, due every so many steps or seconds.

    Attributes:
        action: Called without arguments.
        every_steps: Steps between calls; 0 means never by steps.
        every_seconds: Seconds between calls; None means never by time.
    """

    action: Callable[[], None]
    every_steps: int = 0
    every_seconds: float | None = None

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether the step or the clock says so."""
        by_steps = self.every_steps > 0 and step % self.every_steps == 0
        by_time = self.every_seconds is not None and time.monotonic() - self._last >= self.every_seconds
        return by_steps or by_time

    def run(self) -> None:
        """Act, and count time from now."""
        self.action()
        self._last = time.monotonic()


def train_step(
    objective: Objective, state: TrainState, num_steps: int, batch: Mapping[str, Tensor]
) -> list[Mapping[str, Tensor]]:
    """Take one optimiser step and return groups of device scalars to log.

    Args:
        objective: What is trained.
        state: Advanced by one step.
        num_steps: Steps of the whole stage, for the learning rate.
        batch: What `objective.batch` gave for this step.
    """
    set_lr(state.optimizer, lr_at(state.step, num_steps, state.config))
    total: Tensor | None = None
    values: list[Mapping[str, Tensor]] = []
    for term in objective.terms(batch, state.step):
        weighted = term.loss * term.weight
        state.sharded.synchronise(term.is_last)
        weighted.backward()
        if state.guard is not None:
            state.guard.note(term.kind, term.loss, state.step)
        total = weighted.detach() if total is None else total + weighted.detach()
        values.append(term.metrics)
    assert total is not None
    average_whole_gradients(state.parallel, state.parameters)
    norm = clip_gradients(state.parameters, state.config.clip_norm)
    state.note_finite(total, norm)
    if state.guard is not None:
        state.guard.allow_update(state.optimizer)
    state.optimizer.step()
    # Zeroed, not dropped: recorded device graphs need gradients to stay where they are.
    state.zero_gradients()
    state.ema.update(state.step)
    state.items += objective.num_items(state.step)
    state.step += 1
    return [{"loss": total, "grad_norm": norm}, *values]


def check_finite(objective: Objective, state: TrainState, dump_folder: Path) -> None:
    """Stop a run that diverged, keeping the evidence, and say which losses were strange.

    Raises:
        TrainingDiverged: if any step so far had a NaN or infinite loss or gradient.
        LossSpike: if a loss left its usual range and the guard is to stop.
    """
    step = state.first_bad_step()
    guard = state.guard
    if step is None:
        if guard is not None:
            guard.report(objective.batch, state.first_global_step, state.parallel.suffix)
        return
    global_step = state.first_global_step + step
    path = save_batch(
        dump_folder / f"bad-batch-step-{global_step}{state.parallel.suffix}",
        objective.batch(step),
        {"step": global_step, "stage_step": step},
        nothing_known if guard is None else guard.describe,
    )
    state.parallel.wait()
    raise TrainingDiverged(
        f"The loss or gradient of step {step} is not a finite number. Its batch is in {path}; the last checkpoint is "
        "untouched. Resume with a lower learning rate or in fp32."
    )


def run_stage(
    objective: Objective,
    state: TrainState,
    *,
    name: str,
    num_steps: int,
    log_every: int,
    run_dir: Path,
    sink: MetricSink,
    stop: StopSignal,
    periodic: Sequence[Periodic],
    on_progress: OnProgress,
) -> str | None:
    """Train until the stage is complete or there is a reason to stop.

    Returns:
        The reason to stop, or None if all steps are done.

    Raises:
        TrainingDiverged: on a NaN or infinite loss; noticed at the next log line.
    """
    meter = MeanMeter()
    pace = Pace(state.step, num_steps)
    mark, items_at_mark = time.perf_counter(), state.items
    while state.step < num_steps:
        reason = _agreed_reason(stop, state)
        if reason is not None:
            check_finite(objective, state, run_dir)
            state.seconds += time.perf_counter() - mark
            return reason
        for values in train_step(objective, state, num_steps, objective.batch(state.step)):
            meter.add(values)
        stop.count_step()
        if state.step % log_every == 0 or state.step == num_steps:
            means = meter.take(state.parallel.gather)
            now = time.perf_counter()
            state.seconds += now - mark
            rate = (state.items - items_at_mark) / max(now - mark, 1e-9)
            mark, items_at_mark = now, state.items
            means |= {"lr": lr_at(state.step - 1, num_steps, state.config), "items_per_second": rate}
            means |= objective.facts(state.step - 1)
            sink.write(state.global_step, {"stage": name, "stage_step": state.step, "items": state.items, **means})
            on_progress(
                Progress(
                    phase=name,
                    done=state.step,
                    total=num_steps,
                    seconds_left=pace.seconds_left(state.step),
                    values=means,
                )
            )
            check_finite(objective, state, run_dir)
        pause = time.perf_counter()
        # One rank's clock decides for all, since what is due may need all of them.
        due = state.parallel.largest(*(entry.is_due(state.step) for entry in periodic))
        for entry, is_due in zip(periodic, due, strict=True):
            if is_due:
                entry.run()
        # Looking and saving are not training: they count neither as its time nor against its pace.
        mark += time.perf_counter() - pause
    check_finite(objective, state, run_dir)
    return None


def _agreed_reason(stop: StopSignal, state: TrainState) -> str | None:
    """A reason to stop that any rank has, known to all of them at the same step."""
    reason = stop.reason()
    (is_stopping,) = state.parallel.largest(reason is not None)
    return (reason or "another rank was stopped") if is_stopping else None
