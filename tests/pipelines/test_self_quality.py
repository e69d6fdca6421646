"""Self-quality guidance in the unit loop: exactness, cost and the promises of its options."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.core.level_clip import LevelClip
from m4v.core.shapes import LatentShape
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.guidance import UnitGuidance
from m4v.flow.pyramid import latent_pyramid, upsample_nearest
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.self_quality import SelfQualityGuidance, StatisticsChange
from m4v.models.vae.config import CausalVideoVAEConfig, LatentStatistics
from m4v.models.vae.latent_statistics import normalise_latents
from m4v.pipelines.guided_velocity import Denoiser, first_frame_change
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.unit_loop import LoopSettings, UnitRequest, generate_units
from tests.models.denoiser.builders import random_model

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())
UNITS, CHANNELS = 4, 2
PYRAMID_FLOW = CausalVideoVAEConfig.pyramid_flow().latent_statistics
PER_CHANNEL = LatentStatistics(image_shift=(0.2, -1.0), image_scale=(2.0, 0.5), video_shift=0.3, video_scale=(1.0, 0.8))


def text_of(value: float, batch: int = 1) -> TextConditioning:
    return TextConditioning(
        torch.full((batch, 3, 5), value), torch.ones(batch, 3, dtype=torch.bool), torch.full((batch, 5), value)
    )


def generate(
    denoiser: Denoiser,
    self_quality: SelfQualityGuidance | None = None,
    *,
    scale: float = 1.0,
    statistics: LatentStatistics | None = None,
    seeds: Sequence[int] = (0,),
    units: int = UNITS,
    later_steps: int = 2,
) -> Tensor:
    """Latents of a whole video; self-quality guidance begins at unit 1 unless given."""
    request = UnitRequest(
        shape=LatentShape(num_units=units, height=8, width=12),
        num_channels=CHANNELS,
        noise=NoiseSource([generator_for(seed) for seed in seeds], len(seeds)),
        text=text_of(1.0, len(seeds)),
        negative_text=text_of(-1.0, len(seeds)),
        latent_statistics=statistics or LatentStatistics(),
    )
    options: dict[str, Any] = {} if self_quality is None else {"self_quality": self_quality}
    settings = LoopSettings(
        first_steps=(1, 1, 1),
        later_steps=(later_steps,) * 3,
        guidance=UnitGuidance(first=scale, later=scale),
        **options,
    )
    with torch.no_grad():
        return torch.cat([unit.latents for unit in generate_units(denoiser, SCHEDULE, request, settings)], dim=2)


def guidance(weight: float, **options: Any) -> SelfQualityGuidance:
    return SelfQualityGuidance(**({"weight": weight, "first_unit": 1} | options))


class Recorder:
    """Remembers (history frames, level, rows, latents); its velocity depends on all of them and on the prompt."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.latents: list[Tensor] = []

    def __call__(self, clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        noisy = clips[-1].latents
        self.calls.append((sum(clip.latents.shape[2] for clip in clips[:-1]), clips[-1].level, len(noisy)))
        self.latents.append(noisy)
        past = torch.stack([clip.latents.mean(dim=(1, 2, 3, 4)) for clip in clips]).sum(dim=0)
        offset = 0.1 * past + 0.2 * text.pooled.mean(dim=1) + 0.05 * len(clips)
        return 0.3 * noisy.tanh() + offset[:, None, None, None, None]

    def in_last_unit(self, level: int) -> list[tuple[int, int]]:
        """(history frames, rows) of the calls at one level after the whole history was there."""
        first = next(i for i, call in enumerate(self.calls) if call[0] == UNITS - 1)
        return [(frames, rows) for frames, at, rows in self.calls[first:] if at == level]


class KnowsTheVideo:
    """The exact velocity of one known video; asked without history, of the same frame in first-frame statistics."""

    def __init__(self, video: Tensor, change: StatisticsChange) -> None:
        self.video, self.change, self.unit = video, change, 0
        self.calls_without_history = 0

    def __call__(self, clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        level, latents = clips[-1].level, clips[-1].latents
        history = sum(clip.latents.shape[2] for clip in clips[:-1])
        if history:
            self.unit = history
        frame = self.video[:, :, self.unit : self.unit + 1]
        if self.unit and not history:
            self.calls_without_history += 1
            factor, offset = self.change.columns(frame)
            frame = factor * frame + offset
        pyramid = latent_pyramid(frame, 3)
        local = SCHEDULE.level_sigmas.double()[(SCHEDULE.timesteps[level] - timesteps[0]).abs().argmin()]
        start, end = SCHEDULE.start_sigma[level], SCHEDULE.end_sigma[level]
        below = torch.zeros_like(pyramid[0]) if level == 0 else (1 - start) * upsample_nearest(pyramid[level - 1])
        here = (1 - end) * pyramid[level]
        noise = (latents - local * below - (1 - local) * here) / (local * start + (1 - local) * end)
        return start * noise + below - end * noise - here


@pytest.mark.parametrize("statistics", [PYRAMID_FLOW, PER_CHANNEL], ids=["Pyramid-Flow", "per channel"])
@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("options", [{}, {"levels": (0, 1, 2)}, {"renoise": True}])
def test_a_network_that_knows_the_video_is_not_disturbed(
    statistics: LatentStatistics, weight: float, options: dict[str, Any]
) -> None:
    """History-free and ordinary velocities agree exactly once statistics are matched, so no weight changes them."""
    video = torch.randn(1, CHANNELS, UNITS, 8, 12, generator=generator_for(5))
    network = KnowsTheVideo(video, first_frame_change(statistics))
    made = generate(network, guidance(weight, **options), statistics=statistics, later_steps=4)
    assert network.calls_without_history >= 3 * 4
    torch.testing.assert_close(made, video, atol=2e-3, rtol=0)


def test_without_matched_statistics_the_same_network_is_disturbed() -> None:
    video = torch.randn(1, CHANNELS, UNITS, 8, 12, generator=generator_for(5))
    network = KnowsTheVideo(video, first_frame_change(PYRAMID_FLOW))
    made = generate(network, guidance(0.5, match_statistics=False), statistics=PYRAMID_FLOW, later_steps=4)
    assert (made - video)[:, :, 1:].abs().max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("options", [{}, {"renoise": True}, {"match_statistics": False}])
def test_weight_0_is_plain_guidance_bit_for_bit_at_the_same_cost(scale: float, options: dict[str, Any]) -> None:
    plain, off = Recorder(), Recorder()
    expected = generate(plain, scale=scale, statistics=PYRAMID_FLOW)
    assert torch.equal(generate(off, guidance(0.0, **options), scale=scale, statistics=PYRAMID_FLOW), expected)
    assert off.calls == plain.calls


@pytest.mark.parametrize(
    ("weight", "options", "statistics", "rows_with_history", "rows_without"),
    [
        (0.5, {}, LatentStatistics(), [2], [2]),
        (0.5, {}, PYRAMID_FLOW, [2], [2]),
        (1.0, {}, LatentStatistics(), [], [2]),
        (1.0, {}, PYRAMID_FLOW, [2], [2]),
        (1.0, {"match_statistics": False}, PYRAMID_FLOW, [], [2]),
        (0.5, {"renoise": True}, PYRAMID_FLOW, [1, 2], [2]),
        (1.0, {"renoise": True}, PYRAMID_FLOW, [1], [2]),
    ],
)
def test_passes_per_step(
    weight: float,
    options: dict[str, Any],
    statistics: LatentStatistics,
    rows_with_history: list[int],
    rows_without: list[int],
) -> None:
    """Two or four rows through the network at a step, and one more with `renoise`; only at the last level."""
    recorder = Recorder()
    generate(recorder, guidance(weight, **options), scale=4.0, statistics=statistics, later_steps=1)
    history = UNITS - 1
    assert recorder.in_last_unit(level=2) == [(history, rows) for rows in rows_with_history] + [
        (0, rows) for rows in rows_without
    ]
    assert recorder.in_last_unit(level=0) == recorder.in_last_unit(level=1) == [(history, 2)]


def test_the_mix_is_equation_10_at_the_same_latents() -> None:
    """One step of the last unit at the last level, against the two plain velocities written out."""
    recorder = Recorder()
    made = generate(recorder, guidance(0.7), scale=4.0, later_steps=1, units=2)
    with_history, without = recorder.latents[-2:]
    assert torch.equal(with_history, without)
    first, at_level_2 = made[:, :, :1], with_history[:1]

    def guided(clips: list[LevelClip]) -> Tensor:
        negative, positive = (Recorder()(clips, torch.zeros(1), text_of(value)) for value in (-1.0, 1.0))
        return negative + 4.0 * (positive - negative)

    low = guided([LevelClip(first, 2), LevelClip(at_level_2, 2)])
    high = guided([LevelClip(at_level_2, 2)])
    torch.testing.assert_close(made[:, :, 1:], at_level_2 - (low + 0.7 * (high - low)))


def test_units_before_the_first_are_untouched() -> None:
    late = generate(Recorder(), guidance(0.5, first_unit=3))
    assert torch.equal(late[:, :, :3], generate(Recorder())[:, :, :3])
    assert not torch.equal(late[:, :, 3], generate(Recorder())[:, :, 3])


def test_equal_statistics_show_the_network_the_latents_themselves() -> None:
    recorder = Recorder()
    generate(recorder, guidance(0.5), later_steps=1)
    assert torch.equal(recorder.latents[-1], recorder.latents[-2])


def test_fresh_noise_comes_from_the_videos_own_generator() -> None:
    renoise = guidance(0.5, renoise=True)
    together = generate(Recorder(), renoise, seeds=(3, 4), statistics=PYRAMID_FLOW)
    assert torch.equal(together, generate(Recorder(), renoise, seeds=(3, 4), statistics=PYRAMID_FLOW))
    torch.testing.assert_close(
        together[1:], generate(Recorder(), renoise, seeds=(4,), statistics=PYRAMID_FLOW), atol=1e-6, rtol=0
    )


def test_only_renoise_draws() -> None:
    """A unit that guidance does not reach keeps its noise; with `renoise` the units after it get other noise."""
    plain, guided, renoised = Recorder(), Recorder(), Recorder()
    generate(plain)
    generate(guided, guidance(0.5))
    generate(renoised, guidance(0.5, renoise=True))

    def first_latents(recorder: Recorder) -> Tensor:
        return recorder.latents[recorder.calls.index((3, 0, 1))]

    assert torch.equal(first_latents(plain), first_latents(guided))
    assert not torch.equal(first_latents(plain), first_latents(renoised))


def test_the_change_is_that_of_the_autoencoders_normalisation() -> None:
    raw = torch.randn(1, CHANNELS, 1, 4, 4, generator=generator_for(0))
    for statistics in (PYRAMID_FLOW, PER_CHANNEL):
        factor, offset = first_frame_change(statistics).columns(raw)
        as_video = normalise_latents(raw, statistics, first_unit=1)
        torch.testing.assert_close(factor * as_video + offset, normalise_latents(raw, statistics, first_unit=0))
    assert first_frame_change(LatentStatistics(image_shift=0.5, video_shift=0.5)).is_identity


@pytest.mark.parametrize("plan", ["full", "attention-only"])
def test_registers_and_temporal_branch_work_without_history(plan: str) -> None:
    model = random_model(dtype=torch.float32, mixer_plan=plan, in_channels=CHANNELS, text_dim=5, pooled_text_dim=5)
    made = generate(model, guidance(0.5), scale=2.0, statistics=PYRAMID_FLOW, units=3, later_steps=1)
    assert made.isfinite().all()
    assert not torch.equal(made, generate(model, scale=2.0, units=3, later_steps=1))


def test_a_level_the_pyramid_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="levels 0 to 2"):
        generate(Recorder(), guidance(0.5, levels=(3,)))


def test_the_pipeline_hands_it_on(pipeline: M4VPipeline) -> None:
    def make(**options: Any) -> Tensor:
        return pipeline("a red ball", seed=1, output_type="latent", **options).frames

    plain = make()
    assert torch.equal(make(self_guidance_scale=0.0), plain)
    assert torch.equal(make(self_guidance_scale=0.5), plain), "three units end before the first that it acts on"
    guided = make(self_guidance_scale=guidance(0.5, first_unit=2))
    assert torch.equal(guided[:, :, :2], plain[:, :, :2])
    assert not torch.equal(guided[:, :, 2], plain[:, :, 2])
