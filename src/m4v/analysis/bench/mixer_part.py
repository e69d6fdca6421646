"""`--part mixer`: the scan section and the whole mixer against attention and other people's scans, over lengths."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m4v.analysis.bench import floors
from m4v.analysis.bench.attention_partners import (
    attention_inputs,
    backends_for,
    check_core,
    check_frame_causal,
    frame_causal_core,
    only,
    prefix_core,
    sdpa,
)
from m4v.analysis.bench.break_even import BREAK_EVEN, break_evens
from m4v.analysis.bench.clock import Clock, Contender, free_memory
from m4v.analysis.bench.machine import Rates, measure_rates
from m4v.analysis.bench.mixer_figures import add_fastest, row_figures
from m4v.analysis.bench.mixer_module import mixer_case
from m4v.analysis.bench.rows import PartReport, Row
from m4v.analysis.bench.scan_case import (
    SectionInputs,
    check_against_reference,
    layout_of_length,
    require_correct,
    section_inputs,
)
from m4v.analysis.bench.scan_partners import Partner, partners
from m4v.analysis.bench.session import Session
from m4v.analysis.bench.work import Work, attention_work, replayed, section_work, work_contender

_PAPER_LENGTHS = (16384, 15488, 65536, 4096, 2048, 1024, 3968, 11888, 8192, 32768, 512, 256, 131072)
"""By importance: what the time does not allow is left out from the end."""
_PARTNER_LENGTHS = (16384, 4096)
_BRIEF_LENGTHS = (16384, 65536, 2048, 1024, 15488, 4096, 512)
"""Where two lengths are as important, the cheaper comes first."""
_BRIEF_BACKWARD_LENGTHS = (15488,)
_LAPTOP_LENGTHS = (16384, 4096, 2048, 1024, 8192)
_BRIEF_LAPTOP_LENGTHS = (16384, 4096, 2048, 1024)
_CACHE_BYTES = 128 * 2**20
_LONGEST_RECORDED = 2**15
_FRAME_CAUSAL_LENGTHS = (16384, 15488, 65536, 3968)
_FRAME_CAUSAL_SECONDS = 90
"""Left before FlexAttention is compiled, which takes about a minute."""
_PARTNER_SECONDS = 250
"""Left before partners tune themselves at a further length."""
_ATTENTION_MODULE = "attention_with_norm_rope"
_BRIEF_PARTNERS = ("mamba_ssm_128",)
"""Its usual chunk, whose kernels tune themselves for seconds forwards and for a minute backwards."""
_BRIEF_TUNING_SECONDS = 85
"""Left before that minute is begun."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One network width in one precision."""

    num_heads: int
    head_dim: int
    dtype: torch.dtype
    lengths: tuple[int, ...]

    @property
    def dtype_name(self) -> str:
        """As in the JSON."""
        return str(self.dtype).removeprefix("torch.")

    def mixer(self, length: int) -> floors.MixerShape:
        """Sizes that floors are computed from."""
        return floors.MixerShape(
            num_tokens=length, num_heads=self.num_heads, head_dim=self.head_dim, itemsize=self.dtype.itemsize
        )


def shapes(session: Session) -> list[Shape]:
    """What is measured at a size."""
    f32, bf16 = torch.float32, torch.bfloat16
    if session.is_tiny:
        return [Shape(num_heads=2, head_dim=32, dtype=f32, lengths=(64,))]
    if session.options.size == "paper":
        paper_lengths = _BRIEF_LENGTHS if session.is_brief else _PAPER_LENGTHS
        return [Shape(num_heads=30, head_dim=64, dtype=bf16, lengths=paper_lengths)]
    lengths = _BRIEF_LAPTOP_LENGTHS if session.is_brief else _LAPTOP_LENGTHS
    return [
        Shape(num_heads=heads, head_dim=64, dtype=dtype, lengths=lengths) for heads in (30, 6) for dtype in (f32, bf16)
    ]


