"""What a cache is made with: a model's autoencoder and text networks, with the hashes that tell them from others."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, T5EncoderModel, UMT5EncoderModel
from transformers.models.auto.tokenization_auto import AutoTokenizer

from m4v.checkpoints.model_folder import read_model_index
from m4v.core.errors import UserError
from m4v.core.shapes import Compression
from m4v.models.text.encoder import tokenize_prompts
from m4v.models.text.prompt_encoder import PooledEncoder, PromptEncoder
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.wan_autoencoder import WanAutoencoder
from m4v.training.precision import autocast

TextKind = Literal["tokens", "embeddings"]
_WAN_TEXT_LENGTH = 512


@dataclass(frozen=True)
class CacheEncoders:
    """The networks of one model that training does not change.

    Attributes:
        vae: Pixels to latents and back.
        vae_hash: Of its weights and statistics.
        text_kind: Whether captions become token ids (the text encoder is trained too) or embeddings (it is frozen).
        encoder_hash: Of what reads captions.
        names: Class and place of the autoencoder and of the text encoder.
        encode_text: Captions to tensors with one row each.
        use_bf16: Whether videos are encoded in bf16.
    """

    vae: CausalVideoVAE | WanAutoencoder
    vae_hash: str
    text_kind: TextKind
    encoder_hash: str
    names: tuple[str, str]
    encode_text: Callable[[tuple[str, ...]], Mapping[str, Tensor]]
    use_bf16: bool

    @property
    def compression(self) -> Compression:
        """Pixels per latent cell."""
        return self.vae.compression

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c units h w"]:
        """Encode videos in [-1, 1] to normalised means of latents."""
        return encode_normalised(self.vae, video, self.use_bf16)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c units h w"]) -> Float[Tensor, "b 3 t h w"]:
        """Decode normalised latents."""
        return self.vae.decode(self.vae.denormalise(latents.float()))


def encode_normalised(vae: Any, video: Tensor, use_bf16: bool) -> Tensor:
    """Encode videos in [-1, 1] to normalised means of latents, in float32."""
    with autocast(use_bf16, video.device):
        latents = vae.encode(video).mode()
    normalised: Tensor = vae.normalise(latents.float())
    return normalised


def weights_hash(module: nn.Module, *extras: object) -> str:
    """Hash a module's parameters, buffers and further facts; equal whatever type and device the weights are in."""
    digest = hashlib.sha256(repr(extras).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def vae_hash(vae: CausalVideoVAE | WanAutoencoder) -> str:
    """Hash an autoencoder with its latent statistics."""
    return weights_hash(vae, vae.latent_statistics)


def tokenizer_hash(tokenizer: Any, max_length: int) -> str:
    """Hash the words of a tokenizer and how many of them are read."""
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(f"{max_length} {words}".encode()).hexdigest()


def open_encoders(
    folder: Path, *, device: torch.device, use_bf16: bool, text_kind: TextKind | None = None
) -> CacheEncoders:
    """Load a model's autoencoder and text networks.

    Args:
        folder: Model folder; its denoiser is not opened.
        device: Where they compute.
        use_bf16: Whether videos are encoded in bf16.
        text_kind: By default, tokens for models with one T5 encoder of their own, which training changes, and
            embeddings for those grown from Pyramid-Flow or Wan2.1, whose text encoders stay.

    Raises:
        UserError: if the folder lacks a part, or a part cannot be opened.
    """
    index = read_model_index(folder)
    is_wan = str(index.get("_class_name", "")).startswith("Wan")
    is_large = is_wan or (folder / "text_encoder_2").is_dir()
    kind = text_kind or ("embeddings" if is_large else "tokens")
    try:
        if is_wan:
            raw = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32)
            vae: CausalVideoVAE | WanAutoencoder = WanAutoencoder(raw)
        else:
            vae = CausalVideoVAE.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        vae = vae.to(device).requires_grad_(False).eval()
        part = "tokenizer_2" if (folder / "tokenizer_2").is_dir() else "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(folder / part)
        max_length = _max_text_length(folder, index, is_wan)
        if kind == "tokens":
            encode_text, text_hash = _token_encoder(tokenizer, max_length), tokenizer_hash(tokenizer, max_length)
        else:
            prompts = _prompt_encoder(folder, tokenizer, is_wan, device)
            encode_text = _embedder(prompts, max_length, device)
            text_hash = _text_hash(prompts, max_length)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The model in {folder} cannot be opened for a cache: {error}") from error
    names = (
        f"{type(vae).__name__} {folder / 'vae'}",
        f"{kind} of {folder / part.replace('tokenizer', 'text_encoder')}",
    )
    return CacheEncoders(vae, vae_hash(vae), kind, text_hash, names, encode_text, use_bf16)


def _max_text_length(folder: Path, index: Mapping[str, Any], is_wan: bool) -> int:
    defaults = index.get("defaults")
    if isinstance(defaults, Mapping) and "max_text_length" in defaults:
        return int(defaults["max_text_length"])
    return _WAN_TEXT_LENGTH if is_wan else 128


def _prompt_encoder(folder: Path, tokenizer: Any, is_wan: bool, device: torch.device) -> PromptEncoder:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if is_wan:
        encoder: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype)
    else:
        part = "text_encoder_2" if (folder / "text_encoder_2").is_dir() else "text_encoder"
        encoder = T5EncoderModel.from_pretrained(folder / part, dtype=dtype)
    pooled = None
    if not is_wan and (folder / "text_encoder_2").is_dir():
        clip = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype).to(device).eval()
        pooled = PooledEncoder(clip, AutoTokenizer.from_pretrained(folder / "tokenizer"))
    return PromptEncoder(encoder.to(device).eval(), tokenizer, pooled)


def _token_encoder(tokenizer: Any, max_length: int) -> Callable[[tuple[str, ...]], Mapping[str, Tensor]]:
    def encode(captions: tuple[str, ...]) -> Mapping[str, Tensor]:
        ids, mask = tokenize_prompts(tokenizer, captions, max_length)
        longest = int(mask.sum(dim=1).max())
        return {"token_ids": ids[:, :longest], "token_mask": mask[:, :longest]}

    return encode


def _embedder(
    encoder: PromptEncoder, max_length: int, device: torch.device
) -> Callable[[tuple[str, ...]], Mapping[str, Tensor]]:
    @torch.no_grad()
    def encode(captions: tuple[str, ...]) -> Mapping[str, Tensor]:
        found = encoder.encode(captions, max_length, device)
        longest = int(found.mask.sum(dim=1).max())
        tokens = found.tokens * found.mask[..., None]
        return {
            "text": tokens[:, :longest].to(torch.bfloat16),
            "text_mask": found.mask[:, :longest],
            "pooled": found.pooled.to(torch.bfloat16),
        }

    return encode


def _text_hash(encoder: PromptEncoder, max_length: int) -> str:
    parts = [weights_hash(encoder.encoder), tokenizer_hash(encoder.tokenizer, max_length)]
    if encoder.pooled is not None:
        parts += [weights_hash(encoder.pooled.encoder), tokenizer_hash(encoder.pooled.tokenizer, max_length)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
