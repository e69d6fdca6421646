"""Table 4: parameters and mixer TFLOPs of seven architectures, recomputed from our classes."""

from dataclasses import dataclass, replace

from m4v.analysis.flops import LayerMixerFlops, call_flops, layer_mixer_flops
from m4v.analysis.parameters import denoiser_parameters
from m4v.analysis.tokens import unit_layout
from m4v.core.sequence_layout import SequenceLayout
from m4v.core.shapes import Compression, VideoShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig, TemporalBranchConfig

LENGTHS = (121, 241)
"""Frames of the two columns."""

TEXT_TOKENS = 128

Pair = tuple[float, float]
"""Values for 121 and 241 frames."""

CONVENTION = (
    "TFLOPs of the mixers of all 24 layers (8 dual-stream layers as attention) in one call: last unit, finest level at "
    "768x1280, one sample, all pairs of tokens, projections and output matrix included, 2 per multiply-add. Text is "
    "counted with its 128 tokens (11,888 and 15,488 in all), and left out in the columns that say so (11,760 and "
    "15,360)."
)

REMARKS = (
    "The paper states no convention. Its rows are layers times a cost per layer, but for two: Full at 121 frames "
    "prints 16.35 where its own 8 A + 16 M is 16.56, and Parallel is Full Attn + Full, which counts the 8 dual-stream "
    "layers twice.",
    "No one convention gives both lengths: A fits at 121 frames without text (33.81 for 33.84) and at 241 with it "
    "(55.18 for 55.44); M grows 1.55-fold where the tokens of a linear mixer grow 1.31-fold. 22.416 of A.2 follows "
    "from no row.",
)


@dataclass(frozen=True)
class Table4Row:
    """One architecture.

    Attributes:
        tflops: With the text tokens.
        tflops_without_text: Video tokens alone.
    """

    name: str
    parameters: int
    paper_parameters_billion: float
    tflops: Pair
    tflops_without_text: Pair
    paper_tflops: Pair

    @property
    def deviation(self) -> float:
        """Our parameters over the printed ones, minus 1."""
        return self.parameters / (self.paper_parameters_billion * 1e9) - 1


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer's mixer, which the table's rows are sums of.

    Attributes:
        letter: A, M or T.
        paper_tflops: Solved from the printed rows.
    """

    letter: str
    name: str
    tflops: Pair
    tflops_without_text: Pair
    paper_tflops: Pair


@dataclass(frozen=True)
class DualStreamScan:
    """The last row with a scan in the dual-stream layers too, which the paper only estimates.

    Attributes:
        paper_tflops: For 241 frames, beside the 29.52 of the last row.

    Source: Appendix A.2.
    """

    parameters: int
    tflops: Pair
    tflops_without_text: Pair
    paper_tflops: float = 22.416


@dataclass(frozen=True)
class Table4:
    """The whole table, and the estimate of Appendix A.2."""

    rows: tuple[Table4Row, ...]
    layers: tuple[LayerCost, ...]
    dual_stream_scan: DualStreamScan


_FULL_ATTENTION, _HALF, _FULL_WITH_BRANCH = (33.84, 55.44), (25.20, 41.04), (18.80, 29.52)

_PRINTED: tuple[tuple[str, str, bool, float, Pair], ...] = (
    ("Full Attn", "attention-only", False, 1.97, _FULL_ATTENTION),
    ("Parallel", "parallel", False, 2.21, (50.19, 82.03)),
    ("Post-half", "post-half", False, 2.00, _HALF),
    ("Pre-half", "pre-half", False, 2.00, _HALF),
    ("Interleaved", "interleaved", False, 2.00, _HALF),
    ("Full", "full", False, 2.04, (16.35, 26.64)),
    ("Full+Temp-Branch", "full", True, 2.21, _FULL_WITH_BRANCH),
)


def table_4() -> Table4:
    """Recompute Table 4's parameter and TFLOP columns.

    Source: Table 4; the temporal branch is part of the last row only.
    """
    rows = []
    for name, plan, has_branch, paper_billion, paper_tflops in _PRINTED:
        branch = TemporalBranchConfig(enabled=has_branch)
        config = replace(PRESETS["pyramid-2b"], mixer_plan=plan, temporal_branch=branch)
        with_text, without_text = (_mixer_tflops(config, length) for length in (TEXT_TOKENS, 0))
        count = denoiser_parameters(config)["total"]
        rows.append(Table4Row(name, count, paper_billion, with_text, without_text, paper_tflops))
    everywhere = replace(PRESETS["pyramid-2b"], dual_mixer="mm_dim")
    dual_stream_scan = DualStreamScan(
        parameters=denoiser_parameters(everywhere)["total"],
        tflops=_mixer_tflops(everywhere, TEXT_TOKENS),
        tflops_without_text=_mixer_tflops(everywhere, 0),
    )
    return Table4(tuple(rows), _layer_costs(PRESETS["pyramid-2b"]), dual_stream_scan)


def printed_layer_costs() -> tuple[Pair, Pair, Pair]:
    """A, M and T in TFLOPs as the printed rows imply them.

    Source: Table 4: 24 A = Full Attn, 16 A + 8 M = the half rows, 8 A + 16 (M + T) = Full+Temp-Branch.
    """
    attention = [printed / 24 for printed in _FULL_ATTENTION]
    scan = [(printed - 16 * a) / 8 for printed, a in zip(_HALF, attention, strict=True)]
    both = [(printed - 8 * a) / 16 for printed, a in zip(_FULL_WITH_BRANCH, attention, strict=True)]
    branch = [sum_ - m for sum_, m in zip(both, scan, strict=True)]
    return _pair(attention), _pair(scan), _pair(branch)


def _layer_costs(config: DenoiserConfig) -> tuple[LayerCost, ...]:
    costs = [
        [layer_mixer_flops(config, _layout(config, frames, length)) for frames in LENGTHS]
        for length in (TEXT_TOKENS, 0)
    ]

    def tflops(part: str, layouts: list[LayerMixerFlops]) -> Pair:
        return _pair([getattr(cost, part) / 1e12 for cost in layouts])

    parts = (
        ("A", "attention layer", "attention"),
        ("M", "Mamba layer", "scan"),
        ("T", "temporal branch", "temporal_branch"),
    )
    return tuple(
        LayerCost(letter, name, tflops(part, costs[0]), tflops(part, costs[1]), printed)
        for (letter, name, part), printed in zip(parts, printed_layer_costs(), strict=True)
    )


def _mixer_tflops(config: DenoiserConfig, num_text_tokens: int) -> Pair:
    return _pair([call_flops(config, _layout(config, frames, num_text_tokens)).mixers / 1e12 for frames in LENGTHS])


def _layout(config: DenoiserConfig, num_frames: int, num_text_tokens: int) -> SequenceLayout:
    video = VideoShape(num_frames=num_frames, height=768, width=1280)
    latent = Compression(time=8, space=8).latent_shape(video)
    return unit_layout(config, latent, latent.num_units - 1, config.num_levels - 1, num_text_tokens)


def _pair(values: list[float]) -> Pair:
    short, long = values
    return short, long
