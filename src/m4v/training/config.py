"""Settings of a training run, torch-free: what `config.json` in a run folder holds (Appendix D: progressive stages)."""

from dataclasses import dataclass, field
from typing import Literal

from m4v.flow.config import FullSequenceFlowConfig
from m4v.training.data_config import DataConfig as DataConfig
from m4v.training.flow_config import FlowStageConfig as FlowStageConfig
from m4v.training.flow_config import check_mixture
from m4v.training.guard_config import GuardConfig
from m4v.training.lora_config import LoraConfig
from m4v.training.matching_config import MatchStageConfig
from m4v.training.models_config import ModelsConfig as ModelsConfig
from m4v.training.optim_config import OptimConfig as OptimConfig
from m4v.training.optim_config import PerDevice as PerDevice
from m4v.training.optim_config import require as _require
from m4v.training.parallel_config import ParallelConfig
from m4v.training.reward_config import RewardStageConfig

Tracker = Literal["tensorboard", "wandb", "trackio"]
Precision = Literal["auto", "bf16", "fp32"]
InitPart = Literal["vae", "text", "transformer"]
StageName = Literal["vae", "t2i", "match", "t2v", "clips", "reward"]
STAGE_NAMES: tuple[StageName, ...] = ("vae", "t2i", "match", "t2v", "clips", "reward")


