"""Cutting one stage out of a whole chain."""

from dataclasses import replace

from m4v.training.config import PerDevice, RunConfig, StageName

_SKIPPED = PerDevice(cpu=0, accelerator=0)


def only(config: RunConfig, stage: StageName, name: str) -> RunConfig:
    """Give the other stages no steps.

    Args:
        config: A recipe with several stages.
        stage: The one to keep.
        name: Name of the new recipe.
    """
    return replace(
        config,
        name=name,
        vae=config.vae if stage == "vae" else replace(config.vae, steps=_SKIPPED),
        t2i=config.t2i if stage == "t2i" else replace(config.t2i, steps=_SKIPPED),
        t2v=config.t2v if stage == "t2v" else replace(config.t2v, steps=_SKIPPED),
    )
