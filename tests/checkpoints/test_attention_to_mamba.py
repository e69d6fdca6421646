"""Attention weights become mixers that begin as the teacher's causal linear attention (Appendix D.2)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba
from m4v.core.errors import UserError
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.recomposition.scan_order import ScanOrder
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_context import wan_context
from m4v.ops.recompose.reference import recompose
from m4v.ops.scan_section import reference
from m4v.ops.ssd.reference import SSDOutput, ssd
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import (
    debug_arguments,
    history_and_noisy,
    layout_of,
    normal,
    prompts,
    random_model,
    randomise,
)
from tests.pipelines.debug_parts import DEFAULTS, debug_parts
from tests.pipelines.wan_parts import wan_pipeline

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LAYER = "single_transformer_blocks.0."
LETTERS = {"duality": {"C": "q", "B": "k"}, "paper_text": {"C": "k", "B": "q"}}


def save_attention_model(folder: Path, **changes: object) -> Path:
    """A pyramid pipeline whose layers are attention, every tensor random (norms and biases too)."""
    transformer = random_model(3, torch.float32, **{"mixer_plan": "attention-only", **changes})
    pipeline = M4VPipeline(**debug_parts() | {"transformer": transformer}, defaults=DEFAULTS)
    pipeline.save_pretrained(folder, training_facts={"recipe": "debug"})
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_attention_model(tmp_path_factory.mktemp("teacher") / "attention")


@pytest.fixture(scope="module")
def wan_teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "wan"
    pipeline = wan_pipeline()
    randomise(pipeline.transformer, 5)
    pipeline.save_pretrained(folder)
    return folder


def convert(source: Path, target: Path, **choices: object):
    return convert_attention_to_mamba(source, target, MambaInitialisation(**choices))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(heads: Tensor, order: ScanOrder) -> Tensor:
    """Rotate channel pairs by the angles of each scan position."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    cos, sin = order.section.rotary.cos[..., None, :].double(), order.section.rotary.sin[..., None, :].double()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, is_real: Tensor) -> Tensor:
    """Sum over earlier real tokens of (q_t . k_s) v_s."""
    scores = torch.einsum("btgp,bsgp->bgts", query, key).tril() * is_real[:, None, None, :]
    return torch.einsum("bgts,bsgp->btgp", scores, value)


def without_decay(seen: list[SSDOutput]):
    """The scan with A = 0, no skip and steps of 1 on real tokens, remembering its outputs."""

    def scan_only(x, dt, A, B, C, **options):
        del options["D"]
        seen.append(ssd(x, (dt > 0).to(dt), torch.zeros_like(A), B, C, **options))
        return seen[-1]

    return scan_only


@pytest.mark.parametrize("map_name", LETTERS)
def test_the_mixer_begins_as_the_linear_attention_of_its_teacher(teacher, tmp_path, monkeypatch, map_name):
    convert(teacher, tmp_path / "new", map=map_name, conv_activation="none")
    model = M4VTransformer3DModel.from_pretrained(tmp_path / "new", subfolder="transformer").double()
    mixer, config = model.single_transformer_blocks[0].mixer, model.settings
    assert isinstance(mixer, MMDiMMixer)
    layout, text = layout_of(history_and_noisy()), prompts((3, 5))
    tokens = normal(2, layout.num_text_tokens + layout.num_video_tokens, config.width)
    context = sequence_context(config, layout, tokens[:, 0], text.mask).along(config.scan_path(0))
    seen: list[SSDOutput] = []
    monkeypatch.setattr(reference, "ssd", without_decay(seen))
    mixer(tokens, context)

    order = context.scan
    rows = recompose(tokens, mixer.registers.rows, order.bound.order)
    weights = {name: tensor.double() for name, tensor in load_file(teacher / WEIGHTS).items()}

    def heads(letter: str) -> Tensor:
        projected = rows @ weights[f"{LAYER}mixer.to_{letter}.weight"].T + weights[f"{LAYER}mixer.to_{letter}.bias"]
        return projected.unflatten(-1, (config.num_attention_heads, -1))

    def normed(letter: str) -> Tensor:
        return turned(rms(heads(letter), weights[f"{LAYER}mixer.norm_{letter}.weight"]), order)

    partner = LETTERS[map_name]
    expected = linear_attention(normed(partner["C"]), normed(partner["B"]), heads("v"), order.bound.is_real)
    real = order.bound.is_real
    assert_relative_close(seen[0].y[real], expected[real], 1e-6)


