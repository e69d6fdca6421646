"""The networks of a pipeline: whether they belong together, and where their weights lie in memory."""

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from m4v.core.errors import UserError
from m4v.pipelines.prompt_encoding import text_widths


def align_weights(pipeline: DiffusionPipeline) -> None:
    """Copy weights out of the mapped file, where they start at odd addresses.

    Kernels round differently at other alignments, and the same seed must give the same video after any loading.
    """
    for part in pipeline.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data = parameter.data.clone()


def check_parts(transformer: Any, vae: Any, scheduler: Any, text_encoder: Any, text_encoder_2: Any) -> None:
    """Refuse parts that do not speak the same sizes; parts left out by the caller are not looked at.

    Raises:
        UserError: naming the two parts and both values.
    """
    if transformer is None:
        return
    needs = text_widths(text_encoder, text_encoder_2)
    if vae is not None:
        needs["in_channels"] = ("the vae's latent_channels", vae.config["latent_channels"])
    if scheduler is not None:
        needs["num_levels"] = ("the scheduler's num_levels", scheduler.schedule.num_levels)
    for field, (partner, needed) in needs.items():
        found = transformer.config[field]
        if found != needed:
            raise UserError(
                f"The transformer's {field} is {found}, but {partner} is {needed}. Use parts of the same model."
            )
