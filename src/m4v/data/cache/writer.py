"""Encodes every clip of a data set once and keeps it on disk; what is there and still true is not made again."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from m4v.core.shapes import VideoShape
from m4v.data.cache.manifest import EMPTY_PROMPT, CacheIdentity, FileState, SampleCache, source_difference
from m4v.data.cache.sample import CachedSample, caption_hash, read_facts, sample_path, write_sample, write_tensors
from m4v.data.clip import Clip
from m4v.data.drops import require_usable
from m4v.data.folder_entry import MissingCaption
from m4v.data.folder_source import FolderSource
from m4v.data.loader import Prefetcher
from m4v.data.pixels import to_pixels
from m4v.data.source import UnusableClip

EncodeFn = Callable[[Float[Tensor, "b 3 t h w"]], Float[Tensor, "b c units h w"]]
TextFn = Callable[[tuple[str, ...]], Mapping[str, Tensor]]
_OTHER_NETWORK = {
    "vae_hash": "another autoencoder",
    "encoder_hash": "another text encoder",
    "decoder": "another decoder of videos",
    "fps": "another size or rate",
    "request": "another size or rate",
    "precision": "another precision",
    "format_version": "another format",
}


@dataclass(frozen=True)
class WrittenCache:
    """What was done.

    Attributes:
        cache: The finished cache.
        num_written: Clips encoded now.
        num_reused: Clips that were there and still true.
        outdated: Why clips that were there were encoded again -> how many.
        num_forgotten: Sample files of clips that the data set no longer has; they are left, and not read.
        drops: Files that cannot be encoded, each with its reason.
    """

    cache: SampleCache
    num_written: int
    num_reused: int
    outdated: Mapping[str, int]
    num_forgotten: int
    drops: tuple[UnusableClip, ...]


def write_cache(
    folder: Path,
    source: FolderSource,
    identity: CacheIdentity,
    *,
    encode_fn: EncodeFn,
    text_fn: TextFn,
    missing_caption: MissingCaption = "skip",
    device: torch.device | str = "cpu",
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> WrittenCache:
    """Encode the clips of a data set that a folder does not hold yet.

    Every sample is a file of its own that says what it was made from; one made from anything else is encoded again and
    counted. The manifest is written last, so that an interrupted cache is never taken for a whole one.

    Args:
        folder: Where to.
        source: The clips.
        identity: What the encoders and settings are.
        encode_fn: Videos in [-1, 1] on `device` to normalised latents.
        text_fn: Captions to tensors with one row each, as `CachedSample.text` has them.
        missing_caption: As `source` was opened with.
        device: Where videos are encoded.
        num_threads: Threads that read clips ahead.
        on_progress: Called after each clip with (clips done, clips in all).

    Raises:
        UserError: if no clip is usable, or the place cannot be written.
    """
    outdated: Counter[str] = Counter()
    num_reused = 0
    todo: list[int] = []
    for index, entry in enumerate(source.entries):
        facts = read_facts(sample_path(folder, entry.name))
        reason = _reason(identity, source, index, facts)
        if reason is None:
            num_reused += 1
            continue
        if facts:
            outdated[reason] += 1
        todo.append(index)
    total = len(source)

    def read(index: int) -> Clip | UnusableClip:
        try:
            return source.clip(index)
        except UnusableClip as drop:
            return drop

    drops: list[UnusableClip] = []
    write_tensors(folder / EMPTY_PROMPT, text_fn(("",)), asdict(identity))
    with Prefetcher(read, todo, num_threads=num_threads) as clips:
        for done, (index, clip) in enumerate(zip(todo, clips, strict=True), start=num_reused + 1):
            if isinstance(clip, UnusableClip):
                drops.append(clip)
            else:
                _write(folder, source, index, clip, identity, encode_fn, text_fn, device)
            if on_progress:
                on_progress(done, total)
    dropped = {drop.source for drop in drops}
    names = tuple(entry.name for entry in source.entries if entry.name not in dropped)
    require_usable(len(names), str(source.listing.root), drops, "Check the data set with: m4v data check DIR")
    cache = SampleCache(folder, identity, source.listing.root, names, tuple(sorted(dropped)), missing_caption)
    cache.write()
    kept = {sample_path(folder, name) for name in names}
    num_forgotten = sum(path not in kept for path in (folder / "samples").glob("*.safetensors"))
    return WrittenCache(cache, len(todo) - len(drops), num_reused, dict(outdated), num_forgotten, tuple(drops))


def _reason(identity: CacheIdentity, source: FolderSource, index: int, facts: Mapping[str, str]) -> str | None:
    """Tell why a stored sample cannot serve; None if it can."""
    if not facts:
        return "not there"
    if different := identity.differences(facts):
        return _OTHER_NETWORK[different[0]]
    return source_difference(source.entries[index], facts)


@torch.no_grad()
def _write(
    folder: Path,
    source: FolderSource,
    index: int,
    clip: Clip,
    identity: CacheIdentity,
    encode_fn: EncodeFn,
    text_fn: TextFn,
    device: torch.device | str,
) -> None:
    entry = source.entries[index]
    num_frames, height, width = clip.frames.shape[:3]
    video = to_pixels(torch.from_numpy(clip.frames[None]).to(device))
    latent = encode_fn(video)[0].to(torch.bfloat16)
    shape = VideoShape(num_frames=num_frames, height=height, width=width)
    state = FileState.of(entry)
    facts = {
        **asdict(identity),
        "bucket": f"{height}x{width}x{num_frames}",
        "crop": ",".join(str(round(edge)) for edge in source.crop_box(index, shape)),
        "caption_hash": caption_hash(clip.captions),
        "source_bytes": str(state.num_bytes),
        "source_changed_ns": str(state.changed_ns),
        "source_sha256": state.sha256,
    }
    sample = CachedSample(latent, text_fn(clip.captions), clip.captions, entry.name)
    write_sample(sample_path(folder, entry.name), sample, facts)
