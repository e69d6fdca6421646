"""What every step takes from a bank of latents: kind of batch, clips, captions, dropped captions (Sec. 4.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from m4v.core.generators import generator_for
from m4v.data.mixing import Mixture
from m4v.data.sampler import indices_for_step
from m4v.training.latent_bank import LatentBank


class BankDraws:
    """Batches of latents and caption tokens as pure functions of the step.

    Args:
        bank: Latents and captions, on the device of the networks.
        seed: Root of the draws.
        batch_size: Clips per step.
        images_per_window: Image steps in every window of the mixture.
        videos_per_window: Video steps in every window.
        text_drop: Share of captions replaced by the empty prompt, in [0, 1].
    """

    def __init__(
        self,
        bank: LatentBank,
        seed: int,
        batch_size: int,
        *,
        images_per_window: int,
        videos_per_window: int,
        text_drop: float,
    ) -> None:
        self.bank = bank
        self.seed = seed
        self.batch_size = batch_size
        self.mixture = Mixture(parts=(("image", images_per_window), ("video", videos_per_window)))
        self.text_drop = text_drop

    def is_image_step(self, step: int) -> bool:
        """Tell whether a step trains images; exact over every window of the mixture."""
        return self.mixture.at(self.seed, step).kind == "image"

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take the next clips of the shuffled epoch, one of each clip's captions, and drop some captions."""
        bank, device = self.bank, self.bank.latents.device
        generator = generator_for(self.seed, "captions", step, device=device)
        size = (self.batch_size,)
        rows = torch.from_numpy(indices_for_step(self.seed, step, self.batch_size, len(bank)))
        rows = rows.to(device, non_blocking=True)
        choice = torch.randint(bank.caption_rows.shape[1], size, generator=generator, device=device)
        is_dropped = torch.rand(size, generator=generator, device=device) < self.text_drop
        captions = bank.caption_rows.index_select(0, rows).gather(1, choice[:, None])[:, 0]
        captions = torch.where(is_dropped, 0, captions)
        return {
            "latents": bank.latents.index_select(0, rows).float(),
            "token_ids": bank.token_ids.index_select(0, captions),
            "token_mask": bank.token_mask.index_select(0, captions),
        }

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches up to and including a step."""
        kind, earlier = self.mixture.at(self.seed, step)
        images = earlier + 1 if kind == "image" else step - earlier
        return {"image_batches": images, "video_batches": step + 1 - images}
