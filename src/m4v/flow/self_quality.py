"""Self-quality guidance: late frames corrected by the model's own text-to-image ability (Appendix E.3, Eq. 8 to 10).

At the same noisy latents the network is asked twice, with history (velocity v_l) and without (v_h), each answer already
under classifier-free guidance, and the two are mixed: `v = v_l + weight * (v_h - v_l)`.

The question without history needs care. A network that sees no history was trained on first frames only, and their
latents may be normalised differently. With `clean_image = a * clean_video + b`, noise untouched by either
normalisation, and the path of Sec. 3.1 at local clock r,

    start = s n + (1 - s) Up(Down(x)),   end = e n + (1 - e) x,   x_r = r start + (1 - r) end,   v = start - end,

the noise share is `sigma = r s + (1 - r) e`, and everything but the noise is linear in the clean latents x with
coefficients that sum to `1 - sigma` in x_r and to `-(s - e)` in v; averaging and repeating cells keep constants. Hence

    x_r' = a x_r - (a - 1) sigma n + (1 - sigma) b,
    v'   = a v   - (a - 1) (s - e) n - (s - e) b,

at the same r, sigma and timestep. The second line, solved for v, carries the network's answer back.

The noise follows from a velocity, which gives both ends: `start = x_r + (1 - r) v` and `end = x_r - r v`. With
P = Up Down, a projection (block means), the part of `start` outside P is `s (n - P n)`, and
`(1 - e) P start - (1 - s) P end = (s - e) P n`. At the last level e is 0 and both parts together are
`n = (start - (1 - s) P end) / s`.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.flow.pyramid import downsample, upsample_nearest
from m4v.flow.schedule import PyramidSchedule


@dataclass(frozen=True, kw_only=True)
class SelfQualityGuidance:
    """Whether, where and how strongly the history-free velocity guides.

    Attributes:
        weight: w of Eq. 10, at least 0. 0 switches it off; 1 ignores the history; more pushes away from it, at the
            price of temporal continuity. The paper gives no value.
        first_unit: First unit it acts on, counted from 0 and at least 1 (unit 0 has no history to do without).
        levels: Pyramid levels it acts on, 0 = coarsest; None: the last one, where texture is decided.
        match_statistics: Show the network first-frame statistics when it sees no history. Off: show it the latents as
            they are. Changes nothing where both kinds of frame are normalised alike.
        renoise: The prose's reading of E.3, in which the x_t of Eq. 8 to 10 is a latent noised anew: one additional
            pass with history and prompt predicts the clean latents, fresh noise brings them to the same noise share,
            and all velocities are taken there; their mix is carried back by the difference of the two noises.

    Raises:
        UserError: when a value is outside its range.

    Source: Appendix E.3, Eq. 8 to 10.
    """

    weight: float = 0.0
    first_unit: int = 8
    levels: tuple[int, ...] | None = None
    match_statistics: bool = True
    renoise: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"The self-guidance weight is {self.weight}; expected 0 (off) or a positive number.")
        if self.first_unit < 1:
            raise UserError(
                f"Self-guidance is to start at unit {self.first_unit}; expected 1 or later, for unit 0 has no history."
            )
        if self.levels is not None and (not self.levels or min(self.levels) < 0):
            raise UserError(
                f"The self-guidance levels are {list(self.levels)}; expected level numbers from 0, or none at all for "
                "the last level (a weight of 0 switches self-guidance off)."
            )

    def is_active(self, unit: int, level: int, num_levels: int) -> bool:
        """Whether it changes the velocity of this unit at this level."""
        levels = (num_levels - 1,) if self.levels is None else self.levels
        return self.weight != 0 and unit >= self.first_unit and level in levels

    def combine(
        self, with_history: Float[Tensor, "b c t h w"], without_history: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Mix the two velocities (Eq. 10)."""
        return with_history + self.weight * (without_history - with_history)


