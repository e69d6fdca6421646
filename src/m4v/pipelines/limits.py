"""What a model or a setting was not made for: sizes and lengths, precisions."""

from collections.abc import Iterable
from typing import Any

import torch

from m4v.core.errors import UserError
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.pipelines.config import GenerationDefaults


def size_note(defaults: GenerationDefaults, height: int, width: int) -> str | None:
    """Warn of a size that was not trained, with the nearest one that was; None if there is nothing to say."""
    nearest = defaults.nearest_trained_size(height, width)
    if nearest is None:
        return None
    return (
        f"This model was not trained for {width}x{height} pixels, so pictures may be poor; the nearest size it knows "
        f"is {nearest[1]}x{nearest[0]} (height {nearest[0]}, width {nearest[1]})."
    )


def length_note(defaults: GenerationDefaults, num_frames: int, history_window: int | None) -> str | None:
    """Warn of a video longer than training videos that looks back on all of itself; None if there is nothing to say."""
    if num_frames <= defaults.longest_trained or history_window is not None:
        return None
    return (
        f"{num_frames} frames are more than the {defaults.longest_trained} of the training videos; a history window "
        "(history_window, --history-window) keeps long videos steady."
    )


def self_guidance_note(guidance: SelfQualityGuidance, num_units: int) -> str | None:
    """Say that a video is too short for self-quality guidance to act on; None if it acts or is off."""
    if guidance.weight == 0 or num_units > guidance.first_unit:
        return None
    return (
        f"Self-guidance acts from unit {guidance.first_unit} on, counted from 0, but this video has {num_units} units; "
        "it changes nothing. Make a longer video, or give a SelfQualityGuidance with an earlier first_unit."
    )


def check_precision(defaults: GenerationDefaults, dtypes: Iterable[Any]) -> None:
    """Refuse float16 for models whose activations leave its range.

    Args:
        defaults: The model's own settings.
        dtypes: Precisions the networks have or are to be loaded in.

    Raises:
        UserError: with the precision to use instead.
    """
    if defaults.float16_overflows and torch.float16 in dtypes:
        raise UserError(
            "float16 is too narrow for this model: its activations overflow and nothing but black frames come out. "
            "Use bfloat16 (torch.bfloat16, --dtype bfloat16) or float32."
        )
