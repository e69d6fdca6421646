"""Pyramid flow matching without a network: toy images whose exact velocity field is known.

Run:  python examples/toy_pyramid_flow.py --out trajectory.png

The data are six 32 x 32 drawings, each equally likely. On the path of one level, a drawing x gives noisy latents

    z = sigma * n + m(x),   sigma = r * start_sigma + (1 - r) * end_sigma,
                            m(x)  = r * (1 - start_sigma) * up(x one level below) + (1 - r) * (1 - end_sigma) * x,

with n white and r the level's local clock. Given z, each drawing has a posterior weight, softmax(-|z - m(x)|^2 /
2 sigma^2), and the velocity that flow matching would learn is the weighted mean of the drawings' own velocities
(start point minus end point). So we can generate with the perfect model and look at what the pyramid does.
"""
# ruff: noqa: T201 - what a script says, it prints.

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from m4v.flow.config import PyramidFlowConfig
from m4v.flow.noise import standard_normal
from m4v.flow.path import end_point, start_point
from m4v.flow.pyramid import latent_pyramid, upsample_nearest
from m4v.flow.renoise import jump
from m4v.flow.schedule import PyramidSchedule
from m4v.flow.solver import euler_step

SIZE = 32
NAMES = ("disc", "ring", "square", "frame", "plus", "stripes")


def draw_images() -> Tensor:
    """Draw the six data points, values -1 and 1, as latents `b c t h w` of one channel and one frame."""
    centred = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    radius, reach = torch.hypot(y, x), torch.maximum(y.abs(), x.abs())
    arms = torch.minimum(y.abs(), x.abs())
    masks = [radius < 11, (radius < 13) & (radius > 8), reach < 10, (reach < 13) & (reach > 9)]
    masks += [(arms < 3) & (reach < 13), x % 8 < 4]
    return rearrange(torch.stack(masks).float() * 2 - 1, "b h w -> b 1 1 h w")


def exact_velocity(schedule: PyramidSchedule, pyramid: list[Tensor], z: Tensor, level: int, clock: float) -> Tensor:
    """Average every drawing's velocity, weighted by how likely that drawing is behind `z`."""
    silence = torch.zeros_like(pyramid[level])
    clean_start = start_point(schedule, pyramid, silence, level)
    clean_end = end_point(schedule, pyramid[level], silence, level)
    start_sigma, end_sigma = schedule.start_sigma[level], schedule.end_sigma[level]
    sigma = clock * start_sigma + (1 - clock) * end_sigma
    noise = (z[:, None] - (clock * clean_start + (1 - clock) * clean_end)) / sigma
    weights = torch.softmax(-noise.square().flatten(2).sum(-1) / 2, dim=1)
    velocities = (start_sigma - end_sigma) * noise + clean_start - clean_end
    return torch.einsum("bm,bm...->b...", weights, velocities)


def block_statistics(latents: Tensor, clean: Tensor) -> tuple[float, float]:
    """Measure the noise left after removing its closest clean image: variance, and correlation of side neighbours."""
    distances = (latents[:, None] - clean).square().flatten(2).sum(-1)
    noise = latents - clean[distances.argmin(1)]
    left, right = noise[..., 0::2], noise[..., 1::2]
    variance = noise.square().mean()
    return variance.item(), ((left * right).mean() / variance).item()


def generate(
    schedule: PyramidSchedule, pyramid: list[Tensor], num_samples: int, num_steps: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Sample with the exact velocity; returns the final images and snapshots of every level."""
    generator = torch.Generator().manual_seed(seed)
    z = standard_normal((num_samples, *pyramid[0].shape[1:]), generator, "cpu")
    snapshots = []
    for level in range(schedule.num_levels):
        if level > 0:
            upsampled, z = upsample_nearest(z), jump(schedule, z, level, generator)
            coarse = upsample_nearest(pyramid[level - 1])
            before = block_statistics(upsampled, coarse * (1 - schedule.end_sigma[level - 1]))
            after = block_statistics(z, coarse * (1 - schedule.start_sigma[level]))
            print(f"jump to level {level}: noise variance, neighbour correlation {before[0]:.3f}, {before[1]:+.3f}")
            print(f"  after renoising {after[0]:.3f}, {after[1]:+.3f}; law {schedule.start_sigma[level] ** 2:.3f}, 0")
        sigmas = schedule.inference_steps(level, num_steps).level_sigmas.tolist()
        for index, (sigma, next_sigma) in enumerate(pairwise(sigmas)):
            if index % max(num_steps // 2, 1) == 0:
                snapshots.append(z)
            z = euler_step(z, exact_velocity(schedule, pyramid, z, level, sigma), sigma, next_sigma)
    return z, [*snapshots, z]


def save_trajectory(snapshots: list[Tensor], path: Path) -> None:
    """Write one row per sample, time running to the right, every level enlarged to full size."""
    columns = [snapshot.repeat_interleave(SIZE // snapshot.shape[-1], -1) for snapshot in snapshots]
    columns = [column.repeat_interleave(SIZE // column.shape[-2], -2) for column in columns]
    grid = rearrange(torch.stack(columns, dim=1)[:8], "b n 1 1 h w -> (b h) (n w)")
    pixels = ((grid + 1) * 127.5).clamp(0, 255).byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 3, pixels.shape[0] * 3), Image.Resampling.NEAREST).save(path)


def main(arguments: list[str] | None = None) -> float:
    """Run the demonstration; returns the worst distance of a sample from its nearest drawing."""
    parser = argparse.ArgumentParser(description="Pyramid flow matching with an exact velocity field.")
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--steps", type=int, default=10, help="Euler steps per level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the first samples' trajectories as a PNG")
    options = parser.parse_args(arguments)

    schedule = PyramidSchedule.from_config(PyramidFlowConfig())
    images = draw_images()
    pyramid = latent_pyramid(images, schedule.num_levels)
    print("level  size   sigma from  to     timesteps")
    for level, latents in enumerate(pyramid):
        first, last = schedule.timesteps[level][[0, -1]].tolist()
        start, end = schedule.start_sigma[level], schedule.end_sigma[level]
        print(f"{level}      {latents.shape[-1]:2d}^2   {start:.3f}       {end:.3f}  {first:.0f} to {last:.0f}")
    cells = sum(latents[0].numel() for latents in pyramid)
    print(f"cells evaluated, relative to full resolution at every step: {cells / (3 * SIZE * SIZE):.0%}\n")

    samples, snapshots = generate(schedule, pyramid, options.samples, options.steps, options.seed)
    distances = (samples[:, None] - images).square().flatten(2).mean(-1).sqrt()
    nearest = distances.argmin(1)
    counts = ", ".join(f"{name} {(nearest == index).sum().item()}" for index, name in enumerate(NAMES))
    print(f"\n{options.samples} samples: {counts}")
    worst = distances.min(1).values.max().item()
    print(f"worst root-mean-square distance from the nearest drawing: {worst:.1e}")
    if options.out is not None:
        save_trajectory(snapshots, options.out)
        print(options.out)
    return worst


if __name__ == "__main__":
    main()
