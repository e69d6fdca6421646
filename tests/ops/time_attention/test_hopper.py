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
SIZES = ("10:64:bf16", "46:64:bf16", "46:32:bf16", "21:128:bf16", "46:128:bf16", "100:64:bf16", "100:128:bf16")


@pytest.mark.slow
@pytest.mark.skipif(not (NVIDIA / "cuobjdump").exists(), reason="this Triton comes without ptxas and cuobjdump")
def test_compiles_for_hopper() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "tests.ops.time_attention.hopper_compiler", *SIZES, "46:64:fp32"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    sys.stdout.write("\n".join(map(str, rows)) + "\n")
    assert len(rows) == 1 + 3 * (len(SIZES) + 1)
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["shared"] <= SHARED_LIMIT, row
        assert row["mma"] > 0 or row["kernel"] in ("pool_kernel", "weights_kernel"), row
