"""Objective of a denoiser that sees whole clips: flow matching without pyramid or autoregression (Wan base, D.1)."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import T5EncoderModel, UMT5EncoderModel

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.core.seeds import fold_seed
from m4v.flow.full_sequence import FullSequenceFlow
from m4v.training.bank_draws import BankDraws
from m4v.training.config import FullSequenceStageConfig
from m4v.training.latent_bank import LatentBank
from m4v.training.loop import LossTerm
from m4v.training.precision import autocast
from m4v.training.row_share import ALL_ROWS, Piece, RowShare, generator_of_rows


class FullSequenceObjective:
    """Training of a Wan denoiser on a bank of latents; the text encoder stays as it is unless settings say otherwise.

    Every step has one kind: an image step trains the first latent frame of every clip, which is a picture's latent; a
    video step trains whole clips. A dropped caption becomes the *encoded* empty prompt, since that is what guidance
    contrasts with.

    Args:
        transformer: Trained in place; called as `WanTransformer3DModel` is.
        text_encoder: Frozen, unless `train_text` is set.
        bank: Latents and captions, on the device of the networks.
        config: Mixture, caption drop, flow.
        stage: Name that separates the random draws of stages.
        batch_size: Clips per step.
        seed: Root of every random draw.
        use_bf16: Whether the forward pass runs in bf16.
        text_length: Rows the denoiser reads of every prompt; zeros after the real ones.
        share: Which rows of every batch are computed here; all by default.
        images: Still pictures for the image steps; None: they take the first frames of clips.

    Raises:
        UserError: if the bank's captions are longer than `text_length`.

    Source: Sec. 4.1, Appendix D.1; Wan2.1.
    """

    def __init__(
        self,
        transformer: nn.Module,
        text_encoder: UMT5EncoderModel | T5EncoderModel,
        bank: LatentBank,
        config: FullSequenceStageConfig,
        *,
        stage: str,
        batch_size: int,
        seed: int,
        use_bf16: bool,
        text_length: int = 512,
        share: RowShare = ALL_ROWS,
        images: LatentBank | None = None,
    ) -> None:
        longest = bank.token_ids.shape[1]
        if longest > text_length:
            raise UserError(f"The bank's captions have {longest} tokens, but the denoiser reads {text_length}.")
        self.transformer = transformer
        self.trains_text = config.train_text
        self.text_encoder = text_encoder if self.trains_text else text_encoder.requires_grad_(False).eval()
        self.flow = FullSequenceFlow(config.flow)
        self.seed = fold_seed(seed, stage)
        self.batch_size = batch_size
        self.use_bf16 = use_bf16
        self.text_length = text_length
        self.device = bank.latents.device
        self.draws = BankDraws(
            bank,
            self.seed,
            batch_size,
            images_per_window=config.images_per_window,
            videos_per_window=config.videos_per_window,
            text_drop=config.text_drop,
            share=share,
            images=images,
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser, and the text encoder if it is trained."""
        trained: dict[str, nn.Module] = {"transformer": self.transformer}
        return trained | ({"text_encoder": self.text_encoder} if self.trains_text else {})

    def batch(self, step: int) -> dict[str, Tensor]:
        """Take clips and captions; an image step keeps one latent frame of each."""
        batch = self.draws.batch(step)
        if self.draws.is_image_step(step):
            batch["latents"] = batch["latents"][:, :, :1].contiguous()
        return batch

    def terms(self, batch: Mapping[str, Tensor], step: int) -> Iterator[LossTerm]:
        """Give the whole batch as one summand, or each of this rank's parts of it as one."""
        pieces = self.draws.pieces
        first = 0
        for piece in pieces:
            rows = slice(first, first + piece.stop - piece.start)
            first = rows.stop
            yield self._term({name: value[rows] for name, value in batch.items()}, step, piece, 1.0 / len(pieces))

    def _term(self, batch: Mapping[str, Tensor], step: int, piece: Piece, weight: float) -> LossTerm:
        noise_generator = generator_for(self.seed, "noise", step, device=self.device)
        target = self.flow.training_sample(
            batch["latents"],
            noise_generator=generator_of_rows(noise_generator, piece),
            timestep_generator=generator_of_rows(generator_for(self.seed, "timestep", step), piece),
        )
        with autocast(self.use_bf16, self.device):
            with torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled()):
                text = encode_wan_text(
                    self.text_encoder, batch["token_ids"], batch["token_mask"], text_length=self.text_length
                ).float()
            predicted = self.transformer(
                hidden_states=target.noisy_latents,
                timestep=target.timesteps,
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        errors = (predicted.float() - target.velocity).square().mean(dim=(1, 2, 3, 4))
        loss = (errors if target.loss_weight is None else errors * target.loss_weight).mean()
        kind = "image" if self.draws.is_image_step(step) else "video"
        return LossTerm(loss=loss, weight=weight, metrics={f"loss/{kind}": loss.detach()})

    def num_items(self, step: int) -> int:
        """Clips per step."""
        return self.batch_size

    def facts(self, step: int) -> Mapping[str, float]:
        """Image and video batches so far in this stage."""
        return self.draws.facts(step)


def encode_wan_text(
    text_encoder: UMT5EncoderModel | T5EncoderModel,
    ids: Int[Tensor, "b k"],
    mask: Bool[Tensor, "b k"],
    *,
    text_length: int,
) -> Float[Tensor, "b l e"]:
    """Encode token ids as Wan's denoiser wants them: masked in the encoder, zeros after the real tokens.

    Args:
        text_encoder: The prompt encoder.
        ids: Token ids, real ones first.
        mask: True where a token is real.
        text_length: Rows of the result; at least as many as there are ids.

    Source: Wan2.1; `WanPipeline.encode_prompt`.
    """
    tokens: Tensor = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return nn.functional.pad(tokens * mask[..., None], (0, 0, 0, text_length - tokens.shape[1]))
