"""Activations of text encoders, from runs on the meta device."""

from typing import Any

import torch
import transformers

from m4v.analysis.live_memory import peak_bytes
from m4v.analysis.part_memory import cast_weights
from m4v.analysis.subjects import TextEncoderSpec
from m4v.core.errors import UserError

TEXT_CLASSES = ("CLIPTextModel", "T5EncoderModel", "UMT5EncoderModel")


def meta_text_encoder(spec: TextEncoderSpec, dtype: torch.dtype) -> Any:
    """Build a text encoder without memory for its weights.

    Raises:
        UserError: if its class is none that pipelines here use.
    """
    if spec.class_name not in TEXT_CLASSES:
        raise UserError(f"The text encoder is a {spec.class_name}; expected {', '.join(TEXT_CLASSES)}.")
    network_class = getattr(transformers, spec.class_name)
    with torch.device("meta"):
        network = network_class(network_class.config_class.from_dict(dict(spec.config))).eval()
    cast_weights(network, dtype)
    return network


def text_activations(network: Any, num_tokens: int, batch_size: int) -> int:
    """Most bytes that tensors of a call occupy at once.

    Args:
        num_tokens: Length of a padded prompt.
        batch_size: Prompts encoded together.
    """
    ids = torch.zeros(batch_size, num_tokens, dtype=torch.long, device="meta")
    # Without a mask: no padding is the longest prompt, and transformers would look into the mask's content.
    weights = (list(network.parameters()), list(network.buffers()))
    return peak_bytes(lambda ids: network(input_ids=ids), ids, weights=weights)
