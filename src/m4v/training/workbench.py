"""What the stages of one run share: settings, folder, device, networks, and the clips once they are needed."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerFast

from m4v.checkpoints.run_folder import RunFolder
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.core.shapes import VideoShape
from m4v.data.cache.manifest import SampleCache, describe_request
from m4v.data.folder_listing import list_folder
from m4v.data.source import ClipSource, UnusableClip
from m4v.models.text.tokenizer import build_tokenizer
from m4v.toybox.captions import VOCABULARY
from m4v.training.bucketed_data import bucket_sources, require_bucket_stages
from m4v.training.clip_pool import ClipPool, load_clips
from m4v.training.config import RunConfig
from m4v.training.data_config import BucketConfig
from m4v.training.fine_tuning import (
    adapt,
    check_lora_stages,
    find_base,
    has_base,
    learn_words,
    note_base,
    require_base,
    restore_words,
)
from m4v.training.latent_bank import LatentBank, load_or_build_bank
from m4v.training.networks import Networks, tokenizer_for_captions
from m4v.training.parallel import Parallel
from m4v.training.progress import OnProgress, Progress
from m4v.training.saving import Saver
from m4v.training.sharding import ShardedNetworks
from m4v.training.sources import (
    OpenedSource,
    PooledSource,
    describe_mixture,
    num_threads,
    open_sources,
    training_clips,
    training_images,
    validation_pool,
)
from m4v.training.starting_networks import (
    AnyNetworks,
    build_start,
    describe_networks,
    load_start,
    load_tokenizer,
    require_base_kind,
    require_whole_sequences,
)
from m4v.training.stopping import StopSignal
from m4v.training.wan_networks import WanNetworks

_SomeNetworks = TypeVar("_SomeNetworks", Networks, WanNetworks)


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
        parallel: This process among the ranks of the run; alone if unset.
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
        parallel: Parallel | None = None,
    ) -> None:
        self.config = config
        self.parallel = parallel or Parallel()
        self.sharded = ShardedNetworks(self.parallel)
        self.saver = Saver(folder, config.saving, self.parallel)
        self.folder = folder
        self.device = device
        self.stop = stop
        self.on_progress = on_progress
        # Encoding is a small part of the work, so only a device made for bf16 gives up digits for it.
        self.encode_in_bf16 = device.type == "cuda" and config.precision != "fp32"
        self.num_clips = config.data.num_clips.on(device.type)
        self.stage_facts: dict[str, dict[str, Any]] = {}
        self.starts_whole = init_from is not None and (init_from / "transformer").is_dir() and not is_resumed
        self._pool: ClipPool | None = None
        self._bank: LatentBank | None = None
        self._opened: tuple[OpenedSource, ...] | None = None
        self._images: LatentBank | None = None
        self._buckets: dict[BucketConfig, LatentBank] | None = None
        require_base_kind(config, device.type)
        require_bucket_stages(config, device.type)
        require_whole_sequences(config, device.type)
        base = None if is_resumed else init_from
        if config.lora.rank:
            check_lora_stages(config, device.type)
            base = find_base(folder.path, init_from) if is_resumed else require_base(init_from)
        elif is_resumed and has_base(folder.path):
            base = find_base(folder.path, init_from)
        self.parts: AnyNetworks = self._build(base, is_resumed).to(device)
        self._write_settings()

    @property
    def gather_in_bf16(self) -> bool:
        """Whether sharded weights travel in bf16: where bf16 is decided by settings, not by timing the stage."""
        precision = self.config.precision
        return precision == "bf16" or (precision == "auto" and self.device.type == "cuda")

    @property
    def can_record_graphs(self) -> bool:
        """Whether columns may be replayed as device graphs; sharded weights are gathered anew for every use.

        Nor can the exchanges of ranks that share a sequence be recorded.
        """
        is_apart = not self.parallel.is_sharded and self.parallel.sequence is None
        return self.config.device_graphs and self.device.type == "cuda" and is_apart

    @property
    def networks(self) -> Networks:
        """The networks of a run on the pyramid base.

        Raises:
            UserError: if the run is on the Wan base.
        """
        if not isinstance(self.parts, Networks):
            raise UserError(
                "This stage trains the pyramid base, but the model is of the Wan base; use the stage clips."
            )
        return self.parts

    @property
    def wan_networks(self) -> WanNetworks:
        """The networks of a run on the Wan base.

        Raises:
            UserError: if the run is on the pyramid base.
        """
        if not isinstance(self.parts, WanNetworks):
            raise UserError("The stage clips trains the Wan base, but the model is of the pyramid base; use t2v.")
        return self.parts

    def _build(self, init_from: Path | None, is_resumed: bool) -> AnyNetworks:
        kept = self.folder.path / "tokenizer"
        tokenizer = load_tokenizer(kept) if is_resumed else self._new_tokenizer(init_from)
        if init_from is None:
            return build_start(self.config, tokenizer).networks
        start = load_start(self.config, init_from, tokenizer)
        trained_vae = self.config.models.vae
        self.config = start.config
        if is_resumed and isinstance(start.networks, Networks) and start.networks.base is None:
            # The base does not know statistics that an autoencoder stage of this run measured.
            start.networks.vae.set_latent_statistics(trained_vae.latent_statistics)
            self.config = replace(self.config, models=describe_networks(self.config.models, start.networks))
        if start.networks.base is not None and self.parallel.is_main:
            note_base(self.folder.path, init_from)
        if isinstance(start.networks, WanNetworks):
            return self._adapted(start.networks, init_from)
        if start.networks.pooled_encoder is not None:
            return self._adapted(start.networks, init_from)
        return self._fine_tuned(start.networks, init_from, tokenizer if is_resumed else None)

    def _fine_tuned(self, base: Networks, folder: Path, kept: PreTrainedTokenizerFast | None) -> Networks:
        """Teach a base the words of one's own captions, as long as its text encoder can learn any."""
        data, seed, num_known = self.config.data, self.config.seed, len(base.tokenizer)
        if kept is not None:
            base = restore_words(base, kept, seed)
        elif data.folder is not None:
            captions = [caption for entry in list_folder(data.folder).entries for caption in entry.captions]
            length = self.config.models.text.max_length
            base = learn_words(base, captions, max_length=length, seed=seed, on_progress=self.on_progress)
        return self._adapted(base, folder, num_known)

    def _adapted(self, base: _SomeNetworks, folder: Path, num_known: int | None = None) -> _SomeNetworks:
        """Freeze a base if only adapters, and words beyond those it knew, are to be trained."""
        if not self.config.lora.rank:
            return base
        if self.parallel.is_main:
            note_base(self.folder.path, folder)
        return adapt(base, self.config.lora, self.config.seed, num_known)

    def _new_tokenizer(self, init_from: Path | None) -> PreTrainedTokenizerFast:
        if init_from is not None and (init_from / "tokenizer").is_dir():
            return load_tokenizer(init_from / "tokenizer")
        if self.config.data.is_rendered:
            return build_tokenizer(VOCABULARY)
        return tokenizer_for_captions(caption for group in self.pool().captions for caption in group)

    def _write_settings(self) -> None:
        if not self.parallel.is_main:
            return
        with atomic_path(self.folder.path / "tokenizer") as temporary:
            self.parts.tokenizer.save_pretrained(temporary)
        with atomic_path(self.folder.config) as temporary:
            temporary.write_text(json.dumps(to_plain(self.config), indent=2) + "\n")

    @property
    def _time_compression(self) -> int:
        return self.config.models.time_compression

    def refresh_models(self) -> None:
        """Bring the stored settings up to date after latent statistics were measured."""
        self.config = replace(self.config, models=describe_networks(self.config.models, self.parts))
        self._write_settings()

    def source(self) -> ClipSource:
        """Clips to train on, from memory if they are there."""
        if self._pool is not None:
            return PooledSource(self._pool)
        source = training_clips(self.opened(), self.num_clips)
        if mixture := describe_mixture(source):
            self.on_progress(Progress(phase="read clips", done=0, total=0, message=mixture))
        return source

    def opened(self) -> tuple[OpenedSource, ...]:
        """All sources, listed once."""
        if self._opened is None:
            data, seed = self.config.data, self.config.seed
            self._opened = open_sources(data, self.num_clips, seed, self._time_compression, self.on_progress)
        return self._opened

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
        return validation_pool(self.config.data, self.opened(), num_clips, self.config.seed, self.on_progress)

    def bank(self) -> LatentBank:
        """Latents and captions of the training clips on the device, encoded once and kept in the run folder."""
        if self._bank is None:
            self._bank = self._encoded(self.source, {"clips": self.num_clips})
            self._pool = None
        return self._bank

    def bucket_banks(self) -> Mapping[BucketConfig, LatentBank]:
        """Latents and captions of every bucket that has files, as `bank`."""
        if self._buckets is None:
            data = self.config.data
            num_images = data.num_images.on(self.device.type)
            sources = bucket_sources(data, self.num_clips, num_images, self._time_compression, self.on_progress)
            self._buckets = {
                source.bucket: self._encoded(
                    lambda source=source: source,  # type: ignore[misc]
                    {"clips": self.num_clips, "images": num_images, "bucket": source.bucket.name},
                )
                for source in sources
            }
        return self._buckets

    def image_bank(self) -> LatentBank | None:
        """Latents and captions of still pictures, as `bank`; None if the data has none."""
        num_images = self.config.data.num_images.on(self.device.type)
        source = training_images(self.opened(), num_images)
        if source is None:
            return None
        if self._images is None:
            self._images = self._encoded(lambda: source, {"images": num_images})
        return self._images

    def _encoded(self, make_source: Callable[[], ClipSource], identity: Mapping[str, Any]) -> LatentBank:
        # The first rank encodes and writes; the others then read what it wrote.
        with self.parallel.main_first():
            bank = load_or_build_bank(
                self.folder.path / "cache",
                make_source,
                self.parts,
                identity={"data": to_plain(self.config.data), "seed": self.config.seed, **identity},
                max_text_length=self.config.models.text_length,
                use_bf16=self.encode_in_bf16 and not isinstance(self.parts, WanNetworks),
                num_threads=num_threads(self.config.data),
                on_progress=self.on_progress,
                cached=self._cached(),
            )
        return bank.to(self.device)

    def _cached(self) -> SampleCache | None:
        """What `m4v data cache` made, if the settings name it and it holds what they ask for."""
        data = self.config.data
        if data.cache is None:
            return None
        cache = SampleCache.open(Path(data.cache))
        shape = VideoShape(num_frames=data.num_frames, height=data.height, width=data.width)
        cache.check_request(describe_request(shape, data.num_frames, self._time_compression), data.fps)
        return cache

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
