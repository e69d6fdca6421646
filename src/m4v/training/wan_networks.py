"""The networks of a run on the Wan base: a released or converted model folder, or a small one built from settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from m4v.checkpoints.wan_folder import check_wan_folder
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.core.seeds import fold_seed
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.wan_autoencoder import WanAutoencoder
from m4v.training.models_config import WanModelsConfig, WanVaeConfig
from m4v.training.networks import refuse_other_base


@dataclass
class WanNetworks:
    """All parts of a Wan model.

    Attributes:
        vae: Pixels to latents and back, behind our own interface.
        transformer: The denoiser.
        text_encoder: Prompts to text tokens.
        tokenizer: Prompts to token ids.
        trainable: What is trained instead of whole networks, such as adapters; none means whole networks.
        base: Folder of a model whose frozen parts stay there; None: built from settings.
    """

    vae: WanAutoencoder
    transformer: WanM4VTransformer3DModel
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    trainable: dict[str, nn.Module] = field(default_factory=dict)
    base: Path | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights, by name."""
        return {"vae": self.vae, "transformer": self.transformer, "text_encoder": self.text_encoder}

    def to(self, device: torch.device) -> "WanNetworks":
        """Move every part to a device."""
        for module in self.modules.values():
            module.to(device)
        return self


def build_wan_networks(models: WanModelsConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> WanNetworks:
    """Build untrained networks; the same seed gives the same weights, and global random state is left as it was."""
    text, vae = models.text, models.vae
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, "initial weights"))
        autoencoder = AutoencoderKLWan(
            base_dim=vae.base_dim,
            z_dim=vae.z_dim,
            dim_mult=list(vae.dim_mult),
            num_res_blocks=vae.num_res_blocks,
            latents_mean=[0.0] * vae.z_dim,
            latents_std=[1.0] * vae.z_dim,
        )
        encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=text.model_dim,
                d_kv=text.head_dim,
                d_ff=text.feed_forward_dim,
                num_layers=text.num_layers,
                num_heads=text.num_heads,
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
        transformer = WanM4VTransformer3DModel(**to_plain(models.denoiser))
        return WanNetworks(WanAutoencoder(autoencoder), transformer, encoder, tokenizer)


def load_wan_networks(folder: Path, *, trains_text: bool = False) -> WanNetworks:
    """Load a Wan model folder, ours or a stock one, in 32 bits; a frozen text encoder in the precision of its file.

    Args:
        folder: The model folder.
        trains_text: Whether the text encoder will be trained.

    Raises:
        UserError: if the folder is incomplete, damaged or of another base.
    """
    refuse_other_base(folder, "WanM4VPipeline")
    check_wan_folder(folder)
    try:
        vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        return WanNetworks(
            WanAutoencoder(vae),
            WanM4VTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32),
            UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32 if trains_text else "auto"),
            AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            base=folder,
        )
    except OSError as error:
        raise UserError(f"The model in {folder} cannot be loaded: {error}") from error


def describe_wan_models(models: WanModelsConfig, networks: WanNetworks) -> WanModelsConfig:
    """Settings that build the given networks, so that a run's stored configuration tells the truth."""
    text, vae = networks.text_encoder.config, networks.vae.vae.config
    return replace(
        models,
        vae=WanVaeConfig(
            base_dim=vae["base_dim"],
            z_dim=vae["z_dim"],
            dim_mult=tuple(vae["dim_mult"]),
            num_res_blocks=vae["num_res_blocks"],
        ),
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
