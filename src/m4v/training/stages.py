"""Running one stage: its objective, and what is due between its steps - looking, saving, exporting."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from m4v.core.config_io import to_plain
from m4v.core.seeds import fold_seed
from m4v.flow.schedule import PyramidSchedule
from m4v.training.bucketed_objective import BucketedObjective, BucketObjective
from m4v.training.config import FlowStageConfig, StageConfig, StageName, VaeStageConfig
from m4v.training.curves import CURVES, write_curves
from m4v.training.data_config import BucketConfig
from m4v.training.exporting import export_model, export_vae, training_facts
from m4v.training.fine_tuning import exports_whole_model, write_lora_vae
from m4v.training.flow_objective import PyramidFlowObjective
from m4v.training.guard import Guard, batch_describer
from m4v.training.latent_bank import LatentBank
from m4v.training.loop import Objective, Periodic, check_finite, run_stage
from m4v.training.metrics import MetricSink
from m4v.training.networks import Networks
from m4v.training.precision import choose_bf16
from m4v.training.resume import ResumePoint
from m4v.training.samples import going_on, write_round_trips, write_samples
from m4v.training.sharding import recompute_activations
from m4v.training.state import TrainState, copy_weights
from m4v.training.vae_objective import VaeObjective, measure_statistics, reconstruction_psnr
from m4v.training.workbench import Workbench

_NUM_CAPTION_PROMPTS = 4


class StageRun(ABC):
    """One stage of a run, from its beginning or from a checkpoint.

    Args:
        bench: Shared parts of the run.
        name: Stage name.
        num_steps: Steps of the whole stage.
        first_global_step: Steps of earlier stages.
        point: Checkpoint of this stage to go on from.
    """

    trains_adapters = True
    """Whether the adapters of a run that has any are what this stage trains."""

    def __init__(
        self,
        bench: Workbench,
        name: StageName,
        stage: StageConfig,
        num_steps: int,
        first_global_step: int,
        point: ResumePoint | None,
    ) -> None:
        self.bench = bench
        self.name = name
        self.num_steps = num_steps
        self.batch_size = stage.batch_size.on(bench.device.type)
        modules = bench.parts.modules
        adapters = bench.parts.trainable if self.trains_adapters else {}
        self.trained = adapters or self.trained_parts()
        # A base under adapters, or with parts of its own, is named by checkpoints instead of being repeated in them.
        is_named = bool(bench.parts.trainable) or bench.parts.base is not None
        # An autoencoder that an earlier stage trained is no longer the base's.
        kept = {"vae"} & bench.stage_facts.keys() if is_named else modules.keys()
        self.frozen = {key: value for key, value in modules.items() if key in kept and key not in self.trained}
        for module in modules.values():
            module.requires_grad_(False).train(False)
        for module in self.trained.values():
            module.requires_grad_(True).train(True)
        optim = replace(stage.optim, lr=bench.config.lora.lr) if adapters else stage.optim
        if adapters or "transformer" in self.trained:
            recompute_activations(modules["transformer"], bench.config.parallel.checkpoint_share)
        if not adapters:
            bench.sharded.add(self.trained, in_bf16=bench.gather_in_bf16)
        if adapters or "transformer" in self.trained:
            bench.sharded.share_sequences(modules["transformer"])
        self.state = TrainState(self.trained, optim, first_global_step, bench.sharded)
        self.state.guard = Guard(
            bench.config.guard,
            bench.device,
            folder=bench.folder.path,
            stage=name,
            describe=batch_describer(bench.parts.tokenizer),
        )
        if point is not None:
            copy_weights(self.frozen, point.tensors.get("frozen", {}))
            self.state.load(point.tensors, point.metadata)
        # A timed choice must not change on resuming, or the run would not go on bit for bit.
        self.use_bf16 = None if point is None else point.metadata["use_bf16"].get(bench.device.type)

    @abstractmethod
    def trained_parts(self) -> Mapping[str, nn.Module]:
        """Pick the networks that this stage trains."""

    @abstractmethod
    def prepare(self) -> None:
        """Load what the objective needs; called only if steps are left."""

    @abstractmethod
    def make_objective(self, use_bf16: bool) -> Objective:
        """Make the objective, with the forward pass in bf16 or not."""

    @abstractmethod
    def look(self, folder: Path) -> dict[str, float]:
        """Make samples with the averaged weights and measure what is cheap to measure."""

    @abstractmethod
    def write_export(self) -> None:
        """Write the export folder with the averaged weights."""

    @abstractmethod
    def complete(self) -> None:
        """Do what belongs to the end of the stage; the averaged weights are in place."""

    def run(self, sink: MetricSink) -> str | None:
        """Train what is left; afterwards the networks hold the averaged weights if the stage is complete.

        Returns:
            The reason for stopping early, or None.
        """
        bench, state = self.bench, self.state
        if state.step >= self.num_steps:
            state.ema.copy_to_parameters()
            if not bench.parallel.from_main(bench.folder.export.is_dir()):
                with bench.sharded.whole(bench.parts) as is_here:
                    if is_here:
                        self.write_export()
            return None
        self.prepare()
        if self.use_bf16 is None:
            self.use_bf16 = choose_bf16(
                bench.config.precision, bench.device, self.make_objective, bench.parallel.from_main
            )
        objective = self.make_objective(self.use_bf16)
        saving = bench.config.saving

        def save() -> None:
            check_finite(objective, state, bench.folder.path)
            self.save()

        reason = run_stage(
            objective,
            state,
            name=self.name,
            num_steps=self.num_steps,
            log_every=saving.log_every,
            run_dir=bench.folder.path,
            sink=sink,
            stop=bench.stop,
            periodic=[
                Periodic(
                    lambda: self.look_and_log(sink), every_steps=bench.config.samples.every_steps.on(bench.device.type)
                ),
                Periodic(save, every_seconds=60.0 * saving.checkpoint_minutes),
                Periodic(bench.saver.poll, every_steps=1),
                Periodic(self.export, every_seconds=60.0 * saving.export_minutes),
            ],
            on_progress=bench.on_progress,
        )
        if reason is None:
            with state.ema.averaged():
                self.complete()
            if state.step % bench.config.samples.every_steps.on(bench.device.type):
                self.look_and_log(sink)
        self.save()
        bench.saver.finish()
        self.export()
        if reason is None:
            state.ema.copy_to_parameters()
        return reason

    def look_and_log(self, sink: MetricSink) -> None:
        """Look, and log what was measured."""
        folder = self.bench.folder.samples / f"step-{self.state.global_step:08d}"
        values: dict[str, float] = {}
        with self.state.ema.averaged(), self.bench.sharded.whole(self.bench.parts) as is_here:
            if is_here:
                folder.mkdir(parents=True, exist_ok=True)
                with going_on("samples"):
                    values = self.look(folder)
                with going_on("curves"):
                    write_curves(self.bench.folder.metrics, self.bench.folder.path / CURVES)
        if values:
            sink.write(self.state.global_step, {"stage": self.name, **values})
            self.bench.note_stage(self.name, {**self.bench.stage_facts.get(self.name, {}), **values})

    def save(self) -> None:
        """Write a checkpoint and delete old ones."""
        bench = self.bench
        self._note_counters()
        frozen = {
            f"{name}/{key}": value.detach()
            for name, module in self.frozen.items()
            for key, value in module.named_parameters()
        }
        metadata: dict[str, Any] = {
            "stage": self.name,
            **self.state.counters(),
            "stages": bench.stage_facts,
            "use_bf16": {} if self.use_bf16 is None else {bench.device.type: self.use_bf16},
            "config": to_plain(bench.config),
            "starts_whole": bench.starts_whole,
        }
        bench.saver.save(self.state.global_step, {**self.state.tensors(), "frozen": frozen}, metadata)

    def export(self) -> None:
        """Write the export folder."""
        self._note_counters()
        with self.state.ema.averaged(), self.bench.sharded.whole(self.bench.parts) as is_here:
            if is_here:
                self.write_export()

    def _note_counters(self) -> None:
        counters = self.state.counters()
        facts = {"steps": counters["stage_step"], "items": counters["items"], "seconds": round(counters["seconds"], 1)}
        self.bench.note_stage(self.name, {**self.bench.stage_facts.get(self.name, {}), **facts})


class VaeStageRun(StageRun):
    """Trains the autoencoder; at the end its latent statistics are measured and stored in its configuration."""

    trains_adapters = False

    @property
    def stage(self) -> VaeStageConfig:
        """Settings."""
        return self.bench.config.vae

    def trained_parts(self) -> Mapping[str, nn.Module]:
        """Pick the autoencoder."""
        return {"vae": self.bench.parts.vae}

    def prepare(self) -> None:
        """Hold the clips on the device, or in main memory if they are too many."""
        self.validation = self.bench.validation(self.stage.num_validation_clips)
        pool = self.bench.pool()
        self.clips = pool.to(self.bench.device) if pool.fits(self.bench.device) else pool

    def make_objective(self, use_bf16: bool) -> Objective:
        """Reconstruct the clips."""
        return VaeObjective(
            self.bench.parts.vae,
            self.clips,
            self.stage,
            batch_size=self.batch_size,
            seed=self.bench.config.seed,
            use_bf16=use_bf16,
            share=self.bench.parallel.share,
        )

    def look(self, folder: Path) -> dict[str, float]:
        """Round trips of validation clips."""
        if self.validation is None:
            return {}
        write_round_trips(folder, self.bench.parts.vae, self.validation)
        measured = reconstruction_psnr(self.bench.parts.vae, self.validation)
        return {f"validation/{name}": value for name, value in measured.items()}

    def complete(self) -> None:
        """Measure and store latent statistics."""
        vae, num_clips = self.bench.parts.vae, self.stage.num_statistics_clips
        statistics = measure_statistics(vae, self.bench.pool(), num_clips, use_bf16=self.bench.encode_in_bf16)
        vae.set_latent_statistics(statistics)
        self.bench.refresh_models()

    def write_export(self) -> None:
        """Write only the autoencoder, unless the run began with a whole model."""
        bench = self.bench
        if not (bench.starts_whole and isinstance(bench.parts, Networks)):
            export_vae(bench.folder.export, bench.parts)
            return
        facts = training_facts(bench.config, bench.networks, bench.stage_facts, bench.device)
        export_model(bench.folder.export, bench.config, bench.networks, facts)


class FlowStageRun(StageRun):
    """Trains the denoiser, and the text encoder where settings say so, on images or on images and videos."""

    @property
    def stage(self) -> FlowStageConfig:
        """Settings."""
        stage = self.bench.config.stage(self.name)
        assert isinstance(stage, FlowStageConfig)
        return stage

    def trained_parts(self) -> Mapping[str, nn.Module]:
        """Pick what `choose_trained` picks from the networks of the pyramid base."""
        return self.choose_trained(self.bench.networks)

    def choose_trained(self, networks: Networks) -> Mapping[str, nn.Module]:
        """Pick the denoiser, and the text encoder if it is to be trained and can be."""
        trained: dict[str, nn.Module] = {"transformer": networks.transformer}
        has_own_text = networks.pooled_encoder is not None
        return (
            trained if has_own_text or not self.stage.train_text else trained | {"text_encoder": networks.text_encoder}
        )

    def prepare(self) -> None:
        """Hold latents and captions on the device."""
        self.prompts = self.bench.config.samples.prompts or self.bench.some_captions(_NUM_CAPTION_PROMPTS)
        self.buckets: Mapping[BucketConfig, LatentBank] = {}
        self.images: LatentBank | None = None
        if self.bench.config.data.buckets:
            self.buckets = self.bench.bucket_banks()
            self.bank = self.buckets[self.bench.config.data.main_bucket]
        else:
            self.images = self.bench.image_bank() if self.stage.images_per_window else None
            is_image_only = self.images is not None and not self.stage.videos_per_window
            self.bank = self.images if self.images is not None and is_image_only else self.bench.bank()
        if self.bench.config.compile_blocks:
            network: Any = self.bench.networks.transformer
            network.compile_repeated_blocks(dynamic=True)

    def make_objective(self, use_bf16: bool) -> Objective:
        """Match flows on the bank, or on those of all buckets."""
        stage, seed = self.stage, self.bench.config.seed
        if not self.buckets:
            return self._on_bank(self.bank, stage, self.batch_size, seed, use_bf16)
        has_pictures = any(bucket.is_image for bucket in self.buckets)
        parts = []
        for bucket, bank in self.buckets.items():
            # Where there are no still pictures, first frames of clips are the images.
            kinds = {"image": bucket.is_image or not has_pictures, "video": not bucket.is_image}
            shares = {"image": stage.images_per_window, "video": stage.videos_per_window}
            size = bucket.batch_size(self.batch_size, sum(stage.columns))
            for kind in (kind for kind, is_served in kinds.items() if is_served and shares[kind]):
                own = replace(stage, images_per_window=int(kind == "image"), videos_per_window=int(kind == "video"))
                own_seed = fold_seed(seed, "bucket", bucket.name, kind)
                objective = self._on_bank(bank, own, size, own_seed, use_bf16)
                parts.append(BucketObjective(bucket.name, kind, objective, math.ceil(len(bank) / size)))
        return BucketedObjective(
            parts,
            images_per_window=stage.images_per_window,
            videos_per_window=stage.videos_per_window,
            seed=fold_seed(seed, self.name),
        )

    def _on_bank(
        self, bank: LatentBank, stage: FlowStageConfig, batch_size: int, seed: int, use_bf16: bool
    ) -> PyramidFlowObjective:
        networks = self.bench.networks
        return PyramidFlowObjective(
            networks.transformer,
            networks.text_encoder,
            bank,
            PyramidSchedule.from_config(self.bench.config.models.flow),
            stage,
            stage=self.name,
            batch_size=batch_size,
            seed=seed,
            use_bf16=use_bf16,
            # Graphs of many shapes would take more memory than the time is worth.
            use_graphs=self.bench.can_record_graphs and not self.buckets,
            share=self.bench.parallel.share,
            images=self.images,
            pooled_encoder=None if networks.pooled_encoder is None else networks.pooled_encoder.encoder,
        )

    def look(self, folder: Path) -> dict[str, float]:
        """Sample the fixed prompts; single pictures while only images are trained."""
        num_frames = self.bench.config.data.num_frames if self.stage.videos_per_window else 1
        first = self.bank.latents[:1, :, :1]
        write_samples(
            folder, self.bench.config, self.bench.networks, self.prompts, num_frames=num_frames, first_latents=first
        )
        return {}

    def complete(self) -> None:
        """Nothing is measured at the end of this stage."""

    def write_export(self) -> None:
        """Write a whole model folder."""
        bench = self.bench
        facts = training_facts(bench.config, bench.networks, bench.stage_facts, bench.device)
        if bench.networks.trainable and "vae" in bench.stage_facts:
            write_lora_vae(bench.folder.path, bench.networks.vae)
        if exports_whole_model(bench.folder.path, bench.networks, bench.config.lora):
            export_model(bench.folder.export, bench.config, bench.networks, facts)


def make_stage(
    bench: Workbench, name: StageName, num_steps: int, first_global_step: int, point: ResumePoint | None
) -> StageRun:
    """Make a stage by its name."""
    return _stage_kind(name)(bench, name, bench.config.stage(name), num_steps, first_global_step, point)


def _stage_kind(name: StageName) -> type[StageRun]:
    """Class of a stage; those that few runs have are imported when one has them."""
    if name == "vae":
        return VaeStageRun
    if name == "match":
        from m4v.training.matching_stage import MatchStageRun

        return MatchStageRun
    if name == "clips":
        from m4v.training.clips_stage import ClipsStageRun

        return ClipsStageRun
    if name == "reward":
        from m4v.training.reward_stage import RewardStageRun

        return RewardStageRun
    return FlowStageRun
