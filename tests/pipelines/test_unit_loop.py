"""The unit loop against exact velocities, and its promises about noise, history and guidance."""

from collections.abc import Sequence

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
from m4v.flow.history import history_levels
from m4v.flow.pyramid import latent_pyramid
from m4v.flow.schedule import PyramidSchedule
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.unit_loop import GeneratedUnit, LoopSettings, StepReport, UnitRequest, generate_units

SCHEDULE = PyramidSchedule.from_config(PyramidFlowConfig())
SHAPE = LatentShape(num_units=4, height=8, width=12)
CHANNELS = 2


def text_of(value: float, batch: int = 1) -> TextConditioning:
    """A prompt whose every number is `value`."""
    return TextConditioning(
        torch.full((batch, 3, 5), value), torch.ones(batch, 3, dtype=torch.bool), torch.full((batch, 5), value)
    )


def settings(
    first: int = 2,
    later: int = 1,
    guidance: float = 1.0,
    window: int | None = None,
    later_guidance: float | None = None,
) -> LoopSettings:
    return LoopSettings(
        first_steps=(first,) * 3,
        later_steps=(later,) * 3,
        guidance=UnitGuidance(first=guidance, later=guidance if later_guidance is None else later_guidance),
        history_window=window,
    )


def request(seeds: Sequence[int] = (0,), num_units: int = 4, given: Sequence[Tensor] = ()) -> UnitRequest:
    return UnitRequest(
        shape=LatentShape(num_units=num_units, height=SHAPE.height, width=SHAPE.width),
        num_channels=CHANNELS,
        noise=NoiseSource([generator_for(seed) for seed in seeds], len(seeds)),
        text=text_of(1.0, len(seeds)),
        negative_text=text_of(-1.0, len(seeds)),
        given_units=given,
    )


