"""What every step takes from a bank of latents: kind of batch, clips, captions, dropped captions (Sec. 4.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from m4v.core.generators import generator_for
from m4v.core.seeds import fold_seed
from m4v.data.mixing import Mixture
from m4v.data.sampler import indices_for_step
from m4v.training.latent_bank import LatentBank
from m4v.training.row_share import ALL_ROWS, RowShare


class BankDraws:
    """Batches of latents and caption tokens as pure functions of the step.

    Args:
        bank: Latents and captions, on the device of the networks.
        seed: Root of the draws.
        batch_size: Clips per step.
        images_per_window: Image steps in every window of the mixture.
        videos_per_window: Video steps in every window.
        text_drop: Share of captions replaced by the empty prompt, in [0, 1].
        num_columns: Columns of the batch, each of which the ranks share.
        share: Which rows are wanted here.
        images: Still pictures for the image steps; None: they take the first frames of clips.
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
        num_columns: int = 1,
        share: RowShare = ALL_ROWS,
        images: LatentBank | None = None,
    ) -> None:
        self.bank = bank
        self.images = images
        self.seed = seed
        self.batch_size = batch_size
        self.mixture = Mixture(parts=(("image", images_per_window), ("video", videos_per_window)))
        self.text_drop = text_drop
        self.pieces = share.pieces(batch_size, num_columns)
        self._rows = torch.tensor(share.rows(batch_size, num_columns))

    def kind(self, step: int) -> str:
        """Tell what a step trains, `image` or `video`; exact over every window of the mixture."""
        return self.mixture.at(self.seed, step).kind

    def is_image_step(self, step: int) -> bool:
        """Tell whether a step trains images."""
        return self.kind(step) == "image"

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take the next clips of the shuffled epoch, one of each clip's captions, and drop some captions.

        Numbers are drawn for the whole batch, and only this rank's rows are read.
        """
        bank, device = self.bank, self.bank.latents.device
        order, number = self.seed, step
        if self.images is not None:
            # Each kind has an order of its own, so that every picture comes once before any comes again.
            kind, number = self.mixture.at(self.seed, step)
            order = fold_seed(self.seed, "order", kind)
            bank = self.images if kind == "image" else bank
        generator = generator_for(self.seed, "captions", step, device=device)
        size = (self.batch_size,)
        own = self._rows.to(device, non_blocking=True)
        rows = torch.from_numpy(indices_for_step(order, number, self.batch_size, len(bank)))[self._rows]
        rows = rows.to(device, non_blocking=True)
        choice = torch.randint(bank.caption_rows.shape[1], size, generator=generator, device=device)[own]
        is_dropped = torch.rand(size, generator=generator, device=device)[own] < self.text_drop
        captions = bank.caption_rows.index_select(0, rows).gather(1, choice[:, None])[:, 0]
        captions = torch.where(is_dropped, 0, captions)
        batch = {
            "latents": bank.latents.index_select(0, rows).float(),
            "token_ids": bank.token_ids.index_select(0, captions),
            "token_mask": bank.token_mask.index_select(0, captions),
            "clips": rows,
        }
        if bank.pooled_ids is not None:
            batch["pooled_ids"] = bank.pooled_ids.index_select(0, captions)
        return batch

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches up to and including a step."""
        kind, earlier = self.mixture.at(self.seed, step)
        images = earlier + 1 if kind == "image" else step - earlier
        return {"image_batches": images, "video_batches": step + 1 - images}
