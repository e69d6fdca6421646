"""Fine-tuning a trained model on a folder of one's own videos."""

from dataclasses import replace

from m4v.recipes import toybox_xs
from m4v.training.config import DataConfig, FlowStageConfig, OptimConfig, PerDevice, RunConfig, SamplesConfig


def finetune() -> RunConfig:
    """Text-to-video at a low learning rate; the networks come from `--init-from`, the clips from `--data`.

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
        t2v=FlowStageConfig(
            steps=PerDevice(cpu=1000, accelerator=2000),
            batch_size=PerDevice(cpu=32, accelerator=256),
            optim=OptimConfig(lr=2e-4, warmup_steps=50, hold_share=0.5, ema_decay=0.99),
        ),
        samples=SamplesConfig(every_steps=PerDevice(cpu=250, accelerator=500)),
    )
