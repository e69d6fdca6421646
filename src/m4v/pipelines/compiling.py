"""Compiling a denoiser for prediction."""

from typing import Any

import torch

# Blocks are compiled anew for a first frame (nothing before it), for levels whose frames are not pooled, for batches of
# one and for each way to mask attention: up to a dozen cases, however many levels and units a video has. The library
# gives up at 8.
_MOST_CASES = 32


def compile_denoiser(denoiser: Any) -> None:
    """Merge projections where the denoiser can, then compile its repeated blocks for all sizes.

    Blocks have no graph breaks, but that is not demanded: a scan in plain torch is compiled anew for every number of
    chunks, and a long video with more of them than are allowed for goes on uncompiled instead of failing.

    Args:
        denoiser: Of diffusers' kind: it knows `compile_repeated_blocks`, and may know `fuse_projections`.
    """
    if hasattr(denoiser, "fuse_projections"):
        denoiser.fuse_projections()
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MOST_CASES)
    denoiser.compile_repeated_blocks(dynamic=True)
