"""Tensor names of Wan2.1 text-to-video in its two layouts; ours are those of diffusers.

A network of n layers has 27 n + 15 tensors: 825 of the 1.3B model, 1095 of the 14B one. Of the three norms of a layer
only that before cross-attention has weights: `norm3` in the original, by order of definition, `norm2` in diffusers, by
order of use.

Source: Wan2.1, `WanModel`.
"""

import re
from collections.abc import Iterable

from m4v.checkpoints.renaming import Renaming

PREFIX = "model.diffusion_model."
"""What third-party files put before every name."""

_LINEARS = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"),
    *(
        (f"blocks.{{layer}}.{theirs}.{part}", f"blocks.{{layer}}.{ours}.{our_part}")
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part, our_part in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    ),
    ("blocks.{layer}.norm3", "blocks.{layer}.norm2"),
    ("blocks.{layer}.ffn.0", "blocks.{layer}.ffn.net.0.proj"),
    ("blocks.{layer}.ffn.2", "blocks.{layer}.ffn.net.2"),
)
_OTHERS = (
    ("head.modulation", "scale_shift_table"),
    ("blocks.{layer}.modulation", "blocks.{layer}.scale_shift_table"),
    *(
        (f"blocks.{{layer}}.{theirs}.{norm}.weight", f"blocks.{{layer}}.{ours}.{norm}.weight")
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for norm in ("norm_q", "norm_k")
    ),
)


def wan_renaming(num_layers: int) -> Renaming:
    """Original names (theirs) and diffusers' (ours) of a text-to-video network."""
    linears = ((f"{theirs}.{kind}", f"{ours}.{kind}") for theirs, ours in _LINEARS for kind in ("weight", "bias"))
    return Renaming.from_templates((*linears, *_OTHERS), layer=num_layers)


def same_names(renaming: Renaming) -> Renaming:
    """The table of a checkpoint that has our names already."""
    return Renaming({name: name for name in renaming.ours_to_theirs})


def count_layers(names: Iterable[str]) -> int:
    """Layers that names speak of: one more than the largest number."""
    numbers = [int(match[1]) for match in (re.match(r"blocks\.(\d+)\.", name) for name in names) if match]
    return max(numbers, default=-1) + 1
