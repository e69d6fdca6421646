"""Prompts to text conditioning with whatever text networks a model has (Fig. 2a: text stream and pooled vector).

Small models read prompts with one T5 encoder and pool its states. Models grown from Pyramid-Flow have two frozen
networks: T5 gives the text stream, CLIP nothing but the pooled vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from m4v.core.text_conditioning import TextConditioning
from m4v.models.text.encoder import encode_prompts, token_states, tokenize_prompts


@dataclass(frozen=True)
class PooledEncoder:
    """CLIP's text network: one vector per prompt.

    Attributes:
        encoder: The network.
        tokenizer: Its tokenizer.

    Source: Pyramid-Flow text encoders (CLIP-L: pooler output, no attention mask).
    """

    encoder: CLIPTextModel
    tokenizer: Any

    @property
    def max_length(self) -> int:
        """Tokens it reads, its begin and end marks included; what follows is cut."""
        return min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings)

    def encode(self, prompts: Sequence[str], device: torch.device) -> Float[Tensor, "b p"]:
        """Pool prompts, computing on `device`."""
        ids, _ = tokenize_prompts(self.tokenizer, prompts, self.max_length)
        pooled: Tensor = self.encoder(input_ids=ids.to(device)).pooler_output
        return pooled


@dataclass(frozen=True)
class PromptEncoder:
    """All that a model reads prompts with.

    Attributes:
        encoder: Gives one state per token.
        tokenizer: Its tokenizer.
        pooled: Gives the pooled vector; None: the mean over the states of real tokens.
    """

    encoder: T5EncoderModel
    tokenizer: Any
    pooled: PooledEncoder | None = None

    def encode(self, prompts: Sequence[str], max_length: int, device: torch.device) -> TextConditioning:
        """Encode prompts.

        Args:
            prompts: Whole prompts; the empty one is allowed.
            max_length: Tokens per prompt in the text stream, end mark included; shorter prompts are padded.
            device: Where the networks compute. Under CPU offload their weights only come there for the call.

        Returns:
            Conditioning on `device`, in the encoders' precision.

        Source: Pyramid-Flow text encoders (T5-XXL: last hidden state and mask of 128 tokens).
        """
        if self.pooled is None:
            return encode_prompts(self.encoder, self.tokenizer, prompts, max_length, device)
        pooled = self.pooled.encode(prompts, device)
        ids, mask = (part.to(device) for part in tokenize_prompts(self.tokenizer, prompts, max_length))
        tokens = token_states(self.encoder, ids, mask)
        return TextConditioning(tokens, mask, pooled.to(tokens.dtype))
