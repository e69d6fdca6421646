"""A whole video against Pyramid-Flow's own generation loop, written out from its published steps alone."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m4v.core.generators import generator_for
from m4v.core.level_clip import LevelClip
from m4v.core.shapes import LatentShape
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.guidance import LinearDecay, UnitGuidance
from m4v.flow.schedule import PyramidSchedule
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.unit_loop import LoopSettings, UnitRequest, generate_units
from tests.assertions import assert_relative_close

UNITS, CHANNELS, HEIGHT, WIDTH = 5, 2, 8, 16
FIRST_STEPS, LATER_STEPS = (3, 2, 4), (2, 3, 2)
STAGES = range(3)

# Published constants of the three stages.
JUMP = {1: (0.5998800255, 0.6930281249), 2: (0.7496251922, 0.4336618880)}
TIMESTEP_ENDS = ((1000.0, 744.25598), (744.0, 386.358), (386.0, 1.38501))


def velocity_of(frames: Sequence[Tensor], timestep: Tensor, prompt: Tensor) -> Tensor:
    """Stands for the network: depends on the order, size and content of all frames, on timestep and prompt."""
    noisy = frames[-1]
    total = torch.zeros(len(noisy))
    for steps_back, frame in enumerate(reversed(frames)):
        total = total + frame[..., ::2, :].sum(dim=(1, 2, 3, 4)) / (10 + 7 * steps_back) / frame.shape[-1]
    drive = 0.3 * torch.sin(total) + 0.2 * prompt + timestep / 2000
    return (noisy * prompt[:, None, None, None, None]).tanh() + drive[:, None, None, None, None]


def halved(x: Tensor) -> Tensor:
    """Bilinear halving of every frame."""
    b, c, t, h, w = x.shape
    frames = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
    small = F.interpolate(frames, size=(h // 2, w // 2), mode="bilinear")
    return small.reshape(b, t, c, h // 2, w // 2).permute(0, 2, 1, 3, 4)


def jumped(x: Tensor, stage: int, generator: torch.Generator) -> Tensor:
    """Nearest doubling, then noise that is anticorrelated inside every 2 x 2 block."""
    x = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    white = torch.randn(x.shape, generator=generator)
    blocks = white.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    noise = math.sqrt(4 / 3) * (blocks - blocks.mean(dim=(-1, -3), keepdim=True))
    alpha, beta = JUMP[stage]
    return alpha * x + beta * noise.reshape(x.shape)


def history(latents: Tensor, stage: int) -> list[Tensor]:
    """Frames before the next one, oldest first: one stage lower for every step back, then the lowest."""
    levels = [halved(halved(latents)), halved(latents), latents]
    frames = []
    for steps_back, unit in enumerate(range(latents.shape[2] - 1, -1, -1)):
        frames.append(levels[max(stage - steps_back, 0)][:, :, unit : unit + 1])
    return frames[::-1]


def published_loop(generator: torch.Generator, scales: Sequence[float], given: Tensor | None) -> Tensor:
    """Text-to-video, or image-to-video where frame 0 is given; `scales` is the guidance of every unit."""
    made = torch.zeros(1, CHANNELS, 0, HEIGHT, WIDTH) if given is None else given
    for unit in range(made.shape[2], UNITS):
        noise = torch.randn(1, CHANNELS, 1, HEIGHT, WIDTH, generator=generator)
        latents = halved(halved(noise) * 2) * 2
        for stage in STAGES:
            if stage > 0:
                latents = jumped(latents, stage, generator)
            past = history(made, stage)
            num_steps = (LATER_STEPS if unit else FIRST_STEPS)[stage]
            timesteps = np.linspace(*TIMESTEP_ENDS[stage], num_steps)
            sigmas = np.append(np.linspace(1, 0.001, num_steps), 0.0)
            for step, timestep in enumerate(timesteps):
                frames = [torch.cat([frame, frame]) for frame in (*past, latents)]
                both = velocity_of(frames, torch.full((2,), timestep), torch.tensor([-1.0, 1.0]))
                negative, positive = both.chunk(2)
                guided = negative + scales[unit] * (positive - negative)
                latents = latents + (sigmas[step + 1] - sigmas[step]) * guided
        made = torch.cat([made, latents.float()], dim=2)
    return made


def our_network(clips: Sequence[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
    frames = [frame for clip in clips for frame in clip.latents.split(1, dim=2)]
    return velocity_of(frames, timesteps, text.pooled[:, 0])


def prompt(value: float) -> TextConditioning:
    return TextConditioning(torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool), torch.full((1, 5), value))


@pytest.mark.parametrize(
    ("guidance", "scales"),
    [
        (UnitGuidance(first=7.0, later=5.0), (7.0, 5.0, 5.0, 5.0, 5.0)),
        (UnitGuidance(first=3.0, decay=LinearDecay()), (3.0, 2.5, 2.0, 2.0, 2.0)),
    ],
    ids=["two scales", "linear decay"],
)
@pytest.mark.parametrize("has_image", [False, True], ids=["text to video", "image to video"])
def test_a_video_is_that_of_the_published_loop(
    guidance: UnitGuidance, scales: tuple[float, ...], has_image: bool
) -> None:
    image = torch.randn(1, CHANNELS, 1, HEIGHT, WIDTH, generator=generator_for(9)) if has_image else None
    request = UnitRequest(
        shape=LatentShape(num_units=UNITS, height=HEIGHT, width=WIDTH),
        num_channels=CHANNELS,
        noise=NoiseSource([generator_for(0)], 1),
        text=prompt(1.0),
        negative_text=prompt(-1.0),
        given_units=() if image is None else (image,),
    )
    settings = LoopSettings(first_steps=FIRST_STEPS, later_steps=LATER_STEPS, guidance=guidance)
    schedule = PyramidSchedule.from_config(PyramidFlowConfig())
    ours = torch.cat([unit.latents for unit in generate_units(our_network, schedule, request, settings)], dim=2)
    assert ours.std() > 0.3
    assert_relative_close(ours, published_loop(generator_for(0), scales, image), 1e-5)
