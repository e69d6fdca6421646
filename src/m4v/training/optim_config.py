"""Settings every training stage has: counts per kind of device, and the optimiser (torch-free)."""

from dataclasses import dataclass

from m4v.core.errors import UserError


def require(condition: bool, message: str) -> None:
    """Refuse a setting.

    Raises:
        UserError: with the message, if the condition does not hold.
    """
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
        require(min(self.cpu, self.accelerator) >= 0, f"Counts must be at least 0, not {self}.")

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
        require(self.lr > 0, f"optim.lr is {self.lr}; it must be above 0.")
        require(all(0 <= beta < 1 for beta in self.betas), f"optim.betas are {self.betas}; each must be in [0, 1).")
        require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}; it must be at least 0.")
        require(0 <= self.hold_share <= 1, f"optim.hold_share is {self.hold_share}; it must be in [0, 1].")
        require(0 <= self.final_lr_share <= 1, f"optim.final_lr_share is {self.final_lr_share}; it must be in [0, 1].")
        require(self.clip_norm > 0, f"optim.clip_norm is {self.clip_norm}; it must be above 0.")
        require(0 <= self.ema_decay < 1, f"optim.ema_decay is {self.ema_decay}; it must be in [0, 1).")
