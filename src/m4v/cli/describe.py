"""`m4v describe`: what a model costs before anything is loaded, and the paper's tables beside ours."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m4v.analysis.subjects import SUBJECTS, Subject
from m4v.cli.console import result
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.verb import Action
from m4v.core.errors import UserError
from m4v.core.shapes import LatentShape, VideoShape
from m4v.models.denoiser.config import DenoiserConfig


@dataclass(frozen=True, kw_only=True)
class DescribeArguments:
    """Tell parameters, tokens, operations and memory of a model at a size; nothing is loaded.

    Attributes:
        model: A size (debug, toybox-xs, toybox-m, pyramid-2b, wan-1.3b, wan-14b), a bundled model, or a model folder.
        plan: Mixer plan instead of the model's own: full, pre-half, post-half, interleaved, parallel, attention-only.
        dual_mixer: What mixes the streams of the dual-stream blocks instead of the model's own: attention, or mm_dim (a
            scan over both). Pyramid base only.
        frames: Length of the video. Default: what the model is made for.
        height: Rows of pixels.
        width: Columns of pixels.
        dtype: Number format of the networks.
        paper_table: Print a table of the paper instead, ours beside theirs. Available: 1, 3, 5, 7 (scores),
            2 (whole videos), 4 (plans).
        json: Write the report as JSON, to a file or, with - or no value, to standard output.
    """

    model: Annotated[str, tyro.conf.Positional] = "pyramid-2b"
    plan: str | None = None
    dual_mixer: Literal["attention", "mm_dim"] | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    paper_table: int | None = None
    json: str | None = None


def run(arguments: DescribeArguments) -> None:
    """Describe a model, or print a table of the paper."""
    require_json_target(arguments.json)
    if arguments.paper_table is not None:
        from m4v.cli.describe_tables import table_report

        report, lines = table_report(arguments.paper_table)
    else:
        from m4v.analysis.description import describe
        from m4v.cli.describe_lines import description_lines

        subject = _subject(arguments)
        video = _video(arguments, subject)
        description = describe(subject, _latent(subject, video), dtype=arguments.dtype)
        report = asdict(description)
        lines = description_lines(f"{arguments.model} for {video} in {arguments.dtype}", subject, description)
    if arguments.json is not None:
        write_json(arguments.json, report)
    if arguments.json != STANDARD_OUTPUT:
        for line in lines:
            result(line)


def _subject(arguments: DescribeArguments) -> Subject:
    """What the name stands for: a folder, then a size, then a bundled model; with other mixers if asked."""
    name = arguments.model
    if name in SUBJECTS and not Path(name).is_dir():
        subject = SUBJECTS[name]
    else:
        from m4v.analysis.subject_folders import subject_of_folder

        subject = subject_of_folder(_folder(name))
    if arguments.plan is not None:
        subject = replace(subject, denoiser=replace(subject.denoiser, mixer_plan=arguments.plan))
    if arguments.dual_mixer is not None:
        if not isinstance(subject.denoiser, DenoiserConfig):
            raise UserError(
                f"--dual-mixer is {arguments.dual_mixer}, but {name} has no dual-stream blocks; leave it out."
            )
        subject = replace(subject, denoiser=replace(subject.denoiser, dual_mixer=arguments.dual_mixer))
    return subject


def _folder(name: str) -> Path:
    from m4v.checkpoints.bundled import bundled_models

    if Path(name).is_dir():
        return Path(name)
    bundled = bundled_models()
    if name not in bundled:
        known = ", ".join(dict.fromkeys([*SUBJECTS, *bundled]))
        raise UserError(f"There is no model {name!r}: give a model folder or one of {known}.")
    return bundled[name]


def _video(arguments: DescribeArguments, subject: Subject) -> VideoShape:
    defaults = subject.defaults
    return VideoShape(
        num_frames=defaults.num_frames if arguments.frames is None else arguments.frames,
        height=defaults.height if arguments.height is None else arguments.height,
        width=defaults.width if arguments.width is None else arguments.width,
    )


def _latent(subject: Subject, video: VideoShape) -> LatentShape:
    """Latent size of a video that fits the tokens of every pyramid level.

    Raises:
        UserError: with the nearest sizes that fit.
    """
    config, compression = subject.denoiser, subject.compression
    if isinstance(config, DenoiserConfig):
        cells, reason = config.patch_size * 2 ** (config.num_levels - 1), f"{config.num_levels} pyramid levels need"
    else:
        cells, reason = config.patch_size[-1], "patches need"
    step = cells * compression.space
    for name, pixels in (("height", video.height), ("width", video.width)):
        if pixels % step or pixels < step:
            below = max(step, pixels // step * step)
            nearest = str(below) if pixels < step else f"{below} or {below + step}"
            raise UserError(f"{name} is {pixels}, but {reason} a multiple of {step}; use {nearest}.")
    return compression.latent_shape(video)


VERB = Action(DescribeArguments, run)
