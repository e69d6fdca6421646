"""Notices losses that leave their usual range without making any step wait for the device.

Losses, their running medians and the verdicts stay on the device; they are read where a log line waits for it anyway.
A batch is a pure function of its step, so the one that made a spike is made again when it is to be saved.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from m4v.checkpoints.weights import save_tensors
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.training.guard_config import GuardConfig

logger = logging.getLogger(__name__)

_GAUSSIAN = 1.4826
"""Standard deviations of a Gaussian per median absolute deviation."""

_LEAST_DEVIATION = 0.01
"""Deviation, as a share of the median, below which no loss is strange: a constant loss has none at all."""


DescribeBatch = Callable[[Mapping[str, Tensor]], dict[str, Any]]
"""Says what a batch is made of, in JSON types."""


class LossSpike(UserError):
    """A loss left its usual range and the guard was told to stop; the message names the step and the saved batch."""


def nothing_known(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe a batch about which nothing is known beyond its tensors."""
    return {}


class _Kind:
    """Losses of one kind: the last ones on the device, and what was found strange among them.

    `found` holds how many, and the stage step, loss and limit of the last.
    """

    def __init__(self, window: int, device: torch.device) -> None:
        self.losses = torch.zeros(window, device=device)
        self.found = torch.zeros(4, device=device)
        self.count = 0
        self.reported = 0


