"""Peak memory of `m4v convert wan` on a checkpoint of a released size: `python benchmarks/convert_memory.py`.

The checkpoint is sparse on disk: real headers, holes for values. The conversion runs in a process of its own, whose
largest resident set is reported as JSON. Further options go to the conversion (default: --to-mamba).
"""

import argparse
import contextlib
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from m4v.checkpoints.safetensors_header import SafetensorsHeader
from m4v.checkpoints.tensor_files import TensorSpec
from m4v.checkpoints.wan_names import wan_renaming
from m4v.checkpoints.wan_source import WAN, Layout
from m4v.core.config_io import to_plain
from m4v.models.denoiser.wan_config import PRESETS

_SHARD_BYTES = 5 * 10**9


def sparse_checkpoint(
    folder: Path, size: str, dtype: torch.dtype, layout: Layout = "original", num_layers: int | None = None
) -> Path:
    """Make a Wan2.1 checkpoint of a released size whose values are holes: it takes no room on disk.

    Args:
        folder: Folder to make.
        size: `wan-1.3b` or `wan-14b`.
        dtype: Of all tensors.
        layout: Whose names.
        num_layers: Fewer layers than released.
    """
    settings = PRESETS[size] if num_layers is None else replace(PRESETS[size], num_layers=num_layers)
    theirs = wan_renaming(settings.num_layers).ours_to_theirs
    specs = {
        theirs[name] if layout == "original" else name: TensorSpec(dtype, shape)
        for name, shape in WAN.shapes(to_plain(settings)).items()
    }
    shards: list[dict[str, TensorSpec]] = [{}]
    for name, spec in specs.items():
        if sum(other.nbytes for other in shards[-1].values()) + spec.nbytes > _SHARD_BYTES:
            shards.append({})
        shards[-1][name] = spec
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file_name = f"diffusion_pytorch_model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file_name)
        header = SafetensorsHeader.build(shard, {"format": "pt"})
        with (folder / file_name).open("wb") as file:
            file.write(header.raw)
            file.truncate(header.file_size)
    index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs.values())}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "_class_name": "WanModel",
        "dim": settings.width,
        "num_heads": settings.num_attention_heads,
        "ffn_dim": settings.ffn_dim,
        "num_layers": settings.num_layers,
        "model_type": "t2v",
    }
    if layout == "original":
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def measure(source: Path, target: Path, options: list[str]) -> dict[str, float]:
    """Convert in a child process.

    Returns:
        `peak_gib` (largest resident set of the child), `seconds` and `written_gib`.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "m4v.cli.main", "convert", "wan", str(source), str(target), *options]
    child = subprocess.Popen(command)
    while child.poll() is None:
        time.sleep(1)
        _dig_holes(target.parent)
    if child.returncode:
        raise SystemExit(child.returncode)
    return {
        "peak_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "seconds": round(time.monotonic() - start, 1),
        "written_gib": round(sum(file.stat().st_size for file in target.rglob("*.safetensors")) / 2**30, 2),
    }


def _dig_holes(folder: Path) -> None:
    """Give zeros of finished shards back to the disk; the newest shard of a folder is still being written."""
    dig = shutil.which("fallocate")
    shards = sorted(folder.rglob("*.safetensors"), key=lambda file: (file.parent, file.stat().st_mtime))
    for shard, following in itertools.pairwise(shards):
        is_finished = following.parent == shard.parent and shard.stat().st_blocks * 512 >= shard.stat().st_size
        if dig is not None and is_finished:
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run([dig, "--dig-holes", str(shard)], check=True, capture_output=True)


def main() -> None:
    """Measure, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=("wan-1.3b", "wan-14b"), default="wan-14b")
    parser.add_argument("--layers", type=int, default=None, help="fewer layers than released, to save disk")
    parser.add_argument("--stored", choices=("float32", "bfloat16"), default="bfloat16", help="type of the checkpoint")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    known, options = parser.parse_known_args()
    work = Path(tempfile.mkdtemp(prefix="convert-memory-", dir=known.folder))
    try:
        source = sparse_checkpoint(
            work / "source" / "wan", known.size, getattr(torch, known.stored), num_layers=known.layers
        )
        read = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 2**30
        (work / "target").mkdir()
        report = measure(source, work / "target" / "model", options or ["--to-mamba"])
        settings = {"size": known.size, "layers": known.layers, "stored": known.stored, "read_gib": round(read, 2)}
        sys.stdout.write(json.dumps({**settings, **report}, indent=2) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
