"""A description as lines for people."""

import textwrap
from typing import TYPE_CHECKING

from m4v.analysis.subjects import Subject
from m4v.models.denoiser.wan_config import WanConfig

if TYPE_CHECKING:
    from m4v.analysis.description import Description

_MEMORY_NOTE = (
    "Memory is found by running the networks' own code on shapes alone, batch and precision as in generation: bytes of "
    "all tensors alive at once, {calls}, decoding {decoding} or in tiles of 256 pixels. Not in it: workspaces of "
    "kernels, what the allocator holds back. none = all weights + the largest activations; model = the largest "
    "(weights + activations) of one part; sequential = the largest (single layer + activations)."
)
_PYRAMID_WORDS = {
    "calls": "the longest call with both prompts of guidance in one batch",
    "decoding": "unit by unit",
}
_WAN_WORDS = {
    "calls": "guidance as two calls",
    "decoding": "the whole clip in float32",
}


def description_lines(title: str, subject: Subject, description: "Description") -> list[str]:
    """Lay out all that `m4v describe` tells."""
    is_wan = isinstance(subject.denoiser, WanConfig)
    words = _WAN_WORDS if is_wan else _PYRAMID_WORDS
    return [
        title,
        "",
        *_parameter_lines(description.parameters),
        "",
        *_call_lines(description, is_wan),
        "",
        *textwrap.wrap(_video_line(subject, description.video_flops, is_wan), 110),
        "",
        *_memory_lines(description),
        "",
        *textwrap.wrap(_MEMORY_NOTE.format(**words), 110),
    ]


def _parameter_lines(parameters: dict[str, int]) -> list[str]:
    lines = []
    for name, count in parameters.items():
        label = "parameters" if name == "total" else f"  {name.replace('_', ' ')}"
        lines.append(f"{label:<16}{count:>16,}")
    return lines


def _call_lines(description: "Description", is_wan: bool) -> list[str]:
    if is_wan:
        ((tokens,),), ((flops,),) = description.tokens, description.flops
        return [f"one call, one sample: {tokens:,} video tokens, {_flops(flops).strip()}FLOP"]
    lines = ["one call, one sample: tokens, text included (FLOP), by unit and level, coarsest first"]
    for unit, (tokens_row, flops_row) in enumerate(zip(description.tokens, description.flops, strict=True)):
        cells = (f"{count:>7,} ({_flops(cost)})" for count, cost in zip(tokens_row, flops_row, strict=True))
        lines.append(f"  unit {unit:>3}  " + "  ".join(cells))
    return lines


def _video_line(subject: Subject, flops: dict[str, float], is_wan: bool) -> str:
    defaults = subject.defaults
    first, later = ("/".join(map(str, steps)) for steps in (defaults.first_steps, defaults.later_steps))
    guidance = "with" if subject.rows_per_step == 2 else "without"
    steps = f"{first} steps" if is_wan else f"{first} steps per level for the first unit, {later} for each other"
    return (
        f"whole video, denoiser {guidance} guidance, {steps}: {_flops(flops['total']).strip()}FLOP, of which mixers "
        f"{_flops(flops['mixers']).strip()}FLOP (2 per multiply-add, all pairs of tokens)"
    )


def _memory_lines(description: "Description") -> list[str]:
    memory = description.memory_bytes
    lines = [f"{'memory':<16}{'weights':>12}{'largest layer':>15}{'activations':>13}{'with tiles':>12}"]
    for name, part in memory["parts"].items():
        lines.append(
            f"  {name:<14}{_bytes(part['weights']):>12}{_bytes(part['largest_layer']):>15}"
            f"{_bytes(part['activations']):>13}{_bytes(part['tiled_activations']):>12}"
        )
    lines += ["", f"{'peak on device':<22}{'untiled':>12}{'with tiles':>13}"]
    for offload, peak in memory["peak"].items():
        lines.append(f"  {'offload ' + offload:<20}{_bytes(peak['untiled']):>12}{_bytes(peak['tiled']):>13}")
    return lines


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"


def _flops(count: float) -> str:
    if count >= 1e15:
        return f"{count / 1e15:6.2f} P"
    return f"{count / 1e12:6.2f} T" if count >= 1e11 else f"{count / 1e9:6.3f} G"
