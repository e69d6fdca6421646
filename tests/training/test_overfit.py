"""A network that cannot learn one clip cannot learn anything."""

import torch

from m4v.flow.config import PyramidFlowConfig
from m4v.flow.schedule import PyramidSchedule
from m4v.training.clip_pool import ClipPool
from m4v.training.config import FlowStageConfig, OptimConfig, VaeStageConfig
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.latent_bank import build_bank
from m4v.training.loop import train_step
from m4v.training.state import TrainState
from m4v.training.vae_objective import VaeObjective, measure_statistics, reconstruction_psnr


def train(objective, state, num_steps):
    losses = []
    for step in range(num_steps):
        values = train_step(objective, state, num_steps, objective.batch(step))
        losses.append(values[0]["loss"].item())
    return losses


def test_vae_overfits_one_clip(networks, pool):
    one = ClipPool(pool.frames[:1], pool.captions[:1], pool.fps)
    before = reconstruction_psnr(networks.vae, one)["psnr"]
    objective = VaeObjective(networks.vae, one, VaeStageConfig(), batch_size=1, seed=0, use_bf16=False)
    state = TrainState(objective.modules, OptimConfig(lr=1e-2, warmup_steps=5), 0)
    losses = train(objective, state, 120)
    assert losses[-1] < 0.25 * losses[0]
    assert reconstruction_psnr(networks.vae, one)["psnr"] > before + 6


def test_denoiser_overfits_one_clip(networks):
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    bank = build_bank(latents, [("a square",)], networks.tokenizer, max_length=12)
    objective = PyramidFlowObjective(
        networks.transformer,
        networks.text_encoder,
        bank,
        PyramidSchedule.from_config(PyramidFlowConfig()),
        FlowStageConfig(columns=(0, 0, 1), images_per_window=1, videos_per_window=0),
        stage="t2i",
        batch_size=16,
        seed=0,
        use_bf16=False,
    )
    state = TrainState(objective.modules, OptimConfig(lr=1e-2, warmup_steps=5), 0)
    losses = train(objective, state, 80)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_statistics_normalise_the_latents(networks, pool):
    statistics = measure_statistics(networks.vae, pool, 4, use_bf16=False)
    networks.vae.set_latent_statistics(statistics)
    with torch.no_grad():
        video = pool.frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        latents = networks.vae.normalise(networks.vae.encode(video).mode())
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        channels = part.transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(dim=1), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(channels.std(dim=1, correction=0), torch.ones(4), atol=1e-2, rtol=0)
