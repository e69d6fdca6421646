"""`m4v convert attention-to-mamba`: attention layers to MM-DiM mixers that start from their weights (Appendix D.2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.file_size import parse_size
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json


@dataclass(frozen=True, kw_only=True)
class AttentionToMambaArguments:
    """Turn attention layers of a model into state-space layers that start from their weights.

    Attributes:
        source: Model folder with attention layers, as `m4v convert pyramid-flow`, `m4v convert wan` and
            `save_pretrained` write them.
        target: Folder to make.
        plan: Which layers become what: full, pre-half, post-half, interleaved or parallel (Table 4).
        dual_mixer: What dual-stream blocks mix by afterwards: attention, as they are, or mm_dim, one scan over both
            streams (the future work of Appendix A.2). Pyramid base only.
        map: Who becomes whom. duality: C from queries, B from keys, x from values. paper_text: B from queries, C from
            keys, as Appendix D.2 words it.
        conv_activation: What follows the convolution of the new layers: silu as in Mamba-2, or none, with which they
            begin with the very products of queries and keys that the attention had.
        seed: Seed of what has no counterpart in attention: decay rates, step sizes, registers, temporal branch.
        max_shard_size: Largest weights file, as 5GB or 800MB.
        json: Also write what became of every tensor as JSON, to a file or, with - or no value, to standard output.
    """

    source: Annotated[Path, tyro.conf.Positional]
    target: Annotated[Path, tyro.conf.Positional]
    plan: Literal["full", "pre-half", "post-half", "interleaved", "parallel"] = "full"
    dual_mixer: Literal["attention", "mm_dim"] = "attention"
    map: Literal["duality", "paper_text"] = "duality"
    conv_activation: Literal["silu", "none"] = "silu"
    seed: int = 0
    max_shard_size: str = "5GB"
    json: str | None = None


def run(arguments: AttentionToMambaArguments) -> None:
    """Write the converted model folder.

    Raises:
        UserError: for input that cannot be used; nothing is written then.
    """
    max_shard_bytes = parse_size(arguments.max_shard_size)
    require_json_target(arguments.json)
    from m4v.checkpoints.attention_to_mamba import MambaInitialisation
    from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba

    initialisation = MambaInitialisation(
        plan=arguments.plan,
        dual_mixer=arguments.dual_mixer,
        map=arguments.map,
        conv_activation=arguments.conv_activation,
        seed=arguments.seed,
    )
    say(f"Converting {arguments.source} to the plan {arguments.plan} (map {arguments.map}) ...")
    with progress("tensors") as advance:
        report = convert_attention_to_mamba(
            arguments.source,
            arguments.target,
            initialisation,
            max_shard_bytes=max_shard_bytes,
            on_progress=advance,
        )
    for line in report.lines():
        say(line)
    say("The model has not been trained since: fine-tune it before you judge its videos.")
    if arguments.json is not None:
        write_json(arguments.json, {"path": str(arguments.target), **report.to_plain()})
    if arguments.json != STANDARD_OUTPUT:
        result(str(arguments.target))
