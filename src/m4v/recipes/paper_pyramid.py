"""The paper's training of the pyramid base, stage by stage (Appendix D.1, D.2, C.2); chain them with `--init-from`.

What the paper prints is here as printed: rates, steps, frames, sizes, sources, mixture. What it leaves open is filled
in and said: T2I and optimiser settings are those of Pyramid-Flow's scripts, to which the paper refers; a batch is four
items on each of the GPUs it names, Pyramid-Flow's smallest; sources count in proportion to their sizes.

Data sets are looked for in the folder of `--data`, in folders of the names below, in any layout that `m4v data check`
knows. Networks come from a folder that `m4v convert pyramid-flow` writes.
"""

from dataclasses import replace

from m4v.models.denoiser.config import PRESETS
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.training.config import (
    DataConfig,
    FlowStageConfig,
    ModelsConfig,
    OptimConfig,
    PerDevice,
    RunConfig,
    SamplesConfig,
    SavingConfig,
)
from m4v.training.data_config import SourceConfig
from m4v.training.parallel_config import ParallelConfig
from m4v.training.reward_config import RewardStageConfig

ITEMS_PER_GPU = 4

PROMPTS = (
    "a dog runs along the beach at sunset",
    "a woman walks through a rainy street with an umbrella",
    "clouds move over a mountain lake, time lapse",
)

_IMAGES = SourceConfig(name="images")
_WEBVID = SourceConfig(name="webvid-10m", weight=10)
_OPEN_SORA_PLAN = SourceConfig(name="open-sora-plan-1m")
_OPENVID = SourceConfig(name="openvid-1m")
_ALL = (_IMAGES, _WEBVID, _OPEN_SORA_PLAN, _OPENVID)
# WebVid is left out from 768 rows on, for its quality.
_SHARP = (_IMAGES, _OPEN_SORA_PLAN, _OPENVID)
# About 80,000 videos beside two times a million.
_TUNING = (
    _IMAGES,
    replace(_OPEN_SORA_PLAN, weight=25),
    replace(_OPENVID, weight=25),
    SourceConfig(name="synthetic", weight=2, is_synthetic=True),
)


def models(mixer_plan: str = "full") -> ModelsConfig:
    """The networks of the paper: 8 dual-stream and 16 single-stream blocks, Pyramid-Flow's VAE, CLIP and T5."""
    return ModelsConfig(
        vae=CausalVideoVAEConfig.pyramid_flow(),
        denoiser=replace(PRESETS["pyramid-2b"], mixer_plan=mixer_plan),
        text=TextEncoderConfig(
            model_dim=4096, num_layers=24, num_heads=64, head_dim=64, feed_forward_dim=10_240, max_length=128
        ),
        pooled_text_dim=768,
    )


def optim(lr: float) -> OptimConfig:
    """Pyramid-Flow's optimiser at a rate of the paper: warmed up over 1000 steps, then constant."""
    return OptimConfig(lr=lr, betas=(0.9, 0.95), weight_decay=1e-4, warmup_steps=1000, hold_share=1.0, ema_decay=0.9999)


def every_device(count: int) -> PerDevice:
    """The same count everywhere: sizes of the paper are not meant for CPUs."""
    return PerDevice(cpu=count, accelerator=count)


def batch(num_gpus: int) -> PerDevice:
    """Items per step on so many GPUs."""
    return every_device(ITEMS_PER_GPU * num_gpus)


def _data(sources: tuple[SourceConfig, ...], rows: int, num_frames: int) -> DataConfig:
    return DataConfig(
        source="folder", sources=sources, num_frames=num_frames, height=rows, width=rows * 5 // 3, fps=24.0
    )


