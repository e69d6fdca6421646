"""Every kernel compiles for sm_90 without a GPU: in registers, in half the shared memory, with matrix units used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Half of a multiprocessor's shared memory.
SHARED_LIMIT = 113 * 1024
# Bytes per thread: the gradient of B, the largest kernel, spills 24 under Triton 3.6 and 80 under 3.9.
SPILL_LIMIT = 80


@pytest.mark.slow
@pytest.mark.skipif(not (NVIDIA / "cuobjdump").exists(), reason="this Triton comes without ptxas and cuobjdump")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_compiles_for_hopper(head_dim: int) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "tests.ops.scan_section.hopper_compiler", str(head_dim)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    table = [f"{'kernel':32}{'warps':>6}{'registers':>10}{'spilled':>8}{'shared':>8}{'wgmma':>6}{'mma':>5}"]
    for row in rows:
        numbers = "".join(
            f"{row[name]:>{w}}"
            for name, w in (("warps", 6), ("registers", 10), ("spilled", 8), ("shared", 8), ("wgmma", 6), ("mma", 5))
        )
        table.append(f"{row['kernel']:32}{numbers}")
    sys.stdout.write("\n".join(table) + "\n")
    assert len(rows) == 15
    for row in rows:
        assert row["spilled"] <= SPILL_LIMIT, row
        assert row["shared"] <= SHARED_LIMIT, row
        assert row["wgmma"] > 0 or not {"CHUNK", "P"} <= row["constants"].keys(), row
