"""Tensor names of open_clip's CLIP and the network they belong to, as transformers' CLIPModel names them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import CLIPConfig

from m4v.core.errors import UserError, shorten

_BLOCKS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
# open_clip multiplies by these from the right, a linear layer by its transpose.
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_BLOCK = re.compile(
    r"(?P<tower>(?:visual\.)?transformer\.resblocks)\.(?P<number>\d+)\.(?P<part>.+)[._](?P<end>weight|bias)$"
)
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
"""Width of a vision head by width of the tower, where it is not 64 (ViT-H-14, ViT-g-14, ViT-bigG-14)."""


def is_open_clip(names: Mapping[str, object]) -> bool:
    """Tell whether tensors carry open_clip's names."""
    return "visual.conv1.weight" in names


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape open_clip's tensors.

    Raises:
        UserError: naming tensors that have no place in a CLIP with two plain towers.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        found = dict(_renamed(name, value))
        if not found:
            unknown.append(name)
        renamed |= found
    if unknown:
        raise UserError(
            f"{len(unknown)} tensors have no place in a CLIP of two plain transformers: {shorten(unknown)}. "
            "Give a ViT model of open_clip, such as ViT-H-14."
        )
    return renamed


def _renamed(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in _WHOLE:
        yield _WHOLE[name], value
        return
    if name in _TRANSPOSED:
        yield _TRANSPOSED[name], value.T.contiguous()
        return
    match = _BLOCK.match(name)
    if match is None:
        return
    block = f"{_BLOCKS[match['tower']]}.{match['number']}"
    part = match["part"]
    if part == "attn.in_proj":
        for head, piece in zip("qkv", value.chunk(3), strict=True):
            yield f"{block}.self_attn.{head}_proj.{match['end']}", piece.contiguous()
    elif part in _BLOCK_PARTS:
        yield f"{block}.{_BLOCK_PARTS[part]}.{match['end']}", value


@dataclass(frozen=True, kw_only=True)
class OpenClipFacts:
    """What tensors do not tell.

    Attributes:
        activation: `gelu`; models of OpenAI were trained with `quick_gelu`.
        vision_head_width: None looks it up by the tower's width.
        text_head_width: Width of a text head.
    """

    activation: str = "gelu"
    vision_head_width: int | None = None
    text_head_width: int = 64


def read_config(state: Mapping[str, Tensor], facts: OpenClipFacts = OpenClipFacts()) -> CLIPConfig:
    """Read the shape of both towers off open_clip's tensors.

    Raises:
        UserError: if a tensor that tells the shape is missing, or the picture is not square.
    """
    try:
        conv, position = state["visual.conv1.weight"], state["visual.positional_embedding"]
        words, places = state["token_embedding.weight"], state["positional_embedding"]
        joint = state["text_projection"].shape[1]
        vision_hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        text_hidden = state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    except KeyError as error:
        raise UserError(
            f"The tensor {error} is missing; these are not the weights of a whole open_clip model."
        ) from error
    patch, width = conv.shape[-1], conv.shape[0]
    side = round((position.shape[0] - 1) ** 0.5)
    if side * side != position.shape[0] - 1:
        raise UserError(f"The picture tower has {position.shape[0] - 1} patches; expected a square number.")
    head_width = facts.vision_head_width or _HEAD_WIDTHS.get(width, 64)
    return CLIPConfig(
        projection_dim=joint,
        vision_config={
            "hidden_size": width,
            "intermediate_size": vision_hidden,
            "num_hidden_layers": _count(state, "visual.transformer.resblocks"),
            "num_attention_heads": width // head_width,
            "image_size": side * patch,
            "patch_size": patch,
            "hidden_act": facts.activation,
            "projection_dim": joint,
        },
        text_config={
            "vocab_size": words.shape[0],
            "hidden_size": words.shape[1],
            "intermediate_size": text_hidden,
            "num_hidden_layers": _count(state, "transformer.resblocks"),
            "num_attention_heads": words.shape[1] // facts.text_head_width,
            "max_position_embeddings": places.shape[0],
            "hidden_act": facts.activation,
            "projection_dim": joint,
            # open_clip reads the text at its end mark, the last word of the vocabulary.
            "bos_token_id": words.shape[0] - 2,
            "eos_token_id": words.shape[0] - 1,
        },
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(match[1]) for name in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    return len(numbers)


def without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix that a distributed wrapper leaves, and give the temperature its shape."""
    names = list(state)
    prefix = "module." if names and all(name.startswith("module.") for name in names) else ""
    return {
        name.removeprefix(prefix): value.reshape(()) if name.endswith("logit_scale") else value
        for name, value in state.items()
    }
