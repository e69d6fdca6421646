"""Settings of the reward stage (torch-free; Sec. 3.4, Eq. 6, Appendix D.1)."""

from dataclasses import dataclass, field
from typing import Literal

from m4v.training.flow_config import FlowStageConfig
from m4v.training.optim_config import OptimConfig, PerDevice, require

BUNDLED_REWARDS = ("toybox-clip", "toybox-quality")
"""Reward models inside the package; the others are named `clip:FOLDER_OR_FILE` and `hpsv2:FOLDER_OR_FILE`."""
STORED_REWARDS = ("clip", "hpsv2")


@dataclass(frozen=True, kw_only=True)
class RewardGuardConfig:
    """Watch against reward hacking: a few videos are made and judged by something that is not optimised.

    It looks when samples are made (`samples.every_steps`): before the first step, between steps, at the end.

    Attributes:
        num_samples: Videos per look, with the same prompts and seeds each time; 0 never looks.
        prompts: What is made; none takes the toybox world's evaluation prompts (`oracle` toybox), else the prompts of
            the samples.
        oracle: `toybox` compares colour, object and motion with the prompt by rules, where all data are of the
            toybox; `none` leaves it to `held_out`.
        held_out: Reward models that are logged as oracles and never trained on.
        margin: How far the mean oracle may fall below the stage's start while the mean reward is above its own.
        on_hacking: `warn` logs a warning, `stop` also ends the run with a checkpoint.
    """

    num_samples: PerDevice = PerDevice(cpu=12, accelerator=48)
    prompts: tuple[str, ...] = ()
    oracle: Literal["toybox", "none"] = "toybox"
    held_out: tuple[str, ...] = ()
    margin: float = 0.15
    on_hacking: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        require(self.margin > 0, f"reward.guard.margin is {self.margin}; it must be above 0.")
        for spec in self.held_out:
            check_reward_name(spec)


@dataclass(frozen=True, kw_only=True)
class RewardStageConfig(FlowStageConfig):
    """A stage that adds reward learning to flow matching: loss = flow + `weight` x (- r1 - r2 ...); 0 steps skip it.

    Attributes:
        weight: Of the reward loss; 0 trains exactly as the flow stage does.
        rewards: Reward models: `toybox-clip`, `toybox-quality`, `clip:PATH`, `hpsv2:PATH`; each is frozen.
        reward_weights: One factor per reward; none means 1 each, as printed.
        rows: Clips per step that are decoded and scored; they are drawn beside the rows of the flow loss.
        last_units: The unit that is scored is drawn among so many last ones of the clip (the paper: 8).
        levels: `last` scores full-size latents only; `any` draws a level, whose estimate is as small as its latents.
        decoded_frames: Frames of the unit that scorers of single frames see; scorers of clips see all, and the
            history before them.
        context_units: History units that are decoded before the scored one, without gradient; unset means all, which
            is exact. Fewer are cheaper, but the autoencoder then takes the first of them for a video's first.
        guard: Watch against reward hacking.
    """

    optim: OptimConfig = OptimConfig(lr=1e-5, warmup_steps=50, hold_share=1.0)
    weight: float = 0.1
    rewards: tuple[str, ...] = BUNDLED_REWARDS
    reward_weights: tuple[float, ...] = ()
    rows: PerDevice = PerDevice(cpu=8, accelerator=64)
    last_units: int = 8
    levels: Literal["last", "any"] = "last"
    decoded_frames: int = 2
    context_units: int | None = None
    guard: RewardGuardConfig = field(default_factory=RewardGuardConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight >= 0, f"reward.weight is {self.weight}; it must be at least 0.")
        require(
            bool(self.rewards) or self.weight == 0, "reward.rewards is empty; name a reward, or set reward.weight to 0."
        )
        for spec in self.rewards:
            check_reward_name(spec)
        require(len(set(self.rewards)) == len(self.rewards), f"reward.rewards names one twice: {self.rewards}.")
        require(
            not self.reward_weights or len(self.reward_weights) == len(self.rewards),
            f"reward.reward_weights has {len(self.reward_weights)} entries for {len(self.rewards)} rewards.",
        )
        for name, value in (("last_units", self.last_units), ("decoded_frames", self.decoded_frames)):
            require(value >= 1, f"reward.{name} is {value}; it must be at least 1.")
        require(min(self.rows.cpu, self.rows.accelerator) >= 1, f"reward.rows is {self.rows}; it must be at least 1.")
        require(
            self.context_units is None or self.context_units >= 0,
            f"reward.context_units is {self.context_units}; it must be at least 0, or unset.",
        )

    @property
    def factors(self) -> tuple[float, ...]:
        """Factor of every reward in the reward loss."""
        return self.reward_weights or (1.0,) * len(self.rewards)


def check_reward_name(spec: str) -> None:
    """Refuse the name of a reward that does not exist.

    Raises:
        UserError: naming what is expected.
    """
    kind, _, path = spec.partition(":")
    stored = " or ".join(f"{name}:PATH" for name in STORED_REWARDS)
    require(
        spec in BUNDLED_REWARDS or (kind in STORED_REWARDS and bool(path)),
        f"There is no reward {spec!r}; expected {', '.join(BUNDLED_REWARDS)}, or {stored} for models in local files.",
    )
