"""Weights pass through memory one tensor at a time, measured as resident memory of a process of its own."""

import subprocess
import sys
from pathlib import Path

import torch

from m4v.checkpoints.safetensors_header import SafetensorsHeader
from m4v.checkpoints.tensor_files import TensorSpec, open_tensors

NUM_TENSORS, MIB_EACH = 40, 8

COPY = """
import sys
from pathlib import Path

import torch

from m4v.checkpoints.tensor_files import open_tensors, write_shards
from m4v.core.memory import peak_memory_bytes

source, target = map(Path, sys.argv[1:])
cpu = torch.device("cpu")
before = peak_memory_bytes(cpu)
tensors = open_tensors(source)
write_shards(target, tensors.specs, tensors.read, max_shard_bytes=100 * 2**20)
print((peak_memory_bytes(cpu) - before) / 2**20)
"""


def test_copying_a_checkpoint_does_not_keep_what_was_copied(tmp_path: Path) -> None:
    """A copy that keeps what it reads needs 320 MiB; the allocator keeps freed blocks of this size, so a few stay."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    spec = TensorSpec(torch.float32, (MIB_EACH * 2**18,))
    header = SafetensorsHeader.build({f"layer.{n:02}": spec for n in range(NUM_TENSORS)}, {"format": "pt"})
    with (source / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(header.raw)
        file.truncate(header.file_size)
    command = [sys.executable, "-c", COPY, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20 * MIB_EACH
    assert len(list(target.glob("*.safetensors"))) == 4
    assert open_tensors(target).specs == open_tensors(source).specs
