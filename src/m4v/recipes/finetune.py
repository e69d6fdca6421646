"""Fine-tuning a trained model on a folder of one's own videos."""

from dataclasses import replace

from m4v.recipes import toybox_xs
from m4v.training.config import (
    DataConfig,
    FlowStageConfig,
    OptimConfig,
    PerDevice,
    PixelLossConfig,
    RunConfig,
    SamplesConfig,
    VaeStageConfig,
)


def finetune() -> RunConfig:
    """Autoencoder, unless it already suits the clips, then text-to-video; start with `--init-from`, clips by `--data`.

    LoRA applies to text-to-video; the autoencoder is trained as a whole.

    Example:
        m4v train finetune --data my_videos --init-from toybox-xs --run runs/mine
    """
    return replace(
        toybox_xs.t2v(),
        name="finetune",
        # The initial model's own size, length and frame rate.
        data=DataConfig(
            source="folder", num_clips=PerDevice(cpu=2000, accelerator=20_000), num_frames=0, height=0, width=0, fps=0.0
        ),
        vae=VaeStageConfig(
            steps=PerDevice(cpu=200, accelerator=1000),
            batch_size=PerDevice(cpu=8, accelerator=64),
            optim=OptimConfig(lr=1e-3, weight_decay=0.0, warmup_steps=20, hold_share=0.3, ema_decay=0.95),
            # Edges everywhere: real footage has no foreground that stands out as the toybox's does.
            loss=PixelLossConfig(focus=0.0),
            good_psnr=26.0,
        ),
        t2v=FlowStageConfig(
            steps=PerDevice(cpu=300, accelerator=2000),
            batch_size=PerDevice(cpu=16, accelerator=256),
            optim=OptimConfig(lr=2e-4, warmup_steps=50, hold_share=0.5, ema_decay=0.99),
        ),
        samples=SamplesConfig(every_steps=PerDevice(cpu=150, accelerator=500)),
    )
