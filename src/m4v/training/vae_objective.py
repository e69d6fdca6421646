"""Objective of the autoencoder stage: reconstruct clips, with a trace of divergence (Sec. 3.1: causal video VAE)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from m4v.core.generators import generator_for
from m4v.data.pixels import to_pixels
from m4v.data.sampler import indices_for_step
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import LatentStatistics
from m4v.models.vae.latent_statistics import measure_latent_statistics
from m4v.models.vae.wan_autoencoder import WanAutoencoder
from m4v.training.clip_pool import ClipPool
from m4v.training.config import VaeStageConfig
from m4v.training.loop import LossTerm
from m4v.training.pixel_loss import pixel_loss, psnr
from m4v.training.precision import autocast
from m4v.training.row_share import ALL_ROWS, Piece, RowShare, generator_of_rows

_EVALUATION_BATCH = 16


class VaeObjective:
    """Reconstruction of random clips of a pool.

    Args:
        vae: Trained in place.
        pool: Clips, on the device of the network or in main memory.
        config: Loss settings.
        batch_size: Clips per step.
        seed: Root of every random draw.
        use_bf16: Whether the forward pass runs in bf16.
        share: Which rows of every batch are computed here; all by default.
    """

    def __init__(
        self,
        vae: CausalVideoVAE | WanAutoencoder,
        pool: ClipPool,
        config: VaeStageConfig,
        *,
        batch_size: int,
        seed: int,
        use_bf16: bool,
        share: RowShare = ALL_ROWS,
    ) -> None:
        self.vae = vae
        self.pool = pool
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        self.use_bf16 = use_bf16
        self.device = next(vae.parameters()).device
        self.pieces = share.pieces(batch_size)
        self._rows = torch.tensor(share.rows(batch_size))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The autoencoder."""
        return {"vae": self.vae}

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take the next clips of the shuffled epoch."""
        rows = torch.from_numpy(indices_for_step(self.seed, step, self.batch_size, len(self.pool)))[self._rows]
        frames = self.pool.frames.index_select(0, rows.to(self.pool.frames.device, non_blocking=True))
        return {"frames": frames.to(self.device, non_blocking=True)}

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Reconstruct from sampled latents, each of this rank's parts by itself."""
        first = 0
        for piece in self.pieces:
            rows = slice(first, first + piece.stop - piece.start)
            first = rows.stop
            yield self._term(batch["frames"][rows], step, piece)

    def _term(self, frames: Tensor, step: int, piece: Piece) -> LossTerm:
        video = to_pixels(frames)
        generator = generator_for(self.seed, "vae", "posterior", step, device=self.device)
        with autocast(self.use_bf16, self.device):
            decoded, posterior = self.vae(video, generator_of_rows(generator, piece))
        reconstruction = pixel_loss(decoded, video, self.config.loss)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        error = (decoded.detach().float().clamp(-1, 1) - video).square().mean()
        return LossTerm(
            loss=reconstruction + self.config.loss.kl_weight * divergence,
            weight=1.0 / len(self.pieces),
            metrics={"pixel_loss": reconstruction.detach(), "kl": divergence.detach(), "mse": error},
        )

    def num_items(self, step: int) -> int:
        """Clips per step."""
        return self.batch_size

    def facts(self, step: int) -> Mapping[str, float]:
        """Nothing beyond the item count."""
        return {}


@torch.no_grad()
def reconstruction_psnr(
    vae: CausalVideoVAE | WanAutoencoder, pool: ClipPool, *, use_bf16: bool = False
) -> dict[str, float]:
    """Round-trip PSNR in dB over all pixels, and over foreground pixels if the pool knows them.

    Both come from one mean squared error over all clips, so that easy clips cannot lift the figure without bound.
    """
    device = next(vae.parameters()).device
    errors: dict[str, float] = {"psnr": 0.0, "psnr_foreground": 0.0}
    counts = dict.fromkeys(errors, 0.0)
    for part in pool.chunks(_EVALUATION_BATCH):
        video = to_pixels(part.frames.to(device))
        with autocast(use_bf16, device):
            decoded, _ = vae(video)
        squared = (decoded.float().clamp(-1, 1) - video).square().mean(dim=1)
        errors["psnr"] += squared.sum().item()
        counts["psnr"] += squared.numel()
        if part.foreground is not None:
            mask = part.foreground.to(device)
            errors["psnr_foreground"] += squared[mask].sum().item()
            counts["psnr_foreground"] += mask.sum().item()
    return {name: psnr(errors[name] / counts[name]) for name in errors if counts[name]}


@torch.no_grad()
def encode_clips(vae: CausalVideoVAE | WanAutoencoder, pool: ClipPool, *, use_bf16: bool) -> Iterator[Tensor]:
    """Most likely latents of every clip, not normalised, a few clips at a time."""
    device = next(vae.parameters()).device
    for part in pool.chunks(_EVALUATION_BATCH if device.type == "cpu" else 256):
        with autocast(use_bf16, device):
            yield vae.encode(to_pixels(part.frames.to(device))).mode().float()


def measure_statistics(
    vae: CausalVideoVAE | WanAutoencoder, pool: ClipPool, num_clips: int, *, use_bf16: bool
) -> LatentStatistics:
    """Latent mean and deviation per channel over the first clips of a pool."""
    first = next(pool.chunks(num_clips))
    return measure_latent_statistics(encode_clips(vae, first, use_bf16=use_bf16))
