"""The larger toybox model: 128 px, 33 frames, the whole world; about half an hour on one data-centre GPU."""

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
    "a red car drives to the right on the grass",
    "a white duck jumps on the snow",
    "a small blue ball circles around a large yellow house",
    "a striped orange rocket spins on the sand at sunset",
    "a pink robot sways on a checkered floor",
    "a white boat slides to the left on still water at night",
)


def chain() -> RunConfig:
    """All stages in one resumable run: autoencoder, text-to-image, text-to-video, export."""
    return RunConfig(
        name="toybox-m",
        data=DataConfig(
            tier="m",
            num_clips=PerDevice(cpu=2000, accelerator=24_000),
            num_frames=33,
            height=128,
            width=128,
            fps=12.0,
        ),
        models=ModelsConfig(
            vae=CausalVideoVAEConfig.toybox_m(),
            denoiser=PRESETS["toybox-m"],
            text=TextEncoderConfig.toybox_m(),
        ),
        vae=VaeStageConfig(
            steps=PerDevice(cpu=9000, accelerator=9000),
            batch_size=PerDevice(cpu=2, accelerator=24),
            optim=OptimConfig(lr=1e-3, weight_decay=0.0, warmup_steps=200, hold_share=0.3, final_lr_share=0.02),
        ),
        t2i=FlowStageConfig(
            steps=PerDevice(cpu=4000, accelerator=2000),
            batch_size=PerDevice(cpu=16, accelerator=1024),
            optim=OptimConfig(lr=1.2e-3, warmup_steps=300, hold_share=1.0),
            images_per_window=1,
            videos_per_window=0,
        ),
        t2v=FlowStageConfig(
            steps=PerDevice(cpu=40_000, accelerator=12_000),
            batch_size=PerDevice(cpu=16, accelerator=512),
            optim=OptimConfig(lr=1.2e-3, warmup_steps=100, hold_share=0.4),
        ),
        samples=SamplesConfig(prompts=PROMPTS, every_steps=PerDevice(cpu=4000, accelerator=3000)),
    )


def vae() -> RunConfig:
    """Only the autoencoder."""
    return only(chain(), "vae", "toybox-m-vae")


def t2i() -> RunConfig:
    """Only text-to-image; start from a trained autoencoder."""
    return only(chain(), "t2i", "toybox-m-t2i")


def t2v() -> RunConfig:
    """Only text-to-video; start from a trained text-to-image model."""
    return only(chain(), "t2v", "toybox-m-t2v")
