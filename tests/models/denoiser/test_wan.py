"""The Wan denoiser as a whole: text paths, padding, time, gradients, checkpointing, saving, wrong inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_context import real_text
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import normal
from tests.models.denoiser.wan_builders import NUM_TEXT, debug_model, inputs, stock_model, velocity

TEXT_PATHS = ["carried", "read-only", "none"]


def _silence_cross_attention(model: WanM4VTransformer3DModel) -> None:
    """Leave the scan as the only way from text to video."""
    for block in model.blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(block.attn2.to_out[0].bias)


@pytest.mark.parametrize("text_path", TEXT_PATHS)
def test_text_reaches_the_video_through_the_scan_unless_switched_off(text_path: str) -> None:
    model = debug_model(mixer_plan="full", text_path=text_path)
    _silence_cross_attention(model)
    arguments = inputs()
    other = arguments | {"encoder_hidden_states": arguments["encoder_hidden_states"].flip(1).roll(3, dims=1)}
    assert torch.equal(velocity(model, arguments), velocity(model, other)) == (text_path == "none")


@pytest.mark.parametrize("text_path", TEXT_PATHS)
def test_later_frames_reach_earlier_ones_only_through_carried_text(text_path: str) -> None:
    model = debug_model(mixer_plan="full", text_path=text_path, temporal_branch={"enabled": False})
    arguments = inputs()
    last_changed = arguments["hidden_states"].clone()
    last_changed[:, :, -1] += 1
    before, after = velocity(model, arguments), velocity(model, arguments | {"hidden_states": last_changed})
    assert torch.equal(before[:, :, :-1], after[:, :, :-1]) == (text_path != "carried")
    assert not torch.equal(before[:, :, -1], after[:, :, -1])


@pytest.mark.parametrize("causal", [False, True])
def test_the_temporal_branch_looks_both_ways_unless_causal(causal: bool) -> None:
    model = debug_model(mixer_plan="full", text_path="none", temporal_branch={"causal": causal})
    arguments = inputs()
    last_changed = arguments["hidden_states"].clone()
    last_changed[:, :, -1] += 1
    before, after = velocity(model, arguments), velocity(model, arguments | {"hidden_states": last_changed})
    assert torch.equal(before[:, :, :-1], after[:, :, :-1]) == causal


@pytest.mark.parametrize("text_path", TEXT_PATHS)
def test_blocks_hand_on_the_text_they_carry(text_path: str) -> None:
    model = debug_model(text_path=text_path)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[1], outputs[1])))
    velocity(model, inputs())
    changed = [not torch.equal(before, after) for before, after in seen]
    assert changed == [kind == "mm_dim" and text_path == "carried" for kind in model.settings.kinds]


def test_carried_text_takes_the_modulation_and_gate_of_the_video() -> None:
    """`Z + gate1 * mixer(LN(Z) (1 + scale1) + shift1)`, as for the video."""
    model = debug_model(temporal_branch={"enabled": False})
    block = model.blocks[0]
    seen: dict[str, Any] = {}
    block.register_forward_hook(lambda _, inputs, outputs: seen.update(inputs=inputs, text=outputs[1]))
    block.attn1.register_forward_hook(lambda _, inputs, output: seen.update(tokens=inputs[0], mixed=output))
    velocity(model, inputs())
    video, text, _, temb, *_ = seen["inputs"]
    shift, scale, gate = (block.scale_shift_table + temb)[:, :3].split(1, dim=1)
    both = torch.cat([text, video], dim=1)
    centred = both - both.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_relative_close(seen["tokens"], normed * (1 + scale) + shift, 1e-6)
    assert_relative_close(seen["text"], text + gate * seen["mixed"][:, : text.shape[1]], 1e-6)


@pytest.mark.parametrize("text_path", ["carried", "read-only"])
def test_padding_of_prompts_says_nothing_through_the_scan(text_path: str) -> None:
    model = debug_model(mixer_plan="full", text_path=text_path)
    _silence_cross_attention(model)
    arguments = inputs(lengths=(3, 3))
    expected = velocity(model, arguments)
    trimmed = arguments | {"encoder_hidden_states": arguments["encoder_hidden_states"][:, :3]}
    assert_relative_close(velocity(model, trimmed), expected, 1e-5)

    rubbish = arguments["encoder_hidden_states"].clone()
    rubbish[:, 3:] = 100 * normal(2, NUM_TEXT - 3, rubbish.shape[2], seed=5)
    mask = torch.arange(NUM_TEXT).expand(2, -1) < 3
    masked = arguments | {"encoder_hidden_states": rubbish, "encoder_attention_mask": mask}
    assert_relative_close(velocity(model, masked), expected, 1e-5)
    assert not torch.allclose(velocity(model, arguments | {"encoder_hidden_states": rubbish}), expected, atol=1e-3)


def test_cross_attention_sees_padding_even_if_the_mask_is_given() -> None:
    model = debug_model(mixer_plan="attention-only")
    arguments = inputs(lengths=(3, 3))
    mask = torch.arange(NUM_TEXT).expand(2, -1) < 3
    expected = velocity(model, arguments)
    assert torch.equal(velocity(model, arguments | {"encoder_attention_mask": mask}), expected)
    trimmed = arguments | {"encoder_hidden_states": arguments["encoder_hidden_states"][:, :3]}
    assert not torch.allclose(velocity(model, trimmed), expected, atol=1e-3)


def test_a_batch_equals_its_samples_alone() -> None:
    model = debug_model(mixer_plan="full")
    arguments = inputs(lengths=(3, NUM_TEXT, 0))
    batch = velocity(model, arguments)
    for row in range(3):
        alone = velocity(model, {name: value[row : row + 1] for name, value in arguments.items()})
        assert_relative_close(alone, batch[row : row + 1], 1e-5)


def test_real_text_ends_at_the_last_row_that_is_not_zero() -> None:
    rows = torch.tensor([[1.0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])[..., None]
    assert real_text(rows).sum(1).tolist() == [3, 0, 5]
    assert real_text(rows)[0].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("text_path", TEXT_PATHS)
def test_a_prompt_of_no_rows_equals_one_of_padding_in_the_scan(text_path: str) -> None:
    model = debug_model(text_path=text_path)
    _silence_cross_attention(model)  # it does see padding
    padded = velocity(model, inputs(lengths=(0, 0)))
    assert padded.isfinite().all()
    assert_relative_close(velocity(model, inputs(lengths=(0, 0), num_rows=0)), padded, 1e-5)


@pytest.mark.parametrize("text_path", TEXT_PATHS)
def test_every_parameter_gets_a_gradient(text_path: str) -> None:
    model = debug_model(text_path=text_path)
    model(**inputs()).sample.square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_gradient_checkpointing_changes_nothing() -> None:
    model = debug_model()
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**inputs()).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("plan", ["full", "attention-only"])
def test_first_block_cache_keeps_both_streams(plan: str) -> None:
    """Same inputs, so the cached rest of the network is right; a block that is skipped must hand on both streams."""
    model = debug_model(mixer_plan=plan)
    arguments = inputs()
    expected = velocity(model, arguments)
    calls: list[int] = []
    for layer, block in enumerate(model.blocks):
        block.ffn.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with model.cache_context("cond"):
        assert torch.equal(velocity(model, arguments), expected)
        assert_relative_close(velocity(model, arguments), expected, 1e-5)
    assert calls == [0, 1, 2, 0]


def test_weights_may_come_and_go_module_by_module() -> None:
    """Sequential offload: every parameter belongs to a module whose `forward` uses it."""
    model, arguments = debug_model(), inputs()
    expected = velocity(model, arguments)
    cpu_offload(model, torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(velocity(model, arguments), expected)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("register_kinds", ["one", "by-role"])
def test_pictures_and_shortest_clips(register_kinds: str, frames: int) -> None:
    model = debug_model(recomposition={"register_kinds": register_kinds})
    assert velocity(model, inputs(size=(frames, 4, 6))).isfinite().all()


def test_half_precision_stays_near_single(tmp_path: Path) -> None:
    model = debug_model(mixer_plan="full")
    model.save_pretrained(tmp_path)
    half = WanM4VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    wide = {name.rpartition(".")[2] for name, p in half.blocks[0].attn1.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "dt_bias", "D_skip"} | {"weight", "bias"}  # the last two are those of to_dt
    assert half.blocks[0].attn1.to_dt.weight.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    arguments = inputs()
    halves = {name: value.bfloat16() if name != "timestep" else value for name, value in arguments.items()}
    assert_relative_close(velocity(half, halves), velocity(model, arguments), 0.1)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    model = debug_model(text_path="read-only", recomposition={"register_kinds": "by-role"})
    model.save_pretrained(tmp_path)
    again = WanM4VTransformer3DModel.from_pretrained(tmp_path)
    assert again.settings == model.settings
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    # Where weights lie in memory decides which kernel multiplies them, so the last bit may differ.
    assert_relative_close(velocity(again, inputs()), velocity(model, inputs()), 1e-6)


def test_stock_weights_are_never_completed_at_random(tmp_path: Path) -> None:
    stock_model("14B-shaped").save_pretrained(tmp_path)
    model, info = WanM4VTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert model.settings.kinds == ("attention",) * 3
    assert info["missing_keys"] == []
    with pytest.raises(UserError, match=r"lack 60 tensors \(blocks\.0.*m4v convert wan SRC DST --to-mamba"):
        WanM4VTransformer3DModel.from_pretrained(tmp_path, mixer_plan="full")


def test_trained_tensors_are_never_dropped(tmp_path: Path) -> None:
    debug_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"have 40 tensors .* for which the mixer plan has no place"):
        WanM4VTransformer3DModel.from_pretrained(tmp_path, mixer_plan="attention-only")


WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "odd height": ({"hidden_states": torch.zeros(2, 16, 3, 5, 6)}, "5 rows; expected a multiple of the patch size 2"),
    "odd width": ({"hidden_states": torch.zeros(2, 16, 3, 4, 7)}, "7 columns"),
    "no frames": ({"hidden_states": torch.zeros(2, 16, 0, 4, 6)}, "0 frames"),
    "too wide": ({"hidden_states": torch.zeros(2, 16, 1, 2, 130)}, "130 columns; .* at most 128"),
    "timesteps per token": ({"timestep": torch.zeros(2, 18)}, "Wan2.2"),
    "an image": ({"encoder_hidden_states_image": torch.zeros(2, 4, 16)}, "Wan2.1 image-to-video"),
    "mask of another shape": ({"encoder_attention_mask": torch.ones(2, 3)}, r"shape \[2, 3\]; expected \[2, 6\]"),
    "padding in front": ({"encoder_attention_mask": torch.arange(6).expand(2, -1) > 2}, "padding before real text"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_wrong_inputs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        debug_model()(**(inputs() | changes))
