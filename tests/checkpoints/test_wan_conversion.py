"""Wan2.1 checkpoints of both layouts come in whole, go back byte for byte, and neighbours are named."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from benchmarks.convert_memory import sparse_checkpoint
from m4v.checkpoints.attention_to_mamba import MambaInitialisation
from m4v.checkpoints.mamba_conversion import convert_attention_to_mamba
from m4v.checkpoints.tensor_files import TensorSource
from m4v.checkpoints.wan_conversion import convert_wan
from m4v.checkpoints.wan_reversal import reverse_wan
from m4v.checkpoints.wan_source import open_wan
from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import PRESETS
from m4v.pipelines.wan_config import WanGenerationDefaults
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.checkpoints.wan_files import (
    NETWORK,
    ORIGINAL_CONFIG,
    WEIGHTS,
    original_tensors,
    save_original,
    save_pipeline,
    stock_network,
)

DEFAULTS = to_plain(
    WanGenerationDefaults(height=32, width=48, num_frames=5, first_steps=(2,), max_text_length=16, trained_sizes=())
)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_original(tmp_path_factory.mktemp("wan") / "original")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("wan") / "pipeline", max_shard_size="20KB")


def convert(source: Path, target: Path, **options):
    return convert_wan(open_wan(source), target, defaults=DEFAULTS, flow_shift=3.0, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "transformer").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("layout", ["original", "pipeline", "transformer", "file"])
def test_with_attention_the_network_is_the_same_bit_for_bit(original, pipeline, tmp_path, layout):
    source = {
        "original": original,
        "pipeline": pipeline,
        "transformer": pipeline / "transformer",
        "file": original / WEIGHTS,
    }[layout]
    made = convert(source, tmp_path / "ours")
    expected = stock_network()
    found = weights(tmp_path / "ours")
    assert set(found) == set(expected.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    assert made.report.counts()["derived"] == made.report.counts()["new"] == 0
    assert made.report.left_out == ()

    model = WanM4VTransformer3DModel.from_pretrained(tmp_path / "ours", subfolder="transformer").eval()
    latents, text = torch.randn(1, 4, 3, 4, 6), torch.randn(1, 7, 16)
    with torch.no_grad():
        ours, stock = (net(latents, torch.tensor([500]), text).sample for net in (model, expected))
    assert torch.equal(ours, stock)


def test_a_file_may_be_converted_beside_itself(tmp_path):
    source = save_original(tmp_path / "downloads")
    convert(source / WEIGHTS, source / "ours")
    assert (source / "ours/model_index.json").is_file()


def test_a_whole_pipeline_opens_and_generates(pipeline, tmp_path):
    made = convert(pipeline, tmp_path / "ours")
    assert made.missing_parts == ()
    index = json.loads((tmp_path / "ours/model_index.json").read_text())
    assert index["_class_name"] == "WanM4VPipeline"
    assert index["transformer"] == ["m4v.models.denoiser.wan", "WanM4VTransformer3DModel"]
    scheduler = json.loads((tmp_path / "ours/scheduler/scheduler_config.json").read_text())
    assert (scheduler["use_flow_sigmas"], scheduler["prediction_type"]) == (True, "flow_prediction")
    opened = WanM4VPipeline.from_pretrained(tmp_path / "ours")
    opened.set_progress_bar_config(disable=True)
    assert opened.generation_defaults == WanGenerationDefaults(
        height=32, width=48, num_frames=5, first_steps=(2,), max_text_length=16, trained_sizes=()
    )
    assert next(opened.stream("a red ball", seed=0)).shape == (1, 5, 32, 48, 3)


def test_parts_come_from_another_folder_or_are_asked_for(original, pipeline, tmp_path):
    assert convert(original, tmp_path / "bare").missing_parts == ("vae", "text_encoder", "tokenizer")
    assert convert(original, tmp_path / "whole", parts=pipeline).missing_parts == ()
    WanM4VPipeline.from_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match="none of the folders"):
        convert(original, tmp_path / "none", parts=tmp_path)


@pytest.mark.parametrize("plan", ["full", "interleaved", "post-half"])
def test_to_mamba_in_the_same_stream_equals_two_conversions(original, tmp_path, plan):
    made = convert(original, tmp_path / "one", to_mamba=MambaInitialisation(plan=plan, map="paper_text"))
    model = WanM4VTransformer3DModel.from_pretrained(tmp_path / "one", subfolder="transformer").eval()
    kinds = model.settings.kinds
    old, new = original_tensors(stock_network()), weights(tmp_path / "one")
    for layer, kind in enumerate(kinds):
        key = f"blocks.{layer}.self_attn.{'q' if kind == 'mm_dim' else 'k'}.weight"
        assert torch.equal(new[f"blocks.{layer}.attn1.to_k.weight"], old[key])
    names = [tensor.name for tensor in made.report.fates]
    assert len(names) == len(set(names)) == len(new)
    assert made.report.left_out == ()
    with torch.no_grad():
        assert model(torch.randn(1, 4, 3, 4, 6), torch.tensor([5]), torch.randn(1, 7, 16)).sample.isfinite().all()

    convert(original, tmp_path / "attention")
    convert_attention_to_mamba(
        tmp_path / "attention", tmp_path / "two", MambaInitialisation(plan=plan, map="paper_text")
    )
    again = weights(tmp_path / "two")
    assert set(new) == set(again)
    assert all(torch.equal(tensor, again[name]) for name, tensor in new.items())


def test_casting_keeps_the_float32_islands(original, tmp_path):
    convert(original, tmp_path / "half", dtype=torch.bfloat16, to_mamba=MambaInitialisation(plan="pre-half"))
    cast = weights(tmp_path / "half")
    loaded = WanM4VTransformer3DModel.from_pretrained(
        tmp_path / "half", subfolder="transformer", torch_dtype=torch.bfloat16
    )
    assert {name: tensor.dtype for name, tensor in cast.items()} == {
        name: tensor.dtype for name, tensor in loaded.state_dict().items()
    }
    exact = {name for name, tensor in cast.items() if tensor.dtype == torch.float32}
    assert {"scale_shift_table", "blocks.0.norm2.weight", "blocks.0.attn1.A_log"} <= exact
    assert cast["blocks.1.attn1.to_q.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_original_layout_goes_back_byte_for_byte(original, tmp_path, prefix):
    source = original
    if prefix:
        tensors = {prefix + name: tensor for name, tensor in original_tensors(stock_network()).items()}
        source = save_original(tmp_path / "prefixed", tensors)
    convert(source, tmp_path / "ours", max_shard_bytes=20_000)
    reverse_wan(tmp_path / "ours", tmp_path / "back", "original")
    assert files(tmp_path / "back") == files(source)


def test_the_diffusers_layout_goes_back_byte_for_byte(pipeline, tmp_path):
    convert(pipeline, tmp_path / "ours")
    before = files(tmp_path / "ours")
    reverse_wan(tmp_path / "ours", tmp_path / "back", "diffusers")
    assert files(tmp_path / "back") == files(pipeline)
    assert files(tmp_path / "ours") == before


def test_one_layout_becomes_the_other(original, pipeline, tmp_path):
    convert(original, tmp_path / "a", parts=pipeline)
    reverse_wan(tmp_path / "a", tmp_path / "to-diffusers", "diffusers")
    opened = WanPipeline.from_pretrained(tmp_path / "to-diffusers")
    expected = stock_network().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in opened.transformer.state_dict().items())

    convert(pipeline, tmp_path / "b")
    reverse_wan(tmp_path / "b", tmp_path / "to-original", "original")
    assert (tmp_path / "to-original" / WEIGHTS).read_bytes() == (original / WEIGHTS).read_bytes()
    config = json.loads((tmp_path / "to-original/config.json").read_text())
    assert {key: value for key, value in config.items() if key[0] != "_"} == {
        key: value for key, value in ORIGINAL_CONFIG.items() if key[0] != "_"
    }


def test_state_space_layers_cannot_go_back(original, tmp_path):
    convert(original, tmp_path / "ours", to_mamba=MambaInitialisation(plan="pre-half"))
    with pytest.raises(UserError, match=r"state-space layers \(0\)"):
        reverse_wan(tmp_path / "ours", tmp_path / "back", "original")
    with pytest.raises(UserError, match="expected WanM4VTransformer3DModel"):
        reverse_wan(save_pipeline(tmp_path / "stock"), tmp_path / "back", "original")


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("size", ["wan-1.3b", "wan-14b"])
def test_released_sizes_are_known_by_their_shapes_alone(tmp_path, size, layout):
    source = open_wan(sparse_checkpoint(tmp_path / "it", size, torch.float32, layout))
    assert (source.size, source.layout) == (size, layout)
    assert len(source.stored.files) == (2 if size == "wan-1.3b" else 12)
    assert source.arguments == to_plain(PRESETS[size])


NEIGHBOUR_NAMES = {
    "img_emb.proj.0.weight": "image-to-video",
    "img_emb.emb_pos": "first-last-frame",
    "blocks.0.cross_attn.k_img.weight": "image-to-video",
    "vace_blocks.0.norm3.weight": "VACE",
    "double_blocks.0.img_attn.qkv.weight": "FLUX",
    "x_embedder.weight": "Pyramid-Flow",
    "input_blocks.0.0.weight": "Stable Diffusion",
    "blocks.0.attn1.to_dt.weight": "this package",
}


@pytest.mark.parametrize(("name", "what"), NEIGHBOUR_NAMES.items())
def test_neighbours_are_named_by_their_tensors(tmp_path, name, what):
    tensors = original_tensors(stock_network(num_layers=1)) | {name: torch.zeros(2)}
    with pytest.raises(UserError, match=what) as error:
        open_wan(save_original(tmp_path / "it", tensors, config=None))
    assert "Only Wan2.1 text-to-video" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "i2v"}, "image-to-video"),
        ({"model_type": "flf2v"}, "first-last-frame"),
        ({"model_type": "vace"}, "VACE"),
        ({"model_type": "ti2v"}, "5B"),
        ({"in_dim": 36}, "36 input channels"),
        ({"in_dim": 48, "out_dim": 48}, "5B"),
        ({"_class_name": "FluxTransformer2DModel"}, "FLUX"),
        ({"_class_name": "PyramidFluxTransformer"}, "m4v convert pyramid-flow"),
        ({"_class_name": "CogVideoXTransformer3DModel"}, "CogVideoX"),
        ({"image_dim": 1280}, "image-to-video"),
    ],
)
def test_neighbours_are_named_by_their_configuration(tmp_path, changes, what):
    with pytest.raises(UserError, match=what):
        open_wan(save_original(tmp_path / "it", config=ORIGINAL_CONFIG | changes))


@pytest.mark.parametrize(("channels", "what"), [(36, "36 input channels"), (48, "5B"), (5, "in_channels is 5")])
def test_neighbours_are_named_by_their_channels(tmp_path, channels, what):
    tensors = original_tensors(stock_network(in_channels=channels))
    with pytest.raises(UserError, match=what):
        open_wan(save_original(tmp_path / "it", tensors, config=None))


@pytest.mark.parametrize(
    ("folders", "index", "what"),
    [
        (("transformer", "transformer_2"), {}, "Wan2.2 A14B"),
        (("high_noise_model", "low_noise_model"), {}, "Wan2.2 A14B"),
        (("transformer",), {"_class_name": "WanPipeline", "boundary_ratio": 0.9}, "Wan2.2 A14B"),
        (("transformer",), {"_class_name": "WanPipeline", "expand_timesteps": True}, "5B"),
        (("transformer",), {"_class_name": "WanImageToVideoPipeline"}, "image-to-video"),
        (("transformer",), {"_class_name": "WanVACEPipeline"}, "VACE"),
        (("unet", "vae"), {}, "Stable Diffusion"),
        (("diffusion_transformer_384p", "causal_video_vae"), {}, "m4v convert pyramid-flow"),
        (("transformer",), {"_class_name": "WanM4VPipeline"}, "attention-to-mamba"),
    ],
)
def test_neighbours_are_named_by_their_folders(tmp_path, folders, index, what):
    for name in folders:
        (tmp_path / name).mkdir()
    if index:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=what):
        open_wan(tmp_path)


def test_a_single_expert_of_wan22_is_known_by_its_folder(tmp_path):
    with pytest.raises(UserError, match="A14B"):
        open_wan(save_original(tmp_path / "low_noise_model"))


def test_missing_extra_and_mixed_tensors_are_listed(tmp_path):
    whole = original_tensors(stock_network())
    lacking = {name: tensor for name, tensor in whole.items() if not name.startswith("blocks.1.")}
    with pytest.raises(UserError, match=r"27 missing: blocks.1.*and 17 more"):
        open_wan(save_original(tmp_path / "a", lacking))
    with pytest.raises(UserError, match=r"1 unknown: blocks.0.extra"):
        open_wan(save_original(tmp_path / "b", whole | {"blocks.0.extra": torch.zeros(1)}))
    mixed = {name: tensor for name, tensor in whole.items() if name != "head.modulation"}
    mixed["scale_shift_table"] = whole["head.modulation"]
    with pytest.raises(UserError, match=r"mixes layouts: 93 .* and 1 "):
        open_wan(save_original(tmp_path / "c", mixed))
    with pytest.raises(UserError, match="more than one network"):
        open_wan(save_original(tmp_path / "d", whole | {"model.diffusion_model.head.modulation": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"not a Wan2.1 network"):
        open_wan(save_original(tmp_path / "e", {"some.weight": torch.zeros(1)}))


def test_wrong_shapes_truncated_files_and_pickles_are_refused(original, tmp_path):
    whole = original_tensors(stock_network())
    bent = whole | {"blocks.1.ffn.0.weight": torch.zeros(31, 24)}
    with pytest.raises(UserError, match=r"blocks.1.ffn.0.weight is \(31, 24\), needed \(32, 24\)"):
        open_wan(save_original(tmp_path / "a", bent))
    with pytest.raises(UserError, match="do not fit"):
        open_wan(save_original(tmp_path / "b", whole, config=ORIGINAL_CONFIG | {"ffn_dim": 64}))
    cut = save_original(tmp_path / "c")
    (cut / WEIGHTS).write_bytes((original / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off"):
        open_wan(cut)
    (tmp_path / "d").mkdir()
    torch.save(stock_network(), tmp_path / "d/model.pth")
    with pytest.raises(UserError):
        open_wan(tmp_path / "d")
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match="no weights"):
        open_wan(tmp_path / "e")
    with pytest.raises(UserError, match="There is no"):
        open_wan(tmp_path / "nowhere")


def test_without_a_configuration_heads_are_taken_as_released(tmp_path, caplog):
    tensors = original_tensors(stock_network(num_attention_heads=2, attention_head_dim=128))
    source = open_wan(save_original(tmp_path / "it", tensors, config=None))
    assert (source.arguments["num_attention_heads"], source.arguments["attention_head_dim"]) == (2, 128)
    assert "heads of 128 channels" in caplog.text
    assert source.arguments["text_dim"] == NETWORK["text_dim"]


def test_at_most_two_tensors_are_in_memory(original, tmp_path, monkeypatch):
    """The one being written and, until the next is there, the one before."""
    alive: list[weakref.ref] = []
    counts: list[int] = []
    read = TensorSource.read

    def watched(self, name):
        array = read(self, name).numpy().copy()
        alive.append(weakref.ref(array))
        counts.append(sum(reference() is not None for reference in alive))
        return torch.from_numpy(array)

    monkeypatch.setattr(TensorSource, "read", watched)
    convert(original, tmp_path / "ours", to_mamba=MambaInitialisation(), dtype=torch.bfloat16)
    assert len(counts) == 96
    assert max(counts) <= 2


def test_a_failed_conversion_leaves_nothing(original, tmp_path, monkeypatch):
    source = open_wan(original)

    def broken(name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(source.tensors), "read", lambda self, name: broken(name))
    with pytest.raises(UserError, match="No space left"):
        convert_wan(source, tmp_path / "ours", defaults=DEFAULTS, flow_shift=3.0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_work(original, tmp_path, monkeypatch):
    source = open_wan(original)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"needs 0\.0 GiB, but .* has 0\.0 GiB free"):
        convert_wan(source, tmp_path / "ours", defaults=DEFAULTS, flow_shift=3.0)
    assert list(tmp_path.iterdir()) == []


def test_torch_files_that_hold_tensors_only_are_read(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save(original_tensors(stock_network()), tmp_path / "in/wan.pth")
    (tmp_path / "in/config.json").write_text(json.dumps(ORIGINAL_CONFIG))
    convert(tmp_path / "in", tmp_path / "ours")
    expected = stock_network().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "ours").items())
