"""Opening a model for a verb: device, precision, no chatter of libraries."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m4v.pipelines.m4v_pipeline import M4VPipeline


def open_pipeline(model: str, device_name: str, dtype_name: str) -> "M4VPipeline":
    """Load a model onto the device that the flags name.

    Raises:
        UserError: if there is no such model or device.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from m4v.cli.devices import pick_dtype, use_all_cores
    from m4v.core.devices import choose_device
    from m4v.pipelines.m4v_pipeline import M4VPipeline

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    use_all_cores()
    device = choose_device(device_name)
    pipeline = M4VPipeline.from_pretrained(model, dtype=pick_dtype(dtype_name, device)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
