"""Pictures of what a run has learned so far: round trips of the autoencoder, videos of fixed prompts."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from m4v.core.errors import UserError
from m4v.data.pixels import to_pixels
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.media.images import write_png
from m4v.media.video import decode_frames, write_video
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.wan_autoencoder import WanAutoencoder
from m4v.pipelines.frames import to_uint8
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.prompts import empty_prompts_allowed
from m4v.toybox.contact_sheet import contact_sheet
from m4v.training.clip_pool import ClipPool
from m4v.training.config import RunConfig
from m4v.training.exporting import generation_defaults
from m4v.training.networks import Networks
from m4v.training.sample_requests import SampleRequest, all_requests

logger = logging.getLogger(__name__)

_FRAMES_SHOWN = 6
_ROUND_TRIPS = 6


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Log what goes wrong inside instead of passing it on: no run may end because a picture could not be made."""
    try:
        yield
    except (UserError, OSError, RuntimeError, ValueError, LookupError) as error:
        logger.error("No %s this time, training goes on: %s", what, error)


@torch.no_grad()
def write_round_trips(folder: Path, vae: CausalVideoVAE | WanAutoencoder, pool: ClipPool) -> Path:
    """Write a contact sheet: every second row is the autoencoder's version of the row above."""
    device = next(vae.parameters()).device
    frames = pool.frames[:_ROUND_TRIPS]
    decoded, _ = vae(to_pixels(frames.to(device)))
    pairs = [video for pair in zip(frames.cpu().numpy(), to_uint8(decoded), strict=True) for video in pair]
    path = folder / "round-trips.png"
    write_png(path, contact_sheet(pairs, columns=1, frames_per_video=_FRAMES_SHOWN))
    return path


def text_parts(networks: Networks) -> dict[str, Any]:
    """Text encoders and tokenizers by the names that `M4VPipeline` gives them."""
    if networks.pooled_encoder is None:
        return {"text_encoder": networks.text_encoder, "tokenizer": networks.tokenizer}
    return {
        "text_encoder": networks.pooled_encoder.encoder,
        "tokenizer": networks.pooled_encoder.tokenizer,
        "text_encoder_2": networks.text_encoder,
        "tokenizer_2": networks.tokenizer,
    }


@torch.no_grad()
def _sample(
    pipeline: Any, request: SampleRequest, num_frames: int, first_latents: Tensor | None
) -> UInt8[np.ndarray, "t h w 3"]:
    """Make one video, with the numbers that the request names."""
    wanted: dict[str, Any] = {
        "num_inference_steps": request.num_inference_steps,
        "video_num_inference_steps": request.num_inference_steps,
        "height": request.height,
        "width": request.width,
        "image": request.image_path,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    if request.video_path is not None:
        options["image"] = next(iter(decode_frames(request.video_path))).pixels
    elif request.from_data and first_latents is not None:
        latents = pipeline.vae.denormalise(first_latents.to(pipeline.vae.dtype))  # banks keep them in bfloat16
        options["image"] = to_uint8(pipeline.vae.decode(latents))[0, 0]
    length = request.num_frames if request.num_frames and num_frames > 1 else num_frames
    with empty_prompts_allowed():
        frames: np.ndarray = pipeline(request.caption, num_frames=length, seed=request.seed, **options).frames[0]
    return frames


def write_samples(
    folder: Path,
    config: RunConfig,
    networks: Networks,
    prompts: Sequence[str],
    *,
    num_frames: int,
    first_latents: Float[Tensor, "1 c 1 h w"] | None = None,
) -> Path | None:
    """Sample fixed prompts with fixed seeds, as one mp4 each and a contact sheet; see `all_requests`.

    What cannot be made is logged and left out: training must not end because a picture could not be made.

    Args:
        folder: Made if needed.
        config: Sampling settings.
        networks: Must hold the averaged weights.
        prompts: What to sample.
        num_frames: Length; 1 while only images are trained.
        first_latents: Normalised first frame of a clip, which one of the videos goes on from.

    Returns:
        The contact sheet, or None if no prompt could be sampled.
    """
    pipeline = M4VPipeline(
        transformer=networks.transformer,
        vae=networks.vae,
        **text_parts(networks),
        scheduler=PyramidFlowScheduler.from_flow_config(config.models.flow),
        defaults=generation_defaults(config),
    )
    pipeline.set_progress_bar_config(disable=True)
    videos: list[np.ndarray] = []
    has_image = num_frames > 1 and first_latents is not None
    for number, request in enumerate(all_requests(prompts, config.samples.file, with_image=has_image)):
        with going_on(f"sample of {request.caption!r}"):
            frames = _sample(pipeline, request, num_frames, first_latents)
            if num_frames > 1:
                name = f"prompt-{number:02d}_seed-{request.seed}.mp4"
                write_video(folder / name, frames, request.frame_rate or config.data.fps)
            videos.append(frames)
    videos = [video for video in videos if video.shape == videos[0].shape]
    if not videos:
        return None
    sheet = folder / "contact-sheet.png"
    columns = 1 if num_frames > 1 else min(6, len(videos))
    per_video = min(_FRAMES_SHOWN, num_frames)
    write_png(sheet, contact_sheet(videos, columns=columns, frames_per_video=per_video))
    return sheet
