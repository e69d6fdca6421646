"""Dual-stream blocks that scan keep the habits of the others: compiling, caching, checkpointing, offloading."""

from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor
from torch._dynamo.utils import counters

from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.ops.scan_section.interface import SectionOutput
from tests.diffusers_habits.bases import PYRAMID, pyramid_model
from tests.diffusers_habits.offloading import lend_parameters
from tests.models.denoiser.builders import history_and_noisy, prompts, times


@pytest.fixture
def model() -> M4VTransformer3DModel:
    return pyramid_model(dual_mixer="mm_dim", num_dual_layers=2, recomposition={"scan_paths": "aec"})


@pytest.fixture
def clean_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_blocks_are_named_where_libraries_look(model):
    kinds = {type(block).__name__ for block in PYRAMID.blocks(model)}
    assert "DualMMDiMBlock" in kinds
    assert kinds <= set(model._no_split_modules)
    assert kinds <= set(model._repeated_blocks)


@torch.library.custom_op("m4v_tests::opaque_scan", mutates_args=())
def opaque_scan(rows: Tensor, dt: Tensor, index: Tensor) -> Tensor:
    """Stands for the kernels, which the compiler does not look into either; depends on all it is given."""
    width = rows.shape[-1] // 4
    z, x, B, C = rows.split(width, dim=-1)
    gathered = (x * B).gather(1, index[:, : x.shape[1], None].clamp(max=x.shape[1] - 1).expand_as(x))
    return torch.sigmoid(z) * C + 0.1 * gathered.cumsum(1) * torch.sigmoid(dt.mean(-1, keepdim=True)).to(rows.dtype)


@opaque_scan.register_fake
def _(rows: Tensor, dt: Tensor, index: Tensor) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], rows.shape[-1] // 4)


def _opaque_section(rows, register_rows, dt, register_dt, weights, order, options):
    mixed = opaque_scan(rows, dt, order.rows.index) + register_rows.sum() + weights.A_log.sum()
    return SectionOutput(mixed, mixed.new_empty(0))


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.usefixtures("clean_compiler")
def test_one_graph_of_a_kind_of_block_serves_all_paths_units_and_levels(is_fused, monkeypatch):
    """History grows and levels change: none of it may be compiled in."""
    monkeypatch.setattr("m4v.models.denoiser.mixers.scan.scan_section", _opaque_section)
    model = pyramid_model(
        dual_mixer="mm_dim",
        num_dual_layers=2,
        num_single_layers=3,
        mixer_plan="full",
        recomposition={"scan_paths": "aec"},
    )
    if is_fused:
        model.fuse_projections()
    units = [(0, 0, 1, 2), (0, 0, 0, 1, 2), (0, 0, 0, 0, 1, 2), (0, 0, 0, 1, 2, 2), (0, 0, 0, 0, 1, 2, 2)]

    def velocities() -> list[Tensor]:
        with torch.no_grad():
            return [
                model(
                    history_and_noisy(levels, dtype=torch.float32, base=(2, 4)),
                    times(dtype=torch.float32),
                    prompts(dtype=torch.float32),
                )
                for levels in units
            ]

    plain = velocities()
    model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend="eager")
    assert all(torch.equal(*pair) for pair in zip(velocities(), plain, strict=True))
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


@pytest.mark.usefixtures("clean_compiler")
def test_compiled_blocks_train_to_the_same_bits(model):
    plain = gradients(model.train())
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert all(torch.equal(*pair) for pair in zip(gradients(model), plain, strict=True))


def gradients(model: Any) -> list[Tensor]:
    model.zero_grad()
    PYRAMID.call(model, torch.float32, 0).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_checkpointing_changes_no_gradient(model):
    plain = gradients(model.train())
    model.enable_gradient_checkpointing()
    assert all(torch.equal(*pair) for pair in zip(gradients(model), plain, strict=True))


def test_a_cache_that_never_skips_changes_no_bit_and_one_that_always_does_skips_blocks(model):
    plain = [PYRAMID.velocity(model, seed=seed) for seed in (0, 1)]
    runs: list[int] = []
    model.transformer_blocks[1].mixer.register_forward_pre_hook(lambda *_: runs.append(1))
    for threshold, expected in ((0.0, 2), (1e9, 1)):
        model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        with model.cache_context("one"):
            velocities = [PYRAMID.velocity(model, seed=seed) for seed in (0, 1)]
        assert torch.equal(velocities[0], plain[0])
        assert torch.equal(velocities[1], plain[1]) == (threshold == 0)
        model._reset_stateful_cache()
        model.disable_cache()
        assert len(runs) == expected
        runs.clear()


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading_changes_no_bit(model, kind):
    plain = PYRAMID.velocity(model)
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_type=kind, **options)
    assert torch.equal(PYRAMID.velocity(model), plain)


def test_parameters_are_read_only_while_their_module_runs(model):
    plain = PYRAMID.velocity(model)
    lend_parameters(model)
    assert torch.equal(PYRAMID.velocity(model), plain)


def test_half_precision_keeps_step_sizes_wide(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = M4VTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    wide = {name for name, value in half.transformer_blocks[0].named_parameters() if value.dtype == torch.float32}
    steps = {f"mixer.{stream}.dt_proj.{part}" for stream in ("text", "video") for part in ("weight", "bias")}
    assert wide == {"mixer.A_log", "mixer.dt_bias", "mixer.D_skip"} | steps
