"""Draw a contact sheet of the toy world: `python examples/draw_world.py world.png`."""

import sys
from itertools import count
from pathlib import Path

from m4v.media.images import write_png
from m4v.toybox.contact_sheet import contact_sheet
from m4v.toybox.renderer import render
from m4v.toybox.scene import sample_scene

NUM_SCENES = 24
MOST_OF_A_KIND = 2


def main() -> None:
    """Pick scenes with varied first objects and write one frame of each."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "world.png")
    pictures, kinds = [], []
    for index in count():
        scene = sample_scene(7, index, "m")
        if kinds.count(scene.objects[0].kind) < MOST_OF_A_KIND:
            kinds.append(scene.objects[0].kind)
            pictures.append(render(scene, num_frames=9).frames[8:9])
        if len(pictures) == NUM_SCENES:
            break
    write_png(target, contact_sheet(pictures, columns=6, frames_per_video=1))


if __name__ == "__main__":
    main()