class Guard:
    """Judges every loss by the running median and deviation of its kind.

    Args:
        config: Limits and action.
        device: Where losses are.
        folder: Run folder, for batches that made a spike.
        stage: Name in messages and files.
        describe: Says what a batch is made of, in JSON types.
    """

    def __init__(
        self,
        config: GuardConfig,
        device: torch.device,
        *,
        folder: Path,
        stage: str,
        describe: DescribeBatch = nothing_known,
    ) -> None:
        self.config = config
        self.device = device
        self.folder = folder
        self.stage = stage
        self.describe = describe
        self._kinds: dict[str, _Kind] = {}
        self._num_saved = 0
        self._is_strange = torch.zeros((), device=device)

    @torch.no_grad()
    def note(self, kind: str, loss: Tensor, step: int) -> None:
        """Judge a loss and remember it; nothing is waited for.

        Args:
            kind: What it is compared with, for example `video/level-2`.
            loss: Scalar on the device.
            step: Stage step.
        """
        if self.config.spike_factor == 0:
            return
        value = loss.detach().float()
        own = self._kinds.setdefault(kind, _Kind(self.config.window, self.device))
        if own.count >= self.config.window:
            middle = own.losses.median()
            deviation = _GAUSSIAN * (own.losses - middle).abs().median()
            limit = middle + self.config.spike_factor * deviation.clamp_min(_LEAST_DEVIATION * middle.abs())
            is_strange = value > limit
            self._is_strange = torch.maximum(self._is_strange, is_strange.float())
            last = torch.stack([own.found[0] + 1, value.new_tensor(float(step)), value, limit])
            own.found = torch.where(is_strange, last, own.found)
        # A strange loss is remembered too: if the data changed for good, it is usual after half a window.
        place = own.count % self.config.window
        own.losses[place] = torch.where(torch.isfinite(value), value, own.losses[place])
        own.count += 1

    @torch.no_grad()
    def allow_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the optimiser, before its step, whether to leave weights and moments as they are.

        Fused optimisers look at `found_inf`, as gradient scalers set it, on the device. All ranks decide alike.
        """
        if self.config.spike_factor == 0 or self.config.action != "skip":
            return
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._is_strange, dist.ReduceOp.MAX)
        setattr(optimizer, "found_inf", self._is_strange.clone())  # noqa: B010 - torch declares no such attribute
        self._is_strange.zero_()

    def report(
        self, make_batch: Callable[[int], Mapping[str, Tensor]], first_global_step: int, suffix: str = ""
    ) -> int:
        """Say what was found since the last report and save its batches; waits for the device.

        Args:
            make_batch: Gives the batch of a stage step.
            first_global_step: Steps of earlier stages.
            suffix: Ends file names, where several ranks share a folder.

        Returns:
            Strange losses so far.

        Raises:
            LossSpike: if there is a new one and the guard was told to stop.
        """
        if not self._kinds:
            return 0
        rows = torch.stack([own.found for own in self._kinds.values()]).tolist()
        messages = []
        for (kind, own), (count, step, loss, limit) in zip(self._kinds.items(), rows, strict=True):
            if count > own.reported:
                global_step = first_global_step + int(step)
                facts = {"stage": self.stage, "step": global_step, "stage_step": int(step)}
                facts |= {"kind": kind, "loss": loss, "limit": limit}
                saved = self._save(make_batch, facts, suffix)
                messages.append(
                    f"{self.stage}: {int(count) - own.reported} loss spikes of {kind}; at step {global_step} the loss "
                    f"was {loss:.4g}, more than {limit:.4g}, its usual range. {saved}"
                )
                own.reported = int(count)
        if messages and self.config.action == "stop":
            raise LossSpike(
                "\n".join(messages)
                + "\nThe last checkpoint is untouched. Resume with a lower learning rate or another "
                "guard.action."
            )
        for message in messages:
            logger.warning("%s%s", message, " Such steps are skipped." if self.config.action == "skip" else "")
        return sum(own.reported for own in self._kinds.values())

    def _save(self, make_batch: Callable[[int], Mapping[str, Tensor]], facts: Mapping[str, Any], suffix: str) -> str:
        if self._num_saved >= self.config.most_saved:
            return f"No more than {self.config.most_saved} batches are saved."
        self._num_saved += 1
        stem = self.folder / f"spike-step-{facts['step']}{suffix}"
        path = save_batch(stem, make_batch(facts["stage_step"]), facts, self.describe)
        return f"Its batch is in {path}."

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep for a resumed run to judge alike, in JSON types; waits for the device."""
        kinds = {
            kind: {
                "losses": own.losses.tolist(),
                "found": own.found.tolist(),
                "count": own.count,
                "reported": own.reported,
            }
            for kind, own in self._kinds.items()
        }
        return {"window": self.config.window, "saved": self._num_saved, "kinds": kinds}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` gave; a window of another length starts anew."""
        if state.get("window") != self.config.window:
            return
        self._num_saved = int(state["saved"])
        for kind, values in state["kinds"].items():
            own = self._kinds[kind] = _Kind(self.config.window, self.device)
            own.losses.copy_(torch.tensor(values["losses"]))
            own.found.copy_(torch.tensor(values["found"]))
            own.count, own.reported = int(values["count"]), int(values["reported"])


def save_batch(
    stem: Path,
    batch: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    describe: DescribeBatch = nothing_known,
) -> Path:
    """Write a batch as `STEM.safetensors` and what is known about it as `STEM.json`.

    Returns:
        The file of tensors.

    Raises:
        UserError: if the place cannot be written.
    """
    path = stem.with_name(f"{stem.name}.safetensors")
    save_tensors(path, dict(batch))
    with atomic_path(stem.with_name(f"{stem.name}.json")) as temporary:
        temporary.write_text(json.dumps({**facts, **describe(batch)}, indent=2) + "\n", encoding="utf-8")
    return path


def batch_describer(tokenizer: PreTrainedTokenizerBase) -> DescribeBatch:
    """Make the function that says which clips and captions a batch holds, as far as the batch tells."""

    def describe(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        described: dict[str, Any] = {name: list(value.shape) for name, value in batch.items()}
        facts: dict[str, Any] = {"tensors": described}
        if "clips" in batch:
            facts["clips"] = batch["clips"].tolist()
        if "token_ids" in batch and "token_mask" in batch:
            rows = zip(batch["token_ids"].tolist(), batch["token_mask"].tolist(), strict=True)
            kept = ([token for token, is_real in zip(*row, strict=True) if is_real] for row in rows)
            facts["captions"] = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in kept]
        return facts

    return describe
