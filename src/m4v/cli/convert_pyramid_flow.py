"""`m4v convert pyramid-flow`: a Pyramid-Flow checkpoint to a model folder of this package, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConvertPyramidFlowArguments:
    """Turn a Pyramid-Flow checkpoint into a model folder: the same network under our names, streamed tensor by tensor.

    Attributes:
        source: Checkpoint root (with diffusion_transformer_768p, _384p or _image, causal_video_vae, text_encoder,
            text_encoder_2, tokenizer, tokenizer_2), the folder of one denoiser, or its weights file. With --reverse: a
            model folder of ours with attention only.
        target: Folder to make.
        variant: Denoiser of the root to take; default: the only one, else 768p, 384p, image in this order.
        dtype: Precision of the written denoiser and autoencoder; keep leaves every tensor as it is. (float16 is not
            offered: the activations of this network leave its range.)
        reverse: Go back. What was converted before comes back byte for byte.
        json: Also write what became of every tensor as JSON, to a file or, with - or no value, to standard output.
    """

    source: Annotated[Path, tyro.conf.Positional]
    target: Annotated[Path, tyro.conf.Positional]
    variant: Literal["image", "384p", "768p"] | None = None
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    reverse: bool = False
    json: str | None = None


def run(arguments: ConvertPyramidFlowArguments) -> None:
    """Write the converted folder.

    Raises:
        UserError: for input that cannot be used; nothing is written then.
    """
    if arguments.dtype == "float16":
        raise UserError("--dtype is float16, whose range the activations leave; choose bfloat16, float32 or keep.")
    if arguments.reverse and arguments.dtype != "keep":
        raise UserError("--reverse writes every tensor as it is; leave --dtype out.")
    require_json_target(arguments.json)
    report = _restore(arguments) if arguments.reverse else _convert(arguments)
    if arguments.json is not None:
        write_json(arguments.json, {"path": str(arguments.target), **report})
    if arguments.json != STANDARD_OUTPUT:
        result(str(arguments.target))


def _convert(arguments: ConvertPyramidFlowArguments) -> dict[str, object]:
    import torch

    from m4v.checkpoints.pyramid_flow import PyramidFlowConversion
    from m4v.checkpoints.pyramid_flow_root import find_checkpoint

    checkpoint = find_checkpoint(arguments.source, arguments.variant)
    for note in checkpoint.notes:
        say(f"Note: {note}")
    say(f"Reading {checkpoint.transformer} ...")
    dtype = None if arguments.dtype == "keep" else getattr(torch, arguments.dtype)
    conversion = PyramidFlowConversion.open(checkpoint, dtype)
    for part, network in conversion.networks.items():
        dropped = len(network.source.specs) - len(network.recipes)
        left = f"; {dropped} tensors of other networks left out" if dropped else ""
        say(f"{part}: {len(network.recipes)} tensors, {network.nbytes / 2**30:.2f} GiB{left}")
    with progress("tensors") as advance:
        reports = conversion.write(arguments.target, lambda part, done, total: advance(done, total))
    for part, report in reports.items():
        say(f"{part}: " + ", ".join(f"{count} {fate}" for fate, count in report.counts().items() if count))
    return {
        "variant": checkpoint.variant,
        "notes": list(checkpoint.notes),
        "networks": {part: report.to_plain() for part, report in reports.items()},
    }


def _restore(arguments: ConvertPyramidFlowArguments) -> dict[str, object]:
    from m4v.checkpoints.pyramid_flow_restore import PyramidFlowRestoration

    say(f"Reading {arguments.source} ...")
    restoration = PyramidFlowRestoration.open(arguments.source, arguments.variant)
    for note in restoration.notes:
        say(f"Note: {note}")
    with progress("tensors") as advance:
        restoration.write(arguments.target, lambda folder, done, total: advance(done, total))
    return {
        "notes": list(restoration.notes),
        "networks": {
            network.folder: {"tensors": len(network.own_names), "same_files": network.is_exact}
            for network in restoration.networks
        },
    }
