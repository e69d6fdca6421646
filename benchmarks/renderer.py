"""Speed of the toybox renderer: frames per second by picture size, samples and threads.

Run: python benchmarks/renderer.py [--seconds 2] [--tiers xs s m] [--threads 1 2] [--json FILE]
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np

from m4v.toybox.clip import make_clip
from m4v.toybox.renderer import RENDERER_VERSION, render
from m4v.toybox.scene import Scene, sample_scene

_SCENES = 32
_CASES = (("xs", 64, 1), ("xs", 64, 4), ("s", 64, 4), ("m", 64, 4), ("m", 128, 4), ("m", 256, 4))


def _machine() -> dict[str, Any]:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "renderer_version": RENDERER_VERSION,
    }


def _measure(work: Any, items: Sequence[Any], threads: int, seconds: float) -> tuple[float, float]:
    """Return items per second by the wall clock, and per second of processor time."""
    work(items[0])
    done = 0
    start, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() - start < seconds:
            done += len(list(pool.map(work, items)))
    return done / (time.perf_counter() - start), done / (time.process_time() - used)


def _rows(tiers: Sequence[str], thread_counts: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    rows = []
    for tier, size, samples in _CASES:
        if tier not in tiers:
            continue
        scenes = [sample_scene(0, index, tier) for index in range(_SCENES)]
        for threads in thread_counts:

            def work(scene: Scene, size: int = size, samples: int = samples) -> int:
                return len(render(scene, size=size, samples=samples).frames)

            frames = scenes[0].num_frames
            wall, processor = _measure(work, scenes, threads, seconds)
            rows.append(
                {
                    "what": "render", "tier": tier, "size": size, "samples": samples, "threads": threads,
                    "frames_per_s": wall * frames, "frames_per_cpu_s": processor * frames,
                }
            )  # fmt: skip
    for tier in tiers:
        frames = sample_scene(0, 0, tier).num_frames
        for threads in thread_counts:
            wall, processor = _measure(
                lambda index, tier=tier: make_clip(tier, "train", 0, index), range(_SCENES), threads, seconds
            )
            rows.append(
                {
                    "what": "whole clip", "tier": tier, "size": None, "samples": 4, "threads": threads,
                    "frames_per_s": wall * frames, "frames_per_cpu_s": processor * frames,
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Measure, print a table, and optionally write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per row")
    parser.add_argument("--tiers", nargs="+", default=["xs", "s", "m"], choices=["xs", "s", "m"])
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--json", type=Path, default=None, help="write the rows here too")
    options = parser.parse_args()
    start = time.perf_counter()
    render(sample_scene(0, 0, "xs"))
    result = {"machine": _machine(), "first_clip_s": time.perf_counter() - start}
    result["rows"] = _rows(options.tiers, options.threads, options.seconds)
    out = sys.stdout.write
    out(", ".join(f"{key} {value}" for key, value in result["machine"].items()) + "\n")
    out(f"first clip, with compilation or its cache: {result['first_clip_s']:.1f} s\n")
    out(f"{'what':<12}{'tier':<6}{'size':>6}{'samples':>9}{'threads':>9}{'frames/s':>11}{'frames/cpu-s':>14}\n")
    for row in result["rows"]:
        out(
            f"{row['what']:<12}{row['tier']:<6}{row['size'] or '':>6}{row['samples']:>9}{row['threads']:>9}"
            f"{row['frames_per_s']:>11.0f}{row['frames_per_cpu_s']:>14.0f}\n"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
