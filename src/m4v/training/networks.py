"""The networks of a run: built from settings, or loaded from an exported model for a later stage or fine-tuning."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

from m4v.checkpoints.model_folder import MODEL_INDEX, read_model_index
from m4v.checkpoints.wan_folder import OUR_PIPELINE, STOCK_PIPELINE
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.config import TextEncoderConfig
from m4v.models.text.encoder import build_text_encoder
from m4v.models.text.prompt_encoder import PooledEncoder
from m4v.models.text.tokenizer import build_tokenizer
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.training.config import InitPart, ModelsConfig

WAN_PIPELINES = (OUR_PIPELINE, STOCK_PIPELINE)


@dataclass
class Networks:
    """All parts of a model.

    Attributes:
        vae: Pixels to latents and back.
        transformer: The denoiser.
        text_encoder: Prompts to text tokens.
        tokenizer: Prompts to token ids.
        trainable: What is trained instead of whole networks: adapters, new words; none means whole networks.
        pooled_encoder: CLIP, which gives the pooled vector of models grown from Pyramid-Flow; None: the mean over the
            text encoder's states.
        base: Folder of a large model whose frozen parts stay there: neither checkpoints nor exports repeat them.
    """

    vae: CausalVideoVAE
    transformer: M4VTransformer3DModel
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    trainable: dict[str, nn.Module] = field(default_factory=dict)
    pooled_encoder: PooledEncoder | None = None
    base: Path | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights, by name."""
        parts: dict[str, nn.Module] = {
            "vae": self.vae,
            "transformer": self.transformer,
            "text_encoder": self.text_encoder,
        }
        return parts | ({} if self.pooled_encoder is None else {"pooled_encoder": self.pooled_encoder.encoder})

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


def load_networks(
    folder: Path, networks: Networks, parts: Collection[InitPart] = ("vae", "text", "transformer")
) -> Networks:
    """Replace networks by those found in a model folder, in 32 bits.

    Args:
        folder: Model folder; a run folder's `export/` is such a folder. One that holds only `vae/` replaces only that.
        networks: Stay where the folder has no such part.
        parts: What is taken.

    Raises:
        UserError: if the folder holds none of the parts, an unreadable one, or a model of another base.
    """
    refuse_other_base(folder, "M4VPipeline")
    if not any((folder / name).is_dir() for name in networks.modules):
        raise UserError(f"{folder} holds no vae/, transformer/ or text_encoder/; give an exported model or run folder.")
    loaded = replace(networks)
    try:
        if "vae" in parts and (folder / "vae").is_dir():
            loaded.vae = CausalVideoVAE.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        if "transformer" in parts and (folder / "transformer").is_dir():
            loaded.transformer = M4VTransformer3DModel.from_pretrained(
                folder / "transformer", torch_dtype=torch.float32
            )
        if "text" not in parts:
            return loaded
        if (folder / "text_encoder_2").is_dir():
            return _with_frozen_text(loaded, folder)
        if (folder / "text_encoder").is_dir():
            loaded.text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
            loaded.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    except OSError as error:
        raise UserError(f"The model in {folder} cannot be loaded: {error}") from error
    return loaded


def _with_frozen_text(networks: Networks, folder: Path) -> Networks:
    """Bring in CLIP and T5 of a model grown from Pyramid-Flow, in the precision of their files."""
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return replace(
        networks,
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype="auto"),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        pooled_encoder=PooledEncoder(clip, tokenizer),
        base=folder,
    )


def pipeline_class(folder: Path) -> str | None:
    """Pipeline that a folder's `model_index.json` names; None without that file."""
    if not (folder / MODEL_INDEX).is_file():
        return None
    return str(read_model_index(folder).get("_class_name"))


def is_large_base(folder: Path) -> bool:
    """Whether a folder holds a model whose text encoders and autoencoder are never trained here."""
    return pipeline_class(folder) in WAN_PIPELINES or (folder / "text_encoder_2").is_dir()


def refuse_other_base(folder: Path, expected: str) -> None:
    """Name a model that the stages of a recipe cannot train.

    Raises:
        UserError: if the folder names another pipeline.
    """
    found = pipeline_class(folder)
    if found in WAN_PIPELINES and expected == "M4VPipeline":
        raise UserError(
            f"{folder} holds a {found}, but the stages of this recipe train models of the pyramid base (M4VPipeline). "
            "Choose a Wan recipe, such as paper-wan-480p, or another model with --init-from."
        )
    if found not in (None, *WAN_PIPELINES, "M4VPipeline") or (found == "M4VPipeline" and expected != "M4VPipeline"):
        raise UserError(
            f"{folder} holds a {found}, but this recipe trains a {expected}. Give another model with --init-from."
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
        pooled_text_dim=0 if networks.pooled_encoder is None else networks.transformer.settings.pooled_text_dim,
    )


def tokenizer_for_captions(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows every word of some captions."""
    words = sorted({word for caption in captions for word in re.findall(r"[^\W_]+|[,.]", caption.lower())})
    return build_tokenizer(words)
