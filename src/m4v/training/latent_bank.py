"""Latents and caption tokens of every clip, resident on the training device, so that a step waits for nothing."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from m4v.checkpoints.weights import load_tensors, save_tensors
from m4v.core.errors import UserError
from m4v.data.cache.manifest import SampleCache
from m4v.data.drops import describe_drops
from m4v.data.latent_cache import LatentCache
from m4v.data.source import ClipSource
from m4v.models.text.encoder import tokenize_prompts
from m4v.models.text.prompt_encoder import PooledEncoder
from m4v.training.cache_encoders import vae_hash
from m4v.training.networks import Networks
from m4v.training.precision import autocast
from m4v.training.progress import OnProgress, Pace, Progress
from m4v.training.wan_networks import WanNetworks

_PHASE = "encode clips"
_REPORT_EVERY = 256


@dataclass(frozen=True)
class LatentBank:
    """What the denoiser trains on.

    Attributes:
        latents: Normalised latents of every clip.
        token_ids: Tokens of every distinct caption, the empty prompt first.
        token_mask: True where a token is real.
        caption_rows: Row of `token_ids` for each of a clip's captions, repeated to equal counts.
        pooled_ids: Tokens of every distinct caption for a second text encoder, which gives the pooled vector.
    """

    latents: Float[Tensor, "n c t h w"]
    token_ids: Int[Tensor, "m l"]
    token_mask: Bool[Tensor, "m l"]
    caption_rows: Int[Tensor, "n k"]
    pooled_ids: Int[Tensor, "m p"] | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def num_units(self) -> int:
        """Units of a clip."""
        return self.latents.shape[2]

    def to(self, device: torch.device) -> "LatentBank":
        """Move everything to a device."""
        return replace(
            self,
            latents=self.latents.to(device),
            token_ids=self.token_ids.to(device),
            token_mask=self.token_mask.to(device),
            caption_rows=self.caption_rows.to(device),
            pooled_ids=None if self.pooled_ids is None else self.pooled_ids.to(device),
        )


def build_bank(
    latents: Float[Tensor, "n c t h w"],
    captions: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    pooled: PooledEncoder | None = None,
) -> LatentBank:
    """Tokenise captions and pair them with latents.

    Captions are padded only to the longest one present: padding is masked everywhere, so its length changes cost, not
    results.

    Args:
        latents: Normalised latents, one row per clip.
        captions: Alternative captions of each clip, at least one each.
        tokenizer: Fixes the token ids.
        max_length: Captions are cut to this many tokens.
        pooled: Second text encoder, if the model has one.
    """
    row_of = {"": 0}
    for group in captions:
        for caption in group:
            row_of.setdefault(caption, len(row_of))
    ids, mask = tokenize_prompts(tokenizer, list(row_of), max_length)
    longest = int(mask.sum(dim=1).max())
    return LatentBank(
        latents,
        ids[:, :longest].contiguous(),
        mask[:, :longest].contiguous(),
        torch.tensor(_equal_rows([row_of[caption] for caption in group] for group in captions)),
        None if pooled is None else tokenize_prompts(pooled.tokenizer, list(row_of), pooled.max_length)[0],
    )


def _equal_rows(groups: Iterable[list[int]]) -> list[list[int]]:
    """Repeat each clip's captions up to the least common length bound, so that a uniform draw stays nearly uniform."""
    listed = list(groups)
    width = max(len(group) for group in listed)
    return [[group[index % len(group)] for index in range(width)] for group in listed]


