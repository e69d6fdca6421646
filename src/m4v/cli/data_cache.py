"""`m4v data cache`: latents and encoded captions of a data set, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.verb import Action
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.core.shapes import VideoShape
    from m4v.data.cache.writer import WrittenCache
    from m4v.data.source import UnusableClip
    from m4v.training.cache_encoders import CacheEncoders


@dataclass(frozen=True, kw_only=True)
class CacheArguments:
    """Encode every clip of a data set once: latents, and tokens or embeddings of the captions.

    What is there already is kept if it was made from the same file and captions by the same networks and settings, and
    made again, said, and counted if not. Train with it by --data.cache OUT.

    Attributes:
        data: The data set: a folder of videos with captions, an annotation file, or WebDataset tars.
        out: Folder of the cache.
        model: Model whose autoencoder and text encoder are used: a folder, a bundled name, or a hub id.
        frames: Most frames of a clip; 0: as the model makes.
        min_frames: Fewest frames of a video; 0: as many as --frames, so that all clips are equally long.
        height: Rows that frames are scaled and cut to; 0: as the model makes.
        width: Columns; 0: as the model makes.
        fps: Frames per second that videos are resampled to; 0: as the model makes.
        text: Store captions as token ids, for a text encoder that is trained too, or as embeddings; auto: as the model
            needs.
        missing_caption: Leave files without caption out, or give them the empty caption.
        media: Folder of the videos, if an annotation file lies elsewhere.
        device: Where to compute; auto takes an accelerator if there is one.
        precision: Precision that videos are encoded in; auto: bf16 on CUDA, else fp32.
        threads: Threads that decode videos; 0 uses every core.
        decode_check: Decode this many clips again and write them as mp4 into OUT/decoded, to look at.
    """

    data: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    model: str
    frames: int = 0
    min_frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    text: Literal["auto", "tokens", "embeddings"] = "auto"
    missing_caption: Literal["skip", "empty"] = "skip"
    media: Path | None = None
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: int = 0
    decode_check: int = 0


def cache(arguments: CacheArguments) -> None:
    """Encode a data set.

    Raises:
        UserError: if the model or the data set cannot be used, or an argument is out of range.
    """
    if min(arguments.frames, arguments.min_frames, arguments.height, arguments.width, arguments.threads) < 0:
        raise UserError("--frames, --min-frames, --height, --width and --threads must be at least 0.")
    import os

    import torch

    from m4v.checkpoints.resolve import resolve_model
    from m4v.cli.devices import use_all_cores
    from m4v.core.devices import choose_device
    from m4v.data.cache.manifest import CacheIdentity, describe_request
    from m4v.data.cache.writer import write_cache
    from m4v.data.folder_source import FolderSource
    from m4v.media.video import decoder_name
    from m4v.training.cache_encoders import open_encoders

    use_all_cores()
    folder = resolve_model(arguments.model)
    shape, fps = _target(arguments, folder)
    device = choose_device(arguments.device)
    use_bf16 = arguments.precision == "bf16" or (arguments.precision == "auto" and device.type == "cuda")
    text = None if arguments.text == "auto" else arguments.text
    encoders = open_encoders(folder, device=device, use_bf16=use_bf16, text_kind=text)
    encoders.compression.latent_shape(shape)
    min_frames = arguments.min_frames or shape.num_frames
    source = FolderSource(
        arguments.data,
        shape=shape,
        fps=fps,
        time_compression=encoders.compression.time,
        min_frames=min_frames,
        missing_caption=arguments.missing_caption,
        media=arguments.media,
    )
    identity = CacheIdentity(
        vae=encoders.names[0],
        vae_hash=encoders.vae_hash,
        encoder=encoders.names[1],
        encoder_hash=encoders.encoder_hash,
        decoder=f"{decoder_name()}, torch {torch.__version__}",
        fps=f"{fps:g}",
        request=describe_request(shape, min_frames, source.time_compression),
        precision="bf16" if use_bf16 else "fp32",
    )
    say(f"{len(source)} files of {arguments.data} ({source.listing.layout}) as {shape} at {fps:g} fps ...")
    with progress("encoding") as advance:
        written = write_cache(
            arguments.out,
            source,
            identity,
            encode_fn=encoders.encode,
            text_fn=encoders.encode_text,
            missing_caption=arguments.missing_caption,
            device=device,
            num_threads=arguments.threads or os.cpu_count() or 1,
            on_progress=advance,
        )
    _report(written, [*source.listing.drops])
    if arguments.decode_check:
        _decode_check(written, encoders, arguments.decode_check, fps)
    result(str(arguments.out))


def _target(arguments: CacheArguments, folder: Path) -> "tuple[VideoShape, float]":
    """Size and rate asked for, the model's own where nothing is said."""
    from m4v.checkpoints.model_folder import read_model_index
    from m4v.core.shapes import VideoShape

    defaults = read_model_index(folder).get("defaults")
    known: Mapping[str, Any] = defaults if isinstance(defaults, dict) else {}
    values: dict[str, Any] = {
        "frames": arguments.frames or known.get("num_frames"),
        "height": arguments.height or known.get("height"),
        "width": arguments.width or known.get("width"),
        "fps": arguments.fps or known.get("fps"),
    }
    if missing := [f"--{name}" for name, value in values.items() if not value]:
        raise UserError(f"The model {folder} does not say what it makes; give {', '.join(missing)}.")
    shape = VideoShape(num_frames=values["frames"], height=values["height"], width=values["width"])
    return shape, float(values["fps"])


def _report(written: "WrittenCache", left_out: "list[UnusableClip]") -> None:
    from m4v.data.drops import describe_drops

    say(f"{written.num_written} clips encoded, {written.num_reused} kept from before.")
    for reason, count in written.outdated.items():
        say(f"{count} clips were there, but made with or from {reason}: encoded again.")
    if written.num_forgotten:
        say(f"{written.num_forgotten} sample files belong to no file of the data set any more; they are not read.")
    drops = [*left_out, *written.drops]
    if drops:
        say(f"{len(drops)} files or rows are left out:\n{describe_drops(drops)}")


def _decode_check(written: "WrittenCache", encoders: "CacheEncoders", count: int, fps: float) -> None:
    from m4v.media.video import write_video
    from m4v.pipelines.frames import to_uint8

    cache = written.cache
    folder = cache.folder / "decoded"
    device = next(encoders.vae.parameters()).device
    for index in range(min(count, len(cache))):
        sample = cache.sample(index)
        video = encoders.decode(sample.latent[None].to(device))
        path = folder / f"{index:06d}.mp4"
        write_video(path, to_uint8(video)[0], fps)
        say(f"{path}: {sample.source}, {sample.captions[0]!r}")


CACHE = Action(CacheArguments, cache)
