"""`m4v data check`: what of a folder can be trained on, and why the rest cannot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.data_cache import CACHE
from m4v.cli.data_prepare import ACTION as PREPARE
from m4v.cli.data_shard import SHARD
from m4v.cli.data_synth import ACTION as SYNTH
from m4v.cli.json_output import STANDARD_OUTPUT, write_json
from m4v.cli.verb import Action
from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Read every file of a data set folder and report what can be used.

    Attributes:
        folder: Videos and images with captions: metadata.jsonl, metadata.csv, or a .txt beside each file.
        frames: Most frames of a clip.
        height: Rows that frames are scaled and cut to.
        width: Columns that frames are scaled and cut to.
        fps: Frames per second that videos are resampled to.
        time_compression: Frames per latent frame of the model's autoencoder; a clip has a multiple of it, plus one.
        json: Also write the report as JSON, to a file or, with - or no value, to standard output.
    """

    folder: Annotated[Path, tyro.conf.Positional]
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
    if min(arguments.frames, arguments.height, arguments.width, arguments.time_compression) < 1:
        raise UserError("--frames, --height, --width and --time-compression must be at least 1.")
    from m4v.core.shapes import VideoShape
    from m4v.data.dataset_report import check_folder
    from m4v.data.folder_source import FolderSource

    source = FolderSource(
        arguments.folder,
        shape=VideoShape(num_frames=arguments.frames, height=arguments.height, width=arguments.width),
        fps=arguments.fps,
        time_compression=arguments.time_compression,
    )
    say(f"Reading {len(source)} files of {arguments.folder} ...")
    with progress("reading") as advance:
        report = check_folder(source, on_progress=advance)
    if report.num_kept == 0:
        reasons = "\n".join(f"  {drop}" for drop in report.drops)
        raise UserError(f"No usable clip in {arguments.folder}: {report.num_found} dropped.\n{reasons}")
    if arguments.json is not None:
        write_json(arguments.json, report.to_plain())
    if arguments.json != STANDARD_OUTPUT:
        for line in report.lines():
            result(line)


VERB = {"check": Action(CheckArguments, check), "cache": CACHE, "shard": SHARD, "prepare": PREPARE, "synth": SYNTH}
