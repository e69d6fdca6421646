"""The posterior: clamp, sampling and divergence against torch.distributions."""

import torch
from torch.distributions import Normal, kl_divergence

from m4v.models.vae.gaussian import DiagonalGaussian
from tests.assertions import assert_relative_close
from tests.models.vae.builders import random_tensor


def test_log_variance_is_clamped():
    moments = torch.cat([torch.zeros(1, 2, 1, 1, 1), torch.tensor([-100.0, 100.0]).view(1, 2, 1, 1, 1)], dim=1)
    assert DiagonalGaussian.from_moments(moments).log_variance.flatten().tolist() == [-30.0, 20.0]


def test_divergence_matches_torch_distributions():
    mean, log_variance = random_tensor(3, 2, 4, 2, 2, seed=1), random_tensor(3, 2, 4, 2, 2, seed=2)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(dim=1)
    assert_relative_close(DiagonalGaussian(mean, log_variance).kl(), expected, 1e-6)


def test_samples_follow_the_generator_and_the_moments():
    posterior = DiagonalGaussian(torch.full((1, 1, 1, 200, 200), 3.0), torch.full((1, 1, 1, 200, 200), -2.0))
    draws = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert abs(draws[0].mean().item() - 3.0) < 0.01
    assert abs(draws[0].std().item() - torch.tensor(-1.0).exp().item()) < 0.01
    assert posterior.mode() is posterior.mean
