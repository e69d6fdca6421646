"""Whole-clip flow matching: identities, draws, published constants, and agreement with diffusers' samplers."""

import math

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.config import FullSequenceFlowConfig
from m4v.flow.full_sequence import FullSequenceFlow
from m4v.flow.library_schedulers import describe_library_scheduler, make_library_scheduler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(frames: int = 3, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 4, frames, 6, 10, generator=generator(9))


def sigmas(batch: int = 40_000, **settings: object) -> torch.Tensor:
    return FullSequenceFlow(FullSequenceFlowConfig(**settings)).draw_sigmas(batch, generator())[0]


@pytest.mark.parametrize("distribution", ["uniform", "logit-normal", "grid-bell"])
@pytest.mark.parametrize("frames", [1, 3])
def test_noisy_latents_and_target_are_the_written_formulas(distribution: str, frames: int) -> None:
    flow = FullSequenceFlow(FullSequenceFlowConfig(timestep_distribution=distribution))
    latents = clip(frames)
    sample = flow.training_sample(latents, noise_generator=generator(1), timestep_generator=generator(2))
    noise = torch.randn(latents.shape, generator=generator(1))
    for row, sigma in enumerate(sample.level_sigma.tolist()):
        expected = (1 - sigma) * latents[row] + sigma * noise[row]
        torch.testing.assert_close(sample.noisy_latents[row], expected, rtol=1e-6, atol=1e-6)
        assert sample.timesteps[row].item() == pytest.approx(1000 * sigma)
    torch.testing.assert_close(sample.velocity, noise - latents, rtol=0, atol=0)
    assert (sample.loss_weight is None) == (distribution != "grid-bell")


def test_the_true_velocity_gives_back_the_clean_latents() -> None:
    flow, latents = FullSequenceFlow(), clip()
    sample = flow.training_sample(latents, noise_generator=generator(1), timestep_generator=generator(2))
    estimate = flow.estimate_clean(sample.noisy_latents, sample.velocity, sample.level_sigma)
    torch.testing.assert_close(estimate, latents, rtol=1e-5, atol=1e-5)


def test_half_precision_is_mixed_in_float32_and_rounded_once() -> None:
    flow, latents = FullSequenceFlow(), clip().bfloat16()
    half, wide = (
        flow.training_sample(x, noise_generator=generator(1), timestep_generator=generator(2))
        for x in (latents, latents.float())
    )
    assert half.noisy_latents.dtype == half.velocity.dtype == torch.bfloat16
    assert half.timesteps.dtype == torch.float32
    assert torch.equal(half.noisy_latents, wide.noisy_latents.bfloat16())
    assert torch.equal(half.velocity, wide.velocity.bfloat16())


def test_uniform_draws_follow_the_law_of_the_shift() -> None:
    """With u uniform, P(sigma < x) = u(x), where x = s u / (1 + (s - 1) u)."""
    drawn = sigmas(timestep_distribution="uniform", shift=5.0)
    for share in (0.25, 0.5, 0.75):
        below = share / (5 - 4 * share)
        assert (drawn < share).double().mean().item() == pytest.approx(below, abs=0.01)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.7)])
def test_logit_normal_draws_have_normal_logits(mean: float, std: float) -> None:
    logits = torch.logit(sigmas(shift=1.0, logit_mean=mean, logit_std=std).double())
    assert logits.mean().item() == pytest.approx(mean, abs=0.02)
    assert logits.std().item() == pytest.approx(std, abs=0.02)


def test_the_shift_moves_the_logit_normal_by_its_logarithm() -> None:
    """logit(s u / (1 + (s - 1) u)) = logit(u) + log s."""
    logits = torch.logit(sigmas(shift=3.0).double())
    assert logits.mean().item() == pytest.approx(math.log(3), abs=0.02)


