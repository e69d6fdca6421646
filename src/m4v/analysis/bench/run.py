"""Runs parts of the benchmark one after another, and keeps what earlier runs measured."""

import json
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


def run_parts(
    parts: Sequence[PartName],
    device: torch.device,
    options: BenchOptions,
    earlier: dict[str, Any] | None,
    say: Callable[[str], None],
    on_part: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure parts; one that fails as a whole is reported in its place.

    Args:
        earlier: Document of earlier runs on this device, whose other parts are kept.
        on_part: Given the document after every part, so that nothing measured is lost.

    Returns:
        The document: `rows` are those of the mixer part, `parts` has everything.

    Raises:
        UserError: if a part cannot be measured on this device, or earlier parts were measured on another one.
    """
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
    for part in parts:
        session = Session(device, options, rates, say)
        measure: Callable[[Session], PartReport] = import_module(f"m4v.analysis.bench.{part}_part").measure
        failure = None
        try:
            # Networks take the kernel that is fastest here; the mixer part names its kernels itself.
            with fastest_attention() if device.type == "cuda" and part != "mixer" else nullcontext():
                plain = measure(session).to_plain()
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - one part must not take the others with it
            failure, plain = describe_failure(error), PartReport().to_plain()
        free_memory()
        head = {"size": options.size, "seconds": round(session.budget.spent, 1), **facts, "rates": rate_facts}
        document["parts"][part] = head | plain | ({"failure": failure} if failure else {})
        document["parts"] = {name: document["parts"][name] for name in PARTS if name in document["parts"]}
        document["rows"] = document["parts"].get("mixer", {}).get("rows", [])
        document["aims"] = [aim.to_plain() for aim in aims(document["parts"])]
        on_part(document)
    return document


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
