"""Every kernel compiles for sm_90 without a GPU, with matrix units used; in half precision, in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Half of a multiprocessor's shared memory; in single precision what an A100's holds.
SHARED_LIMIT = {"bf16": 113 * 1024, "fp32": 163 * 1024}
# Bytes per thread. In half precision the gradient of B, the largest kernel, spills 24 under Triton 3.6 and 80 under
# 3.9. In single precision states and their operands fill twice the registers: that is for checking, not for speed.
SPILL_LIMIT = {
    ("bf16", 16): 80,
    ("bf16", 32): 80,
    ("bf16", 64): 80,
    ("bf16", 128): 128,
    ("fp32", 64): 700,
    ("fp32", 128): 1300,
}


@pytest.mark.slow
@pytest.mark.skipif(not (NVIDIA / "cuobjdump").exists(), reason="this Triton comes without ptxas and cuobjdump")
@pytest.mark.parametrize(("dtype", "head_dim"), SPILL_LIMIT)
def test_compiles_for_hopper(dtype: str, head_dim: int) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "tests.ops.scan_section.hopper_compiler", dtype, str(head_dim)]
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
        assert row["spilled"] <= SPILL_LIMIT[dtype, head_dim], row
        assert row["shared"] <= SHARED_LIMIT[dtype], row
        # The matrix units of Hopper's own take tiles from 64 rows on.
        products = row["wgmma"] + (row["mma"] if head_dim < 64 else 0)
        assert products > 0 or not {"CHUNK", "P"} <= row["constants"].keys(), row
