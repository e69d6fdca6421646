"""`m4v data prepare`: long videos to single-shot clips."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.verb import Action
from m4v.data.preparation.config import CutConfig, FilterConfig, PrepareConfig

_SHOWN_NOTES = 12


@dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    """Cut long videos to single-shot clips with metadata; repeat it to go on after an interruption.

    Attributes:
        source: A video, or a folder of videos, with or without captions.
        out: Folder of clips to make.
        caption: Captions of the clips: module:function called with (path, row), or a command with {path} in it. By
            default clips inherit the caption of their source.
        short_side: Shrink clips whose shorter side is longer than this; 0 keeps the size.
        quality: x264 constant rate factor of the clips, 0 (lossless) to 51.
        jobs: Sources worked on at the same time.
        update: Replace clips that were made with other settings.
        json: Also write the report as JSON, to a file or, with - or no value, to standard output.
        cut: How videos are cut.
        keep: Which spans become clips.
    """

    source: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    caption: str | None = None
    short_side: int = 0
    quality: int = 16
    jobs: int = 1
    update: bool = False
    json: str | None = None
    cut: Annotated[CutConfig, tyro.conf.arg(name="")] = field(default_factory=CutConfig)
    keep: Annotated[FilterConfig, tyro.conf.arg(name="")] = field(default_factory=FilterConfig)


def run(arguments: PrepareArguments) -> None:
    """Make the folder.

    Raises:
        UserError: as `m4v.data.preparation.prepare.prepare`.
    """
    from m4v.core.config_io import to_plain
    from m4v.data.preparation.prepare import prepare

    require_json_target(arguments.json)
    config = PrepareConfig(
        cut=arguments.cut, keep=arguments.keep, short_side=arguments.short_side, quality=arguments.quality
    )
    say(f"Cutting {arguments.source} to clips of one shot at {config.cut.fps:g} fps in {arguments.out} ...")
    prepared = prepare(
        arguments.source,
        arguments.out,
        config,
        caption=arguments.caption,
        num_jobs=arguments.jobs,
        update=arguments.update,
        progress=progress,
    )
    for note in prepared.notes[:_SHOWN_NOTES]:
        say(f"  {note}")
    if len(prepared.notes) > _SHOWN_NOTES:
        say(f"  and {len(prepared.notes) - _SHOWN_NOTES} more (all with --json)")
    if arguments.json is not None:
        write_json(arguments.json, to_plain(prepared))
    say(
        f"{prepared.num_sources} sources, {prepared.num_shots} shots -> {prepared.num_clips} clips "
        f"({prepared.num_written} written now), {prepared.seconds:.1f} s of video"
    )
    for drop in prepared.drops:
        say(f"dropped {drop}")
    if prepared.num_without_caption:
        say(f"missing caption: {prepared.num_without_caption} clips; give --caption, or a .txt beside each source")
    if arguments.json != STANDARD_OUTPUT:
        result(prepared.root)


ACTION = Action(PrepareArguments, run)
