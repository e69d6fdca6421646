"""History corruption: order over frames, marginal laws, the mixing formula, determinism."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.flow.corruption import ConstantCorruption, HistoryCorruption, LinearCorruption, NoCorruption


def history(dtype: torch.dtype = torch.float32, batch: int = 2, size: int = 8) -> list[LevelClip]:
    generator = torch.Generator().manual_seed(11)
    shapes = {
        0: (batch, 3, 3, size // 4, size // 4),
        1: (batch, 3, 1, size // 2, size // 2),
        2: (batch, 3, 1, size, size),
    }
    return [
        LevelClip(latents=torch.randn(shape, generator=generator).to(dtype), level=level)
        for level, shape in shapes.items()
    ]


@settings(deadline=None, max_examples=60)
@given(num_frames=st.integers(1, 32), batch=st.integers(1, 5), eta=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_linear_levels_rise_from_oldest_to_newest(num_frames: int, batch: int, eta: float, seed: int) -> None:
    levels = LinearCorruption(eta=eta).levels(num_frames, batch, torch.Generator().manual_seed(seed))
    assert levels.shape == (batch, num_frames)
    assert (levels.diff(dim=1) >= -1e-6).all()
    assert (levels >= 0).all()
    assert (levels <= eta + 1e-6).all()
    if num_frames > 2:
        steps = levels.diff(dim=1)
        torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-6)


def test_linear_marginals() -> None:
    """Newest uniform in [0, eta]; oldest uniform below the newest: the mean shares are eta/2 and eta/4."""
    eta, samples = 1 / 3, 40_000
    levels = LinearCorruption(eta=eta).levels(6, samples, torch.Generator().manual_seed(0))
    oldest, newest = levels[:, 0], levels[:, -1]
    quantiles = torch.quantile(newest / eta, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    assert quantiles.tolist() == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9], abs=0.01)
    ratio_quantiles = torch.quantile(oldest / newest, torch.tensor([0.1, 0.5, 0.9]))
    assert ratio_quantiles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.01)
    assert oldest.mean().item() == pytest.approx(eta / 4, abs=2e-3)
    assert torch.corrcoef(torch.stack([newest, oldest / newest]))[0, 1].item() == pytest.approx(0, abs=0.02)


def test_a_single_frame_takes_the_newest_share() -> None:
    one = LinearCorruption(eta=0.6).levels(1, 10, torch.Generator().manual_seed(4))
    many = LinearCorruption(eta=0.6).levels(9, 10, torch.Generator().manual_seed(4))
    torch.testing.assert_close(one[:, 0], many[:, -1])


def test_levels_differ_between_samples() -> None:
    levels = LinearCorruption().levels(3, 8, torch.Generator().manual_seed(0))
    assert len(levels[:, -1].unique()) == 8


def test_constant_levels_are_one_uniform_share_per_sample() -> None:
    levels = ConstantCorruption(eta=0.5).levels(4, 20_000, torch.Generator().manual_seed(0))
    assert (levels == levels[:, :1]).all()
    quantiles = torch.quantile(levels[:, 0] / 0.5, torch.tensor([0.1, 0.5, 0.9]))
    assert quantiles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.015)


@pytest.mark.parametrize("corruption", [LinearCorruption(), ConstantCorruption()])
def test_clips_are_mixed_frame_by_frame_over_the_whole_history(corruption: HistoryCorruption) -> None:
    """The measured noise of each frame of zero latents equals its share; ones keep the complementary share."""
    levels = corruption.levels(5, 2, torch.Generator().manual_seed(9))
    for value in (0.0, 1.0):
        clips = [LevelClip(latents=torch.full_like(c.latents, value), level=c.level) for c in history(size=256)]
        corrupted = corruption(clips, torch.Generator().manual_seed(9))
        frames = [frame for clip in corrupted for frame in clip.latents.unbind(2)]
        for index, frame in enumerate(frames):
            for sample in range(2):
                share = levels[sample, index].item()
                assert frame[sample].std().item() == pytest.approx(share, rel=0.05, abs=1e-4)
                assert frame[sample].mean().item() == pytest.approx(value * (1 - share), abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("corruption", [LinearCorruption(), ConstantCorruption()])
def test_same_seed_same_result_and_arguments_untouched(corruption: HistoryCorruption, dtype: torch.dtype) -> None:
    clips = history(dtype)
    before = [clip.latents.clone() for clip in clips]
    torch.manual_seed(0)
    first = corruption(clips, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    second = corruption(clips, torch.Generator().manual_seed(5))
    other = corruption(clips, torch.Generator().manual_seed(6))
    for original, copy, one, two, three in zip(clips, before, first, second, other, strict=True):
        assert torch.equal(original.latents, copy)
        assert torch.equal(one.latents, two.latents)
        assert not torch.equal(one.latents, three.latents)
        assert (one.level, one.latents.dtype) == (original.level, dtype)


def test_no_corruption_is_the_identity_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    clips = history()
    assert all(before is after for before, after in zip(clips, NoCorruption()(clips, generator), strict=True))
    assert torch.equal(generator.get_state(), state)
    assert (NoCorruption().levels(3, 2, generator) == 0).all()


@pytest.mark.parametrize("corruption", [LinearCorruption(), ConstantCorruption(), NoCorruption()])
def test_unit_zero_has_nothing_to_corrupt(corruption: HistoryCorruption) -> None:
    assert corruption([], torch.Generator()) == []


@pytest.mark.parametrize("kind", [LinearCorruption, ConstantCorruption])
@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_rejected(kind: type[LinearCorruption], eta: float) -> None:
    with pytest.raises(UserError, match="expected 0 to 1"):
        kind(eta=eta)


@pytest.mark.parametrize("corruption", [LinearCorruption(), ConstantCorruption()])
def test_the_generator_may_live_on_another_device(corruption: HistoryCorruption) -> None:
    clips = [LevelClip(latents=clip.latents.to("meta"), level=clip.level) for clip in history()]
    assert all(clip.latents.device.type == "meta" for clip in corruption(clips, torch.Generator()))
