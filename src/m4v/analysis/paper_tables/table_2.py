"""Table 2: seconds for a whole video, beside the operations that our networks need for it."""

from dataclasses import dataclass, replace

from m4v.analysis.flops import CallFlops, video_flops
from m4v.analysis.subjects import SUBJECTS, Subject
from m4v.analysis.wan_flops import wan_call_flops, wan_grid
from m4v.core.shapes import VideoShape
from m4v.models.denoiser.config import DenoiserConfig

CONVENTION = (
    "PFLOP of all denoiser calls of one video: one sample with classifier-free guidance (two rows per step), 2 per "
    "multiply-add, all pairs of tokens, text counted (128 tokens; Wan 512). Steps as published: PyramidFlow 20 per "
    "level for the first unit and 10 for each other, Wan2.1 50. Text encoders and video decoding are not counted. "
    "TFLOP/s is PFLOP over the printed seconds."
)

REMARKS = (
    "Not comparable: the paper names neither the GPU of this table nor steps, guidance, precision, or whether the "
    "seconds hold text encoding and decoding; sizes and lengths differ between families. So TFLOP/s is no measure of "
    "our code: it says what the printed seconds imply if the counted work is what ran.",
    "Nor does it name the Wan size: both are given. HunyuanVideo is not a network of this package, so nothing is "
    "computed for it.",
)


@dataclass(frozen=True)
class Table2Row:
    """One model of the table, or one reading of it.

    Attributes:
        size: Network that was counted; None if there is none here.
        calls: Samples that pass through the denoiser.
        pflop: All operations of the denoiser for one video.
        mixer_pflop: Those of attention, scan and temporal branch.
    """

    name: str
    size: str | None
    video: VideoShape
    paper_seconds: float
    calls: int | None = None
    pflop: float | None = None
    mixer_pflop: float | None = None

    @property
    def implied_tflops_per_second(self) -> float | None:
        """Operations over the printed seconds."""
        return None if self.pflop is None else 1e3 * self.pflop / self.paper_seconds


@dataclass(frozen=True)
class Speedup:
    """M4V over the model it grows from: shares of operations and of printed seconds."""

    size: str
    pflop: float
    paper_seconds: float


@dataclass(frozen=True)
class Table2:
    """The whole table."""

    rows: tuple[Table2Row, ...]
    speedups: tuple[Speedup, ...]


_PYRAMID = VideoShape(num_frames=241, height=768, width=1280)
_WAN = VideoShape(num_frames=81, height=720, width=1280)
_PAIRS = (
    ("PyramidFlow", 812.0, "M4V (PyramidFlow)", 613.0, "pyramid-2b", _PYRAMID),
    ("Wan2.1", 1700.0, "M4V (Wan2.1)", 1210.0, "wan-14b", _WAN),
    ("Wan2.1", 1700.0, "M4V (Wan2.1)", 1210.0, "wan-1.3b", _WAN),
)


def table_2() -> Table2:
    """Whole-video operations at Table 2's sizes, attention only and with MM-DiM in every layer it may replace.

    Source: Table 2; step counts: the released Pyramid-Flow and Wan2.1 examples.
    """
    rows = [Table2Row("HunyuanVideo", None, VideoShape(num_frames=129, height=720, width=1280), 1890.0)]
    speedups = []
    for base, base_seconds, ours, our_seconds, size, video in _PAIRS:
        before = _row(base, base_seconds, size, "attention-only", video)
        after = _row(ours, our_seconds, size, "full", video)
        rows += [before, after]
        assert before.pflop is not None
        assert after.pflop is not None
        speedups.append(Speedup(size, after.pflop / before.pflop, our_seconds / base_seconds))
    return Table2(tuple(rows), tuple(speedups))


def _row(name: str, seconds: float, size: str, plan: str, video: VideoShape) -> Table2Row:
    subject = SUBJECTS[size]
    cost, calls = _video(subject, plan, video)
    return Table2Row(name, size, video, seconds, calls, cost.total / 1e15, cost.mixers / 1e15)


def _video(subject: Subject, plan: str, video: VideoShape) -> tuple[CallFlops, int]:
    defaults, latent = subject.defaults, subject.compression.latent_shape(video)
    config = subject.denoiser
    if isinstance(config, DenoiserConfig):
        cost = video_flops(
            replace(config, mixer_plan=plan),
            latent,
            num_text_tokens=defaults.max_text_length,
            first_steps=defaults.first_steps,
            later_steps=defaults.later_steps,
            rows_per_call=subject.rows_per_step,
        )
        return cost, subject.rows_per_step * (
            sum(defaults.first_steps) + (latent.num_units - 1) * sum(defaults.later_steps)
        )
    calls = subject.rows_per_step * sum(defaults.first_steps)
    wan = replace(config, mixer_plan=plan)
    return wan_call_flops(wan, wan_grid(wan, latent), defaults.max_text_length) * calls, calls
