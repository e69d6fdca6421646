"""Learning rate over a stage: warm-up, hold, cosine decay to a floor."""

import math

from m4v.training.config import OptimConfig


def lr_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of one optimiser step.

    Args:
        step: Step about to be taken, counted from 0.
        num_steps: Steps of the whole stage.
        config: Peak, warm-up, hold and floor.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    decay_start = max(config.warmup_steps, config.hold_share * num_steps)
    if step <= decay_start or num_steps - 1 <= decay_start:
        return config.lr
    progress = min(1.0, (step - decay_start) / (num_steps - 1 - decay_start))
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_share + (1.0 - config.final_lr_share) * share)
