"""`m4v data shard`: a data set as WebDataset tars that are read by byte offset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.verb import Action
from m4v.core.errors import UserError

_DEFAULT_PER_SHARD = 1000


@dataclass(frozen=True, kw_only=True)
class ShardArguments:
    """Write a data set as WebDataset tars, each with an index of byte offsets beside it.

    Files go in as they are: KEY.mp4 (or .jpg and so on), KEY.txt with the caption, KEY.json with what is known. Any
    WebDataset reader can read the tars; m4v reads any clip of them at once. An interrupted run goes on where it
    stopped, and tars of files that changed are written anew.

    Attributes:
        source: The data set: a folder of videos with captions, an annotation file, or other tars.
        out: Folder of the tars.
        per_shard: Samples per tar; 1000 if neither this nor --shard-size is given.
        shard_size: Size of a tar in MB, instead.
        missing_caption: Leave files without caption out, or give them the empty caption.
        media: Folder of the videos, if an annotation file lies elsewhere.
    """

    source: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    per_shard: int | None = None
    shard_size: int | None = None
    missing_caption: Literal["skip", "empty"] = "skip"
    media: Path | None = None


def shard(arguments: ShardArguments) -> None:
    """Write the tars.

    Raises:
        UserError: if the data set is empty or unreadable, or the place cannot be written.
    """
    if arguments.per_shard is not None and arguments.shard_size is not None:
        raise UserError("--per-shard and --shard-size are both given; give one of them.")
    from m4v.data.drops import describe_drops, require_usable
    from m4v.data.folder_listing import list_folder
    from m4v.data.shards.writer import plan_shards, write_shards

    if arguments.out.resolve() == arguments.source.resolve():
        raise UserError(f"The tars would lie among the files of {arguments.source}; choose another folder.")
    listing = list_folder(arguments.source, arguments.missing_caption, media=arguments.media)
    require_usable(len(listing.entries), str(arguments.source), listing.drops, "See: m4v data check DIR")
    if arguments.shard_size is None:
        per_shard = _DEFAULT_PER_SHARD if arguments.per_shard is None else arguments.per_shard
        shards = plan_shards(listing.entries, per_shard=per_shard)
    else:
        shards = plan_shards(listing.entries, shard_bytes=arguments.shard_size * 10**6)
    say(f"{len(listing.entries)} files of {arguments.source} ({listing.layout}) into {len(shards)} tars ...")
    with progress("writing") as advance:
        written = write_shards(arguments.out, shards, on_progress=advance)
    say(
        f"{written.num_samples} samples in {len(written.paths)} tars: {written.num_written} written"
        f" ({written.num_replaced} of them in place of outdated ones), {written.num_reused} kept from before."
    )
    drops = [*listing.drops, *written.drops]
    if drops:
        say(f"{len(drops)} files or rows are left out:\n{describe_drops(drops)}")
    result(str(arguments.out))


SHARD = Action(ShardArguments, shard)