@pytest.mark.parametrize("map_name", LETTERS)
def test_on_the_wan_base_too(wan_teacher, tmp_path, monkeypatch, map_name):
    convert(wan_teacher, tmp_path / "new", map=map_name, conv_activation="none")
    model = WanM4VTransformer3DModel.from_pretrained(tmp_path / "new", subfolder="transformer").double()
    mixer, config = model.blocks[1].attn1, model.settings
    context = wan_context(config, (3, 2, 4), torch.arange(5) < torch.tensor([[3], [5]]))
    context = context.along(config.recomposition.scan_path(1))
    tokens = normal(2, 5 + 24, config.width)
    seen: list[SSDOutput] = []
    monkeypatch.setattr(reference, "ssd", without_decay(seen))
    mixer(tokens, context)

    order = context.scan
    rows = recompose(tokens, mixer.registers.rows, order.bound.order)
    weights = {name: tensor.double() for name, tensor in load_file(wan_teacher / WEIGHTS).items()}

    def projected(letter: str) -> Tensor:
        return rows @ weights[f"blocks.1.attn1.to_{letter}.weight"].T + weights[f"blocks.1.attn1.to_{letter}.bias"]

    def normed(letter: str) -> Tensor:
        across_heads = rms(projected(letter), weights[f"blocks.1.attn1.norm_{letter}.weight"])
        return turned(across_heads.unflatten(-1, (config.num_attention_heads, -1)), order)

    partner = LETTERS[map_name]
    value = projected("v").unflatten(-1, (config.num_attention_heads, -1))
    expected = linear_attention(normed(partner["C"]), normed(partner["B"]), value, order.bound.is_real)
    real = order.bound.is_real
    assert_relative_close(seen[0].y[real], expected[real], 1e-6)
    old, new = weights, load_file(tmp_path / "new" / WEIGHTS)
    assert torch.equal(new["blocks.1.attn1.to_out.0.weight"].double(), old["blocks.1.attn1.to_out.0.weight"])


@pytest.mark.parametrize("plan", ["full", "pre-half", "post-half", "interleaved", "parallel"])
def test_every_tensor_has_one_fate_and_the_rest_is_the_same_bit_for_bit(teacher, tmp_path, plan):
    report = convert(teacher, tmp_path / "new", plan=plan)
    old, new = load_file(teacher / WEIGHTS), load_file(tmp_path / "new" / WEIGHTS)
    config = json.loads((tmp_path / "new/transformer/config.json").read_text())
    needed = M4VTransformer3DModel(**debug_arguments(mixer_plan=plan)).state_dict()
    assert config["mixer_plan"] == plan
    assert sorted(tensor.name for tensor in report.fates) == sorted(new) == sorted(needed)
    assert {name: tensor.shape for name, tensor in new.items()} == {n: t.shape for n, t in needed.items()}
    assert report.left_out == ()
    for tensor in report.fates:
        if tensor.fate in ("copied", "renamed"):
            assert torch.equal(new[tensor.name], old[tensor.source]), tensor.name
        assert (tensor.fate == "copied") == (tensor.name in old), tensor
    joint = f"{LAYER}joint_out.weight"
    assert torch.equal(new[joint], old[joint])
    recorded = json.loads((tmp_path / "new/conversion.json").read_text())
    assert recorded["counts"] == report.counts()
    assert set(recorded["tensors"]) == set(new)


def test_the_converted_pipeline_opens_generates_and_tells_its_story(teacher, tmp_path):
    convert(teacher, tmp_path / "new")
    pipeline = M4VPipeline.from_pretrained(tmp_path / "new")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red ball", seed=0).frames.shape == (1, 9, 32, 32, 3)
    assert pipeline.generation_defaults == DEFAULTS
    assert pipeline.training_facts["trained_since_conversion"] is False
    assert pipeline.training_facts["source"] == {"recipe": "debug"}
    for name in ("vae", "text_encoder"):
        weights = next((teacher / name).glob("*.safetensors"))
        assert (tmp_path / "new" / name / weights.name).read_bytes() == weights.read_bytes()


