"""From a pipeline's text parts, some of which a folder may lack, to encoded prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from m4v.core.errors import UserError
from m4v.core.text_conditioning import TextConditioning
from m4v.models.text.prompt_encoder import PooledEncoder, PromptEncoder

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def prompt_encoder(pipeline: DiffusionPipeline) -> PromptEncoder:
    """Put together what a pipeline reads prompts with.

    `text_encoder` alone is T5; with `text_encoder_2`, that one is T5 and `text_encoder` is CLIP (Pyramid-Flow's order).

    Raises:
        UserError: if the model lacks a part that is needed, with the way to add it, or parts do not go together.
    """
    has_two = getattr(pipeline, "text_encoder_2", None) is not None or _is_clip(pipeline.text_encoder)
    parts = [_part(pipeline, name) for name in (TEXT_PARTS if has_two else TEXT_PARTS[:2])]
    if not has_two:
        return PromptEncoder(parts[0], parts[1])
    if not _is_clip(parts[0]):
        raise UserError(
            f"text_encoder is a {type(parts[0]).__name__} beside text_encoder_2; of two, the first must be a "
            "CLIPTextModel. Leave text_encoder_2 and tokenizer_2 out, or exchange text_encoder."
        )
    return PromptEncoder(parts[2], parts[3], PooledEncoder(parts[0], parts[1]))


def text_widths(text_encoder: Any, text_encoder_2: Any) -> dict[str, tuple[str, int]]:
    """What the text networks present say about the denoiser: field -> (who says so, value)."""
    widths: dict[str, tuple[str, int]] = {}
    for name, encoder in (("text_encoder", text_encoder), ("text_encoder_2", text_encoder_2)):
        if encoder is None:
            continue
        if _is_clip(encoder):
            widths["pooled_text_dim"] = (f"the {name}'s hidden_size", encoder.config.hidden_size)
        else:
            widths["text_dim"] = (f"the {name}'s d_model", encoder.config.d_model)
    return widths


def encode_for_guidance(
    encoder: PromptEncoder,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    copies: int,
    max_length: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[TextConditioning, TextConditioning | None]:
    """Encode prompts and, where guidance needs them, negative prompts in one batch, one row per video.

    Args:
        encoder: What the model reads prompts with.
        prompts: Whole prompts.
        negatives: As many; None where no unit is guided.
        copies: Videos per prompt.
        max_length: Tokens per prompt.
        device: Where networks compute.
        dtype: Precision of the denoiser.
    """
    texts = [*prompts, *(negatives or ())]
    encoded = encoder.encode(texts, max_length, device).to(device=device, dtype=dtype)

    def rows(start: int) -> TextConditioning:
        numbers = torch.arange(start, start + len(prompts), device=device).repeat_interleave(copies)
        return TextConditioning(encoded.tokens[numbers], encoded.mask[numbers], encoded.pooled[numbers])

    return rows(0), None if negatives is None else rows(len(prompts))


def _is_clip(encoder: Any) -> bool:
    return encoder is not None and getattr(encoder.config, "model_type", "").startswith("clip")


def _part(pipeline: DiffusionPipeline, name: str) -> Any:
    part = getattr(pipeline, name, None)
    if part is None:
        raise UserError(
            f"This model has no {name}, so it cannot read prompts. Add it: from_pretrained(..., {name}=...), or put "
            f"the folder {name}/ into the checkpoint and convert it again."
        )
    return part