class Recorder:
    """Remembers what the network was asked; answers with a velocity that depends on all of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[LevelClip], Tensor, TextConditioning]] = []

    def __call__(self, clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        self.calls.append((list(clips), timesteps, text))
        past = torch.stack([clip.latents.mean(dim=(1, 2, 3, 4)) for clip in clips]).sum(dim=0)
        prompt = text.pooled.mean(dim=1)
        return (0.3 * clips[-1].latents.tanh()) + (0.1 * past + 0.2 * prompt)[:, None, None, None, None]


def run(denoiser: Recorder, seeds: Sequence[int] = (0,), num_units: int = 4, **options) -> list[GeneratedUnit]:
    return list(generate_units(denoiser, SCHEDULE, request(seeds, num_units), settings(**options)))


def latents_of(units: Sequence[GeneratedUnit]) -> Tensor:
    return torch.cat([unit.latents for unit in units], dim=2)


class PathOfOneVideo:
    """The exact velocity field whose only data point is one known video (start and end points of Sec. 3.1)."""

    def __init__(self, target: Tensor) -> None:
        self.pyramid = latent_pyramid(target, 3)
        self.history_error = 0.0

    def __call__(self, clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        level, latents = clips[-1].level, clips[-1].latents
        unit = self.check_history(clips[:-1])
        local = SCHEDULE.level_sigmas[(SCHEDULE.timesteps[level] - timesteps[0]).abs().argmin()]
        start, end = SCHEDULE.start_sigma[level], SCHEDULE.end_sigma[level]
        signal_start, signal_end = (1 - start) * self.coarser(level, unit), (1 - end) * self.frame(level, unit)
        noise = (latents - local * signal_start - (1 - local) * signal_end) / (local * start + (1 - local) * end)
        return (start * noise + signal_start) - (end * noise + signal_end)

    def check_history(self, clips: Sequence[LevelClip]) -> int:
        """Compare history with the known video; return the unit that follows."""
        unit = 0
        for clip in clips:
            for number in range(clip.latents.shape[2]):
                error = (clip.latents[:, :, number : number + 1] - self.frame(clip.level, unit)).abs().max().item()
                self.history_error = max(self.history_error, error)
                unit += 1
        return unit

    def frame(self, level: int, unit: int) -> Tensor:
        """One known frame at one level."""
        return self.pyramid[level][:, :, unit : unit + 1]

    def coarser(self, level: int, unit: int) -> Tensor:
        """The known frame one level down, doubled in size."""
        if level == 0:
            return torch.zeros_like(self.frame(0, unit))
        return self.frame(level - 1, unit).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def test_exact_velocity_generates_the_known_video_through_all_levels_and_units():
    target = torch.randn(1, CHANNELS, 4, 8, 12, generator=generator_for(5))
    path = PathOfOneVideo(target)
    units = list(generate_units(path, SCHEDULE, request(), settings(first=4, later=4)))
    assert [unit.index for unit in units] == [0, 1, 2, 3]
    assert torch.allclose(latents_of(units), target, atol=2e-3)
    assert path.history_error < 2e-3


def test_history_levels_step_counts_and_timesteps_are_those_of_pyramid_flow():
    denoiser = Recorder()
    run(denoiser, first=2, later=1)
    assert len(denoiser.calls) == 3 * 2 + 3 * 3 * 1
    per_unit = denoiser.calls[6:]
    for number, (clips, timesteps, _) in enumerate(per_unit):
        unit, level = 1 + number // 3, number % 3
        levels = [clip.level for clip in clips[:-1] for _ in range(clip.latents.shape[2])]
        assert tuple(levels) == history_levels(unit, level)
        assert clips[-1].level == level
        assert clips[-1].latents.shape[-2:] == (8 // 2 ** (2 - level), 12 // 2 ** (2 - level))
        assert timesteps[0] == SCHEDULE.timesteps[level][0]


def test_noise_of_a_unit_depends_neither_on_steps_nor_on_what_follows():
    few, many = Recorder(), Recorder()
    run(few, first=1, later=1)
    run(many, first=5, later=3)
    assert torch.equal(few.calls[0][0][-1].latents, many.calls[0][0][-1].latents)
    assert torch.equal(few.calls[3][0][-1].latents, many.calls[15][0][-1].latents)
    short, long = run(Recorder(), num_units=2), run(Recorder(), num_units=5)
    assert torch.equal(latents_of(short), latents_of(long[:2]))


def test_a_video_does_not_depend_on_its_neighbours_in_the_batch():
    together = latents_of(run(Recorder(), seeds=(3, 4, 5)))
    alone = latents_of(run(Recorder(), seeds=(4,)))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_guidance_sends_negative_first_and_extrapolates():
    plain, guided = Recorder(), Recorder()
    run(plain, guidance=1.0, first=1)
    run(guided, guidance=4.0, first=1)
    _, timesteps, text = guided.calls[0]
    assert text.pooled[:, 0].tolist() == [-1.0, 1.0]
    assert timesteps.shape == (2,)
    assert plain.calls[0][2].pooled[:, 0].tolist() == [1.0]
    noisy = guided.calls[0][0][-1]
    negative, positive = Recorder()([noisy], timesteps, text).chunk(2)
    end = noisy.latents[:1] - (negative + 4.0 * (positive - negative))
    reports: list[StepReport] = []
    observer_units = generate_units(
        Recorder(), SCHEDULE, request(), settings(guidance=4.0, first=1), lambda report: reports.append(report)
    )
    assert list(observer_units) == []
    assert torch.allclose(reports[0].latents, end, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scales_0_and_1_evaluate_the_positive_prompt_only(scale):
    denoiser = Recorder()
    units = run(denoiser, guidance=scale)
    assert all(len(timesteps) == 1 for _, timesteps, _ in denoiser.calls)
    assert torch.equal(latents_of(units), latents_of(run(Recorder(), guidance=1.0)))


def test_later_units_have_their_own_guidance():
    denoiser = Recorder()
    run(denoiser, guidance=1.0, later_guidance=3.0)
    assert [len(timesteps) for _, timesteps, _ in denoiser.calls] == [1] * 6 + [2] * 9


def test_a_window_bounds_the_history_and_a_wide_one_changes_nothing():
    denoiser = Recorder()
    run(denoiser, num_units=6, window=2)
    assert max(sum(clip.latents.shape[2] for clip in clips) for clips, _, _ in denoiser.calls) == 3
    full = latents_of(run(Recorder(), num_units=4))
    assert torch.equal(latents_of(run(Recorder(), num_units=4, window=4)), full)
    assert not torch.equal(latents_of(run(Recorder(), num_units=4, window=1)), full)


def test_a_given_unit_is_handed_on_and_conditions_the_rest():
    picture = torch.full((1, CHANNELS, 1, 8, 12), 0.7)
    denoiser = Recorder()
    units = list(generate_units(denoiser, SCHEDULE, request(given=[picture]), settings()))
    assert torch.equal(units[0].latents, picture)
    assert len(denoiser.calls) == 3 * 3
    assert torch.allclose(denoiser.calls[0][0][0].latents, torch.full((1, CHANNELS, 1, 2, 3), 0.7))


def test_the_observer_changes_latents_and_stops():
    changed = list(
        generate_units(Recorder(), SCHEDULE, request(), settings(), lambda report: torch.zeros_like(report.latents))
    )
    assert not latents_of(changed).any()
    seen: list[int] = []

    def stop_in_unit_2(report: StepReport) -> Tensor | None:
        seen.append(report.step)
        return None if report.unit == 2 else report.latents

    units = list(generate_units(Recorder(), SCHEDULE, request(), settings(), stop_in_unit_2))
    assert [unit.index for unit in units] == [0, 1]
    assert seen == list(range(10))


def test_history_halvings_come_from_the_schedule():
    schedule = PyramidSchedule.from_config(PyramidFlowConfig(history_halvings=(0, 0, 1)))
    denoiser = Recorder()
    list(generate_units(denoiser, schedule, request(), settings(first=1)))
    clips = denoiser.calls[-1][0]
    assert [clip.level for clip in clips[:-1] for _ in range(clip.latents.shape[2])] == [1, 2, 2]


@pytest.mark.parametrize("options", [{"first": 0}, {"later": 0}, {"window": 0}, {"guidance": -1.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        settings(**options)


def test_half_precision_text_means_a_half_precision_network():
    denoiser = Recorder()
    half = request()
    half = UnitRequest(
        shape=half.shape, num_channels=CHANNELS, noise=half.noise, text=half.text.to(dtype=torch.bfloat16)
    )
    units = list(generate_units(denoiser, SCHEDULE, half, settings()))
    assert all(clip.latents.dtype == torch.bfloat16 for clips, _, _ in denoiser.calls for clip in clips)
    assert units[0].latents.dtype == torch.float32
