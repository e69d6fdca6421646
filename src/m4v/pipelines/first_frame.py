"""The picture that image-to-video starts from: checked, scaled to the video's size, turned into unit 0."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL.Image import Image
from torch import Tensor

from m4v.core.errors import UserError
from m4v.data.pixels import to_pixels
from m4v.media.images import cover_box, read_image, resize_cover
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.noise import NoiseSource

Picture = Image | np.ndarray | str | Path
ImageLatents = Literal["mode", "sample"]
IMAGE_LATENTS: tuple[str, ...] = ("mode", "sample")


def as_picture(image: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture, or check one in memory.

    Raises:
        UserError: if it cannot be read or is no colour picture of bytes.
    """
    picture = read_image(image) if isinstance(image, str | Path) else image
    if isinstance(picture, Image):
        picture = np.array(picture.convert("RGB"))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"The image is {picture.dtype} of shape {picture.shape}; expected uint8 (height, width, 3).")
    return picture


def crop_note(picture: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> str | None:
    """Say what is cut off when a picture is scaled to cover a video of another aspect; None if nothing is."""
    rows, columns = picture.shape[:2]
    left, top, right, bottom = cover_box(rows, columns, height, width)
    cuts = {
        "columns at the left": left,
        "at the right": columns - right,
        "rows at the top": top,
        "at the bottom": rows - bottom,
    }
    named = [f"{round(pixels)} {where}" for where, pixels in cuts.items() if round(pixels)]
    if not named:
        return None
    return (
        f"The picture ({columns}x{rows} pixels) has another aspect than the video ({width}x{height}); "
        f"cut off: {', '.join(named)}."
    )


def first_frame_pixels(picture: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> Float[Tensor, "1 3 1 h w"]:
    """Scale a picture to cover the video's size, cut what overhangs, and turn it into VAE pixels."""
    return to_pixels(torch.from_numpy(resize_cover(picture, height, width)[None, None]))


def first_unit(
    vae: CausalVideoVAE,
    pixels: Float[Tensor, "1 3 1 h w"],
    latents: ImageLatents,
    noise: NoiseSource,
) -> Float[Tensor, "b c 1 h w"]:
    """Make unit 0 of a picture, normalised with the statistics of first frames.

    Args:
        vae: The autoencoder.
        pixels: The picture, where the autoencoder computes and in its precision.
        latents: "mode": the most likely latents, the same for every video. "sample": drawn from the posterior, as
            Pyramid-Flow does, for every video with its own noise.
        noise: Source of the draw; untouched by "mode".
    """
    posterior = vae.encode(pixels)
    unit = posterior.mean.float().expand(noise.batch, -1, -1, -1, -1)
    if latents == "sample":
        deviation = torch.exp(0.5 * posterior.log_variance.float())
        unit = unit + deviation * noise.draw(unit.shape[1:], unit.device)
    return vae.normalise(unit, first_unit=0)
