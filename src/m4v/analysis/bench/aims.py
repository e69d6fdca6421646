"""What the project set out to reach, beside what was measured; from the JSON alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from m4v.analysis.bench.break_even import BREAK_EVEN

Parts = Mapping[str, Mapping[str, Any]]
RowFilter = dict[str, Any]


@dataclass(frozen=True)
class Aim:
    """One line of the table.

    Attributes:
        measure: What.
        aim: Words of the aim.
        measured: Value; None if it was not measured.
        bound: Arithmetic bound of the value, where there is one.
        passed: None if not measured, or if there is nothing to pass.
    """

    measure: str
    aim: str
    measured: float | None
    bound: float | None
    passed: bool | None

    def to_plain(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)


def aims(parts: Parts) -> list[Aim]:
    """All aims that belong to parts that were measured at full size."""
    found: list[Aim] = []
    for part, make in _MAKERS.items():
        if part in parts and parts[part]["size"] != "tiny":
            found += make(parts[part]["rows"], parts[part])
    return found


def _find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})


def _least(measure: str, least: float, value: float | None, bound: float | None = None, unit: str = "x") -> Aim:
    return Aim(measure, f">= {least:g}{unit}", value, bound, None if value is None else value >= least)


def _most(measure: str, most: float, value: float | None, bound: float | None = None, unit: str = "x") -> Aim:
    return Aim(measure, f"<= {most:g}{unit}", value, bound, None if value is None else value <= most)


def _stated(measure: str, value: float | None) -> Aim:
    return Aim(measure, "stated", value, None, None)


def _mixer(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    if part["size"] == "laptop":
        yield from _laptop_mixer(rows, part)
        return
    for direction, least in (("forward", 2.5), ("forward+backward", 3.0)):
        row = _find(rows, scope="scan section", length=16384, **{"pass": direction})
        name = f"scan section, 16,384 tokens, {direction}, over mamba-ssm"
        yield _least(name, least, row.get("speedup_over_mamba_ssm"), row.get("bound_over_mamba_ssm"))
        if direction == "forward":
            yield _least("  share of the floor, staged", 0.5, row.get("floor_reached"), 1.0, "")
            yield _stated("  share of the floor, fused", row.get("fused_floor_reached"))
        costs = (row.get("ours_with_norm_rope_ms"), row.get("ours_ms"))
        both = costs[0] is not None and costs[1] is not None
        yield _stated("  cost of norm and rotation, ms", costs[0] - costs[1] if both else None)  # type: ignore[operator]
    for length, least in ((15488, 4.0), (65536, 12.0)):
        row = _find(rows, scope="whole mixer", length=length, **{"pass": "forward"})
        yield _least(
            f"whole mixer, {length:,} tokens, over attention",
            least,
            row.get("speedup_over_attention"),
            row.get("bound"),
        )
        yield _stated("  over attention with QK-norm and rotation", row.get("speedup_over_attention_with_norm_rope"))
        yield _stated("  over frame-causal attention", row.get("speedup_over_attention_frame_causal"))
    forward = [row for row in rows if row["scope"] == "whole mixer" and row["pass"] == "forward"]
    yield _least("whole mixer, slowest of 2,048 tokens and more", 1.0, _slowest(forward, 2048))
    yield from _break_evens(part)


def _laptop_mixer(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    for width, dtype, least in (
        (1920, "float32", 2.5),
        (1920, "bfloat16", 4.5),
        (384, "float32", 3.0),
        (384, "bfloat16", 3.0),
    ):
        row = _find(rows, scope="whole mixer", width=width, dtype=dtype, length=16384)
        yield _least(
            f"whole mixer, width {width}, {dtype}, 16,384 tokens, over attention",
            least,
            row.get("speedup_over_attention"),
            row.get("bound"),
        )
    for dtype, length in (("float32", 4096), ("bfloat16", 2048)):
        chosen = [row for row in rows if row["dtype"] == dtype]
        yield _least(f"slowest from {length:,} tokens up, {dtype}", 1.0, _slowest(chosen, length))
    yield from _break_evens(part)


def _slowest(rows: list[dict[str, Any]], length: int) -> float | None:
    """Smallest speed-up from a length up; unknown unless that length, the hardest, was measured itself."""
    timed = [row for row in rows if row["length"] >= length and "speedup_over_attention" in row]
    if all(row["length"] != length for row in timed):
        return None
    return min(row["speedup_over_attention"] for row in timed)


def _break_evens(part: Mapping[str, Any]) -> Iterator[Aim]:
    for name, value in part["figures"].items():
        if name.startswith(BREAK_EVEN):
            yield _stated(name, value)


def _denoiser(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    row = _find(rows, unit=30, level=2, compiled=True)
    label = "denoiser, 768p, last unit of 241 frames, compiled, "
    for name, least in (("m4v", 1.45), ("dual_mamba", 1.9)):
        yield _least(f"{label}{name}", least, row.get(f"speedup_{name}_over_attention"), row.get(f"bound_{name}"))
    causal = row.get("speedup_m4v_frame_causal_over_attention_frame_causal")
    yield _stated("  m4v over attention, both frame-causal", causal)


def _generate(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    window = _find(rows, kind="fixed window")
    if window:
        yield _most("10x longer video, fixed window: time", 11.0, window.get("time_ratio"))
        yield _most("10x longer video, fixed window: memory", 1.2, window.get("memory_ratio"))
    if part["size"] == "paper":
        row = _find(rows, kind="video", frames=241)
        for name, least in (("m4v", 1.25), ("dual_mamba", 1.45)):
            value, bound = row.get(f"speedup_{name}_over_attention"), row.get(f"bound_{name}")
            yield _least(f"768p, 241 frames, whole video, {name}", least, value, bound)
    elif part["size"] == "laptop":
        clip = _find(rows, kind="default clip")
        yield _most("default clip of the bundled model after load", 4.0, clip.get("seconds"), None, " s")
    full = _find(rows, kind="full run")
    for name in ("attention", "m4v", "dual_mamba"):
        yield _stated(f"  full run over sum of evaluations, {name}", full.get(f"{name}_deviation"))


def _wan(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    for network, least in (("wan-1.3b", 3.0), ("wan-14b", 2.0)):
        found = [_find(rows, network=network, size="720x1280x81", compiled=compiled) for compiled in (True, False)]
        row = next((row for row in found if "speedup_m4v_over_attention" in row), {})
        state = ", eager" if row.get("compiled") is False else ""
        value = row.get("speedup_m4v_over_attention")
        yield _least(f"{network}, 720x1280x81, one evaluation{state}", least, value, row.get("bound"))
        yield _stated("  the same, eager", found[1].get("speedup_m4v_over_attention"))


def _train(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    for checkpointing in (False, True):
        for is_compiled in (False, True):
            row = _find(rows, size="768x1280x241", level=2, checkpointing=checkpointing, compiled=is_compiled)
            if row:
                label = f"checkpointing {'on' if checkpointing else 'off'}{', compiled' if is_compiled else ''}"
                value, bound = row.get("dual_mamba_over_m4v"), row.get("bound_dual_mamba_over_m4v")
                yield _most(f"training step, 768p, dual-stream scans over attention, {label}", 1.0, value, bound)
    small = _find(rows, size="384x640x241", level=2)
    yield _stated("  the same at 384p", small.get("dual_mamba_over_m4v"))
    row = _find(rows, size="768x1280x241", level=2, checkpointing=False)
    yield _most("memory of a training step, m4v over attention", 1.05, row.get("memory_m4v_over_attention"))
    yield _stated("  with dual-stream scans over attention", row.get("memory_dual_mamba_over_attention"))
    recomputing = _find(rows, size="768x1280x241", level=2, checkpointing=True)
    yield _stated("  m4v over attention, checkpointing on", recomputing.get("memory_m4v_over_attention"))


def _correctness(rows: list[dict[str, Any]], part: Mapping[str, Any]) -> Iterator[Aim]:
    right = sum(row.get("passed") is True for row in rows)
    yield _least(f"correct of {len(rows)} cases", len(rows), float(right), None, "")


_MAKERS: dict[str, Callable[[list[dict[str, Any]], Mapping[str, Any]], Iterator[Aim]]] = {
    "correctness": _correctness,
    "mixer": _mixer,
    "denoiser": _denoiser,
    "generate": _generate,
    "wan": _wan,
    "train": _train,
}