def _run(name: str, data: DataConfig, mixer_plan: str = "full") -> RunConfig:
    return RunConfig(
        name=name,
        data=data,
        models=models(mixer_plan),
        samples=SamplesConfig(
            prompts=PROMPTS,
            every_steps=every_device(2000),
            first_steps=20,
            later_steps=10,
            first_guidance=7.0,
            later_guidance=5.0,
        ),
        saving=SavingConfig(checkpoint_minutes=30.0, export_minutes=240.0),
        parallel=ParallelConfig(checkpoint_share=0.75),
        device_graphs=False,
    )


def _t2v(steps: int, lr: float, num_gpus: int) -> FlowStageConfig:
    return FlowStageConfig(
        steps=every_device(steps), batch_size=batch(num_gpus), optim=optim(lr), unit_rule="complement", train_text=False
    )


def attention_base() -> RunConfig:
    """Stage 0: text-to-image, then 57 frames, at 384p with attention in every block, which is then converted."""
    config = _run("paper-attention-base-384p", _data(_ALL, 384, 57), "attention-only")
    t2i = replace(_t2v(20_000, 1e-4, 64), videos_per_window=0)
    return replace(config, init_parts=("vae", "text"), t2i=t2i, t2v=_t2v(40_000, 5e-5, 64))


def convert() -> RunConfig:
    """Stage 0b: adapt the new parameters of a model from m4v convert attention-to-mamba at 384p."""
    return replace(_run("paper-convert-384p", _data(_ALL, 384, 57)), t2v=_t2v(20_000, 1e-4, 64))


def t2i() -> RunConfig:
    """Stage 1: text-to-image at 384p, with Pyramid-Flow's settings."""
    stage = replace(_t2v(20_000, 1e-4, 64), images_per_window=1, videos_per_window=0)
    return replace(_run("paper-t2i-384p", _data((_IMAGES,), 384, 1)), t2i=stage)


def t2v_2s() -> RunConfig:
    """Stage 2: text-to-video of 2 seconds, 57 frames, at 384p."""
    return replace(_run("paper-t2v-57f-384p", _data(_ALL, 384, 57)), t2v=_t2v(40_000, 1e-4, 64))


def t2v_5s() -> RunConfig:
    """Stage 3: text-to-video of 5 seconds, 121 frames, at 384p."""
    return replace(_run("paper-t2v-121f-384p", _data(_ALL, 384, 121)), t2v=_t2v(60_000, 1e-4, 64))


def large_5s() -> RunConfig:
    """Stage 4: 121 frames at 768p, without WebVid."""
    return replace(_run("paper-t2v-121f-768p", _data(_SHARP, 768, 121)), t2v=_t2v(20_000, 5e-5, 128))


def large_10s() -> RunConfig:
    """Stage 4 at its greater length: 241 frames at 768p, without WebVid."""
    return replace(_run("paper-t2v-241f-768p", _data(_SHARP, 768, 241)), t2v=_t2v(20_000, 5e-5, 128))


def quality() -> RunConfig:
    """Stage 5: quality tuning at 768p with about 80,000 synthetic videos beside the real ones."""
    return replace(_run("paper-quality-768p", _data(_TUNING, 768, 241)), t2v=_t2v(30_000, 5e-5, 128))


def reward() -> RunConfig:
    """Stage 6: reward learning at 768p with HPSv2 and CLIP; name their files with --reward.rewards."""
    stage = RewardStageConfig(
        steps=every_device(10_000),
        batch_size=batch(64),
        optim=optim(1e-5),
        unit_rule="complement",
        train_text=False,
        weight=0.1,
        rewards=("hpsv2:models/hpsv2", "clip:models/clip-vit-large-patch14"),
        last_units=8,
    )
    return replace(_run("paper-reward-768p", _data(_TUNING, 768, 241)), reward=stage)


def ablation() -> RunConfig:
    """Tables 3 and 4 (C.2): 121 frames at 384p, 20,000 steps from a converted model; convert it once per variant."""
    return replace(_run("paper-ablation-121f-384p", _data(_ALL, 384, 121)), t2v=_t2v(20_000, 1e-4, 64))
