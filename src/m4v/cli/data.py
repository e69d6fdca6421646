"""`m4v data check`: what of a folder can be trained on, and why the rest cannot."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.data_cache import CACHE
from m4v.cli.data_prepare import ACTION as PREPARE
from m4v.cli.data_shard import SHARD
from m4v.cli.data_synth import ACTION as SYNTH
from m4v.cli.json_output import STANDARD_OUTPUT, write_json
from m4v.cli.verb import Action
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.data.buckets import Bucket


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Read every file of a data set folder and report what can be used.

    Attributes:
        folder: Videos and images with captions, in one of these layouts: metadata.jsonl, .csv, .json or .parquet;
            videos2caption.json; videos.txt with prompts.txt or captions.txt; annotations of WebVid-10M, OpenVid-1M,
            Open-Sora-Plan or Pyramid-Flow; a .txt beside each file; WebDataset tars. A table, annotation file or tar
            may be given itself.
        bucket: Size and length HEIGHTxWIDTHxFRAMES that clips are sorted into, 1 frame for images; repeat the flag for
            several. They then count instead of --frames, --height and --width, which by default are the one bucket.
        batch_size: Clips per batch, to tell which buckets hold less than one.
        small_buckets: What happens to those: their clips repeat within a batch, go to another bucket that they fill,
            or the check fails.
        frames: Most frames of a clip.
        height: Rows that frames are scaled and cut to.
        width: Columns that frames are scaled and cut to.
        fps: Frames per second that videos are resampled to.
        time_compression: Frames per latent frame of the model's autoencoder; a clip has a multiple of it, plus one.
        json: Also write the report as JSON, to a file or, with - or no value, to standard output.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    bucket: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    batch_size: int = 8
    small_buckets: Literal["repeat", "merge", "refuse"] = "repeat"
    frames: int = 17
    height: int = 64
    width: int = 64
    fps: float = 8.0
    time_compression: int = 4
    json: str | None = None


def check(arguments: CheckArguments) -> None:
    """Report on a folder.

    Raises:
        UserError: if the folder holds no usable clip, or an argument is out of range.
    """
    numbers = (arguments.frames, arguments.height, arguments.width, arguments.time_compression, arguments.batch_size)
    if min(numbers) < 1:
        raise UserError("--frames, --height, --width, --time-compression and --batch-size must be at least 1.")
    from m4v.core.shapes import VideoShape
    from m4v.data.dataset_report import check_folder
    from m4v.data.folder_source import FolderSource

    buckets = [_bucket(text, arguments) for text in arguments.bucket]
    longest = max(buckets, key=lambda bucket: bucket.num_frames, default=None)
    target = (arguments.frames, arguments.height, arguments.width)
    if longest is not None:
        target = (longest.num_frames, longest.height, longest.width)
    source = FolderSource(
        arguments.folder,
        shape=VideoShape(num_frames=target[0], height=target[1], width=target[2]),
        fps=arguments.fps,
        time_compression=arguments.time_compression,
    )
    say(f"Reading {len(source)} files of {arguments.folder} ...")
    with progress("reading") as advance:
        report = check_folder(
            source,
            on_progress=advance,
            buckets=buckets,
            batch_size=arguments.batch_size,
            small=arguments.small_buckets,
        )
    if report.num_kept == 0:
        reasons = "\n".join(f"  {drop}" for drop in report.drops)
        raise UserError(f"No usable clip in {arguments.folder}: {report.num_found} dropped.\n{reasons}")
    if arguments.json is not None:
        write_json(arguments.json, report.to_plain())
    if arguments.json != STANDARD_OUTPUT:
        for line in report.lines():
            result(line)


def _bucket(text: str, arguments: CheckArguments) -> "Bucket":
    from m4v.data.buckets import Bucket

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UserError(f"--bucket is {text}; expected HEIGHTxWIDTHxFRAMES, such as 384x640x57.")
    height, width, frames = map(int, parts)
    if (frames - 1) % arguments.time_compression:
        raise UserError(
            f"--bucket {text} has {frames} frames; with --time-compression {arguments.time_compression} a clip has a "
            "multiple of it, plus one."
        )
    return Bucket(height=height, width=width, num_frames=frames, batch_size=arguments.batch_size)


VERB = {"check": Action(CheckArguments, check), "cache": CACHE, "shard": SHARD, "prepare": PREPARE, "synth": SYNTH}
