"""Prompts to text conditioning with a T5 encoder alone (Fig. 2a: text stream and pooled vector)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from m4v.core.text_conditioning import TextConditioning
from m4v.models.text.config import TextEncoderConfig


def build_text_encoder(config: TextEncoderConfig, vocab_size: int) -> T5EncoderModel:
    """Make an untrained T5 encoder without dropout, so that training depends on explicit generators only.

    Args:
        config: Shape of the encoder.
        vocab_size: `len(tokenizer)`.
    """
    return T5EncoderModel(
        T5Config(
            vocab_size=vocab_size,
            d_model=config.model_dim,
            d_kv=config.head_dim,
            d_ff=config.feed_forward_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], max_length: int
) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
    """Token ids of prompts, all padded or cut to `max_length`, and the mask of real tokens (the end mark is one)."""
    batch = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"].bool()


def token_states(
    text_encoder: T5EncoderModel, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l e"]:
    """One state per token; padding is hidden from real tokens."""
    states: Tensor = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return states


def encode_ids(text_encoder: T5EncoderModel, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> TextConditioning:
    """Encode token ids; the pooled vector is the mean over real tokens."""
    tokens = token_states(text_encoder, ids, mask)
    weights = mask[..., None].to(tokens.dtype)
    pooled = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
    return TextConditioning(tokens, mask, pooled)


def encode_prompts(
    text_encoder: T5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    max_length: int,
    device: torch.device | None = None,
) -> TextConditioning:
    """Encode prompts, padded to a fixed length so that sequence layouts never change.

    Args:
        text_encoder: The encoder.
        tokenizer: Its tokenizer.
        prompts: Whole prompts; the empty one is allowed.
        max_length: Tokens per prompt, end mark included.
        device: Where the encoder computes, which under CPU offload is not where its weights are; None: there.
    """
    ids, mask = tokenize_prompts(tokenizer, prompts, max_length)
    device = device or next(text_encoder.parameters()).device
    return encode_ids(text_encoder, ids.to(device), mask.to(device))
