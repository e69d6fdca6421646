"""Settings of the stage that fits new mixers to an attention teacher, layer by layer (torch-free; Appendix D.2)."""

from dataclasses import dataclass
from typing import Literal

from m4v.training.flow_config import FlowStageConfig
from m4v.training.optim_config import OptimConfig, PerDevice

MatchPart = Literal["mixer", "block"]


@dataclass(frozen=True, kw_only=True)
class MatchStageConfig(FlowStageConfig):
    """A stage that trains converted layers on what the attention layers they replace make of the same tokens.

    Clips, levels, units, corruption and captions are drawn as in a stage of flow matching, whose settings apply; the
    velocity to predict is not looked at.

    Attributes:
        teacher: Model folder with the attention that was converted; must be given if the stage has any steps.
        part: What is compared and trained. `mixer`: the mixer's own contribution to the residual stream, and only
            parameters of new mixers; the temporal branch, which attention has no counterpart for, stays closed until
            the model is trained as a whole. `block`: the output of the whole block and all its parameters.
    """

    steps: PerDevice = PerDevice(cpu=0, accelerator=0)
    batch_size: PerDevice = PerDevice(cpu=32, accelerator=256)
    optim: OptimConfig = OptimConfig(lr=1e-3, warmup_steps=50, hold_share=0.3, weight_decay=0.0, ema_decay=0.99)
    teacher: str | None = None
    part: MatchPart = "mixer"
