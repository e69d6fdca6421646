"""The networks of a run: built from settings, or loaded from an exported model for a later stage or fine-tuning."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from m4v.checkpoints.model_folder import MODEL_INDEX, read_model_index
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.config import TextEncoderConfig
from m4v.models.text.encoder import build_text_encoder
from m4v.models.text.tokenizer import build_tokenizer
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.training.config import ModelsConfig


@dataclass
class Networks:
    """All parts of a model.

    Attributes:
        vae: Pixels to latents and back.
        transformer: The denoiser.
        text_encoder: Prompts to text tokens.
        tokenizer: Prompts to token ids.
    """

    vae: CausalVideoVAE
    transformer: M4VTransformer3DModel
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights, by name."""
        return {"vae": self.vae, "transformer": self.transformer, "text_encoder": self.text_encoder}

    def to(self, device: torch.device) -> "Networks":
        """Move every part to a device."""
        for module in self.modules.values():
            module.to(device)
        return self


def build_networks(models: ModelsConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> Networks:
    """Build untrained networks; the same seed gives the same weights, and global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, "initial weights"))
        return Networks(
            CausalVideoVAE.build(models.vae),
            M4VTransformer3DModel(**to_plain(models.denoiser)),
            build_text_encoder(models.text, len(tokenizer)),
            tokenizer,
        )


def load_networks(folder: Path, networks: Networks) -> Networks:
    """Replace networks by those found in a model folder, in 32 bits.

    Args:
        folder: Model folder; a run folder's `export/` is such a folder. One that holds only `vae/` replaces only that.
        networks: Stay where the folder has no such part.

    Raises:
        UserError: if the folder holds none of the parts, an unreadable one, or a model that recipes do not train yet.
    """
    _refuse_large_bases(folder)
    if not any((folder / name).is_dir() for name in networks.modules):
        raise UserError(f"{folder} holds no vae/, transformer/ or text_encoder/; give an exported model or run folder.")
    loaded = replace(networks)
    try:
        if (folder / "vae").is_dir():
            loaded.vae = CausalVideoVAE.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        if (folder / "transformer").is_dir():
            loaded.transformer = M4VTransformer3DModel.from_pretrained(
                folder / "transformer", torch_dtype=torch.float32
            )
        if (folder / "text_encoder").is_dir():
            loaded.text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
            loaded.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    except OSError as error:
        raise UserError(f"The model in {folder} cannot be loaded: {error}") from error
    return loaded


def _refuse_large_bases(folder: Path) -> None:
    """Name models whose text encoders the training stages do not know."""
    is_indexed = (folder / MODEL_INDEX).is_file()
    pipeline = read_model_index(folder).get("_class_name", "M4VPipeline") if is_indexed else "M4VPipeline"
    if pipeline != "M4VPipeline":
        kind = f"is a {pipeline}"
    elif (folder / "text_encoder_2").is_dir():
        kind = "has the two text encoders of Pyramid-Flow (CLIP and T5)"
    else:
        return
    raise UserError(
        f"{folder} {kind}. Training recipes know models with one T5 text encoder of their own, such as toybox-xs; "
        "stages for models converted from Pyramid-Flow or Wan2.1 are not here yet. Give another model with --init-from."
    )


def describe_models(models: ModelsConfig, networks: Networks) -> ModelsConfig:
    """Settings that build the given networks, so that a run's stored configuration tells the truth."""
    text = networks.text_encoder.config
    return replace(
        models,
        vae=networks.vae.dataclass_config,
        denoiser=networks.transformer.settings,
        text=TextEncoderConfig(
            model_dim=text.d_model,
            num_layers=text.num_layers,
            num_heads=text.num_heads,
            head_dim=text.d_kv,
            feed_forward_dim=text.d_ff,
            max_length=models.text.max_length,
        ),
    )


def tokenizer_for_captions(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows every word of some captions."""
    words = sorted({word for caption in captions for word in re.findall(r"[^\W_]+|[,.]", caption.lower())})
    return build_tokenizer(words)
