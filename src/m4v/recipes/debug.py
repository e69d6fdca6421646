"""The smallest run that goes through every stage: seconds on a CPU, for tests and for reading along."""

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
    VaeStageConfig,
)

_OPTIM = OptimConfig(warmup_steps=2)


def debug() -> RunConfig:
    """Autoencoder, text-to-image and text-to-video, a few steps each, on eight toybox clips of nine frames."""
    return RunConfig(
        name="debug",
        data=DataConfig(tier="xs", num_clips=_both(8), num_frames=9, num_threads=1),
        models=ModelsConfig(
            vae=CausalVideoVAEConfig.debug(), denoiser=PRESETS["debug"], text=TextEncoderConfig.debug()
        ),
        vae=VaeStageConfig(
            steps=_both(3), batch_size=_both(2), optim=_OPTIM, num_validation_clips=2, num_statistics_clips=4
        ),
        t2i=FlowStageConfig(
            steps=_both(2), batch_size=_both(4), optim=_OPTIM, images_per_window=1, videos_per_window=0
        ),
        t2v=FlowStageConfig(steps=_both(3), batch_size=_both(4), optim=_OPTIM),
        precision="fp32",
        samples=SamplesConfig(prompts=("a red ball",), every_steps=_both(1000), first_steps=1, later_steps=1),
        saving=SavingConfig(log_every=1),
    )


def _both(count: int) -> PerDevice:
    return PerDevice(cpu=count, accelerator=count)
