"""A data set encoded once and kept in memory: training the denoiser never waits for pictures or the autoencoder."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.data.clip import Clip
from m4v.data.drops import require_usable
from m4v.data.loader import Prefetcher
from m4v.data.pixels import to_pixels
from m4v.data.source import ClipSource, UnusableClip

EncodeFn = Callable[[Float[Tensor, "b 3 t h w"]], Float[Tensor, "b c units h w"]]


@dataclass(frozen=True)
class LatentBatch:
    """Latents of equally long clips with the alternative captions of each."""

    latents: Float[Tensor, "b c t h w"]
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LatentBucket:
    """All clips of one length.

    Attributes:
        latents: One row per clip, on the cache's device, in the type they are stored in.
        captions: Per clip, its alternative captions.
        sources: Per clip, where it comes from.
    """

    latents: Float[Tensor, "n c t h w"]
    captions: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.captions)

    @property
    def num_units(self) -> int:
        """Latent frames of each clip."""
        return self.latents.shape[2]

    def batch(self, indices: Sequence[int] | np.ndarray) -> LatentBatch:
        """Take the clips at `indices` (0 to length - 1, repeats allowed) as float32."""
        rows = [int(index) for index in indices]
        chosen = torch.tensor(rows, device=self.latents.device)
        return LatentBatch(self.latents.index_select(0, chosen).float(), tuple(self.captions[row] for row in rows))


@dataclass(frozen=True)
class LatentCache:
    """Clips encoded to latents, in one bucket per number of units.

    Attributes:
        buckets: Number of units -> the clips of that length, in the order of the source.
        drops: Clips left out, each with its reason.
    """

    buckets: dict[int, LatentBucket]
    drops: tuple[UnusableClip, ...]

    @classmethod
    def build(
        cls,
        source: ClipSource,
        encode_fn: EncodeFn,
        num_clips: int | None = None,
        batch_size: int = 8,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        num_threads: int = 2,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Encode the first `num_clips` clips of a source.

        Unusable clips are skipped and listed in `drops`. Clips of different length never share a batch.

        Args:
            source: Clips to encode.
            encode_fn: Videos in [-1, 1] on `device` to (normalised, mean) latents.
            num_clips: How many to read; by default, and at most, all.
            batch_size: Most clips per call of `encode_fn`.
            device: Where videos are encoded and latents are kept.
            dtype: Type that latents are kept in.
            num_threads: Threads that read clips ahead.
            on_progress: Called after each clip with (clips read, clips in all).

        Raises:
            UserError: if no clip is usable; the message counts the reasons.
        """
        total = len(source) if num_clips is None else min(num_clips, len(source))
        waiting: dict[int, list[Clip]] = {}
        encoded: dict[int, list[LatentBucket]] = {}
        drops: list[UnusableClip] = []

        def read(index: int) -> Clip | UnusableClip:
            try:
                return source.clip(index)
            except UnusableClip as drop:
                return drop

        def flush(clips: list[Clip]) -> None:
            bucket = _encode(clips, encode_fn, device, dtype)
            encoded.setdefault(bucket.num_units, []).append(bucket)

        with Prefetcher(read, range(total), num_threads=num_threads, depth=num_threads * 4) as clips:
            for done, clip in enumerate(clips, start=1):
                if isinstance(clip, UnusableClip):
                    drops.append(clip)
                else:
                    group = waiting.setdefault(len(clip.frames), [])
                    group.append(clip)
                    if len(group) == batch_size:
                        flush(waiting.pop(len(clip.frames)))
                if on_progress:
                    on_progress(done, total)
        for group in waiting.values():
            flush(group)
        require_usable(len(encoded), f"{total} clips", drops, "Check the data set with: m4v data check DIR")
        return cls({units: _concatenate(parts) for units, parts in sorted(encoded.items())}, tuple(drops))

    def __len__(self) -> int:
        """Count the clips of all lengths."""
        return sum(len(bucket) for bucket in self.buckets.values())

    def bucket(self, num_units: int | None = None) -> LatentBucket:
        """Return the clips of `num_units` latent frames; may be left out where all clips are equally long.

        Raises:
            UserError: if there is no such length, or `num_units` is left out and there are several.
        """
        lengths = ", ".join(str(length) for length in self.buckets)
        if num_units is None:
            if len(self.buckets) > 1:
                raise UserError(f"The cached clips have {lengths} units; say which length is wanted.")
            return next(iter(self.buckets.values()))
        if num_units not in self.buckets:
            raise UserError(f"No cached clip has {num_units} units; there are clips of {lengths} units.")
        return self.buckets[num_units]

    def batch(self, indices: Sequence[int] | np.ndarray, num_units: int | None = None) -> LatentBatch:
        """Take clips out of one bucket by their numbers in it; see `bucket`."""
        return self.bucket(num_units).batch(indices)

    def to(self, device: torch.device | str) -> Self:
        """Move all latents to a device."""
        moved = {
            units: dataclasses.replace(bucket, latents=bucket.latents.to(device))
            for units, bucket in self.buckets.items()
        }
        return dataclasses.replace(self, buckets=moved)


@torch.no_grad()
def _encode(clips: Sequence[Clip], encode_fn: EncodeFn, device: torch.device | str, dtype: torch.dtype) -> LatentBucket:
    videos = to_pixels(torch.from_numpy(np.stack([clip.frames for clip in clips])).to(device))
    latents = encode_fn(videos).to(dtype)
    assert latents.ndim == 5, latents.shape
    assert len(latents) == len(clips), (latents.shape, len(clips))
    return LatentBucket(latents, tuple(clip.captions for clip in clips), tuple(clip.source for clip in clips))


def _concatenate(parts: Sequence[LatentBucket]) -> LatentBucket:
    return LatentBucket(
        latents=torch.cat([part.latents for part in parts]),
        captions=tuple(captions for part in parts for captions in part.captions),
        sources=tuple(source for part in parts for source in part.sources),
    )
