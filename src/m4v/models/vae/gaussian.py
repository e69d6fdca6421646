"""The diagonal Gaussian a VAE encoder predicts for every latent value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.generators import RowGenerator, draw

LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal distributions over latents.

    Attributes:
        mean: Centre of each value.
        log_variance: Logarithm of each variance, within [-30, 20].

    Source: Pyramid-Flow causal VAE (posterior).
    """

    mean: Float[Tensor, "b c t h w"]
    log_variance: Float[Tensor, "b c t h w"]

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b d t h w"]) -> "DiagonalGaussian":
        """Split the encoder's output into mean and clamped log-variance."""
        mean, log_variance = moments.chunk(2, dim=1)
        return cls(mean, log_variance.clamp(*LOG_VARIANCE_RANGE))

    @classmethod
    def concatenate(cls, posteriors: Sequence["DiagonalGaussian"]) -> "DiagonalGaussian":
        """Join consecutive pieces of a video along time."""
        return cls(
            torch.cat([posterior.mean for posterior in posteriors], dim=2),
            torch.cat([posterior.log_variance for posterior in posteriors], dim=2),
        )

    def mode(self) -> Float[Tensor, "b c t h w"]:
        """The most likely latents."""
        return self.mean

    def sample(self, generator: RowGenerator) -> Float[Tensor, "b c t h w"]:
        """Draw latents; noise is made on the generator's device, so a CPU generator gives the same draw everywhere."""
        noise = draw(torch.randn, self.mean.shape, generator, dtype=torch.float32)
        deviation = torch.exp(0.5 * self.log_variance)
        return self.mean + deviation * noise.to(device=self.mean.device, dtype=self.mean.dtype)

    def kl(self) -> Float[Tensor, "b"]:
        """Divergence from the standard normal in nats, summed over all latent values of each item, in float32."""
        mean, log_variance = self.mean.float(), self.log_variance.float()
        return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(dim=1)
