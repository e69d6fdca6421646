"""Reward learning on the toybox world: the last stage of the paper's ladder (Sec. 3.4, D.1), at a size that runs."""

from dataclasses import replace

from m4v.recipes.single_stage import only
from m4v.recipes.toybox_xs import chain
from m4v.training.config import RunConfig
from m4v.training.optim_config import OptimConfig, PerDevice
from m4v.training.reward_config import RewardGuardConfig, RewardStageConfig


def reward() -> RunConfig:
    """Reward learning from toybox-xs with the bundled reward models; start from a trained text-to-video model.

    The paper's weight and units; its rate of 1e-5 over 10,000 steps of 64 GPUs is 1e-4 over a few hundred small steps
    here.

    Example:
        m4v train toybox-xs-reward --init-from toybox-xs --run runs/reward
    """
    config = only(chain(), "t2v", "toybox-xs-reward")
    return replace(
        config,
        t2v=replace(config.t2v, steps=PerDevice(cpu=0, accelerator=0)),
        data=replace(config.data, num_clips=PerDevice(cpu=2000, accelerator=16_000)),
        reward=RewardStageConfig(
            steps=PerDevice(cpu=400, accelerator=1000),
            batch_size=PerDevice(cpu=16, accelerator=256),
            rows=PerDevice(cpu=8, accelerator=64),
            optim=OptimConfig(lr=1e-4, warmup_steps=20, hold_share=1.0, ema_decay=0.98),
            guard=RewardGuardConfig(num_samples=PerDevice(cpu=24, accelerator=96)),
        ),
        samples=replace(config.samples, every_steps=PerDevice(cpu=100, accelerator=250)),
        saving=replace(config.saving, log_every=10),
    )
