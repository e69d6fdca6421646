"""Compile the kernels for sm_90 without a GPU and print what the assembler says of them, as JSON.

Run as a process of its own, because kernels imported for the interpreter cannot be compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from m4v.ops.cell_pooling import kernels as pooling
from m4v.ops.time_attention import kernels
from m4v.ops.time_attention.launch import tiling

CUOBJDUMP = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
FP32_POINTERS = {"score_ptr"}
INT32_POINTERS = {"first_ptr", "line_ptr", "members_ptr", "sizes_ptr"}
UNALIGNED = {"num_times", "num_positions", "span", "num_blocks", "num_cells", "line_length"}
FLOATS = {"eps", "scale"}
DTYPES = {"bf16": (torch.bfloat16, triton.language.bfloat16), "fp32": (torch.float32, triton.language.float32)}


def compiled(kernel: Any, constants: dict[str, Any], num_warps: int, dtype: str) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory and matrix instructions of one variant."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        is_scores = name in FP32_POINTERS or (name == "weight_ptr" and constants.get("FROM_SCORES"))
        pointer = "fp32" if is_scores else "i1" if name == "visible_ptr" else "i64" if name in INT32_POINTERS else dtype
        signature[name] = f"*{pointer}" if name.endswith("_ptr") else "fp32" if name in FLOATS else "i32"
        if name not in UNALIGNED | FLOATS:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    ptx = binary.asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "times": constants.get("TIMES"),
        "head_dim": constants.get("P"),
        "dtype": dtype,
        "warps": num_warps,
        "registers": int(found[1]),
        "spilled": int(found[2]),
        "shared": binary.metadata.shared,
        "mma": len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)),
        "async_copies": len(re.findall(r"cp\.async\.c", ptx)),
    }


def variants(num_times: int, head_dim: int, dtype: str) -> list[tuple[Any, dict[str, Any], int]]:
    """Every kernel with the constants and warps that the launcher gives it."""
    torch_dtype, tile = DTYPES[dtype]
    tiles = tiling(num_times, head_dim, torch_dtype)
    walk = {"TIMES": tiles.times, "P": head_dim, "TILE": tile, "STAGES": tiles.stages}
    seen = {"MASKED": True, "AHEAD": 8}
    few = num_times <= 16
    return [
        (kernels.scores_kernel, walk | {"NORM": True}, tiles.warps),
        (kernels.weights_kernel, {"ROWS": 8, "TIMES": tiles.times} | seen, 4),
        (kernels.values_kernel, walk | seen | {"FROM_SCORES": few}, tiles.warps),
    ]


def main() -> None:
    """Print one row per kernel; arguments are numbers of times, head width and dtype, joined by colons."""
    rows = [compiled(pooling.pool_kernel, {"BLOCK": 2048}, 4, "bf16")]
    for asked in sys.argv[1:]:
        num_times, head_dim, dtype = asked.split(":")
        rows += [compiled(*variant, dtype) for variant in variants(int(num_times), int(head_dim), dtype)]
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main()