def test_bell_weights_are_the_published_ones() -> None:
    flow = FullSequenceFlow(FullSequenceFlowConfig(shift=5.0, timestep_distribution="grid-bell"))
    timesteps, weights = flow.grid * 1000, flow.bell
    assert (timesteps[0], weights[0]) == (1000, 0)
    assert timesteps[weights.argmax()].item() == pytest.approx(500, abs=2)
    assert weights.max().item() == pytest.approx(2.08, abs=0.005)
    assert weights[-1].item() == pytest.approx(0.03, abs=0.005)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)


def test_grid_bell_draws_entries_of_the_grid_evenly_with_their_weights() -> None:
    flow = FullSequenceFlow(FullSequenceFlowConfig(shift=5.0, timestep_distribution="grid-bell"))
    drawn, weights = flow.draw_sigmas(50_000, generator())
    index = torch.searchsorted(flow.grid.flip(0), drawn)
    assert torch.equal(flow.grid.flip(0)[index], drawn)
    assert torch.equal(flow.bell.flip(0)[index], weights)
    assert torch.histc(index.float(), bins=10, min=0, max=1000).tolist() == pytest.approx([5000] * 10, rel=0.06)


def test_draws_follow_their_generator() -> None:
    assert torch.equal(sigmas(50), sigmas(50))
    assert not torch.equal(sigmas(50), FullSequenceFlow().draw_sigmas(50, generator(1))[0])


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_sampling_grid_is_that_of_unipc(shift: float, num_steps: int) -> None:
    steps = FullSequenceFlow(FullSequenceFlowConfig(shift=shift)).inference_steps(0, num_steps)
    scheduler = make_library_scheduler("unipc", shift)
    scheduler.set_timesteps(num_steps)
    torch.testing.assert_close(steps.level_sigmas, scheduler.sigmas, rtol=0, atol=2e-6)
    assert (steps.timesteps - scheduler.timesteps).abs().max() < 1.01
    assert steps.level_sigmas[-1] == 0


@pytest.mark.parametrize(("name", "last"), [("unipc", 0.09678), ("euler", 0.0244)])
def test_last_noise_level_of_the_library_samplers(name, last: float) -> None:
    scheduler = make_library_scheduler(name, 5.0)
    scheduler.set_timesteps(50)
    assert scheduler.sigmas[-2].item() == pytest.approx(last, abs=5e-5)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("name", ["unipc", "euler"])
def test_library_samplers_follow_a_straight_path_to_its_end(name) -> None:
    """Given the true velocity, every step stays on the path, whatever the sampler."""
    latents, noise = clip(), torch.randn(4, 4, 3, 6, 10, generator=generator(3))
    scheduler = make_library_scheduler(name, 3.0)
    scheduler.set_timesteps(5)
    state = noise
    for timestep in scheduler.timesteps:
        state = scheduler.step(noise - latents, timestep, state, return_dict=False)[0]
    torch.testing.assert_close(state, latents, rtol=1e-3, atol=1e-4)


def test_descriptions_name_the_shift() -> None:
    assert describe_library_scheduler(make_library_scheduler("unipc", 3.0)) == "UniPCMultistepScheduler with shift 3"
    assert describe_library_scheduler(make_library_scheduler("euler", 5.5)).endswith("Scheduler with shift 5.5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shift": 0.0}, "shift is 0.0"),
        ({"timestep_distribution": "cosine"}, "'cosine'"),
        ({"logit_std": -1.0}, "logit_std is -1.0"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
    ],
)
def test_settings_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        FullSequenceFlowConfig(**settings)


def test_other_bad_arguments() -> None:
    flow = FullSequenceFlow()
    with pytest.raises(UserError, match="at least 1"):
        flow.inference_steps(0, 0)
    with pytest.raises(UserError, match="Level is 1"):
        flow.inference_steps(1, 5)
    with pytest.raises(UserError, match="Level is 2"):
        flow.training_sample(clip(), 2, noise_generator=generator(), timestep_generator=generator())
    with pytest.raises(UserError, match="Level is 1"):
        flow.enter_level(clip(), 1, generator())
    with pytest.raises(UserError, match="'heun'"):
        make_library_scheduler("heun", 3.0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="flow_shift is 0"):
        make_library_scheduler("unipc", 0)
