"""What the stages of one run share: settings, folder, device, networks, and the clips once they are needed."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from m4v.checkpoints.run_folder import RunFolder
from m4v.core.config_io import from_plain, to_plain
from m4v.core.files import atomic_path
from m4v.data.source import ClipSource, UnusableClip
from m4v.models.text.tokenizer import build_tokenizer
from m4v.pipelines.config import GenerationDefaults
from m4v.toybox.captions import VOCABULARY
from m4v.training.clip_pool import ClipPool, load_clips
from m4v.training.config import DataConfig, RunConfig
from m4v.training.latent_bank import LatentBank, load_or_build_bank
from m4v.training.networks import Networks, build_networks, describe_models, load_networks, tokenizer_for_captions
from m4v.training.progress import OnProgress
from m4v.training.sources import PooledSource, num_threads, training_source, validation_pool
from m4v.training.stopping import StopSignal


class Workbench:
    """Owner of the networks and data of a run.

    Args:
        config: Settings; `self.config` also tells what was loaded.
        folder: Run folder.
        device: Where everything is trained.
        stop: Reasons to stop early.
        on_progress: Told what happens.
        init_from: Model folder that a new run starts from.
        is_resumed: Whether the networks' weights will come from a checkpoint.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        device: torch.device,
        *,
        stop: StopSignal,
        on_progress: OnProgress,
        init_from: Path | None,
        is_resumed: bool,
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = device
        self.stop = stop
        self.on_progress = on_progress
        # Encoding is a small part of the work, so only a device made for bf16 gives up digits for it.
        self.encode_in_bf16 = device.type == "cuda" and config.precision != "fp32"
        self.num_clips = config.data.num_clips.on(device.type)
        self.stage_facts: dict[str, dict[str, Any]] = {}
        self._pool: ClipPool | None = None
        self._bank: LatentBank | None = None
        self.networks = self._build(None if is_resumed else init_from, is_resumed).to(device)
        self._write_settings()

    def _build(self, init_from: Path | None, is_resumed: bool) -> Networks:
        kept = self.folder.path / "tokenizer"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(kept) if is_resumed else self._new_tokenizer(init_from)
        networks = build_networks(self.config.models, tokenizer, self.config.seed)
        if init_from is None:
            return networks
        networks = load_networks(init_from, networks)
        models = describe_models(self.config.models, networks)
        index = init_from / "model_index.json"
        if index.is_file():
            defaults = from_plain(GenerationDefaults, json.loads(index.read_text())["defaults"])
            models = replace(models, text=replace(models.text, max_length=defaults.max_text_length))
            self.config = replace(self.config, data=_with_defaults(self.config.data, defaults))
        self.config = replace(self.config, models=models)
        return networks

    def _new_tokenizer(self, init_from: Path | None) -> PreTrainedTokenizerFast:
        if init_from is not None and (init_from / "tokenizer").is_dir():
            return PreTrainedTokenizerFast.from_pretrained(init_from / "tokenizer")
        if self.config.data.source == "toybox":
            return build_tokenizer(VOCABULARY)
        return tokenizer_for_captions(caption for group in self.pool().captions for caption in group)

    def _write_settings(self) -> None:
        with atomic_path(self.folder.path / "tokenizer") as temporary:
            self.networks.tokenizer.save_pretrained(temporary)
        with atomic_path(self.folder.config) as temporary:
            temporary.write_text(json.dumps(to_plain(self.config), indent=2) + "\n")

    @property
    def _time_compression(self) -> int:
        return self.config.models.vae.compression.time

    def refresh_models(self) -> None:
        """Bring the stored settings up to date after latent statistics were measured."""
        self.config = replace(self.config, models=describe_models(self.config.models, self.networks))
        self._write_settings()

    def source(self) -> ClipSource:
        """Clips to train on, from memory if they are there."""
        if self._pool is not None:
            return PooledSource(self._pool)
        return training_source(
            self.config.data, self.num_clips, self.config.seed, self._time_compression, self.on_progress
        )

    def pool(self) -> ClipPool:
        """Training clips in memory, read once."""
        if self._pool is None:
            source = self.source()
            threads = num_threads(self.config.data)
            self._pool = load_clips(
                source, len(source), num_threads=threads, phase="read clips", on_progress=self.on_progress
            )
        return self._pool

    def validation(self, num_clips: int) -> ClipPool | None:
        """Clips that are never trained on."""
        return validation_pool(self.config.data, num_clips, self.config.seed, self._time_compression, self.on_progress)

    def bank(self) -> LatentBank:
        """Latents and captions of the training clips on the device, encoded once and kept in the run folder."""
        if self._bank is None:
            self._bank = load_or_build_bank(
                self.folder.path / "cache",
                self.source,
                self.networks,
                identity={"data": to_plain(self.config.data), "clips": self.num_clips, "seed": self.config.seed},
                max_text_length=self.config.models.text.max_length,
                use_bf16=self.encode_in_bf16,
                num_threads=num_threads(self.config.data),
                on_progress=self.on_progress,
            ).to(self.device)
            self._pool = None
        return self._bank

    def some_captions(self, count: int) -> tuple[str, ...]:
        """Captions of the first usable clips, as prompts for a run that names none."""
        source = self.source()
        captions: list[str] = []
        for index in range(len(source)):
            if len(captions) == count:
                break
            with contextlib.suppress(UnusableClip):
                captions.append(source.clip(index).captions[0])
        return tuple(captions)

    def note_stage(self, name: str, facts: Mapping[str, Any]) -> None:
        """Remember what the model card should say about a stage."""
        self.stage_facts[name] = dict(facts)


def _with_defaults(data: DataConfig, defaults: GenerationDefaults) -> DataConfig:
    return replace(
        data,
        num_frames=data.num_frames or defaults.num_frames,
        height=data.height or defaults.height,
        width=data.width or defaults.width,
        fps=data.fps or defaults.fps,
    )
