"""Cutting one stage out of a whole chain."""

from dataclasses import replace
from typing import Any

from m4v.training.config import STAGE_NAMES, PerDevice, RunConfig, StageName

_SKIPPED = PerDevice(cpu=0, accelerator=0)


def only(config: RunConfig, stage: StageName, name: str) -> RunConfig:
    """Give the other stages no steps.

    Args:
        config: A recipe with several stages.
        stage: The one to keep.
        name: Name of the new recipe.
    """
    skipped: dict[str, Any] = {
        str(other): replace(config.stage(other), steps=_SKIPPED) for other in STAGE_NAMES if other != stage
    }
    return replace(config, name=name, **skipped)