def test_a_wan_pipeline_of_ours_is_converted_by_the_same_action(wan_teacher, tmp_path):
    report = convert(wan_teacher, tmp_path / "new", plan="interleaved")
    pipeline = WanM4VPipeline.from_pretrained(tmp_path / "new")
    assert pipeline.transformer.settings.kinds == ("mm_dim", "attention")
    assert report.counts()["copied"] == len(load_file(wan_teacher / WEIGHTS))


def test_new_parts_start_where_they_disturb_least(teacher, tmp_path):
    convert(teacher, tmp_path / "new")
    new = load_file(tmp_path / "new" / WEIGHTS)
    mixer = {name.removeprefix(f"{LAYER}mixer."): tensor for name, tensor in new.items() if name.startswith(LAYER)}
    width = mixer["dt_proj.weight"].shape[1]
    assert not mixer["in_proj.weight"][:width].any()
    assert (mixer["in_proj.bias"][:width] == 1).all()
    assert not mixer["dt_proj.weight"].any()
    assert not mixer["dt_proj.bias"].any()
    assert torch.equal(mixer["conv_weight"], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(3 * width, 4))
    assert not mixer["conv_bias"].any()
    assert (mixer["A_log"].exp() >= 1).all()
    assert (mixer["A_log"].exp() <= 16).all()
    step = torch.nn.functional.softplus(mixer["dt_bias"])
    assert (step > 0.9e-3).all()
    assert (step < 1.1e-1).all()
    assert not new[f"{LAYER}temporal_branch.gate"].any()
    assert new[f"{LAYER}temporal_branch.to_q.weight"].std() > 0


@pytest.mark.parametrize("map_name", LETTERS)
def test_dual_blocks_begin_from_the_attention_of_each_modality(teacher, tmp_path, map_name):
    report = convert(teacher, tmp_path / "new", map=map_name, dual_mixer="mm_dim")
    old, new = load_file(teacher / WEIGHTS), load_file(tmp_path / "new" / WEIGHTS)
    block, partner = "transformer_blocks.0.", LETTERS[map_name]
    for stream in ("text", "video"):
        letters = ("v", partner["B"], partner["C"])
        for kind, gate in (("weight", 0.0), ("bias", 1.0)):
            z, x, B, C = new[f"{block}mixer.{stream}.in_proj.{kind}"].chunk(4)
            assert torch.equal(z, torch.full_like(z, gate))
            for rows, letter in zip((x, B, C), letters, strict=True):
                assert torch.equal(rows, old[f"{block}{stream}.to_{letter}.{kind}"])
            assert not new[f"{block}mixer.{stream}.dt_proj.{kind}"].any()
        for kept in ("to_out.weight", "to_out.bias", "feed_forward.up.weight", "modulation.linear.weight"):
            assert torch.equal(new[f"{block}{stream}.{kept}"], old[f"{block}{stream}.{kept}"])
    for own, role in (("norm_b", "B"), ("norm_c", "C")):
        assert torch.equal(new[f"{block}mixer.{own}"], old[f"{block}video.norm_{partner[role]}.weight"])
    model = M4VTransformer3DModel.from_pretrained(tmp_path / "new", subfolder="transformer")
    assert model.settings.dual_mixer == "mm_dim"
    assert set(model.state_dict()) == set(new)
    record = json.loads((tmp_path / "new" / "conversion.json").read_text())
    assert record["dual_mixer"] == "mm_dim"
    assert record["layers_changed"] == 3  # two single-stream layers and a dual-stream one
    assert report is not None


def test_dual_blocks_alone_or_later_and_not_on_wan(teacher, wan_teacher, tmp_path):
    convert(teacher, tmp_path / "single")
    convert(tmp_path / "single", tmp_path / "both", dual_mixer="mm_dim")
    single, both = (load_file(tmp_path / name / WEIGHTS) for name in ("single", "both"))
    kept = [name for name in single if name.startswith("single_")]
    assert kept
    assert all(torch.equal(single[name], both[name]) for name in kept)
    with pytest.raises(UserError, match="no dual-stream blocks"):
        convert(wan_teacher, tmp_path / "wan", dual_mixer="mm_dim")
    with pytest.raises(UserError, match="changes no layer"):
        convert(tmp_path / "both", tmp_path / "again", dual_mixer="mm_dim")


