"""Flow matching on the whole clip at once: no pyramid, no autoregression, as Wan2.1 does it (Sec. 4.1, Wan base)."""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import RowGenerator, draw
from m4v.flow.config import FullSequenceFlowConfig
from m4v.flow.noise import standard_normal
from m4v.flow.path import FlowSample
from m4v.flow.schedule import InferenceSteps
from m4v.flow.shift import shift_sigmas


class FullSequenceFlow:
    """A single level from white noise to the clean clip; pictures are clips of one latent frame.

    `noisy = (1 - sigma) * latents + sigma * noise`, `velocity = noise - latents`, `timestep = 1000 * sigma`.

    Args:
        config: Shift and timestep distribution.

    Source: Wan2.1; the protocol is `m4v.flow.protocol.Flow`.
    """

    def __init__(self, config: FullSequenceFlowConfig | None = None) -> None:
        self.config = config or FullSequenceFlowConfig()
        num_steps = self.config.num_train_timesteps
        even = torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps
        self.grid = shift_sigmas(even, self.config.shift).float()
        self.bell = _bell_weights(self.grid)

    @property
    def num_levels(self) -> int:
        """One: the clip is denoised at its own size from beginning to end."""
        return 1

    def draw_sigmas(
        self, batch: int, generator: RowGenerator
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """Draw a noise share in [0, 1] for every row, and how much the row's loss counts (None: all alike).

        Source: Wan2.1 (logit-normal with shift); DiffSynth-Studio's training grid (grid-bell).
        """
        config, device = self.config, generator.device
        if config.timestep_distribution == "grid-bell":
            index = draw(partial(torch.randint, len(self.grid)), (batch,), generator)
            return self.grid.to(device)[index], self.bell.to(device)[index]
        if config.timestep_distribution == "uniform":
            even = draw(torch.rand, (batch,), generator)
        else:
            normal = draw(torch.randn, (batch,), generator)
            even = torch.sigmoid(config.logit_mean + config.logit_std * normal)
        return shift_sigmas(even, config.shift), None

    def path_point(
        self,
        latents: Float[Tensor, "b c t h w"],
        noise: Float[Tensor, "b c t h w"],
        sigma: Float[Tensor, " b"],
        loss_weight: Float[Tensor, " b"] | None = None,
    ) -> FlowSample:
        """Mix clean latents with noise; half-precision latents are mixed in float32 and rounded once."""
        dtype = latents.dtype
        working = torch.promote_types(dtype, torch.float32)
        clean, noise = latents.to(working), noise.to(working)
        share = rearrange(sigma.to(clean), "b -> b 1 1 1 1")
        return FlowSample(
            noisy_latents=(share * noise + (1 - share) * clean).to(dtype),
            velocity=(noise - clean).to(dtype),
            timesteps=(sigma * self.config.num_train_timesteps).to(latents.device),
            level_sigma=sigma.to(latents.device),
            level=0,
            loss_weight=None if loss_weight is None else loss_weight.to(latents.device),
        )

    def training_sample(
        self,
        latents: Float[Tensor, "b c t h w"],
        level: int = 0,
        *,
        noise_generator: RowGenerator,
        timestep_generator: RowGenerator,
    ) -> FlowSample:
        """Draw noise and a noise share for every row, and mix them in.

        Raises:
            UserError: for a level other than 0.
        """
        _check_level(level)
        noise = standard_normal(latents.shape, noise_generator, latents.device)
        return self.path_point(latents, noise, *self.draw_sigmas(len(latents), timestep_generator))

    def estimate_clean(
        self,
        noisy_latents: Float[Tensor, "b c t h w"],
        velocity: Float[Tensor, "b c t h w"],
        sigma: Float[Tensor, " b"],
    ) -> Float[Tensor, "b c t h w"]:
        """Follow a predicted velocity to the clean latents it implies, in float32 or wider: `noisy - sigma * v`.

        Source: Eq. 5 where the end point holds no noise.
        """
        working = torch.promote_types(noisy_latents.dtype, torch.float32)
        share: Tensor = rearrange(sigma.to(noisy_latents.device, working), "b -> b 1 1 1 1")
        return noisy_latents.to(working) - share * velocity.to(working)

    def first_latents(self, noise: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Give the noise itself."""
        return noise

    def inference_steps(self, level: int, num_steps: int) -> InferenceSteps:
        """Spread solver steps over the shifted schedule; the last one ends at exactly 0.

        The grid is that of diffusers' UniPC with flow sigmas (which lowers the first entry by 1e-6 and truncates the
        timesteps to whole numbers).

        Raises:
            UserError: for a level other than 0, or fewer than 1 step.
        """
        _check_level(level)
        if num_steps < 1:
            raise UserError(f"The number of denoising steps is {num_steps}; expected at least 1.")
        last = 1 / self.config.num_train_timesteps
        even = torch.linspace(1, last, num_steps + 1, dtype=torch.float64)[:-1]
        sigmas = shift_sigmas(even, self.config.shift)
        return InferenceSteps(
            timesteps=(sigmas * self.config.num_train_timesteps).float(),
            level_sigmas=torch.cat([sigmas, sigmas.new_zeros(1)]).float(),
        )

    def enter_level(
        self, latents: Float[Tensor, "b c t h w"], level: int, generator: torch.Generator
    ) -> Float[Tensor, "b c t h w"]:
        """Refuse: there is no level above 0.

        Raises:
            UserError: always.
        """
        raise UserError(f"Level is {level}, but the whole clip is denoised on one level, 0.")


def _bell_weights(grid: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Weigh the middle of the schedule most, the noisiest entry not at all; the mean over the grid is 1."""
    bell = torch.exp(-2 * (grid.double() - 0.5).square())
    raised = bell - bell.min()
    return (raised / raised.mean()).float()


def _check_level(level: int) -> None:
    if level != 0:
        raise UserError(f"Level is {level}, but the whole clip is denoised on one level, 0.")
