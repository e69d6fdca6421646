"""What follows from the times of a mixer: the fastest of each kind, floors, fractions reached, speed-ups and bounds."""

from m4v.analysis.bench import floors
from m4v.analysis.bench.machine import Rates

_KINDS = {
    "attention": ("attention_cudnn", "attention_flash", "attention_efficient", "attention_math"),
    "attention_frame_causal": ("attention_prefix", "attention_flex"),
    "mamba_ssm": ("mamba_ssm_64", "mamba_ssm_128", "mamba_ssm_256"),
}
_PARTNERS = (*_KINDS, "attention_with_norm_rope", "fla")


def add_fastest(ms: dict[str, float]) -> None:
    """Add the fastest of every kind of partner under the name of the kind."""
    for kind, names in _KINDS.items():
        values = [ms[name] for name in names if name in ms]
        if values:
            ms[kind] = min(values)


def row_figures(
    ms: dict[str, float], shape: floors.MixerShape, rates: Rates, *, is_section: bool, with_backward: bool
) -> dict[str, float]:
    """Floors in milliseconds, and ratios with ours.

    The bound over a partner is its measured time over the floor of ours: the speed-up of a perfect implementation.
    """
    floor_of = floors.section_floor_ms if is_section else floors.mixer_floor_ms
    floor = floor_of(shape, rates, with_backward=with_backward)
    figures = {"floor_ms": floor}
    if is_section:
        fused = floors.section_floor_ms(shape, rates, is_fused=True, with_backward=with_backward)
        figures["fused_floor_ms"] = fused
    ours = ms.get("ours")
    if ours is not None:
        figures |= {key.replace("_ms", "_reached"): value / ours for key, value in figures.items()}
        figures |= {f"speedup_over_{name}": ms[name] / ours for name in _PARTNERS if name in ms}
    for name, key in (("attention", "bound"), ("mamba_ssm", "bound_over_mamba_ssm")):
        if name in ms:
            figures[key] = ms[name] / floor
    return figures
