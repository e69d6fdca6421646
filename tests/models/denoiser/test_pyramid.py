"""The assembled denoiser: every option runs and learns; checkpointing and folders change nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import (
    debug_arguments,
    history_and_noisy,
    normal,
    prompts,
    random_model,
    randomise,
    times,
)

SINGLE = torch.float32

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "attention-only": {"mixer_plan": "attention-only"},
    "pre-half": {"mixer_plan": "pre-half"},
    "post-half": {"mixer_plan": "post-half"},
    "interleaved": {"mixer_plan": "interleaved"},
    "parallel": {"mixer_plan": "parallel"},
    "plan by layer": {"mixer_plan": ["parallel", "mm_dim"]},
    "text once": {"recomposition": {"text_at_both_ends": False}},
    "no registers": {"recomposition": {"registers": False}},
    "text once, no registers": {"recomposition": {"text_at_both_ends": False, "registers": False}},
    "raster": {"recomposition": {"continuous": False}},
    "other paths": {"recomposition": {"scan_paths": "hc"}},
    "no temporal branch": {"temporal_branch": {"enabled": False}},
    "temporal branch sees all": {"temporal_branch": {"causal": False}},
    "scan over time": {"temporal_branch": {"mixer": "ssd"}},
    "no conv": {"mixer": {"conv_width": 0}},
    "no norm on B and C": {"mixer": {"qk_norm": False}},
    "added positions": {"mixer": {"positions": "added"}},
    "no positions": {"mixer": {"positions": "none"}},
    "wider state": {"mixer": {"positions": "none", "state_dim": 12}},
    "zero-order hold": {"mixer": {"discretisation": "zoh"}},
    "small chunks": {"mixer": {"chunk_size": 8}},
    "attention over all frames": {"temporal_causal_attention": False},
    "patches of 2": {"patch_size": 2},
    "scan in dual blocks": {"dual_mixer": "mm_dim"},
    "scan everywhere, added positions": {"dual_mixer": "mm_dim", "mixer": {"positions": "added"}},
    "scan in dual blocks alone": {"dual_mixer": "mm_dim", "mixer_plan": "attention-only"},
    "no dual blocks": {"num_dual_layers": 0},
}


def _clips(dtype: torch.dtype = SINGLE, levels: tuple[int, ...] = (0, 0, 1, 2)) -> list[LevelClip]:
    return history_and_noisy(levels, base=(2, 4), dtype=dtype)


def _run(model: M4VTransformer3DModel, dtype: torch.dtype = SINGLE) -> Tensor:
    return model(_clips(dtype), times(), prompts(dtype=dtype))


def _calm_model(**changes: Any) -> M4VTransformer3DModel:
    """A random fp32 model whose weights do not blow up rounding errors."""
    model = random_model(dtype=SINGLE, **changes)
    randomise(model, std=0.1)
    return model


def _gradients(model: M4VTransformer3DModel, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    model.zero_grad()
    velocity = _run(model, dtype)
    (velocity * normal(*velocity.shape, seed=50, dtype=velocity.dtype)).sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        gradients[name] = parameter.grad.clone()
    return gradients


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_every_option_runs_and_every_parameter_learns(changes: dict[str, Any]) -> None:
    model = random_model(dtype=SINGLE, **changes)
    velocity = _run(model)
    assert velocity.shape == _clips()[-1].latents.shape
    assert velocity.dtype == SINGLE
    assert velocity.isfinite().all()
    for name, gradient in _gradients(model, SINGLE).items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


CHANGES = {name: changes for name, changes in OPTIONS.items() if name not in ("default", "no dual blocks")}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_every_option_is_wired_up(changes: dict[str, Any]) -> None:
    """With the weights they share, an option gives other velocities than the default; the chunk size gives the same."""
    default, model = random_model(), random_model(**changes)
    if "patch_size" not in changes:
        own = model.state_dict()
        shared = {
            name: value
            for name, value in default.state_dict().items()
            if name in own and value.shape == own[name].shape
        }
        model.load_state_dict(shared, strict=False)
    with torch.no_grad():
        base, velocity = _run(default, torch.float64), _run(model, torch.float64)
    if changes == {"mixer": {"chunk_size": 8}}:
        assert_relative_close(velocity, base, 1e-12)
    else:
        assert (velocity - base).abs().max() > 1e-6


def test_a_fresh_model_predicts_zero_and_blocks_start_as_the_identity() -> None:
    model = M4VTransformer3DModel(**debug_arguments())
    assert torch.equal(_run(model), torch.zeros(2, 4, 1, 8, 16))
    torch.nn.init.normal_(model.proj_out.weight)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in model.single_transformer_blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[:2], output)))
    _run(model)
    assert len(seen) == 4
    assert all(torch.equal(*pair) for tokens in seen for pair in zip(tokens, seen[0], strict=True))


def test_a_velocity_depends_on_each_input() -> None:
    model, text = random_model(), prompts(dtype=torch.float64)
    clips, timesteps = _clips(torch.float64), times()
    with torch.no_grad():
        base = model(clips, timesteps, text)
        for frame in range(4):
            changed = [LevelClip(clip.latents + (i == frame), clip.level) for i, clip in enumerate(clips)]
            assert (model(changed, timesteps, text) - base).abs().max() > 1e-6, f"frame {frame}"
        assert (model(clips, timesteps + 50, text) - base).abs().max() > 1e-6
        assert (model(clips, timesteps, prompts(seed=5, dtype=torch.float64)) - base).abs().max() > 1e-6


def test_clips_may_be_cut_anywhere() -> None:
    """Two consecutive frames of one level are the same history, as one clip or as two."""
    model, text = random_model(), prompts()
    single = _clips(torch.float64)
    merged = [LevelClip(torch.cat([single[0].latents, single[1].latents], dim=2), 0), *single[2:]]
    with torch.no_grad():
        assert torch.equal(model(merged, times(), text), model(single, times(), text))


def test_rounded_timesteps_are_those_of_the_half_precision_pipeline() -> None:
    half = torch.bfloat16
    rounded, exact = random_model(round_timesteps_to_bfloat16=True).to(half), random_model().to(half)
    timesteps = torch.tensor([744.256, 1.385])
    clips, text = _clips(half), prompts(dtype=half)
    with torch.no_grad():
        velocity = rounded(clips, timesteps, text)
        assert torch.equal(velocity, exact(clips, timesteps.bfloat16().float(), text))
        assert not torch.equal(velocity, exact(clips, timesteps, text))


def test_full_precision_rounds_no_timesteps() -> None:
    rounded, exact = random_model(round_timesteps_to_bfloat16=True), random_model()
    timesteps = torch.tensor([744.256, 1.385], dtype=torch.float64)
    with torch.no_grad():
        velocity = rounded(_clips(torch.float64), timesteps, prompts())
        assert torch.equal(velocity, exact(_clips(torch.float64), timesteps, prompts()))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_images_and_every_level_run(level: int) -> None:
    model = random_model()
    with torch.no_grad():
        velocity = model(_clips(torch.float64, levels=(level,)), times(), prompts())
    assert velocity.shape == (2, 4, 1, 2 * 2**level, 4 * 2**level)


def test_a_picture_that_patches_do_not_divide_is_refused() -> None:
    model = random_model(patch_size=2)
    with pytest.raises(UserError, match="Latents are 3x4 at level 1; both must be multiples of the patch size 2"):
        model([LevelClip(normal(2, 4, 1, 3, 4), 1)], times(), prompts())


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = random_model().train()
    plain = _gradients(model)
    model.enable_gradient_checkpointing()
    runs = []
    handle = model.single_transformer_blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    checkpointed = _gradients(model)
    handle.remove()
    assert len(runs) == 2  # once forward, once again in backward
    assert all(torch.equal(checkpointed[name], plain[name]) for name in plain)
    model.disable_gradient_checkpointing()
    assert all(torch.equal(gradient, plain[name]) for name, gradient in _gradients(model).items())


FOLDERS = [
    "default",
    "parallel",
    "plan by layer",
    "text once, no registers",
    "no conv",
    "scan over time",
    "patches of 2",
    "scan in dual blocks",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_and_loaded_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = random_model(dtype=SINGLE, **OPTIONS[name])
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded, report = M4VTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.settings == model.settings
    saved, read = model.state_dict(), loaded.state_dict()
    assert list(saved) == list(read)
    assert all(torch.equal(saved[key], read[key]) for key in saved)
    with torch.no_grad():
        expected = _run(model)
        # Weights mapped from a file start at any byte, and matrix products round by alignment.
        assert_relative_close(_run(loaded), expected, 1e-6)
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
        assert torch.equal(_run(loaded), expected)


def test_config_alone_rebuilds_the_network() -> None:
    model = random_model(mixer_plan=["attention", "mm_dim"], mixer={"positions": "none"})
    rebuilt = M4VTransformer3DModel.from_config(model.config)
    assert rebuilt.settings == model.settings
    rebuilt.to(torch.float64).load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(_run(rebuilt, torch.float64), _run(model, torch.float64))


def test_loading_in_half_precision_keeps_decay_and_step_wide(tmp_path: Path) -> None:
    model = _calm_model()
    model.save_pretrained(tmp_path)
    half = M4VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    wide = {name.rpartition("mixer.")[2] for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert wide == {"A_log", "dt_bias", "D_skip", "dt_proj.weight", "dt_proj.bias"}
    with torch.no_grad():
        velocity = _run(half, torch.bfloat16)
        assert velocity.dtype == torch.bfloat16
        assert_relative_close(velocity, _run(model), 0.03)


@pytest.mark.parametrize("name", ["default", "attention-only", "scan over time", "scan in dual blocks"])
def test_half_precision_throughout_is_finite_and_near(name: str) -> None:
    model = _calm_model(**OPTIONS[name])
    with torch.no_grad():
        wide = _run(model)
    model.to(torch.bfloat16)
    with torch.no_grad():
        velocity = _run(model, torch.bfloat16)
    assert velocity.dtype == torch.bfloat16
    assert_relative_close(velocity, wide, 0.03)
    assert all(gradient.isfinite().all() for gradient in _gradients(model, torch.bfloat16).values())


AUTOCAST = ["default", "attention-only", "parallel", "scan over time", "zero-order hold", "scan in dual blocks"]


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_is_finite_and_near(name: str) -> None:
    model = _calm_model(**OPTIONS[name])
    wide = _gradients(model, SINGLE)
    with torch.no_grad():
        expected = _run(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = _run(model)
        narrow = _gradients(model, SINGLE)
    assert_relative_close(velocity, expected, 0.03)

    def joined(gradients: dict[str, Tensor]) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in gradients.values()])

    assert all(gradient.dtype == SINGLE for gradient in narrow.values())
    assert_relative_close(joined(narrow), joined(wide), 0.05)


def _count(**changes: Any) -> int:
    model = M4VTransformer3DModel(**debug_arguments(num_single_layers=4, **changes))
    return sum(parameter.numel() for parameter in model.parameters())


def test_switches_change_parameters_as_they_should() -> None:
    """Table 3 and the mixer options; debug: width 16, heads 2 x 8, 3 levels, 4 single blocks."""
    width, heads, head_dim, levels, layers = 16, 2, 8, 3, 4
    full = _count()
    branch = 3 * width**2 + 3 * width + 2 * head_dim + width
    assert full - _count(recomposition={"text_at_both_ends": False}) == 0
    assert full - _count(recomposition={"registers": False}) == layers * levels * width
    assert full - _count(temporal_branch={"enabled": False}) == layers * branch
    assert _count(temporal_branch={"mixer": "ssd"}) - full == layers * 2 * heads
    assert full - _count(mixer={"conv_width": 0}) == layers * 3 * width * (4 + 1)
    assert full - _count(mixer={"conv_width": 3}) == layers * 3 * width
    assert full - _count(mixer={"qk_norm": False}) == layers * 2 * head_dim
    for free in ({"positions": "added"}, {"positions": "none"}, {"discretisation": "zoh"}, {"chunk_size": 16}):
        assert _count(mixer=free) == full

    attention = 3 * width**2 + 3 * width + 2 * head_dim
    projection = (4 * width + heads) * (width + 1)
    mm_dim = projection + 3 * width * 5 + 2 * head_dim + 3 * heads + width + levels * width
    base = _count(mixer_plan="attention-only")
    assert full == base + layers * (mm_dim - attention + branch)
    assert _count(mixer_plan="parallel") == base + layers * mm_dim  # beside attention, and without the branch
    halves = ("pre-half", "post-half", "interleaved")
    assert {_count(mixer_plan=plan) for plan in halves} == {base + 2 * (mm_dim - attention + branch)}


def test_initial_values_stay_in_range_after_the_global_initialisation() -> None:
    model = M4VTransformer3DModel(**debug_arguments())
    for name, parameter in model.named_parameters():
        words = name.split(".")
        is_gate = words[-1] in ("bias", "gate") or {"modulation", "norm_out", "proj_out"} & set(words)
        if words[-1] == "dt_bias":
            step = torch.nn.functional.softplus(parameter)
            assert ((step > 0.9e-3) & (step < 1.1e-1)).all(), name
        elif words[-1] == "A_log":
            assert ((parameter >= 0) & (parameter <= math.log(16))).all(), name
        elif is_gate:
            assert (parameter == 0).all(), name
        else:
            assert parameter.abs().max() > 0, name
