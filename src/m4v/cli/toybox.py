"""`m4v toybox render`: the procedural world as a data set of real files."""

import os
from dataclasses import dataclass
from pathlib import Path

from m4v.cli.console import progress, result, say
from m4v.cli.verb import Action
from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RenderArguments:
    """Render captioned mp4 clips with labels; run it again to go on after an interruption, or to add clips.

    Attributes:
        out: Folder to make; gets videos/, metadata.jsonl and labels.jsonl.
        num: How many clips the folder shall hold.
        tier: Size of the world: xs, s or m.
        split: train, or one of the test splits.
        seed: Which of the endless sequences of scenes.
        images: Render only the first frame of each clip, as PNG.
        threads: Threads that render; 0 uses every core.
    """

    out: Path
    num: int
    tier: str = "xs"
    split: str = "train"
    seed: int = 0
    images: bool = False
    threads: int = 0


def render(arguments: RenderArguments) -> None:
    """Write the data set.

    Raises:
        UserError: if an argument is out of range, or the folder holds something else or cannot be written.
    """
    if arguments.threads < 0:
        raise UserError(f"--threads is {arguments.threads}; expected 0 (all cores) or more.")
    from m4v.data.toybox_source import ToyboxSource
    from m4v.data.writer import write_dataset
    from m4v.toybox.renderer import RENDERER_VERSION
    from m4v.toybox.scene import sample_scene

    source = ToyboxSource(
        arguments.tier,
        split=arguments.split,
        seed=arguments.seed,
        num_clips=arguments.num,
        num_frames=1 if arguments.images else None,
    )
    sample_scene(arguments.seed, 0, arguments.tier, arguments.split)  # a wrong split must not leave a folder behind
    recipe = {
        "source": "toybox",
        "tier": arguments.tier,
        "split": arguments.split,
        "seed": arguments.seed,
        "images": arguments.images,
        "renderer_version": RENDERER_VERSION,
    }
    what = "images" if arguments.images else "videos"
    say(f"Rendering {arguments.num} {what} of the toybox (tier {arguments.tier}, split {arguments.split}) ...")
    with progress("rendering") as advance:
        written = write_dataset(
            arguments.out,
            arguments.num,
            source.labelled_clip,
            recipe=recipe,
            num_threads=arguments.threads or os.cpu_count() or 1,
            on_progress=advance,
        )
    reused = f", {written.num_reused} were there already" if written.num_reused else ""
    say(f"Rendered {written.num_written} {what}{reused}.")
    result(str(written.root))


VERB = {"render": Action(RenderArguments, render)}
