"""Settings of a training run, torch-free: what `config.json` in a run folder holds (Appendix D: progressive stages)."""

from dataclasses import dataclass, field
from typing import Literal

from m4v.core.errors import UserError
from m4v.flow.config import FullSequenceFlowConfig, PyramidFlowConfig
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.config import CausalVideoVAEConfig

Precision = Literal["auto", "bf16", "fp32"]
StageName = Literal["vae", "t2i", "t2v"]
STAGE_NAMES: tuple[StageName, ...] = ("vae", "t2i", "t2v")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class PerDevice:
    """A count that differs between a CPU and an accelerator, so that one recipe serves both.

    Attributes:
        cpu: Value on a CPU.
        accelerator: Value on any other device.
    """

    cpu: int
    accelerator: int

    def __post_init__(self) -> None:
        _require(min(self.cpu, self.accelerator) >= 0, f"Counts must be at least 0, not {self}.")

    def on(self, device_type: str) -> int:
        """Return the value for a device type such as `cpu` or `cuda`."""
        return self.cpu if device_type == "cpu" else self.accelerator


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up, a hold, cosine decay and an exponential moving average of the weights.

    Attributes:
        lr: Peak learning rate, above 0.
        betas: Moment decays of AdamW, each in [0, 1).
        eps: Denominator floor of AdamW.
        weight_decay: Decoupled decay of matrices; vectors, biases and state-space A, dt, D are never decayed.
        warmup_steps: Steps of linear growth from 0 to `lr`.
        hold_share: Share of the stage's steps (warm-up included) before the decay starts, in [0, 1].
        final_lr_share: Floor of the cosine decay as a share of `lr`, in [0, 1].
        clip_norm: Largest norm of the whole gradient, above 0.
        ema_decay: Largest decay of the moving average, in [0, 1); warmed up as min(d, (1 + t) / (10 + t)).
    """

    lr: float = 1.5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 200
    hold_share: float = 0.4
    final_lr_share: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"optim.lr is {self.lr}; it must be above 0.")
        _require(all(0 <= beta < 1 for beta in self.betas), f"optim.betas are {self.betas}; each must be in [0, 1).")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}; it must be at least 0.")
        _require(0 <= self.hold_share <= 1, f"optim.hold_share is {self.hold_share}; it must be in [0, 1].")
        _require(0 <= self.final_lr_share <= 1, f"optim.final_lr_share is {self.final_lr_share}; it must be in [0, 1].")
        _require(self.clip_norm > 0, f"optim.clip_norm is {self.clip_norm}; it must be above 0.")
        _require(0 <= self.ema_decay < 1, f"optim.ema_decay is {self.ema_decay}; it must be in [0, 1).")


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
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=8, accelerator=96)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0)
    loss: PixelLossConfig = PixelLossConfig()
    num_validation_clips: int = 64
    num_statistics_clips: int = 1024


@dataclass(frozen=True, kw_only=True)
class FlowStageConfig:
    """A stage that trains the denoiser and the text encoder by pyramid flow matching; 0 steps skip it.

    Attributes:
        steps: Optimiser steps.
        batch_size: Items (one unit at one level) per step; split evenly over the columns.
        optim: Optimiser settings.
        images_per_window: Image batches in every window of the mixture.
        videos_per_window: Video batches in every window; 1 and 8 is the paper's mixture, 1 and 0 is text-to-image.
        columns: Columns per pyramid level, coarsest first; a column has one level, one unit and an equal batch share.
        unit_rule: `uniform` draws the unit of every column independently; `complement` gives the finest level a
            unit and the others its mirror image, which balances sequence lengths (Pyramid-Flow).
        corruption: Largest noise share eta of the history (Appendix A.3), in [0, 1].
        corruption_rule: `linear` grows from the oldest to the newest frame (the paper), `constant` is one level for all
            (Pyramid-Flow).
        text_drop: Share of captions replaced by the empty prompt, for classifier-free guidance.
        history_window: Most history units an item sees; unset means all.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=32, accelerator=1024)
    optim: OptimConfig = OptimConfig()
    images_per_window: int = 1
    videos_per_window: int = 8
    columns: tuple[int, ...] = (1, 2, 1)
    unit_rule: Literal["uniform", "complement"] = "uniform"
    corruption: float = 1 / 3
    corruption_rule: Literal["linear", "constant"] = "linear"
    text_drop: float = 0.1
    history_window: int | None = None

    def __post_init__(self) -> None:
        _check_mixture(self.images_per_window, self.videos_per_window, self.text_drop)
        _require(
            min(self.columns, default=0) >= 0 and sum(self.columns) > 0,
            f"columns is {self.columns}; give a count of at least 0 per level, not all 0.",
        )
        for size in (self.batch_size.cpu, self.batch_size.accelerator):
            _require(
                size > 0 and size % sum(self.columns) == 0,
                f"batch_size is {size}, but it must be a multiple of the {sum(self.columns)} columns.",
            )
        _require(0 <= self.corruption <= 1, f"corruption is {self.corruption}; it must be in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class FullSequenceStageConfig:
    """A stage that trains a denoiser on whole clips, without a pyramid; the text encoder is frozen.

    Attributes:
        steps: Optimiser steps.
        batch_size: Clips per step.
        optim: Optimiser settings; the paper trains Wan2.1 with a rate of 1e-4 at 480p, then 5e-5 at 720p.
        images_per_window: Image batches in every window of the mixture.
        videos_per_window: Video batches in every window.
        text_drop: Share of captions replaced by the empty prompt, for classifier-free guidance.
        flow: Shift and timestep distribution.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=1, accelerator=8)
    optim: OptimConfig = OptimConfig(lr=1e-4)
    images_per_window: int = 1
    videos_per_window: int = 8
    text_drop: float = 0.1
    flow: FullSequenceFlowConfig = field(default_factory=FullSequenceFlowConfig)

    def __post_init__(self) -> None:
        _check_mixture(self.images_per_window, self.videos_per_window, self.text_drop)
        for size in (self.batch_size.cpu, self.batch_size.accelerator):
            _require(size > 0, f"batch_size is {size}; it must be at least 1.")


def _check_mixture(images_per_window: int, videos_per_window: int, text_drop: float) -> None:
    _require(
        min(images_per_window, videos_per_window) >= 0 and images_per_window + videos_per_window > 0,
        f"The mixture is {images_per_window} image and {videos_per_window} video batches; "
        "neither may be negative and one must be above 0.",
    )
    _require(0 <= text_drop <= 1, f"text_drop is {text_drop}; it must be in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and what they are cut to.

    Attributes:
        source: `toybox` renders clips; `folder` reads video files with captions.
        folder: The folder, when `source` is `folder`.
        tier: World size, when `source` is `toybox`.
        split: Combinations used, when `source` is `toybox`.
        num_clips: Distinct clips to draw from; a folder never gives more than it holds.
        num_frames: Frames of a clip; must suit the VAE. 0 takes the initial model's own, as do the next three.
        height: Rows of a frame.
        width: Columns of a frame.
        fps: Frames per second; folder videos are resampled to it.
        num_threads: Threads that render or decode; 0 uses every core.
    """

    source: Literal["toybox", "folder"] = "toybox"
    folder: str | None = None
    tier: str = "xs"
    split: str = "train"
    num_clips: PerDevice = PerDevice(cpu=4096, accelerator=60_000)
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: float = 8.0
    num_threads: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Networks that a run builds when none are loaded.

    Attributes:
        vae: Shape of the autoencoder.
        denoiser: Shape of the denoiser.
        text: Shape of the text encoder.
        flow: Constants of pyramid flow matching.
    """

    vae: CausalVideoVAEConfig = field(default_factory=CausalVideoVAEConfig.toybox_xs)
    denoiser: DenoiserConfig = field(default_factory=lambda: PRESETS["toybox-xs"])
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig.toybox_xs)
    flow: PyramidFlowConfig = field(default_factory=PyramidFlowConfig)

    def __post_init__(self) -> None:
        pairs = (
            (
                "models.denoiser.in_channels",
                self.denoiser.in_channels,
                "models.vae.latent_channels",
                self.vae.latent_channels,
            ),
            ("models.denoiser.text_dim", self.denoiser.text_dim, "models.text.model_dim", self.text.model_dim),
            (
                "models.denoiser.pooled_text_dim",
                self.denoiser.pooled_text_dim,
                "models.text.model_dim",
                self.text.model_dim,
            ),
            ("models.denoiser.num_levels", self.denoiser.num_levels, "models.flow.num_levels", self.flow.num_levels),
        )
        for name, value, other_name, other in pairs:
            _require(value == other, f"{name} is {value}, but {other_name} is {other}; they must be equal.")


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Videos of fixed prompts made while training; the same numbers become the exported model's defaults.

    Attributes:
        prompts: What to sample; none switches sampling off.
        every_steps: Steps between samplings; the end of a stage is always sampled.
        first_steps: Solver steps per level of unit 0.
        later_steps: Solver steps per level of later units.
        first_guidance: Classifier-free guidance scale of unit 0.
        later_guidance: Classifier-free guidance scale of later units.
    """

    prompts: tuple[str, ...] = ()
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
    """

    log_every: int = 50
    checkpoint_minutes: float = 5.0
    export_minutes: float = 15.0
    keep_last: int = 2

    def __post_init__(self) -> None:
        _require(self.log_every > 0, f"saving.log_every is {self.log_every}; it must be at least 1.")
        _require(self.keep_last > 0, f"saving.keep_last is {self.keep_last}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: up to three stages, in this order, sharing data and networks.

    Attributes:
        name: Recipe name; the exported model carries it.
        seed: Every random draw of the run is a function of this and a counter.
        data: Where clips come from.
        models: Networks to build.
        vae: Autoencoder stage.
        t2i: Text-to-image stage.
        t2v: Text-to-video stage.
        precision: `bf16` autocast, plain `fp32`, or `auto`: bf16 on CUDA, and on a CPU for stages it is faster for.
        device_graphs: On CUDA, record each layout's forward and backward once and replay them.
        compile_blocks: Compile the repeated blocks of the denoiser.
        samples: Videos made while training.
        saving: How often to write.
    """

    name: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    vae: VaeStageConfig = field(default_factory=VaeStageConfig)
    t2i: FlowStageConfig = field(default_factory=lambda: FlowStageConfig(images_per_window=1, videos_per_window=0))
    t2v: FlowStageConfig = field(default_factory=FlowStageConfig)
    precision: Precision = "auto"
    device_graphs: bool = True
    compile_blocks: bool = False
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)

    def stage(self, name: StageName) -> VaeStageConfig | FlowStageConfig:
        """Return a stage's settings by name."""
        if name == "vae":
            return self.vae
        return self.t2i if name == "t2i" else self.t2v

    def stages(self, device_type: str) -> tuple[tuple[StageName, int], ...]:
        """Names and step counts of the stages that run on a device type.

        Raises:
            UserError: if no stage has any steps.
        """
        planned = tuple((name, self.stage(name).steps.on(device_type)) for name in STAGE_NAMES)
        planned = tuple((name, steps) for name, steps in planned if steps)
        _require(bool(planned), f"Recipe {self.name} has no stage with steps on {device_type}; set e.g. t2v.steps.")
        return planned
