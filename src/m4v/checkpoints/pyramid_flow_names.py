"""Tensor names of the Pyramid-Flow denoiser ("miniFLUX") and ours: 496 of them at the released size."""

from collections.abc import Iterable, Iterator

from m4v.checkpoints.renaming import Renaming
from m4v.core.errors import UserError, shorten

TRAINING_PREFIX = "dit."
"""What training checkpoints put before the denoiser's names."""

_DROPPED_IN_TRAINING = ("vae.", "text_encoder.", "text_encoder_2.")

_LINEARS = (
    ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_1"),
    ("time_text_embed.timestep_embedder.linear_2", "time_text_embed.timestep_embedder.linear_2"),
    ("time_text_embed.text_embedder.linear_1", "time_text_embed.text_embedder.linear_1"),
    ("time_text_embed.text_embedder.linear_2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "text_embedder"),
    ("x_embedder", "video_embedder"),
    ("norm_out.linear", "norm_out.linear"),
    ("proj_out", "proj_out"),
)
_DUAL_LINEARS = (
    ("norm1.linear", "video.modulation.linear"),
    ("attn.to_q", "video.to_q"),
    ("attn.to_k", "video.to_k"),
    ("attn.to_v", "video.to_v"),
    ("attn.to_out.0", "video.to_out"),
    ("ff.net.0.proj", "video.feed_forward.up"),
    ("ff.net.2", "video.feed_forward.down"),
    ("norm1_context.linear", "text.modulation.linear"),
    ("attn.add_q_proj", "text.to_q"),
    ("attn.add_k_proj", "text.to_k"),
    ("attn.add_v_proj", "text.to_v"),
    ("attn.to_add_out", "text.to_out"),
    ("ff_context.net.0.proj", "text.feed_forward.up"),
    ("ff_context.net.2", "text.feed_forward.down"),
)
_DUAL_NORMS = (
    ("attn.norm_q", "video.norm_q"),
    ("attn.norm_k", "video.norm_k"),
    ("attn.norm_added_q", "text.norm_q"),
    ("attn.norm_added_k", "text.norm_k"),
)
_SINGLE_LINEARS = (
    ("norm.linear", "modulation.linear"),
    ("attn.to_q", "mixer.to_q"),
    ("attn.to_k", "mixer.to_k"),
    ("attn.to_v", "mixer.to_v"),
    ("proj_mlp", "mlp_up"),
    ("proj_out", "joint_out"),
)
_SINGLE_NORMS = (("attn.norm_q", "mixer.norm_q"), ("attn.norm_k", "mixer.norm_k"))

_TELLTALES = {"x_embedder.weight", "context_embedder.weight"}
_NEIGHBOURS = (
    ("video_embedder.weight", "a model of this package; it needs no conversion (--reverse goes back to Pyramid-Flow)"),
    (
        "pos_embed.proj.weight",
        "the SD3 variant of Pyramid-Flow (pyramid_mmdit); only miniFLUX is supported",
    ),
    ("time_text_embed.guidance_embedder.linear_1.weight", "FLUX.1-dev, an image model with another computation"),
    ("double_blocks.0.img_attn.qkv.weight", "FLUX in its original layout, an image model with another computation"),
    ("condition_embedder.time_proj.weight", "Wan in the layout of diffusers; use m4v convert wan"),
    ("time_projection.1.weight", "Wan in its original layout; use m4v convert wan"),
    ("encoder.conv_in.conv.weight", "a video autoencoder; give the folder of the denoiser, or the checkpoint root"),
)
_FOREIGN_CLASSES = {
    "PyramidDiffusionMMDiT": _NEIGHBOURS[1][1],
    "FluxTransformer2DModel": "FLUX.1, an image model with the same tensor names but another computation",
    "WanTransformer3DModel": _NEIGHBOURS[4][1],
    "WanModel": _NEIGHBOURS[5][1],
    "M4VTransformer3DModel": _NEIGHBOURS[0][1],
    "WanM4VTransformer3DModel": "a Wan-based model of this package, which Pyramid-Flow knows nothing of",
}


def denoiser_renaming(num_dual: int, num_single: int) -> Renaming:
    """Table of the tensors of a Pyramid-Flow denoiser and of our attention-only one.

    Args:
        num_dual: Dual-stream blocks (8 as released).
        num_single: Single-stream blocks (16 as released).

    Source: Pyramid-Flow, state dict of the released denoiser.
    """
    return Renaming.from_templates(_templates(), dual=num_dual, single=num_single)


def _templates() -> Iterator[tuple[str, str]]:
    both, weight = ("weight", "bias"), ("weight",)
    groups = (
        ("", _LINEARS, both),
        ("transformer_blocks.{dual}.", _DUAL_LINEARS, both),
        ("transformer_blocks.{dual}.", _DUAL_NORMS, weight),
        ("single_transformer_blocks.{single}.", _SINGLE_LINEARS, both),
        ("single_transformer_blocks.{single}.", _SINGLE_NORMS, weight),
    )
    for prefix, pairs, kinds in groups:
        for theirs, ours in pairs:
            for kind in kinds:
                yield f"{prefix}{theirs}.{kind}", f"{prefix}{ours}.{kind}"


def plain_names(stored: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Look through the prefix of training checkpoints.

    Args:
        stored: Names in the file.

    Returns:
        Name without prefix -> stored name, and the stored names that belong to other networks.

    Raises:
        UserError: if a name occurs with and without the prefix.
    """
    names: dict[str, str] = {}
    dropped: list[str] = []
    for name in stored:
        plain = name.removeprefix(TRAINING_PREFIX)
        if name.startswith(_DROPPED_IN_TRAINING):
            dropped.append(name)
        elif plain in names:
            raise UserError(f"The checkpoint holds both {plain} and {TRAINING_PREFIX}{plain}; it mixes two networks.")
        else:
            names[plain] = name
    return names, dropped


def refuse_neighbours(names: Iterable[str], class_name: str | None, where: str) -> None:
    """Say by name what a checkpoint is that is no Pyramid-Flow denoiser.

    Args:
        names: Its tensors, without prefix.
        class_name: What its configuration says, if anything.
        where: The folder or file, for the message.

    Raises:
        UserError: if it is a known other network, or of no known kind.
    """
    found = set(names)
    kinds = [kind for name, kind in _FOREIGN_CLASSES.items() if name == class_name]
    kinds += [kind for telltale, kind in _NEIGHBOURS if telltale in found]
    is_native = found >= _TELLTALES
    if kinds and is_native and "FLUX" not in kinds[0]:
        raise UserError(f"{where} mixes a Pyramid-Flow denoiser with tensors or the config.json of {kinds[0]}.")
    if kinds:
        raise UserError(f"{where} holds {kinds[0]}.")
    if not _TELLTALES & found:
        raise UserError(
            f"{where} holds no Pyramid-Flow denoiser; its tensors are {shorten(sorted(found))}. Check the path."
        )
