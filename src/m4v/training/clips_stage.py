"""The stage of the Wan base: flow matching on whole clips (Sec. 4.1, Appendix D.1)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from m4v.core.errors import UserError
from m4v.flow.library_schedulers import make_library_scheduler
from m4v.media.images import write_png
from m4v.media.video import write_video
from m4v.pipelines.frames import to_uint8
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from m4v.toybox.contact_sheet import contact_sheet
from m4v.training.base_export import export_wan, wan_defaults
from m4v.training.config import FullSequenceStageConfig
from m4v.training.exporting import training_facts
from m4v.training.fine_tuning import exports_whole_model
from m4v.training.full_sequence_objective import FullSequenceObjective
from m4v.training.loop import Objective
from m4v.training.stages import StageRun
from m4v.training.workbench import Workbench

logger = logging.getLogger(__name__)

_NUM_CAPTION_PROMPTS = 2
_FRAMES_SHOWN = 6
_SEED = 0


class ClipsStageRun(StageRun):
    """Trains a Wan denoiser on whole clips; its text encoder only where settings say so, its autoencoder never."""

    @property
    def stage(self) -> FullSequenceStageConfig:
        """Settings."""
        return self.bench.config.clips

    def trained_parts(self) -> Mapping[str, nn.Module]:
        """Pick the denoiser, and the text encoder if it is to be trained."""
        networks = self.bench.wan_networks
        trained: dict[str, nn.Module] = {"transformer": networks.transformer}
        return trained | ({"text_encoder": networks.text_encoder} if self.stage.train_text else {})

    def prepare(self) -> None:
        """Hold latents and captions on the device."""
        self.prompts = self.bench.config.samples.prompts or self.bench.some_captions(_NUM_CAPTION_PROMPTS)
        self.images = self.bench.image_bank() if self.stage.images_per_window else None
        is_image_only = self.images is not None and not self.stage.videos_per_window
        self.bank = self.images if self.images is not None and is_image_only else self.bench.bank()
        if self.bench.config.compile_blocks:
            network: Any = self.bench.wan_networks.transformer
            network.compile_repeated_blocks(dynamic=True)

    def make_objective(self, use_bf16: bool) -> Objective:
        """Match flows on the bank."""
        networks = self.bench.wan_networks
        return FullSequenceObjective(
            networks.transformer,
            networks.text_encoder,
            self.bank,
            self.stage,
            stage=self.name,
            batch_size=self.batch_size,
            seed=self.bench.config.seed,
            use_bf16=use_bf16,
            text_length=self.bench.config.models.wan.text_length,
            share=self.bench.parallel.share,
            images=self.images,
        )

    def look(self, folder: Path) -> dict[str, float]:
        """Sample the fixed prompts; single pictures while only images are trained."""
        num_frames = self.bench.config.data.num_frames if self.stage.videos_per_window else 1
        write_clip_samples(folder, self.bench, self.prompts, num_frames=num_frames)
        return {}

    def complete(self) -> None:
        """Nothing is measured at the end of this stage."""

    def write_export(self) -> None:
        """Write a whole model folder."""
        bench = self.bench
        facts = training_facts(bench.config, bench.parts, bench.stage_facts, bench.device)
        if exports_whole_model(bench.folder.path, bench.wan_networks, bench.config.lora):
            export_wan(bench.folder.export, bench.config, bench.wan_networks, facts)


def write_clip_samples(folder: Path, bench: Workbench, prompts: tuple[str, ...], *, num_frames: int) -> Path | None:
    """Sample fixed prompts with fixed seeds, as one mp4 each and a contact sheet.

    A prompt the model cannot take is logged and left out: training must not end because a picture could not be made.

    Args:
        folder: Made if needed.
        bench: Networks, which must hold the averaged weights, and settings.
        prompts: What to sample.
        num_frames: Length; 1 while only images are trained.

    Returns:
        The contact sheet, or None if no prompt could be sampled.
    """
    config, networks = bench.config, bench.wan_networks
    defaults = wan_defaults(config)
    pipeline = WanM4VPipeline(
        tokenizer=networks.tokenizer,
        text_encoder=networks.text_encoder,
        vae=networks.vae.vae,
        scheduler=make_library_scheduler(defaults.scheduler, defaults.flow_shift(defaults.height, defaults.width)),
        transformer=networks.transformer,
        defaults=defaults,
    )
    pipeline.set_progress_bar_config(disable=True)
    videos: list[np.ndarray] = []
    for number, prompt in enumerate(prompts):
        try:
            output: Any = pipeline(prompt, num_frames=num_frames, seed=_SEED, output_type="pt")
        except UserError as error:
            logger.warning("No sample of %r: %s", prompt, error)
            continue
        # The library gives frames before colours, in [0, 1].
        frames = to_uint8(output.frames.transpose(1, 2) * 2 - 1)[0]
        if num_frames > 1:
            write_video(folder / f"prompt-{number:02d}_seed-{_SEED}.mp4", frames, config.data.fps)
        videos.append(frames)
    if not videos:
        return None
    sheet = folder / "contact-sheet.png"
    columns = 1 if num_frames > 1 else min(6, len(videos))
    write_png(sheet, contact_sheet(videos, columns=columns, frames_per_video=min(_FRAMES_SHOWN, num_frames)))
    return sheet
