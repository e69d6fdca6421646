"""Normalisation by kind of frame, its inverse, its measurement and its place in the saved configuration."""

import json

import pytest
import torch

from m4v.core.errors import UserError
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig, LatentStatistics
from m4v.models.vae.latent_statistics import denormalise_latents, measure_latent_statistics, normalise_latents
from tests.assertions import assert_relative_close
from tests.models.vae.builders import LEAN_WITHOUT_NORMS, random_tensor, random_vae


def test_pyramid_flow_numbers():
    statistics = CausalVideoVAEConfig.pyramid_flow().latent_statistics
    latents = random_tensor(1, 16, 3, 2, 2)
    normalised = normalise_latents(latents, statistics)
    assert_relative_close(normalised[:, :, 0], (latents[:, :, 0] + 0.04) / 1.8726, 1e-6)
    assert_relative_close(normalised[:, :, 1:], (latents[:, :, 1:] + 0.2343) / 3.0986, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_denormalise_undoes_normalise_and_leaves_the_argument_alone(dtype):
    statistics = LatentStatistics(
        image_shift=(0.1, -0.2, 0.3), image_scale=2.0, video_shift=-1.0, video_scale=(0.5, 1.5, 2.5)
    )
    latents = random_tensor(2, 3, 4, 2, 2).to(dtype)
    untouched = latents.clone()
    normalised = normalise_latents(latents, statistics)
    assert normalised.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-7, torch.bfloat16: 2e-2}[dtype]
    assert_relative_close(denormalise_latents(normalised, statistics), latents, tolerance)
    assert torch.equal(latents, untouched)


def test_pieces_normalise_like_the_whole():
    statistics = LatentStatistics(image_shift=0.5, image_scale=2.0, video_shift=-0.5, video_scale=0.25)
    latents = random_tensor(1, 4, 5, 2, 2)
    whole = normalise_latents(latents, statistics)
    for start, end in ((0, 1), (1, 2), (2, 5)):
        assert torch.equal(normalise_latents(latents[:, :, start:end], statistics, start), whole[:, :, start:end])


def test_measured_statistics_whiten_the_latents():
    scale, shift = torch.tensor([0.5, 2.0, 4.0]).view(1, 3, 1, 1, 1), torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1, 1)
    latents = random_tensor(8, 3, 5, 6, 6) * scale + shift
    latents[:, :, 0] = latents[:, :, 0] * 3 + 1
    statistics = measure_latent_statistics(iter([latents[:3], latents[3:]]))
    normalised = normalise_latents(latents, statistics)
    for frames in (normalised[:, :, :1], normalised[:, :, 1:]):
        values = frames.transpose(0, 1).flatten(1)
        assert values.mean(dim=1).abs().max() < 1e-5
        assert (values.std(dim=1, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("batches", [[], [torch.zeros(2, 3, 1, 2, 2)]])
def test_nothing_to_measure_is_said(batches):
    with pytest.raises(UserError, match="latents to measure"):
        measure_latent_statistics(batches)


def test_statistics_survive_saving(tmp_path):
    vae = random_vae(LEAN_WITHOUT_NORMS)
    statistics = LatentStatistics(image_shift=(0.1, 0.2, 0.3, 0.4), image_scale=2.0, video_scale=(1.0, 2.0, 3.0, 4.0))
    vae.set_latent_statistics(statistics)
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["image_shift"] == [0.1, 0.2, 0.3, 0.4]
    loaded = CausalVideoVAE.from_pretrained(tmp_path)
    assert loaded.latent_statistics == statistics
    latents = random_tensor(1, 4, 3, 2, 2)
    assert torch.equal(loaded.normalise(latents, 1), vae.normalise(latents, 1))
    assert_relative_close(loaded.denormalise(loaded.normalise(latents)), latents, 1e-6)
    assert torch.equal(loaded.decode(latents), vae.decode(latents))


def test_statistics_of_another_width_are_refused():
    with pytest.raises(UserError, match="image_shift has 2 entries; expected one, or 4"):
        random_vae(LEAN_WITHOUT_NORMS).set_latent_statistics(LatentStatistics(image_shift=(0.0, 0.0)))