@pytest.mark.parametrize("mixer", ["attention", "ssd"])
def test_a_fresh_temporal_branch_starts_as_in_a_new_network(tmp_path, mixer):
    source = save_attention_model(tmp_path / "old", temporal_branch={"mixer": mixer})
    convert(source, tmp_path / "new")
    found = load_file(tmp_path / "new" / WEIGHTS)
    fresh = M4VTransformer3DModel(**debug_arguments(temporal_branch={"mixer": mixer})).state_dict()
    for name, tensor in fresh.items():
        if "temporal_branch" not in name:
            continue
        if tensor.ndim == 2:
            assert found[name].abs().max() <= (6 / sum(tensor.shape)) ** 0.5
        else:
            assert torch.equal(found[name], tensor), name


def test_the_seed_decides_what_is_new_and_nothing_else(teacher, tmp_path):
    convert(teacher, tmp_path / "a")
    convert(teacher, tmp_path / "b")
    convert(teacher, tmp_path / "c", seed=1)
    first, again, other = (load_file(tmp_path / name / WEIGHTS) for name in "abc")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    changed = {name.split(".", 2)[2] for name, tensor in first.items() if not torch.equal(tensor, other[name])}
    assert changed == {
        *("mixer.A_log", "mixer.dt_bias", "mixer.registers.rows"),
        *(f"temporal_branch.to_{letter}.weight" for letter in "qkv"),
    }


def test_a_rounded_teacher_gives_rounded_matrices_and_exact_decay_rates(tmp_path):
    source = tmp_path / "old"
    pipeline = M4VPipeline.from_pretrained(save_attention_model(tmp_path / "exact"), dtype=torch.bfloat16)
    pipeline.save_pretrained(source)
    convert(source, tmp_path / "new")
    new = load_file(tmp_path / "new" / WEIGHTS)
    exact = {name.rpartition(".")[2] for name, tensor in new.items() if tensor.dtype == torch.float32}
    assert {"A_log", "dt_bias", "D_skip"} <= exact
    assert new[f"{LAYER}mixer.in_proj.weight"].dtype == torch.bfloat16
    assert new[f"{LAYER}temporal_branch.to_q.weight"].dtype == torch.bfloat16


def test_layers_that_scan_already_are_kept_and_the_record_goes_on(teacher, tmp_path):
    convert(teacher, tmp_path / "half", plan="pre-half")
    report = convert(tmp_path / "half", tmp_path / "full")
    half, full = load_file(tmp_path / "half" / WEIGHTS), load_file(tmp_path / "full" / WEIGHTS)
    kept = [name for name in half if name.startswith(LAYER)]
    assert kept
    assert all(torch.equal(half[name], full[name]) for name in kept)
    assert {tensor.name for tensor in report.fates if tensor.fate != "copied"} == set(full) - set(half)
    record = json.loads((tmp_path / "full/conversion.json").read_text())
    assert record["source"]["plan"] == "pre-half"


def test_shards_are_no_larger_than_asked(teacher, tmp_path):
    convert_attention_to_mamba(teacher, tmp_path / "new", MambaInitialisation(), max_shard_bytes=20_000)
    shards = list((tmp_path / "new/transformer").glob("*.safetensors"))
    assert len(shards) > 2
    assert max(shard.stat().st_size for shard in shards) < 30_000
    M4VPipeline.from_pretrained(tmp_path / "new")


def test_what_cannot_be_done_is_refused_and_nothing_is_left(teacher, tmp_path):
    with pytest.raises(UserError, match="changes no layer"):
        convert(teacher, tmp_path / "new", plan="attention-only")
    with pytest.raises(UserError, match="overlaps the source"):
        convert(teacher, teacher / "inside")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    with pytest.raises(UserError, match="would be lost"):
        convert(teacher, tmp_path / "photos")
    with pytest.raises(UserError, match=r"model_index\.json"):
        convert(tmp_path / "photos", tmp_path / "new")
    convert(teacher, tmp_path / "half", plan="pre-half", conv_activation="none")
    with pytest.raises(UserError, match="match --conv-activation"):
        convert(tmp_path / "half", tmp_path / "new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["half", "photos"]


def test_weights_of_another_configuration_are_refused(teacher, tmp_path):
    source = save_attention_model(tmp_path / "broken")
    config_path = source / "transformer/config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"num_dual_layers": 2}))
    with pytest.raises(UserError, match="fit together"):
        convert(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
