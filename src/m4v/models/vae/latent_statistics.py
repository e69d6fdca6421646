"""Normalisation of latents by kind of frame, and the measurement of the numbers it needs."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.models.vae.config import LatentStatistics, Statistic


def normalise_latents(
    latents: Float[Tensor, "b c t h w"], statistics: LatentStatistics, first_unit: int = 0
) -> Float[Tensor, "b c t h w"]:
    """Map VAE latents to the denoiser's range: `(latents - shift) * scale`.

    Args:
        latents: Consecutive latent frames.
        statistics: Unit 0 uses the image pair, later units the video pair.
        first_unit: Index of the first of these frames in its video, 0 or more.
    """
    shift, scale = _per_frame(latents, statistics, first_unit)
    return ((latents - shift) * scale).to(latents.dtype)


def denormalise_latents(
    latents: Float[Tensor, "b c t h w"], statistics: LatentStatistics, first_unit: int = 0
) -> Float[Tensor, "b c t h w"]:
    """Undo `normalise_latents`."""
    shift, scale = _per_frame(latents, statistics, first_unit)
    return (latents / scale + shift).to(latents.dtype)


def measure_latent_statistics(batches: Iterable[Float[Tensor, "b c t h w"]]) -> LatentStatistics:
    """Measure, per channel, the shift and scale that give latents mean 0 and variance 1.

    Args:
        batches: Un-normalised latents of whole videos (the first frame of each is unit 0).

    Raises:
        UserError: if there are no latents, or no latents after the first frame.
    """
    moments: dict[str, list[Tensor]] = {"image": [], "video": []}
    for latents in batches:
        for kind, frames in (("image", latents[:, :, :1]), ("video", latents[:, :, 1:])):
            values = frames.detach().to("cpu", torch.float64).transpose(0, 1).flatten(1)
            count = torch.full_like(values[:, 0], values.shape[1]) if values.shape[1] else torch.zeros(len(values))
            moments[kind].append(torch.stack([count, values.sum(dim=1), values.square().sum(dim=1)]))
    pairs = {kind: _shift_and_scale(kind, parts) for kind, parts in moments.items()}
    return LatentStatistics(
        image_shift=pairs["image"][0],
        image_scale=pairs["image"][1],
        video_shift=pairs["video"][0],
        video_scale=pairs["video"][1],
    )


def _shift_and_scale(kind: str, parts: list[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count, total, total_squares = sum(parts, torch.zeros(3, 1, dtype=torch.float64))
    if not bool((count > 0).all()):
        raise UserError(f"No {kind} latents to measure; give at least one video of several latent frames.")
    mean = total / count
    deviation = (total_squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return tuple(mean.tolist()), tuple((1.0 / deviation).tolist())


def _per_frame(latents: Tensor, statistics: LatentStatistics, first_unit: int) -> tuple[Tensor, Tensor]:
    assert first_unit >= 0, first_unit
    # Half-precision statistics would shift every latent by up to half a percent, so the map runs in float32.
    dtype = torch.promote_types(latents.dtype, torch.float32)

    def column(value: Statistic) -> Tensor:
        return torch.as_tensor(value, dtype=dtype, device=latents.device).reshape(1, -1, 1, 1, 1)

    is_image = torch.arange(first_unit, first_unit + latents.shape[2], device=latents.device) == 0
    is_image = is_image[:, None, None]
    shift = torch.where(is_image, column(statistics.image_shift), column(statistics.video_shift))
    scale = torch.where(is_image, column(statistics.image_scale), column(statistics.video_scale))
    return shift, scale