@dataclass(frozen=True)
class StatisticsChange:
    """From latents normalised as later frames to latents normalised as first frames: `factor * latents + offset`.

    Attributes:
        factor: a of the module's text; one number, or one per channel. Not 0.
        offset: b, likewise.
    """

    factor: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether both kinds of frame are normalised alike."""
        factors, offsets = (value if isinstance(value, tuple) else (value,) for value in (self.factor, self.offset))
        return all(factor == 1 for factor in factors) and all(offset == 0 for offset in offsets)

    def columns(self, latents: Float[Tensor, "b c t h w"]) -> tuple[Tensor, Tensor]:
        """Give factor and offset in a shape that multiplies `latents`."""
        return _column(self.factor, latents.dtype, latents.device), _column(self.offset, latents.dtype, latents.device)


@lru_cache(maxsize=64)
def _column(value: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bring channel values to a device once, not at every step: the host would wait for it."""
    return torch.as_tensor(value, dtype=dtype, device=device).reshape(1, -1, 1, 1, 1)


@dataclass(frozen=True)
class PathPosition:
    """A place on the path of one pyramid level.

    Attributes:
        start_sigma: Noise share of the level's start point, s of the module's text.
        end_sigma: Noise share of the level's end point, e.
        level_sigma: Local clock r, from 1 at the start point to 0 at the end point.
    """

    start_sigma: float
    end_sigma: float
    level_sigma: float

    @classmethod
    def of(cls, schedule: PyramidSchedule, level: int, level_sigma: float) -> "PathPosition":
        """Take a level's noise shares from the schedule."""
        return cls(schedule.start_sigma[level], schedule.end_sigma[level], level_sigma)

    @property
    def noise_share(self) -> float:
        """Noise share sigma of the latents here."""
        return self.level_sigma * self.start_sigma + (1 - self.level_sigma) * self.end_sigma

    @property
    def noise_in_velocity(self) -> float:
        """Coefficient of the noise in the velocity, `s - e`."""
        return self.start_sigma - self.end_sigma

    def estimate_noise(
        self, latents: Float[Tensor, "b c t h w"], velocity: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Find the noise that latents and a velocity imply; exact when the velocity is.

        Raises:
            UserError: when height or width is odd above the coarsest level.
        """
        start = latents + (1 - self.level_sigma) * velocity
        if self.start_sigma == 1:
            return start
        end = latents - self.level_sigma * velocity
        coarse_start, coarse_end = downsample(start), downsample(end)
        coarse = (1 - self.end_sigma) * coarse_start - (1 - self.start_sigma) * coarse_end
        inside = upsample_nearest(coarse / self.noise_in_velocity)
        return inside + (start - upsample_nearest(coarse_start)) / self.start_sigma

    def exchange_noise(
        self, latents: Float[Tensor, "b c t h w"], old: Float[Tensor, "b c t h w"], new: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Keep the clean part of latents and replace their noise."""
        return latents + self.noise_share * (new - old)

    def exchange_velocity_noise(
        self, velocity: Float[Tensor, "b c t h w"], old: Float[Tensor, "b c t h w"], new: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Do the same to a velocity."""
        return velocity + self.noise_in_velocity * (new - old)

    def to_first_frame(
        self, latents: Float[Tensor, "b c t h w"], noise: Float[Tensor, "b c t h w"], change: StatisticsChange
    ) -> Float[Tensor, "b c t h w"]:
        """Express noisy latents of a later frame in the statistics of first frames."""
        factor, offset = change.columns(latents)
        return factor * latents - (factor - 1) * self.noise_share * noise + (1 - self.noise_share) * offset

    def from_first_frame(
        self, velocity: Float[Tensor, "b c t h w"], noise: Float[Tensor, "b c t h w"], change: StatisticsChange
    ) -> Float[Tensor, "b c t h w"]:
        """Express a velocity found in the statistics of first frames in those of later frames."""
        factor, offset = change.columns(velocity)
        return (velocity + self.noise_in_velocity * ((factor - 1) * noise + offset)) / factor
