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

from m4v.ops.scan_section import kernels_backward, kernels_prepare, kernels_prepare_backward, kernels_scan
from m4v.ops.scan_section.launch import Tiling, tiling

HALF_POINTERS = {"rows_ptr", "register_ptr", "conv_weight_ptr", "conv_bias_ptr", "norm_b_ptr", "norm_c_ptr", "norm_ptr",
    "x_ptr", "b_ptr", "c_ptr", "key_ptr", "value_ptr", "out_ptr", "mixed_grad_ptr", "y_ptr", "g_ptr", "x_grad_ptr",
    "b_grad_ptr", "c_grad_ptr", "grad_ptr", "rows_grad_ptr"}  # fmt: skip
TILE_POINTERS = {"x_ptr", "b_ptr", "c_ptr"}
INT32_POINTERS = {"source_ptr", "destination_ptr", "kinds_ptr"}
FLOATS = {"eps"}
UNALIGNED = {"num_tokens", "num_rows", "num_copies", "segment_chunks", "num_segments", "num_heads", "span",
    "dt_row_stride", "dt_batch_stride", "register_dt_stride", "num_side", "steps", "blocks", "num_registers",
    "num_batch", "num_spans", "num_norms", "num_gates"}  # fmt: skip


def compiled(kernel: Any, constants: dict[str, Any], options: dict[str, int], half: str) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory and tensor core instructions of one variant."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = half if name in HALF_POINTERS else "i32" if name in INT32_POINTERS else "fp32"
        if constants.get("DESCRIPTORS") and name in TILE_POINTERS:
            width = constants["P" if name == "x_ptr" else "N"]
            signature[name] = f"tensordesc<{half}[{constants['CHUNK']}, {width}]>"
            continue
        signature[name] = f"*{pointer}" if name.endswith("_ptr") else "fp32" if name in FLOATS else "i32"
        if name not in UNALIGNED | FLOATS:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    ptx = binary.asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "constants": {name: constants[name] for name in ("P", "N", "CHUNK", "TOKENS", "REVERSE") if name in constants},
        "warps": options["num_warps"],
        "registers": int(found[1]),
        "spilled": int(found[2]),
        "shared": binary.metadata.shared,
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "mma": len(re.findall(r"mma\.sync", ptx)),
        "async_copies": len(re.findall(r"cp\.async\.c", ptx)),
    }


CUOBJDUMP = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def variants(head_dim: int, tiles: Tiling) -> list[tuple[Any, dict[str, Any], dict[str, int]]]:
    """Every kernel with the constants and options the launcher gives it."""
    widths: dict[str, Any] = {"P": head_dim, "N": head_dim}
    chunked = widths | {"CHUNK": tiles.chunk, "ZOH": False}
    switches = widths | {"CONV_WIDTH": 4, "HAS_REGISTERS": True, "SILU": True, "NORM": True, "ROTARY": True}
    streams = 512 // head_dim
    sums = widths | {"CONV_WIDTH": 4, "NORM": True, "ROWS": 128, "COLUMNS": 16}
    walk = switches | {"HEADS": 512 // head_dim, "UNROLL": 4, "TAPS": 4}
    chain: dict[str, Any] = {"SIZE": head_dim**2, "BLOCK": 512, "HAS_EDGE": True, "AHEAD": 8}
    scan = {"num_warps": tiles.warps, "num_stages": tiles.scan_stages}
    sweep = {"num_warps": tiles.warps, "num_stages": tiles.sweep_stages}
    plain = {"num_warps": 4}
    gated = {"HAS_ENTER": True, "GATE": True, "DESCRIPTORS": tiles.descriptors, "STAGES": tiles.gated_stages}
    ungated = {"HAS_ENTER": True, "GATE": False, "DESCRIPTORS": False, "STAGES": None}
    return [
        (kernels_prepare.prepare_kernel, walk, {"num_warps": 2, "maxnreg": 128}),
        (kernels_scan.segment_state_kernel, chunked | {"REVERSE": False}, scan),
        (kernels_scan.segment_state_kernel, chunked | {"REVERSE": True}, scan),
        (kernels_scan.state_scan_kernel, chain | {"REVERSE": False}, plain),
        (kernels_scan.state_scan_kernel, chain | {"REVERSE": True}, plain),
        (kernels_scan.scan_kernel, chunked | gated, scan | {"num_stages": tiles.gated_stages or tiles.scan_stages}),
        (kernels_scan.scan_kernel, chunked | ungated, sweep),
        (kernels_backward.gate_backward_kernel, {"P": head_dim, "TOKENS": streams}, plain),
        (kernels_backward.output_vector_kernel, chunked | {"HAS_ENTER": True}, sweep),
        (kernels_backward.value_kernel, chunked | {"HAS_LEAVE": True}, sweep),
        (kernels_backward.input_vector_kernel, chunked | {"HAS_LEAVE": True}, sweep),
        (kernels_backward.step_size_kernel, {"CHUNK": tiles.chunk, "ZOH": False}, {"num_warps": 1}),
        (kernels_prepare_backward.rows_backward_kernel, switches | {"STREAMS": streams, "GROUP": 4}, plain),
        (kernels_prepare_backward.collect_kernel, {"ROWS": 32, "COLUMNS": 64}, plain),
        (kernels_prepare_backward.sum_partials_kernel, sums, plain),
    ]


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Print one row per kernel; arguments are name of the rows' dtype and head width."""
    dtype, head_dim = sys.argv[1], int(sys.argv[2])
    tiles = tiling(head_dim, head_dim, DTYPES[dtype])
    sys.stdout.write(json.dumps([compiled(*variant, half=dtype) for variant in variants(head_dim, tiles)]))


if __name__ == "__main__":
    main()
