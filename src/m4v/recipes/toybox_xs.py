"""The bundled small model: 64 px, 17 frames, one object; hours on two CPU cores, minutes on a data-centre GPU."""

from m4v.models.denoiser.config import PRESETS
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.recipes.single_stage import only
from m4v.training.config import (
    DataConfig,
    FlowStageConfig,
    ModelsConfig,
    OptimConfig,
    PerDevice,
    RunConfig,
    SamplesConfig,
    VaeStageConfig,
)

PROMPTS = (
    "a red ball jumps on the grass",
    "a blue cube stays still on the sand",
    "a green cone slides to the right on the snow",
    "a yellow car drives to the left on the stone",
    "an orange tree stays still on the grass",
    "a purple cylinder slides away on the sand",
)


def chain() -> RunConfig:
    """All stages in one resumable run: autoencoder, text-to-image, text-to-video, export."""
    return RunConfig(
        name="toybox-xs",
        data=DataConfig(
            tier="xs",
            num_clips=PerDevice(cpu=8000, accelerator=32_000),
            num_frames=17,
            height=64,
            width=64,
            fps=8.0,
        ),
        models=ModelsConfig(
            vae=CausalVideoVAEConfig.toybox_xs(),
            denoiser=PRESETS["toybox-xs"],
            text=TextEncoderConfig.toybox_xs(),
        ),
        vae=VaeStageConfig(
            steps=PerDevice(cpu=9000, accelerator=12_000),
            batch_size=PerDevice(cpu=8, accelerator=96),
            optim=OptimConfig(lr=1e-3, weight_decay=0.0, warmup_steps=200, hold_share=0.3, final_lr_share=0.02),
        ),
        t2i=FlowStageConfig(
            steps=PerDevice(cpu=2000, accelerator=1200),
            batch_size=PerDevice(cpu=32, accelerator=512),
            # The next stage goes on from here, so nothing is gained by decaying to the floor.
            optim=OptimConfig(lr=1.5e-3, warmup_steps=200, hold_share=1.0),
            images_per_window=1,
            videos_per_window=0,
        ),
        t2v=FlowStageConfig(
            steps=PerDevice(cpu=24_000, accelerator=4200),
            batch_size=PerDevice(cpu=32, accelerator=512),
            optim=OptimConfig(lr=1.5e-3, warmup_steps=100, hold_share=0.4),
        ),
        samples=SamplesConfig(prompts=PROMPTS, every_steps=PerDevice(cpu=2000, accelerator=2000)),
    )


def vae() -> RunConfig:
    """Only the autoencoder."""
    return only(chain(), "vae", "toybox-xs-vae")


def t2i() -> RunConfig:
    """Only text-to-image; start from a trained autoencoder."""
    return only(chain(), "t2i", "toybox-xs-t2i")


def t2v() -> RunConfig:
    """Only text-to-video; start from a trained text-to-image model."""
    return only(chain(), "t2v", "toybox-xs-t2v")