@dataclass(frozen=True, kw_only=True)
class PixelLossConfig:
    """Reconstruction loss of the VAE.

    Attributes:
        l1_weight: Weight of the absolute error.
        mse_weight: Weight of the squared error.
        focus: How much more salient pixels (edges, movers, things unlike their row) count; 0 weighs all alike.
        kl_weight: Weight of the divergence of the posterior from a unit Gaussian; tiny, only to keep latents bounded.
    """

    l1_weight: float = 0.2
    mse_weight: float = 1.0
    focus: float = 4.0
    kl_weight: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class VaeStageConfig:
    """The stage that trains the video autoencoder; 0 steps skip it.

    Attributes:
        steps: Optimiser steps.
        batch_size: Clips per step.
        optim: Optimiser settings.
        loss: Reconstruction loss settings.
        num_validation_clips: Clips, never trained on, that PSNR is measured on.
        num_statistics_clips: Clips that the latent mean and deviation are measured on at the end.
        good_psnr: A run that starts from a whole model skips this stage if the model's round trips of the clips reach
            this many dB; 0 never skips.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=8, accelerator=96)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0)
    loss: PixelLossConfig = PixelLossConfig()
    num_validation_clips: int = 64
    num_statistics_clips: int = 1024
    good_psnr: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FullSequenceStageConfig:
    """A stage that trains a denoiser on whole clips, without a pyramid (Wan base).

    Attributes:
        steps: Optimiser steps.
        batch_size: Clips per step.
        optim: Optimiser settings; the paper trains Wan2.1 with a rate of 1e-4 at 480p, then 5e-5 at 720p.
        images_per_window: Image batches in every window of the mixture.
        videos_per_window: Video batches in every window.
        text_drop: Share of captions replaced by the empty prompt, for classifier-free guidance.
        train_text: Train the text encoder too; only for small models built by a recipe, never for released weights.
        flow: Shift and timestep distribution.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=1, accelerator=8)
    optim: OptimConfig = OptimConfig(lr=1e-4)
    images_per_window: int = 1
    videos_per_window: int = 8
    text_drop: float = 0.1
    train_text: bool = False
    flow: FullSequenceFlowConfig = field(default_factory=FullSequenceFlowConfig)

    def __post_init__(self) -> None:
        check_mixture(self.images_per_window, self.videos_per_window, self.text_drop)
        for size in (self.batch_size.cpu, self.batch_size.accelerator):
            _require(size > 0, f"batch_size is {size}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Videos of fixed prompts made while training; the same numbers become the exported model's defaults.

    Attributes:
        prompts: What to sample; none means captions of the data. A video without prompt and one with its first frame
            given are always added.
        file: JSON file with more: objects with `caption`, and as wished `image_path`, `video_path`,
            `num_inference_steps`, `height`, `width`, `num_frames`, `frame_rate`, `seed`.
        every_steps: Steps between samplings; the end of a stage is always sampled.
        first_steps: Solver steps per level of unit 0.
        later_steps: Solver steps per level of later units.
        first_guidance: Classifier-free guidance scale of unit 0.
        later_guidance: Classifier-free guidance scale of later units.
    """

    prompts: tuple[str, ...] = ()
    file: str | None = None
    every_steps: PerDevice = PerDevice(cpu=1000, accelerator=2000)
    first_steps: int = 4
    later_steps: int = 3
    first_guidance: float = 4.0
    later_guidance: float = 4.0


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """How often a run writes.

    Attributes:
        log_every: Steps between metric lines; also how late a NaN may be noticed.
        checkpoint_minutes: Minutes between checkpoints; stage ends and stops always write one.
        export_minutes: Minutes between exports of the averaged weights.
        keep_last: Checkpoints kept.
        keep_every: Checkpoints of steps divisible by this are kept for good; 0 means none.
        trackers: Where numbers go beside `metrics.jsonl`: `tensorboard` (passed over if not installed), `wandb`,
            `trackio`.
    """

    log_every: int = 50
    checkpoint_minutes: float = 5.0
    export_minutes: float = 15.0
    keep_last: int = 2
    keep_every: int = 0
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        _require(self.log_every > 0, f"saving.log_every is {self.log_every}; it must be at least 1.")
        _require(self.keep_every >= 0, f"saving.keep_every is {self.keep_every}; it must be at least 0.")
        _require(self.keep_last > 0, f"saving.keep_last is {self.keep_last}; it must be at least 1.")


StageConfig = VaeStageConfig | FlowStageConfig | MatchStageConfig | FullSequenceStageConfig | RewardStageConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: some of the stages, in the order of `STAGE_NAMES`, sharing data and networks.

    Attributes:
        name: Recipe name; the exported model carries it.
        seed: Every random draw of the run is a function of this and a counter.
        data: Where clips come from.
        models: Networks to build.
        init_parts: What is taken from the folder of `--init-from`; other parts are built anew.
        vae: Autoencoder stage.
        t2i: Text-to-image stage.
        match: Stage that fits converted layers to the attention they replace, before they are trained as a whole.
        t2v: Text-to-video stage.
        clips: Whole-clip stage of the Wan base.
        reward: Stage that adds reward learning to flow matching.
        lora: Adapters that are trained instead of all weights.
        precision: `bf16` autocast, plain `fp32`, or `auto`: bf16 on CUDA, and on a CPU for stages it is faster for.
        device_graphs: On CUDA, record each layout's forward and backward once and replay them.
        compile_blocks: Compile the repeated blocks of the denoiser.
        samples: Videos made while training.
        saving: How often to write.
        parallel: How work and memory are spread over devices.
        guard: What is done about losses that leave their usual range.
    """

    name: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    init_parts: tuple[InitPart, ...] = ("vae", "text", "transformer")
    vae: VaeStageConfig = field(default_factory=VaeStageConfig)
    t2i: FlowStageConfig = field(default_factory=lambda: FlowStageConfig(images_per_window=1, videos_per_window=0))
    match: MatchStageConfig = field(default_factory=MatchStageConfig)
    t2v: FlowStageConfig = field(default_factory=FlowStageConfig)
    clips: FullSequenceStageConfig = field(default_factory=FullSequenceStageConfig)
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    precision: Precision = "auto"
    device_graphs: bool = True
    compile_blocks: bool = False
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    def stage(self, name: StageName) -> StageConfig:
        """Return a stage's settings by name."""
        stage: StageConfig = getattr(self, name)
        return stage

    def stages(self, device_type: str) -> tuple[tuple[StageName, int], ...]:
        """Names and step counts of the stages that run on a device type.

        Raises:
            UserError: if no stage has any steps.
        """
        planned = tuple((name, self.stage(name).steps.on(device_type)) for name in STAGE_NAMES)
        planned = tuple((name, steps) for name, steps in planned if steps)
        _require(bool(planned), f"Recipe {self.name} has no stage with steps on {device_type}; set e.g. t2v.steps.")
        return planned
