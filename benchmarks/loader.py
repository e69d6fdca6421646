"""How fast clips are read: `python benchmarks/loader.py [--json FILE]`.

Writes a few H.264 videos of a drifting, slightly noisy picture, then measures frames per second and core for decoding
alone, and for whole clips (decode, crop, resize) from mp4 files and from WebDataset tars. A core's rate is frames by
processor seconds of this process, so that other work on the machine counts little. At the end stands what training one
clip may take at most before this loader, on all cores, would hold it up.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from m4v.core.shapes import VideoShape
from m4v.data.folder_listing import list_folder
from m4v.data.folder_source import FolderSource
from m4v.data.loader import Prefetcher
from m4v.data.shards.writer import plan_shards, write_shards
from m4v.media.images import resize_cover
from m4v.media.video import decode_frames, write_video

HEIGHT, WIDTH, FPS = 384, 640, 24.0
SOURCES = {"640x384": (384, 640), "854x480": (480, 854), "1280x720": (720, 1280)}
AIM = 300.0


def drifting_picture(height: int, width: int, num_frames: int, seed: int) -> Iterator[np.ndarray]:
    """Frames of a smooth random picture that drifts, with sensor-like noise."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height + num_frames, width + 2 * num_frames, 3))
    for cells in (6, 20, 60):
        coarse = rng.integers(0, 256, (cells, 2 * cells, 3), dtype=np.uint8)
        picture += resize_cover(coarse, *picture.shape[:2]) / 3.0
    for index in range(num_frames):
        part = picture[index : index + height, 2 * index : 2 * index + width]
        noise = rng.integers(-3, 4, (height, width, 1))
        yield np.clip(part + noise, 0, 255).astype(np.uint8)


def make_videos(folder: Path, size: tuple[int, int], count: int, num_frames: int) -> None:
    """Write captioned videos."""
    for index in range(count):
        write_video(folder / f"{index}.mp4", drifting_picture(*size, num_frames, seed=index), FPS, quality=21)
        (folder / f"{index}.txt").write_text(f"video {index}")


def rate(work: Callable[[], int]) -> dict[str, float]:
    """Frames per processor second and per second, the better of two runs."""
    best = {"per_core": 0.0, "wall": 0.0}
    for _ in range(2):
        cpu, wall = time.process_time(), time.perf_counter()
        frames = work()
        best["per_core"] = max(best["per_core"], frames / (time.process_time() - cpu))
        best["wall"] = max(best["wall"], frames / (time.perf_counter() - wall))
    return best


def measure(folder: Path, num_frames: int, num_threads: int) -> dict[str, dict[str, float]]:
    """Rates of one folder of videos and of its tars."""
    tars = folder.parent / f"{folder.name}-tars"
    write_shards(tars, plan_shards(list_folder(folder).entries, per_shard=100))
    shape = VideoShape(num_frames=num_frames, height=HEIGHT, width=WIDTH)
    rows = {"decode": rate(lambda: sum(1 for path in folder.glob("*.mp4") for _ in decode_frames(path)))}
    for name, root in (("clips from mp4", folder), ("clips from tars", tars)):
        source = FolderSource(root, shape=shape, fps=FPS, time_compression=8)
        rows[name] = rate(lambda source=source: sum(len(source.clip(index).frames) for index in range(len(source))))

        def threaded(source: FolderSource = source) -> int:
            with Prefetcher(lambda index: source.clip(index), range(len(source)), num_threads=num_threads) as clips:
                return sum(len(clip.frames) for clip in clips)

        rows[f"{name}, {num_threads} threads"] = rate(threaded)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=57)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, size in SOURCES.items():
            folder = Path(temporary) / name
            make_videos(folder, size, arguments.videos, arguments.frames)
            results[name] = measure(folder, arguments.frames, arguments.threads)
            for what, row in results[name].items():
                print(f"{name:>9} {what:<28} {row['per_core']:7.0f} frames/s per core {row['wall']:7.0f} frames/s")  # noqa: T201
    reached = results["640x384"]["clips from tars"]["per_core"]
    verdict = "met" if reached >= AIM else "missed"
    print(f"aim: {AIM:.0f} frames/s per core at {WIDTH}x{HEIGHT}; {verdict}: {reached:.0f}")  # noqa: T201
    for name, rows in results.items():
        wall = rows[f"clips from tars, {arguments.threads} threads"]["wall"]
        seconds = arguments.frames / wall
        print(  # noqa: T201
            f"{name}: never the bottleneck while training one clip of {arguments.frames} frames takes {seconds:.3f} s "
            f"or more ({arguments.threads} threads)"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
