"""Checkpoints that look like Wan2.1 text-to-video and are something else, recognised so that they can be named."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError

_EXPECTED = "Only Wan2.1 text-to-video (1.3B and 14B) is supported."

_FIRST_LAST_FRAME = "Wan2.1 first-last-frame to video"
_IMAGE_TO_VIDEO = "Wan2.1 image-to-video"
_VACE = "Wan2.1 VACE"
_WAN22_EXPERTS = "Wan2.2 A14B, whose two networks (high and low noise) share the work"
_WAN22_5B = "Wan2.2 TI2V 5B, which has other latents (48 channels)"

# Parts of tensor names, in the order in which they are looked for: the most telling first.
_NAMES = (
    (("emb_pos", "image_embedder.pos_embed"), _FIRST_LAST_FRAME),
    (("vace_blocks.", "vace_patch_embedding."), _VACE),
    (("motion_encoder.", "face_adapter.", "pose_patch_embedding."), "Wan2.2 Animate"),
    (("casual_audio_encoder.", "audio_injector."), "Wan2.2 speech-to-video"),
    (("img_emb.", "image_embedder.", ".k_img.", ".add_k_proj."), _IMAGE_TO_VIDEO),
    (("attn1.to_dt.", "attn1.A_log"), "a model of this package with state-space layers; it needs no conversion"),
    (("time_text_embed.guidance_embedder.", "double_blocks."), "FLUX, an image model"),
    (("context_embedder.", "x_embedder."), "FLUX or Pyramid-Flow; for the latter use m4v convert pyramid-flow"),
    (("video_embedder.", "in_proj."), "a pyramid model of this package; it needs no conversion"),
    (("input_blocks.", "down_blocks.", "joint_blocks."), "Stable Diffusion, an image model, or an autoencoder"),
    (("encoder.block.", "token_embedding."), "a text encoder"),
    (("decoder.conv1", "decoder.conv_in", "decoder.upsamples."), "an autoencoder"),
)

# Class names of configurations and pipelines.
_CLASSES = {
    "WanImageToVideoPipeline": _IMAGE_TO_VIDEO,
    "WanVACEPipeline": _VACE,
    "WanVACETransformer3DModel": _VACE,
    "WanAnimatePipeline": "Wan2.2 Animate",
    "WanVideoToVideoPipeline": "a Wan video-to-video pipeline; give its transformer folder",
    "WanM4VPipeline": "a model of this package; use m4v convert attention-to-mamba, or --reverse",
    "WanM4VTransformer3DModel": "a model of this package; use m4v convert attention-to-mamba, or --reverse",
    "M4VPipeline": "a pyramid model of this package (M4VPipeline), which needs no conversion",
    "FluxPipeline": "FLUX, an image model",
    "FluxTransformer2DModel": "FLUX, an image model",
    "PyramidFluxTransformer": "Pyramid-Flow; use m4v convert pyramid-flow",
    "PyramidDiffusionMMDiT": "Pyramid-Flow; use m4v convert pyramid-flow",
}
_KNOWN_CLASSES = ("WanPipeline", "WanTransformer3DModel", "WanModel", None)
_MODEL_TYPES = {
    "i2v": _IMAGE_TO_VIDEO,
    "flf2v": _FIRST_LAST_FRAME,
    "vace": _VACE,
    "ti2v": _WAN22_5B,
    "s2v": "Wan2.2 speech-to-video",
    "animate": "Wan2.2 Animate",
}
_CHANNELS = {
    36: "Wan image-to-video (36 input channels: noisy video, mask and picture)",
    48: _WAN22_5B,
}


def refuse_folder(folder: Path) -> None:
    """Refuse folders whose entries tell what they are.

    Raises:
        UserError: naming the neighbour.
    """
    tests: tuple[tuple[str, Callable[[Path], bool]], ...] = (
        (_WAN22_EXPERTS, lambda place: any((place / name).is_dir() for name in ("high_noise_model", "transformer_2"))),
        (_WAN22_EXPERTS, lambda place: place.name in ("high_noise_model", "low_noise_model", "transformer_2")),
        ("Stable Diffusion, an image model", lambda place: (place / "unet").is_dir()),
        (
            "Pyramid-Flow; use m4v convert pyramid-flow",
            lambda place: any(place.glob("diffusion_transformer_*")) or (place / "causal_video_vae").is_dir(),
        ),
    )
    for what, holds in tests:
        if holds(folder.resolve()):
            raise _refusal(folder, what)


def refuse_config(config: Mapping[str, Any], where: Path) -> None:
    """Refuse configurations of pipelines and networks other than Wan2.1 text-to-video.

    Raises:
        UserError: naming the neighbour.
    """
    name = config.get("_class_name")
    if isinstance(name, str) and name in _CLASSES:
        raise _refusal(where, _CLASSES[name])
    if name not in _KNOWN_CLASSES:
        raise _refusal(where, f"a {name}")
    if config.get("boundary_ratio") is not None or config.get("transformer_2") not in (None, [None, None]):
        raise _refusal(where, _WAN22_EXPERTS)
    if config.get("expand_timesteps") or config.get("z_dim") == 48:
        raise _refusal(where, _WAN22_5B)
    kind = config.get("model_type", "t2v")
    if kind != "t2v":
        raise _refusal(where, _MODEL_TYPES.get(str(kind), f"a Wan model of the type {kind!r}"))
    if config.get("vace_layers"):
        raise _refusal(where, _VACE)
    if config.get("pos_embed_seq_len") is not None:
        raise _refusal(where, _FIRST_LAST_FRAME)
    for key in ("image_dim", "added_kv_proj_dim"):
        if config.get(key) is not None:
            raise _refusal(where, _IMAGE_TO_VIDEO)
    refuse_channels(config.get("in_dim", config.get("in_channels")), where)


def refuse_channels(channels: object, where: Path) -> None:
    """Refuse numbers of input channels that only neighbours have.

    Raises:
        UserError: naming the neighbour.
    """
    if isinstance(channels, int) and channels in _CHANNELS:
        raise _refusal(where, _CHANNELS[channels])


def refuse_names(names: Iterable[str], where: Path) -> None:
    """Refuse checkpoints whose tensor names tell what they are.

    Raises:
        UserError: naming the neighbour.
    """
    names = list(names)
    for parts, what in _NAMES:
        telling = next((name for name in names if any(part in f".{name}" for part in _dotted(parts))), None)
        if telling is not None:
            raise _refusal(where, f"{what} (it has a tensor {telling})")


def _dotted(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Parts begin at a dot, so that `in_proj.` does not match `main_proj.`."""
    return tuple(part if part.startswith(".") else f".{part}" for part in parts)


def _refusal(where: Path, what: str) -> UserError:
    return UserError(f"{where} is {what}. {_EXPECTED}")