def bank_from_cache(
    cache: SampleCache,
    source: ClipSource,
    networks: Networks | WanNetworks,
    max_text_length: int,
    on_progress: OnProgress,
) -> LatentBank:
    """Read the bank from what `m4v data cache` wrote.

    Latents are those that encoding during the run would give, up to one rounding to bf16: they were encoded one clip at
    a time. Captions are the cached ones, with the run's own tokenizer, so all draws are the same.

    Args:
        cache: The cache.
        source: The clips wanted, in their order; nothing is decoded, so it must know their names.
        networks: Of the run; its autoencoder must be the cache's.
        max_text_length: Captions are cut to this many tokens.
        on_progress: Told what could not be checked.

    Raises:
        UserError: if the cache was made with another autoencoder, its data set has changed, or clips are missing or
            differ in size.
    """
    dropped = set(cache.dropped)
    try:
        name_of: Callable[[int], str] = getattr(source, "name")  # noqa: B009 - not every source has names
        names = [name for name in map(name_of, range(len(source))) if name not in dropped]
    except AttributeError as error:
        raise UserError(
            f"The cache {cache.folder} serves runs that read one folder of files; leave data.cache out, or give the "
            "data set that it was made from with --data."
        ) from error
    cache.check_encoders(vae_hash(networks.vae))
    unchecked = cache.check_data()
    latents, captions = cache.latents(names)
    message = unchecked or f"{len(captions)} clips from the cache {cache.folder}"
    on_progress(Progress(phase=_PHASE, done=len(captions), total=len(captions), message=message))
    pooled = networks.pooled_encoder if isinstance(networks, Networks) else None
    return build_bank(latents, captions, networks.tokenizer, max_text_length, pooled)


def load_or_build_bank(
    folder: Path,
    make_source: Callable[[], ClipSource],
    networks: Networks | WanNetworks,
    *,
    identity: Mapping[str, Any],
    max_text_length: int,
    use_bf16: bool,
    num_threads: int,
    on_progress: OnProgress,
    cached: SampleCache | None = None,
) -> LatentBank:
    """Read the bank from a run's cache folder, or encode the clips and write it there.

    The file's name holds a hash of the clips' identity, the autoencoder's weights and the tokenizer's words: a change
    of any of them means a new file, never a stale one.

    Args:
        folder: Cache folder of the run.
        make_source: Gives the clips; called only if they are needed.
        networks: Autoencoder and tokenizer.
        identity: What determines the clips, as JSON types.
        max_text_length: Captions are cut to this many tokens.
        use_bf16: Whether clips are encoded in bf16.
        num_threads: Threads that read clips.
        on_progress: Told about clips encoded.
        cached: What `m4v data cache` wrote, to be read instead; see `bank_from_cache`.
    """
    if cached is not None:
        return bank_from_cache(cached, make_source(), networks, max_text_length, on_progress)
    digest = _fingerprint(networks, {**identity, "max_text_length": max_text_length})
    path = folder / f"latents-{digest}.safetensors"
    if path.is_file():
        return LatentBank(**load_tensors(path))
    bank = _encode_source(make_source(), networks, max_text_length, use_bf16, num_threads, on_progress)
    save_tensors(path, {name: value for name, value in vars(bank).items() if value is not None})
    return bank


def _encode_source(
    source: ClipSource,
    networks: Networks | WanNetworks,
    max_text_length: int,
    use_bf16: bool,
    num_threads: int,
    on_progress: OnProgress,
) -> LatentBank:
    device = next(networks.vae.parameters()).device
    pace = Pace(0, len(source))

    def encode(video: Tensor) -> Tensor:
        with autocast(use_bf16, device):
            latents = networks.vae.encode(video).mode()
        return networks.vae.normalise(latents.float())

    def report(done: int, total: int) -> None:
        if done % _REPORT_EVERY == 0 or done == total:
            on_progress(Progress(phase=_PHASE, done=done, total=total, seconds_left=pace.seconds_left(done)))

    cache = LatentCache.build(
        source,
        encode,
        batch_size=16 if device.type == "cpu" else 256,
        device=device,
        num_threads=num_threads,
        on_progress=report,
    )
    if cache.drops:
        message = f"{len(cache.drops)} of {len(source)} clips are left out:\n{describe_drops(cache.drops)}"
        on_progress(Progress(phase=_PHASE, done=len(source), total=len(source), message=message))
    bucket = cache.bucket()
    pooled = networks.pooled_encoder if isinstance(networks, Networks) else None
    return build_bank(bucket.latents, bucket.captions, networks.tokenizer, max_text_length, pooled)


def _fingerprint(networks: Networks | WanNetworks, identity: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    digest.update(json.dumps(networks.tokenizer.get_vocab(), sort_keys=True).encode())
    digest.update(str(networks.vae.latent_statistics).encode())
    for name, value in networks.vae.named_parameters():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
