"""`m4v convert wan`: a Wan2.1 text-to-video checkpoint to a model folder of this package, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.file_size import parse_size
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.checkpoints.conversion_report import ConversionReport


_OF_MAMBA = ("plan", "map", "conv_activation", "seed")


@dataclass(frozen=True, kw_only=True)
class ConvertWanArguments:
    """Turn a Wan2.1 text-to-video checkpoint into a model folder, streaming tensor by tensor.

    Attributes:
        source: Checkpoint folder: the original layout or the one of diffusers, whole or its transformer only; or one
            safetensors file. With --reverse: a model folder of ours.
        target: Folder to make.
        to_mamba: Turn self-attention into state-space layers that start from its weights (Appendix D.2); without it
            the network stays Wan2.1, tensor by tensor.
        plan: With --to-mamba: which layers become state-space layers. Default: full.
        map: With --to-mamba: duality (C from queries, B from keys, x from values) or paper_text (B from queries, C from
            keys). Default: duality.
        conv_activation: With --to-mamba: what follows the convolution of the new layers. Default: silu.
        seed: With --to-mamba: seed of what has no counterpart in attention. Default: 0.
        dtype: Precision of the written network; keep leaves every tensor as it is. Modules that Wan2.1 wants in
            float32, and the state-space parameters, are never rounded.
        max_shard_size: Largest weights file, as 5GB or 800MB.
        parts: Folder in diffusers layout to take vae, text_encoder and tokenizer from, where the source has none.
        reverse: Go back: a model folder of ours with attention only to Wan2.1's names.
        layout: With --reverse: names of the original code or of diffusers. Default: original.
        json: Also write what became of every tensor as JSON, to a file or, with - or no value, to standard output.
    """

    source: Annotated[Path, tyro.conf.Positional]
    target: Annotated[Path, tyro.conf.Positional]
    to_mamba: bool = False
    plan: Literal["full", "pre-half", "post-half", "interleaved"] | None = None
    map: Literal["duality", "paper_text"] | None = None
    conv_activation: Literal["silu", "none"] | None = None
    seed: int | None = None
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    max_shard_size: str = "5GB"
    parts: Path | None = None
    reverse: bool = False
    layout: Literal["original", "diffusers"] | None = None
    json: str | None = None


def run(arguments: ConvertWanArguments) -> None:
    """Write the converted folder.

    Raises:
        UserError: for input that cannot be used; nothing is written then.
    """
    max_shard_bytes = parse_size(arguments.max_shard_size)
    _refuse_idle_flags(arguments)
    require_json_target(arguments.json)
    report = _reverse(arguments, max_shard_bytes) if arguments.reverse else _convert(arguments, max_shard_bytes)
    for line in report.lines():
        say(line)
    if arguments.json is not None:
        write_json(arguments.json, {"path": str(arguments.target), **report.to_plain()})
    if arguments.json != STANDARD_OUTPUT:
        result(str(arguments.target))


def _refuse_idle_flags(arguments: ConvertWanArguments) -> None:
    """Refuse flags that would change nothing: whoever gives --plan wants state-space layers and must get them.

    Raises:
        UserError: naming the flag and what it belongs to.
    """
    idle = {"layout": "it belongs to --reverse: add that, or"} if not arguments.reverse else {}
    if not arguments.to_mamba:
        idle |= dict.fromkeys(_OF_MAMBA, "without --to-mamba no layer changes: add that, or")
    if arguments.reverse:
        idle |= dict.fromkeys((*_OF_MAMBA, "dtype", "parts"), "--reverse writes what the folder has, as it is;")
    for name, reason in idle.items():
        value = getattr(arguments, name)
        if value not in (None, "keep"):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is {value}, but {reason} leave {flag} out.")


def _reverse(arguments: ConvertWanArguments, max_shard_bytes: int) -> "ConversionReport":
    if arguments.to_mamba:
        raise UserError("--reverse goes back to Wan2.1, which has no state-space layers; leave --to-mamba out.")
    from m4v.checkpoints.wan_reversal import reverse_wan

    layout = arguments.layout or "original"
    say(f"Converting {arguments.source} to the {layout} layout of Wan2.1 ...")
    with progress("tensors") as advance:
        return reverse_wan(
            arguments.source,
            arguments.target,
            layout,
            max_shard_bytes=max_shard_bytes,
            on_progress=advance,
        )


def _convert(arguments: ConvertWanArguments, max_shard_bytes: int) -> "ConversionReport":
    import torch

    from m4v.checkpoints.attention_to_mamba import MambaInitialisation
    from m4v.checkpoints.wan_conversion import convert_wan
    from m4v.checkpoints.wan_source import open_wan
    from m4v.core.config_io import to_plain
    from m4v.pipelines.wan_config import published_defaults

    source = open_wan(arguments.source)
    defaults = published_defaults(source.arguments)
    chosen = {name: getattr(arguments, name) for name in _OF_MAMBA}
    initialisation = MambaInitialisation(**{name: value for name, value in chosen.items() if value is not None})
    kept = "" if arguments.to_mamba else ", attention kept in every layer"
    say(f"Converting {arguments.source}: {source.size}, {source.layout} layout{kept} ...")
    with progress("tensors") as advance:
        made = convert_wan(
            source,
            arguments.target,
            defaults=to_plain(defaults),
            flow_shift=defaults.flow_shift(defaults.height, defaults.width),
            to_mamba=initialisation if arguments.to_mamba else None,
            dtype=None if arguments.dtype == "keep" else getattr(torch, arguments.dtype),
            parts=arguments.parts,
            max_shard_bytes=max_shard_bytes,
            on_progress=advance,
        )
    if arguments.to_mamba:
        say("The model has not been trained since: fine-tune it before you judge its videos.")
    if made.missing_parts:
        names = ", ".join(made.missing_parts)
        say(
            f"Before it makes videos, {arguments.target} needs the folders {names} in the layout of diffusers (they "
            "are the same for all sizes of Wan2.1 text-to-video): copy them there, or convert again with --parts "
            "FOLDER."
        )
    return made.report