def measure(session: Session) -> PartReport:
    """Measure every shape and length, forward, and on accelerators forward and backward."""
    report = session.report
    found, missing = _partners(session)
    report.notes += [f"Not compared with {reason}." for reason in missing]
    report.notes += _NOTES
    all_shapes = shapes(session)
    rates = {shape.dtype: _rates(session, shape.dtype) for shape in all_shapes}
    # All shapes have the same lengths, the most important first.
    for length in all_shapes[0].lengths:
        for shape in all_shapes:
            label = f"width {shape.num_heads * shape.head_dim}, {shape.dtype_name}, {length:,} tokens"
            if not session.has_time(5 if session.is_brief else 20):
                report.left_out.append(f"{label}: no time left")
                continue
            session.say(f"mixer: {label} ({session.budget.spent:.0f} s)")
            bench = _Length(session, shape, length, rates[shape.dtype], report)
            whole, section = _passes(session, length)
            for with_backward in section:
                # Competitors tune themselves for minutes at first: only at the lengths of the aims.
                takes_part = session.is_tiny or length in _PARTNER_LENGTHS
                has_time = length == _PARTNER_LENGTHS[0] or session.budget.left > _PARTNER_SECONDS
                bench.section(with_backward, found if takes_part and has_time else [])
            for with_backward in whole:
                bench.whole_mixer(with_backward)
            free_memory()
            kept = {name: value for name, value in report.figures.items() if not name.startswith(BREAK_EVEN)}
            report.figures = kept | break_evens(report.rows)
    return report


def measure_last(session: Session) -> PartReport:
    """What a brief run does at its end: the section backwards, for which partners tune themselves for a minute."""
    report = session.report
    found, _ = _partners(session)
    if not session.has_time(5):
        report.left_out.append("scan section, forward+backward: no time left")
        return report
    if found and not session.has_time(_BRIEF_TUNING_SECONDS):
        report.left_out.append(f"{found[0].name}, forward+backward: no time left")
        found = []
    (shape,) = shapes(session)
    session.say(f"mixer: scan section, forward and backward ({session.budget.spent:.0f} s)")
    _Length(session, shape, shape.lengths[0], _rates(session, shape.dtype), report).section(True, found)
    return report


