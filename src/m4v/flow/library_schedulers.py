"""The samplers of diffusers that Wan models use, set up for flow matching with a given shift (Wan base)."""

from typing import Any, Literal, TypeAlias

from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from m4v.core.errors import UserError

SchedulerName = Literal["unipc", "euler"]
LibraryScheduler: TypeAlias = UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler


def make_library_scheduler(name: SchedulerName, flow_shift: float) -> LibraryScheduler:
    """Make a sampler that reads the network's answer as a flow velocity.

    The two do not visit the same noise levels: with a shift of 5 and 50 steps the last one above 0 is 0.0968 for UniPC
    and 0.0244 for Euler, whose grid diffusers shifts twice.

    Args:
        name: `unipc`: second order, what Wan2.1 is sampled with; `euler`: first order.
        flow_shift: Sigma shift, positive.

    Raises:
        UserError: for another name, or a shift that is not positive.

    Source: Wan2.1; diffusers.
    """
    if not flow_shift > 0:
        raise UserError(f"flow_shift is {flow_shift}; expected a positive number (customary: 3 at 480p, 5 at 720p).")
    if name == "unipc":
        return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=flow_shift)
    raise UserError(f"The scheduler is {name!r}; expected unipc or euler.")


def describe_library_scheduler(scheduler: Any) -> str:
    """Name a sampler and its shift, for messages."""
    shift = scheduler.config.get("flow_shift", scheduler.config.get("shift"))
    return f"{type(scheduler).__name__} with shift {shift:g}" if shift else type(scheduler).__name__


def same_library_scheduler(first: Any, second: Any) -> bool:
    """Whether two samplers are of one class and have the same settings."""
    settings = [{name: value for name, value in each.config.items() if name[0] != "_"} for each in (first, second)]
    return type(first) is type(second) and settings[0] == settings[1]
