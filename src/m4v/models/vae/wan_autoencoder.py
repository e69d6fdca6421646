"""Wan's autoencoder behind the interface of our own, so that training code serves both (Wan base)."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.core.shapes import Compression, VideoShape
from m4v.models.vae.config import LatentStatistics
from m4v.models.vae.gaussian import DiagonalGaussian


class WanAutoencoder(nn.Module):
    """diffusers' `AutoencoderKLWan` with `encode`, `decode` and `normalise` as `CausalVideoVAE` has them.

    Pixels are floats in [-1, 1]. It computes in float32, as half types overflow in it.

    Args:
        vae: The network; kept as it is, and saved by its own `save_pretrained`.

    Source: Wan2.1; diffusers.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae

    @property
    def compression(self) -> Compression:
        """Pixels per latent cell and axis."""
        config = self.vae.config
        return Compression(time=config["scale_factor_temporal"], space=config["scale_factor_spatial"])

    @property
    def latent_statistics(self) -> LatentStatistics:
        """The numbers `normalise` uses; one pair for all frames."""
        mean = tuple(float(value) for value in self.vae.config["latents_mean"])
        scale = tuple(1.0 / float(value) for value in self.vae.config["latents_std"])
        return LatentStatistics(image_shift=mean, image_scale=scale, video_shift=mean, video_scale=scale)

    def set_latent_statistics(self, statistics: LatentStatistics) -> None:
        """Store measured statistics; those of later frames serve all, as Wan has one pair."""
        shift, scale = statistics.video_shift, statistics.video_scale
        if not isinstance(shift, tuple) or not isinstance(scale, tuple):
            raise UserError("Wan's autoencoder needs one number per latent channel; measure the statistics.")
        self.vae.register_to_config(latents_mean=list(shift), latents_std=[1.0 / value for value in scale])

    def normalise(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Map latents to the denoiser's range."""
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def denormalise(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Undo `normalise`."""
        mean, deviation = self._statistics(latents)
        return latents * deviation + mean

    def encode(self, video: Float[Tensor, "b c t h w"]) -> DiagonalGaussian:
        """Encode a whole video of `time * k + 1` frames.

        Raises:
            UserError: if the frame count or size does not fit the compression.
        """
        _, _, num_frames, height, width = video.shape
        self.compression.latent_shape(VideoShape(num_frames=num_frames, height=height, width=width))
        posterior: Any = self.vae.encode(video).latent_dist
        return DiagonalGaussian(posterior.mean, posterior.logvar)

    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c u v x"]:
        """Decode whole (un-normalised) latents."""
        video: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return video

    def forward(
        self, video: Float[Tensor, "b c t h w"], generator: Any = None
    ) -> tuple[Float[Tensor, "b c t h w"], DiagonalGaussian]:
        """Encode and decode; latents are sampled if a generator is given, else the most likely ones."""
        posterior = self.encode(video)
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return self.decode(latents), posterior

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = (
            torch.as_tensor(self.vae.config[name], device=latents.device, dtype=torch.float32).view(1, -1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return mean, deviation
