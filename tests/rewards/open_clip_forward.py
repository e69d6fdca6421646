"""CLIP written once more from its description, with open_clip's names: what the mapping is compared with."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def _block(
    state: Mapping[str, Tensor], name: str, tokens: Tensor, heads: int, act: Callable[[Tensor], Tensor], causal: bool
) -> Tensor:
    def norm(part: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    def linear(part: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.{part}.weight"].T + state[f"{name}.{part}.bias"]

    batch, length, width = tokens.shape
    joint = norm("ln_1", tokens) @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
    query, key, value = (
        part.reshape(batch, length, heads, width // heads).transpose(1, 2) for part in joint.split(width, dim=-1)
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(width // heads)
    if causal:
        scores = scores + torch.full((length, length), -torch.inf).triu(1)
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)
    tokens = tokens + linear("attn.out_proj", mixed)
    return tokens + linear("mlp.c_proj", act(linear("mlp.c_fc", norm("ln_2", tokens))))


def encode_image(state: Mapping[str, Tensor], pictures: Tensor, heads: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    patch = state["visual.conv1.weight"].shape[-1]
    cells = F.conv2d(pictures, state["visual.conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(cells), 1, -1)
    tokens = torch.cat([first, cells], dim=1) + state["visual.positional_embedding"]
    tokens = F.layer_norm(tokens, tokens.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    for number in range(2):
        tokens = _block(state, f"visual.transformer.resblocks.{number}", tokens, heads, act, causal=False)
    pooled = F.layer_norm(tokens[:, 0], tokens.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return pooled @ state["visual.proj"]


def encode_text(state: Mapping[str, Tensor], ids: Tensor, heads: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    tokens = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    for number in range(2):
        tokens = _block(state, f"transformer.resblocks.{number}", tokens, heads, act, causal=True)
    tokens = F.layer_norm(tokens, tokens.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    # The end mark has the largest number of the vocabulary; its first occurrence ends the text.
    return tokens[torch.arange(len(ids)), ids.argmax(dim=-1)] @ state["text_projection"]