def _passes(session: Session, length: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Of the whole mixer and of the section: forward only (False), forward and backward (True), or nothing."""
    if session.options.size == "laptop":
        return (False,), ()
    both = (False, True) if session.device.type == "cuda" or session.is_tiny else (False,)
    if not session.is_brief:
        return both, both
    if session.is_tiny:
        return both, (False,)
    return (
        () if length == _PARTNER_LENGTHS[0] else both if length in _BRIEF_BACKWARD_LENGTHS else (False,),
        (False,) if length == _PARTNER_LENGTHS[0] else (),
    )


_NOTES = [
    "Times are medians of calls measured in turn; `<name>_ms` is a replayed device graph where one could be recorded, "
    "`<name>_eager_ms` the same launched call by call. Inputs rotate through more memory than the cache holds.",
    "Attention is one matrix product for queries, keys and values, the core, and the output matrix, without QK-norm "
    "and rotation, in its favour; ours has both, and the step sizes' projection. attention_ms: the fastest dense one; "
    "attention_with_norm_rope_ms: the network's own attention mixer, which has both; attention_frame_causal_ms: the "
    "faster of FlexAttention and of one call per frame (prefix).",
    "In rows of the scan section ours_ms is without norm and rotation of B and C, as the partners are, and "
    "ours_with_norm_rope_ms with them; partners get rows with registers appended already, "
    "and gradients of rows and step sizes only, where ours has those of all weights.",
    "floor_ms: bytes of the staging with a preparation kernel over the measured copy rate, or operations over the "
    "measured matrix rate, whichever is more; fused_floor_ms: without that kernel. Backwards, about 110 KB per token "
    "more where the forward pass moves 54. bound: fastest attention measured over the floor of ours.",
]


def _rates(session: Session, dtype: torch.dtype) -> Rates:
    return session.rates if dtype == session.dtype else measure_rates(session.clock(3), dtype, session.is_tiny)


def _partners(session: Session) -> tuple[list[Partner], list[str]]:
    if session.device.type != "cuda":
        return [], ["mamba-ssm and flash-linear-attention: their kernels need a GPU"]
    found, missing = partners(session.options.mamba_ssm)
    if session.is_brief:
        # Where mamba-ssm cannot be imported, the other partner stands alone.
        found = [each for each in found if each.name in _BRIEF_PARTNERS] or found
    return found, missing


class _Length:
    """Measurements at one length."""

    def __init__(self, session: Session, shape: Shape, length: int, rates: Rates, report: PartReport) -> None:
        self.session = session
        self.shape = shape
        self.length = length
        self.rates = rates
        self.report = report
        self.clock: Clock = session.clock(9, 2.0) if session.device.type == "cuda" else session.clock(5, 6.0)
        self.layout = layout_of_length(length)
        row_bytes = 4 * shape.num_heads * shape.head_dim * length * shape.dtype.itemsize
        is_cached = session.device.type == "cuda" and row_bytes < _CACHE_BYTES
        self.copies = min(16, math.ceil(_CACHE_BYTES / row_bytes)) if is_cached else 1

    def whole_mixer(self, with_backward: bool) -> None:
        """Projections, section and output matrix."""
        problems: dict[str, str] = {}
        contenders: list[Contender] = []
        with self.clock.reporting(problems, "ours"):
            self._check("ours", check_against_reference(self._section_inputs(norm_and_rope=True)[0], with_backward))
            cases = [
                mixer_case(self.layout, self.shape.num_heads, self.shape.head_dim, self.device, self.dtype, seed=number)
                for number in range(self.copies)
            ]
            contenders.append(work_contender("ours", cases, with_backward))
        with self.clock.reporting(problems, _ATTENTION_MODULE):
            modules = [
                mixer_case(
                    self.layout,
                    self.shape.num_heads,
                    self.shape.head_dim,
                    self.device,
                    self.dtype,
                    seed=number,
                    kind="attention",
                )
                for number in range(self.copies)
            ]
            contenders.append(work_contender(_ATTENTION_MODULE, modules, with_backward))
        contenders += self._attention(with_backward, problems, with_projections=True)
        self._add_row("whole mixer", with_backward, contenders, problems)

    def section(self, with_backward: bool, others: Sequence[Partner]) -> None:
        """What lies between the projections, against the core of attention and other people's scans."""
        problems: dict[str, str] = {}
        contenders: list[Contender] = []
        plain = self._section_inputs(norm_and_rope=False)
        for name, inputs in (("ours", plain), ("ours_with_norm_rope", self._section_inputs(norm_and_rope=True))):
            with self.clock.reporting(problems, name):
                self._check(name, check_against_reference(inputs[0], with_backward))
                contenders.append(work_contender(name, [section_work(each) for each in inputs], with_backward))
        best_forward = self.report.figures.get(f"fastest mamba-ssm chunk at {self.length}")
        for partner in others:
            if with_backward and best_forward and partner.name.startswith("mamba") and partner.name != best_forward:
                continue  # its backward kernels tune themselves for more than a minute per chunk size
            self.session.say(f"  tuning {partner.name} ({self.session.budget.spent:.0f} s)")
            with self.clock.reporting(problems, partner.name):
                contenders.append(self._partner(partner, plain, with_backward))
        contenders += self._attention(with_backward, problems, with_projections=False)
        self._add_row("scan section", with_backward, contenders, problems)

    @property
    def device(self) -> torch.device:
        return self.session.device

    @property
    def dtype(self) -> torch.dtype:
        return self.shape.dtype

    def _section_inputs(self, *, norm_and_rope: bool) -> list[SectionInputs]:
        heads, width = self.shape.num_heads, self.shape.head_dim
        return [
            section_inputs(self.layout, heads, width, self.device, self.dtype, norm_and_rope=norm_and_rope, seed=number)
            for number in range(self.copies)
        ]

    def _partner(self, partner: Partner, inputs: Sequence[SectionInputs], with_backward: bool) -> Contender:
        first = partner.prepare(inputs[0])

        def mix(rows: Tensor) -> Tensor:
            return first.mix_rows(torch.cat([rows, inputs[0].register_rows[None]], 1))

        self._check(partner.name, check_against_reference(inputs[0], with_backward, mix))
        prepared = [partner.prepare(each, with_gradients=with_backward) for each in inputs]
        works = [Work(each.mix, [each.rows, each.dt]) for each in prepared]
        return work_contender(partner.name, works, with_backward)

    def _attention(self, with_backward: bool, problems: dict[str, str], *, with_projections: bool) -> list[Contender]:
        heads, width = self.shape.num_heads, self.shape.head_dim
        made = [
            attention_inputs(self.length, heads, width, self.device, self.dtype, with_projections=with_projections)
            for _ in range(self.copies)
        ]
        bare = attention_inputs(self.length, heads, width, self.device, self.dtype, with_projections=False)
        contenders = []
        for name, backend in backends_for(self.length, heads, self.device).items():
            label = f"attention_{name}"
            with self.clock.reporting(problems, label), only(backend)():
                self._check(label, {"forward": check_core(sdpa, bare)})
                contenders.append(
                    work_contender(label, [attention_work(each, sdpa) for each in made], with_backward, only(backend))
                )
        if (
            with_projections
            and not with_backward
            and (self.session.is_tiny or (self.device.type == "cuda" and self.length in _FRAME_CAUSAL_LENGTHS))
        ):
            cores = {"attention_prefix": prefix_core}
            if (
                self.device.type == "cuda"
                and not self.session.is_brief
                and self.session.has_time(_FRAME_CAUSAL_SECONDS)
            ):
                cores["attention_flex"] = frame_causal_core
            for name, make in cores.items():
                with self.clock.reporting(problems, name):
                    core = make(self.layout, self.device)
                    self._check("frame-causal attention", {"forward": check_frame_causal(core, bare, self.layout)})
                    works = [attention_work(each, core) for each in made]
                    contenders.append(work_contender(name, works, with_backward))
        return contenders

    def _check(self, name: str, errors: Mapping[str, float]) -> None:
        require_correct(name, errors, self.dtype)
        for kind, error in errors.items():
            key = f"{name} {kind}"
            self.report.checks[key] = max(error, self.report.checks.get(key, 0.0))

    def _add_row(self, scope: str, with_backward: bool, contenders: list[Contender], problems: dict[str, str]) -> None:
        clock = self.clock
        eager = clock.compare(contenders)
        problems |= eager.problems
        peaks = eager.peak_mib or clock.peaks_mib(contenders, problems)
        ms = dict(eager.ms)
        if clock.is_cuda and self.length <= _LONGEST_RECORDED:
            recorded = replayed(clock, [each for each in contenders if each.name in eager.ms])
            ms |= {f"{name}_eager": value for name, value in eager.ms.items()} | recorded.ms
            problems |= {f"{name} (graph)": why for name, why in recorded.problems.items()}
        add_fastest(ms)
        shape = self.shape.mixer(self.length)
        figures = row_figures(ms, shape, self.rates, is_section=scope == "scan section", with_backward=with_backward)
        setting = {
            "scope": scope,
            "pass": "forward+backward" if with_backward else "forward",
            "length": self.length,
            "width": shape.width,
            "heads": shape.num_heads,
            "dtype": self.shape.dtype_name,
            "device": self.device.type,
        }
        self.report.add(Row(setting=setting, ms=ms, peak_mib=peaks, figures=figures, problems=problems))
        chunks = {name: value for name, value in ms.items() if name.startswith("mamba_ssm_") and "eager" not in name}
        if chunks and not with_backward:
            self.report.figures[f"fastest mamba-ssm chunk at {self.length}"] = min(
                chunks, key=lambda name: chunks[name]
            )
