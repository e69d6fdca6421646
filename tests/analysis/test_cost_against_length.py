"""Cost against length follows O(TM + T^2) for T frames of M tokens: fitted on the operations that torch counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from m4v.analysis.denoising_memory import pyramid_inputs
from m4v.core.config_io import to_plain
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser.config import (
    PRESETS,
    DenoiserConfig,
    MixerConfig,
    RecompositionConfig,
    TemporalBranchConfig,
)
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.analysis.counting import flops_of

SCAN = replace(
    PRESETS["debug"],
    dual_mixer="mm_dim",
    mixer_plan="full",
    mixer=MixerConfig(chunk_size=8),  # divides every sequence below, so that no chunk is filled up
    recomposition=RecompositionConfig(scan_paths="ae", registers=False),
)
ATTENTION = replace(SCAN, dual_mixer="attention", mixer_plan="attention-only", temporal_causal_attention=False)
NUM_TEXT = 8
GRIDS = [(frames, *side) for frames in (2, 5, 8, 13) for side in ((4, 4), (4, 8), (8, 8))]


def _coefficients(config: DenoiserConfig) -> dict[str, float]:
    """Operations as a polynomial of T and M (the last matrix takes the noisy frame only); the fit has to be exact."""
    model = M4VTransformer3DModel(**to_plain(config))
    lengths, operations = [], []
    for frames, height, width in GRIDS:
        layout = SequenceLayout((FrameGrid(0, height, width),) * frames, NUM_TEXT)
        inputs = pyramid_inputs(config, layout, 1, torch.float32, "cpu")
        operations.append(flops_of(lambda inputs=inputs: model(*inputs)))
        lengths.append((frames, height * width))
    T, M = np.array(lengths, dtype=np.float64).T
    terms = {"1": T**0, "T": T, "T^2": T**2, "M": M, "TM": T * M, "T^2 M": T**2 * M, "(TM)^2": (T * M) ** 2}
    matrix = np.stack(list(terms.values()), axis=1)
    scale = matrix.max(axis=0)
    solution, *_ = np.linalg.lstsq(matrix / scale, np.array(operations), rcond=None)
    assert matrix / scale @ solution == pytest.approx(operations, rel=1e-9)
    return dict(zip(terms, solution / scale, strict=True))


def test_scan_blocks_are_linear_in_tokens() -> None:
    found = _coefficients(replace(SCAN, temporal_branch=TemporalBranchConfig(enabled=False)))
    assert found["TM"] > 0
    for term in ("T", "T^2", "T^2 M", "(TM)^2"):
        assert abs(found[term]) < 1e-3, (term, found)


def test_only_the_temporal_branch_is_quadratic_and_only_in_frames() -> None:
    """`4 S d` per pair of frames and layer: S = M positions of a frame of the coarsest level, one time token each."""
    found = _coefficients(SCAN)
    assert found["T^2 M"] == pytest.approx(4 * SCAN.width * SCAN.num_single_layers, rel=1e-6)
    for term in ("T", "T^2", "(TM)^2"):
        assert abs(found[term]) < 1e-3, (term, found)


def test_attention_is_quadratic_in_tokens() -> None:
    """`4 d` per pair of tokens and layer."""
    found = _coefficients(ATTENTION)
    layers = ATTENTION.num_dual_layers + ATTENTION.num_single_layers
    assert found["(TM)^2"] == pytest.approx(4 * ATTENTION.width * layers, rel=1e-6)
    assert abs(found["T^2 M"]) < 1e-3
