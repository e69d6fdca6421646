"""The paper's tables recomputed from our classes, ours beside the printed numbers."""

from dataclasses import dataclass, replace

from m4v.analysis.flops import call_flops
from m4v.analysis.parameters import denoiser_parameters
from m4v.analysis.tokens import unit_layout
from m4v.core.config_io import to_plain
from m4v.core.shapes import Compression, VideoShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig, TemporalBranchConfig

TABLE_4_CONVENTION = (
    "TFLOPs of the mixers of all 24 layers in one call: last unit, finest level at 768x1280, one sample, all pairs of "
    "tokens, 128 text tokens, 2 per multiply-add. The paper does not state its convention, and no single one gives "
    "all of its numbers: its Parallel row counts the 8 dual-stream layers twice."
)


@dataclass(frozen=True)
class Table4Row:
    """One architecture of Table 4; TFLOPs for 121 and 241 frames."""

    name: str
    parameters: int
    paper_parameters_billion: float
    tflops: tuple[float, float]
    paper_tflops: tuple[float, float]

    @property
    def deviation(self) -> float:
        """Our parameters over the printed ones, minus 1."""
        return self.parameters / (self.paper_parameters_billion * 1e9) - 1


_PRINTED: tuple[tuple[str, str, bool, float, tuple[float, float]], ...] = (
    ("Full Attn", "attention-only", False, 1.97, (33.84, 55.44)),
    ("Parallel", "parallel", False, 2.21, (50.19, 82.03)),
    ("Post-half", "post-half", False, 2.00, (25.20, 41.04)),
    ("Pre-half", "pre-half", False, 2.00, (25.20, 41.04)),
    ("Interleaved", "interleaved", False, 2.00, (25.20, 41.04)),
    ("Full", "full", False, 2.04, (16.35, 26.64)),
    ("Full+Temp-Branch", "full", True, 2.21, (18.80, 29.52)),
)


def table_4() -> list[Table4Row]:
    """Recompute Table 4's parameter and TFLOP columns.

    Source: Table 4; the temporal branch is part of the last row only.
    """
    rows = []
    for name, plan, has_branch, paper_billion, paper_tflops in _PRINTED:
        branch = TemporalBranchConfig(enabled=has_branch)
        config = replace(PRESETS["pyramid-2b"], mixer_plan=plan, temporal_branch=branch)
        tflops = (_mixer_tflops(config, 121), _mixer_tflops(config, 241))
        count = denoiser_parameters(to_plain(config)).total
        rows.append(Table4Row(name, count, paper_billion, tflops, paper_tflops))
    return rows


def _mixer_tflops(config: DenoiserConfig, num_frames: int) -> float:
    video = VideoShape(num_frames=num_frames, height=768, width=1280)
    latent = Compression(time=8, space=8).latent_shape(video)
    layout = unit_layout(config, latent, latent.num_units - 1, config.num_levels - 1, 128)
    return call_flops(config, layout).mixers / 1e12
