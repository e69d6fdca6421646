"""Pictures of what a run has learned so far: round trips of the autoencoder, videos of fixed prompts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m4v.core.errors import UserError
from m4v.data.pixels import to_pixels
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.media.images import write_png
from m4v.media.video import write_video
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.frames import to_uint8
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.toybox.contact_sheet import contact_sheet
from m4v.training.clip_pool import ClipPool
from m4v.training.config import RunConfig
from m4v.training.exporting import generation_defaults
from m4v.training.networks import Networks

logger = logging.getLogger(__name__)

_FRAMES_SHOWN = 6
_ROUND_TRIPS = 6
_SEED = 0


@torch.no_grad()
def write_round_trips(folder: Path, vae: CausalVideoVAE, pool: ClipPool) -> Path:
    """Write a contact sheet: every second row is the autoencoder's version of the row above."""
    device = next(vae.parameters()).device
    frames = pool.frames[:_ROUND_TRIPS]
    decoded, _ = vae(to_pixels(frames.to(device)))
    pairs = [video for pair in zip(frames.cpu().numpy(), to_uint8(decoded), strict=True) for video in pair]
    path = folder / "round-trips.png"
    write_png(path, contact_sheet(pairs, columns=1, frames_per_video=_FRAMES_SHOWN))
    return path


def write_samples(
    folder: Path, config: RunConfig, networks: Networks, prompts: Sequence[str], *, num_frames: int
) -> Path | None:
    """Sample fixed prompts with fixed seeds, as one mp4 each and a contact sheet.

    A prompt the model cannot take is logged and left out: training must not end because a picture could not be made.

    Args:
        folder: Made if needed.
        config: Sampling settings.
        networks: Must hold the averaged weights.
        prompts: What to sample.
        num_frames: Length; 1 while only images are trained.

    Returns:
        The contact sheet, or None if no prompt could be sampled.
    """
    pipeline = M4VPipeline(
        transformer=networks.transformer,
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        scheduler=PyramidFlowScheduler.from_flow_config(config.models.flow),
        defaults=generation_defaults(config),
    )
    pipeline.set_progress_bar_config(disable=True)
    videos: list[np.ndarray] = []
    for number, prompt in enumerate(prompts):
        try:
            output: Any = pipeline(prompt, num_frames=num_frames, seed=_SEED)
        except UserError as error:
            logger.warning("No sample of %r: %s", prompt, error)
            continue
        frames = output.frames[0]
        if num_frames > 1:
            write_video(folder / f"prompt-{number:02d}_seed-{_SEED}.mp4", frames, config.data.fps)
        videos.append(frames)
    if not videos:
        return None
    sheet = folder / "contact-sheet.png"
    columns = 1 if num_frames > 1 else min(6, len(videos))
    per_video = min(_FRAMES_SHOWN, num_frames)
    write_png(sheet, contact_sheet(videos, columns=columns, frames_per_video=per_video))
    return sheet
