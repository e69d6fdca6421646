"""`m4v describe`: what a model costs before anything is loaded, and the paper's tables beside ours."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.cli.console import result
from m4v.cli.json_output import STANDARD_OUTPUT, write_json
from m4v.cli.verb import Action
from m4v.core.errors import UserError
from m4v.core.shapes import Compression, VideoShape
from m4v.models.denoiser.config import PRESETS, DenoiserConfig, denoiser_config

if TYPE_CHECKING:
    from m4v.analysis.description import Description
    from m4v.analysis.paper_tables import Table4Row


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """Video size and compression that belong to a denoiser size."""

    frames: int
    height: int
    width: int
    compression: Compression
    text_tokens: int


_SETTINGS = {
    "debug": _Setting(frames=9, height=32, width=32, compression=Compression(time=4, space=8), text_tokens=32),
    "toybox-xs": _Setting(frames=17, height=64, width=64, compression=Compression(time=4, space=8), text_tokens=32),
    "toybox-m": _Setting(frames=33, height=128, width=128, compression=Compression(time=4, space=8), text_tokens=64),
    "pyramid-2b": _Setting(
        frames=241, height=768, width=1280, compression=Compression(time=8, space=8), text_tokens=128
    ),
}


@dataclass(frozen=True, kw_only=True)
class DescribeArguments:
    """Tell parameters, tokens, operations and memory of a model at a size.

    Attributes:
        model: A denoiser size (debug, toybox-xs, toybox-m, pyramid-2b), a bundled model or a model folder.
        plan: Mixer plan instead of the model's own: full, pre-half, post-half, interleaved, parallel, attention-only.
        frames: Length of the video. Default: what the size is made for.
        height: Rows of pixels.
        width: Columns of pixels.
        dtype: Number format of the weights.
        paper_table: Print a table of the paper instead, ours beside theirs. Available: 4.
        json: Write the report as JSON, to a file or, with - or no value, to standard output.
    """

    model: Annotated[str, tyro.conf.Positional] = "pyramid-2b"
    plan: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    paper_table: int | None = None
    json: str | None = None


def run(arguments: DescribeArguments) -> None:
    """Describe a model, or print a table of the paper."""
    if arguments.paper_table is not None:
        _paper_table(arguments)
        return
    from m4v.analysis.description import describe

    config, setting = _resolve(arguments)
    video = VideoShape(
        num_frames=setting.frames if arguments.frames is None else arguments.frames,
        height=setting.height if arguments.height is None else arguments.height,
        width=setting.width if arguments.width is None else arguments.width,
    )
    latent = setting.compression.latent_shape(video)
    coarsest = config.patch_size * 2 ** (config.num_levels - 1)
    for name, cells, pixels in (("height", latent.height, video.height), ("width", latent.width, video.width)):
        if cells % coarsest:
            step = coarsest * setting.compression.space
            raise UserError(
                f"{name} is {pixels}, but {config.num_levels} pyramid levels need a multiple of {step}; "
                f"use {max(step, pixels // step * step)} or {pixels // step * step + step}."
            )
    description = describe(config, latent, num_text_tokens=setting.text_tokens, dtype=arguments.dtype)
    if arguments.json is not None:
        write_json(arguments.json, asdict(description))
    if arguments.json != STANDARD_OUTPUT:
        for line in _lines(arguments.model, str(video), description):
            result(line)


def _resolve(arguments: DescribeArguments) -> tuple[DenoiserConfig, _Setting]:
    name = arguments.model
    setting = _SETTINGS.get(name)
    if setting is not None:
        config = PRESETS[name]
    else:
        config, setting = _from_folder(name)
    if arguments.plan is not None:
        from dataclasses import replace

        config = replace(config, mixer_plan=arguments.plan)
    return config, setting


def _from_folder(name: str) -> tuple[DenoiserConfig, _Setting]:
    from m4v.checkpoints.model_folder import check_model_folder
    from m4v.checkpoints.resolve import resolve_model

    if not Path(name).is_dir():
        raise UserError(f"There is no model {name!r}: give a model folder or one of {', '.join(_SETTINGS)}.")
    folder = resolve_model(name)
    check_model_folder(folder)
    index, transformer, vae = (
        _read_json(folder / part) for part in ("model_index.json", "transformer/config.json", "vae/config.json")
    )
    defaults = index["defaults"]
    known = {key: value for key, value in transformer.items() if not key.startswith("_") and value is not None}
    space = vae["front_patch"] * 2 ** sum(vae["spatial_down"])
    setting = _Setting(
        frames=defaults["num_frames"],
        height=defaults["height"],
        width=defaults["width"],
        compression=Compression(time=2 ** sum(vae["temporal_down"]), space=space),
        text_tokens=defaults["max_text_length"],
    )
    return denoiser_config(known), setting


def _read_json(path: Path) -> dict[str, Any]:
    import json

    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _lines(name: str, video: str, description: "Description") -> list[str]:
    parameters, memory = description.parameters, description.memory_bytes
    lines = [
        f"{name} for {video}",
        "",
        f"parameters     {parameters.total:>15,}",
        f"  embedders    {parameters.embedders:>15,}",
        f"  dual blocks  {parameters.dual_blocks:>15,}",
        f"  single blocks{parameters.single_blocks:>15,}",
        f"  head         {parameters.head:>15,}",
        f"memory         weights {_gib(memory['weights'])}, activations of the longest call about "
        f"{_gib(memory['activations'])}",
        "",
        "one call, one sample: tokens (operations) by unit and level, coarsest first",
    ]
    for unit, (tokens, flops) in enumerate(zip(description.tokens, description.flops, strict=True)):
        cells = (f"{count:>7,} ({_flops(cost)})" for count, cost in zip(tokens, flops, strict=True))
        lines.append(f"  unit {unit:>3}  " + "  ".join(cells))
    return lines


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"


def _flops(count: float) -> str:
    return f"{count / 1e12:6.2f} T" if count >= 1e11 else f"{count / 1e9:6.3f} G"


def _paper_table(arguments: DescribeArguments) -> None:
    if arguments.paper_table != 4:
        raise UserError(f"paper_table is {arguments.paper_table}; table 4 is the one that can be computed so far.")
    from m4v.analysis.paper_tables import TABLE_4_CONVENTION, table_4

    rows = table_4()
    if arguments.json is not None:
        report = [{**asdict(row), "deviation": row.deviation} for row in rows]
        write_json(arguments.json, {"table": 4, "convention": TABLE_4_CONVENTION, "rows": report})
    if arguments.json != STANDARD_OUTPUT:
        for line in _table_4_lines(rows, TABLE_4_CONVENTION):
            result(line)


def _table_4_lines(rows: list["Table4Row"], convention: str) -> list[str]:
    import textwrap

    head = f"{'':<17}{'parameters':>15}{'paper':>8}{'off by':>8}   "
    head += f"{'TFLOPs 121 f':>13}{'paper':>7}   {'241 f':>6}{'paper':>7}"
    lines = ["Table 4 of the paper: ours beside the printed numbers", "", head]
    for row in rows:
        (short, long), (paper_short, paper_long) = row.tflops, row.paper_tflops
        lines.append(
            f"{row.name:<17}{row.parameters:>15,}{row.paper_parameters_billion:>7.2f}B{row.deviation:>+8.2%}   "
            f"{short:>13.2f}{paper_short:>7.2f}   {long:>6.2f}{paper_long:>7.2f}"
        )
    return [*lines, "", *textwrap.wrap(convention, 100)]


VERB = Action(DescribeArguments, run)
