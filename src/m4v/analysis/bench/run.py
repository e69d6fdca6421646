"""Runs parts of the benchmark one after another, and keeps what earlier runs measured."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from m4v.analysis.bench.aims import aims
from m4v.analysis.bench.attention_partners import fastest_attention
from m4v.analysis.bench.clock import Clock, describe_failure, free_memory
from m4v.analysis.bench.config import PARTS, BenchOptions, PartName
from m4v.analysis.bench.machine import machine_facts, measure_rates
from m4v.analysis.bench.rows import PartReport
from m4v.analysis.bench.session import Session
from m4v.core.errors import UserError

FORMAT = "m4v bench 1"
_OTHER_SHARE = 60.0


def run_parts(
    parts: Sequence[PartName],
    device: torch.device,
    options: BenchOptions,
    earlier: dict[str, Any] | None,
    say: Callable[[str], None],
    on_change: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure parts; one that fails keeps its rows until then, and its failure is reported with them.

    Args:
        earlier: Document of earlier runs on this device, whose other parts are kept.
        on_change: Given the document after every row, so that nothing measured is lost.

    Returns:
        The document: `rows` are those of the mixer part, `parts` has everything.

    Raises:
        UserError: if a part cannot be measured on this device, or earlier parts were measured on another one.
    """
    begin = time.monotonic()
    facts = machine_facts(device)
    document = {"format": FORMAT, **facts, "parts": {}} if earlier is None else earlier | facts
    if earlier is not None and earlier.get("device") != facts["device"]:
        raise UserError(
            f"The file has measurements on {earlier.get('device')}, and this is {facts['device']}; name another file."
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock = Clock(device, 3, 1.0)
    say("measuring copy and matrix rates")
    rates = measure_rates(clock, dtype, options.size == "tiny")
    rate_facts = {
        "copy_gb_per_s": round(rates.bytes_per_second / 1e9, 1),
        "matmul_tflop_per_s": round(rates.flops_per_second / 1e12, 2),
    }
    document["rates"] = rate_facts
    reports = {part: PartReport() for part in parts}
    spent = dict.fromkeys(parts, 0.0)
    networks: dict[str, Any] = {}
    stages = [(part, "measure") for part in parts]
    if options.is_brief and "mixer" in parts and options.size != "laptop":
        stages.append(("mixer", "measure_last"))
    for number, (part, step) in enumerate(stages):
        seconds = _seconds(options, [name for name, _ in stages[number:]], begin)
        session = Session(device, options, rates, say, seconds, reports[part], networks)

        def keep(
            session: Session = session, part: PartName = part, failure: str | None = None, done: bool = False
        ) -> None:
            seconds = round(spent[part] + session.budget.spent, 1)
            head = {"size": options.size, "brief": options.is_brief, "seconds": seconds, **facts, "rates": rate_facts}
            state = ({"failure": failure} if failure else {}) | ({} if done else {"unfinished": True})
            document["parts"][part] = head | session.report.to_plain() | state
            document["parts"] = {name: document["parts"][name] for name in PARTS if name in document["parts"]}
            document["rows"] = document["parts"].get("mixer", {}).get("rows", [])
            document["aims"] = [aim.to_plain() for aim in aims(document["parts"])]
            on_change(document)

        session.report.on_row = keep
        measure: Callable[[Session], PartReport] = getattr(import_module(f"m4v.analysis.bench.{part}_part"), step)
        failure = None
        try:
            # Networks take the kernel that is fastest here; the mixer part names its kernels itself.
            with fastest_attention() if device.type == "cuda" and part != "mixer" else nullcontext():
                session.report = measure(session)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - one part must not take the others with it
            failure = describe_failure(error)
        following = stages[number + 1][0] if number + 1 < len(stages) else None
        if not (options.is_brief and (part, following) == ("denoiser", "generate")):
            networks.clear()
        free_memory()
        keep(failure=failure, done=True)
        spent[part] += session.budget.spent
    return document


def _seconds(options: BenchOptions, stages: Sequence[PartName], begin: float) -> float:
    """Budget of the first of these stages; brief runs share what is left of theirs."""
    if not options.is_brief:
        return options.seconds
    left = max(options.seconds - (time.monotonic() - begin), 1.0)
    shares = [options.shares.get(part, _OTHER_SHARE) for part in stages]
    return left * shares[0] / sum(shares)


def read_document(path: Path) -> dict[str, Any]:
    """Read what an earlier run wrote.

    Raises:
        UserError: if it cannot be read, or is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path} as a report of m4v bench: {error}. Name another file.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} is not a report of this version of m4v bench. Name another file, or remove it.")
    return document
