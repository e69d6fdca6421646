"""The paper's training of the Wan2.1 base (Sec. 4.1): whole clips, no pyramid, all self-attention replaced.

Networks come from `m4v convert wan` and `m4v convert attention-to-mamba`. The paper gives rates, steps and GPUs; a
batch is one clip on each. It shards with DeepSpeed ZeRO-3, which FSDP2 does here.
"""

from dataclasses import replace

from m4v.flow.config import FullSequenceFlowConfig
from m4v.models.denoiser import wan_config
from m4v.models.text.config import TextEncoderConfig
from m4v.recipes.paper_pyramid import PROMPTS, every_device, optim
from m4v.training.config import (
    DataConfig,
    FullSequenceStageConfig,
    ModelsConfig,
    RunConfig,
    SamplesConfig,
    SavingConfig,
)
from m4v.training.data_config import SourceConfig
from m4v.training.models_config import WanModelsConfig, WanVaeConfig
from m4v.training.parallel_config import ParallelConfig

_NUM_GPUS = 128
_SOURCES = (
    SourceConfig(name="images"),
    SourceConfig(name="webvid-10m", weight=10),
    SourceConfig(name="open-sora-plan-1m"),
    SourceConfig(name="openvid-1m"),
)


def models() -> ModelsConfig:
    """Wan2.1 1.3B with a state-space mixer in every layer."""
    return ModelsConfig(
        base="wan",
        wan=WanModelsConfig(
            vae=WanVaeConfig(base_dim=96, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=2),
            denoiser=replace(wan_config.PRESETS["wan-1.3b"], mixer_plan="full"),
            text=TextEncoderConfig(
                model_dim=4096, num_layers=24, num_heads=64, head_dim=64, feed_forward_dim=10_240, max_length=512
            ),
            text_length=512,
        ),
    )


def _run(name: str, rows: int, columns: int, steps: int, lr: float, shift: float) -> RunConfig:
    # As on the pyramid base, WebVid is left out of the larger size for its quality.
    sources = _SOURCES if rows < 720 else tuple(source for source in _SOURCES if source.name != "webvid-10m")
    return RunConfig(
        name=name,
        data=DataConfig(source="folder", sources=sources, num_frames=81, height=rows, width=columns, fps=16.0),
        models=models(),
        clips=FullSequenceStageConfig(
            steps=every_device(steps),
            batch_size=every_device(_NUM_GPUS),
            optim=optim(lr),
            flow=FullSequenceFlowConfig(shift=shift),
        ),
        samples=SamplesConfig(prompts=PROMPTS, every_steps=every_device(2000), first_steps=50, first_guidance=6.0),
        saving=SavingConfig(checkpoint_minutes=30.0, export_minutes=240.0),
        parallel=ParallelConfig(checkpoint_share=1.0),
        device_graphs=False,
    )


def wan_480p() -> RunConfig:
    """Wan2.1 with state-space mixers: images and 81 frames at 480p."""
    return _run("paper-wan-480p", 480, 832, 60_000, 1e-4, 3.0)


def wan_720p() -> RunConfig:
    """Wan2.1 with state-space mixers: images and 81 frames at 720p."""
    return _run("paper-wan-720p", 720, 1280, 35_000, 5e-5, 5.0)
