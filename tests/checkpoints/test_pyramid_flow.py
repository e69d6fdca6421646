"""Pyramid-Flow checkpoints to our folders and back: same velocity, same bytes, clear words on what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from m4v.checkpoints.conversion_report import ConversionReport
from m4v.checkpoints.pyramid_flow import PyramidFlowConversion
from m4v.checkpoints.pyramid_flow_restore import PyramidFlowRestoration
from m4v.checkpoints.pyramid_flow_root import VARIANTS, find_checkpoint, generation_defaults
from m4v.checkpoints.safetensors_header import SafetensorsHeader
from m4v.checkpoints.tensor_files import TensorSpec, open_tensors, write_shards
from m4v.core import files
from m4v.core.config_io import from_plain
from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.checkpoints.pyramid_flow_files import (
    RELEASED_CONFIG,
    TINY_CONFIG,
    TINY_VAE_CONFIG,
    denoiser_shapes,
    file_contents,
    random_denoiser,
    random_vae,
    write_network,
    write_root,
    write_text_parts,
)
from tests.models.denoiser.pyramid_flow_reference import PyramidFlowReference
from tests.models.text.debug_encoders import CLIP_DIM, T5_DIM

DENOISER = "diffusion_transformer_768p"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "root")


def convert(source, target, variant=None, dtype=None) -> dict[str, ConversionReport]:
    return PyramidFlowConversion.open(find_checkpoint(source, variant), dtype).write(target)


def restore(source, target, variant=None) -> PyramidFlowRestoration:
    restoration = PyramidFlowRestoration.open(source, variant)
    restoration.write(target)
    return restoration


def test_the_converted_network_gives_the_velocity_of_pyramid_flow(root, tmp_path):
    reports = convert(root, tmp_path / "ours")
    model, loading = M4VTransformer3DModel.from_pretrained(tmp_path / "ours" / "transformer", output_loading_info=True)
    assert not any(loading.values())
    generator = torch.Generator().manual_seed(1)
    history, noisy = torch.randn(2, 4, 2, 2, 4, generator=generator), torch.randn(2, 4, 1, 4, 8, generator=generator)
    text = TextConditioning(
        torch.randn(2, 5, T5_DIM, generator=generator),
        torch.tensor([[True] * 5, [True, True, False, False, False]]),
        torch.randn(2, CLIP_DIM, generator=generator),
    )
    timesteps = torch.tensor([744.0, 20.5])
    with torch.no_grad():
        velocity = model([LevelClip(history, 0), LevelClip(noisy, 1)], timesteps, text)
    reference = PyramidFlowReference(random_denoiser(), num_heads=2, axes=TINY_CONFIG["axes_dims_rope"])
    (expected,) = reference([[history, noisy]], timesteps, text.tokens, text.mask, text.pooled)
    assert expected.abs().mean() > 0.3
    torch.testing.assert_close(velocity, expected, atol=1e-4, rtol=0)
    assert reports["transformer"].counts()["derived"] == reports["transformer"].counts()["new"] == 0


def test_the_autoencoder_and_the_schedule_are_those_of_the_release(root, tmp_path):
    convert(root, tmp_path / "ours")
    vae, loading = CausalVideoVAE.from_pretrained(tmp_path / "ours" / "vae", output_loading_info=True)
    assert not any(loading.values())
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in random_vae().items())
    assert (vae.compression.time, vae.compression.space) == (8, 8)
    scheduler = PyramidFlowScheduler.from_pretrained(tmp_path / "ours" / "scheduler")
    assert scheduler.schedule.config == PyramidFlowConfig()


def test_a_whole_root_becomes_a_pipeline_that_makes_videos(root, tmp_path):
    write_text_parts(root)
    convert(root, tmp_path / "ours")
    pipeline = M4VPipeline.from_pretrained(tmp_path / "ours")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.generation_defaults.longest_frames == 241
    frames = pipeline(
        "a ball", height=64, width=64, num_frames=9, num_inference_steps=1, video_num_inference_steps=1, seed=0
    ).frames
    assert frames.shape == (1, 9, 64, 64, 3)
    restore(tmp_path / "ours", tmp_path / "back")
    assert file_contents(tmp_path / "back") == file_contents(root)


def test_text_encoders_in_torch_files_are_stored_as_safetensors(root, tmp_path):
    write_text_parts(root)
    state = load_file(root / "text_encoder_2" / "model.safetensors")
    (root / "text_encoder_2" / "model.safetensors").unlink()
    torch.save(state, root / "text_encoder_2" / "pytorch_model.bin")
    torch.save(state, root / "text_encoder" / "pytorch_model.bin")
    convert(root, tmp_path / "ours")
    assert not list((tmp_path / "ours").rglob("*.bin"))
    assert M4VPipeline.from_pretrained(tmp_path / "ours").text_encoder_2 is not None


def as_shards(folder):
    tensors = open_tensors(folder)
    state = {name: tensors.read(name) for name in tensors.specs}
    (folder / WEIGHTS).unlink()
    write_shards(folder, tensors.specs, state.__getitem__, max_shard_bytes=tensors.nbytes // 3)
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()), indent=4))  # another writer's spaces


def with_prefix(folder):
    state = load_file(folder / WEIGHTS)
    save_file({f"dit.{name}": value for name, value in state.items()}, folder / WEIGHTS, metadata={"step": "7"})


def in_another_order(folder):
    """As another program may lay out its file: tensors by name, no padding, spaces in the JSON."""
    state = load_file(folder / WEIGHTS)
    table, values = {"__metadata__": {"b": "é", "a": "2"}}, b""
    for name in sorted(state, reverse=True):
        raw = state[name].view(torch.uint8).numpy().tobytes()
        kind = {torch.float32: "F32", torch.bfloat16: "BF16"}[state[name].dtype]
        table[name] = {
            "shape": list(state[name].shape),
            "dtype": kind,
            "data_offsets": [len(values), len(values) + len(raw)],
        }
        values += raw
    header = json.dumps(table, ensure_ascii=False).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + values)


def half_in_float32(folder):
    state = load_file(folder / WEIGHTS)
    mixed = {name: value.float() if number % 2 else value for number, (name, value) in enumerate(state.items())}
    save_file(mixed, folder / WEIGHTS)


LAYOUTS = [lambda folder: None, as_shards, with_prefix, in_another_order, half_in_float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lay_out", LAYOUTS, ids=["as released", "shards", "prefix", "other writer", "mixed types"])
def test_there_and_back_gives_the_same_bytes(tmp_path, lay_out, dtype):
    root = write_root(tmp_path / "root", variants=("384p",), dtype=dtype)
    lay_out(root / "diffusion_transformer_384p")
    lay_out(root / "causal_video_vae") if lay_out is not with_prefix else None
    convert(root, tmp_path / "ours")
    assert {spec.dtype for spec in open_tensors(tmp_path / "ours" / "transformer").specs.values()} >= {dtype}
    restoration = restore(tmp_path / "ours", tmp_path / "back")
    assert restoration.notes == ()
    assert file_contents(tmp_path / "back") == file_contents(root)


def test_torch_files_of_a_training_run_give_equal_tensors(tmp_path):
    folder = tmp_path / "checkpoint-100"
    folder.mkdir()
    state = random_denoiser()
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    others = {"vae.quant_conv.conv.bias": torch.zeros(2), "text_encoder.w": torch.zeros(2)}
    torch.save({f"dit.{name}": value for name, value in state.items()} | others, folder / "pytorch_model.bin")
    checkpoint = find_checkpoint(folder)
    assert any("variant" in note for note in checkpoint.notes)
    assert any("denoiser alone" in note for note in checkpoint.notes)
    reports = convert(folder, tmp_path / "ours", variant="384p")
    assert reports["transformer"].left_out == tuple(others)
    restoration = restore(tmp_path / "ours", tmp_path / "back")
    assert "equal tensors" in restoration.notes[0]
    back = load_file(tmp_path / "back" / "diffusion_transformer_384p" / WEIGHTS)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_a_lone_file_converts_with_or_without_its_configuration(tmp_path):
    folder = write_network(tmp_path / "miniflux_384p", TINY_CONFIG, random_denoiser())
    assert find_checkpoint(folder).variant == "384p"
    convert(folder / WEIGHTS, tmp_path / "ours")
    index = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert index["vae"] == index["text_encoder"] == [None, None]
    assert not (tmp_path / "ours" / "vae").exists()
    (folder / "config.json").unlink()
    assert any("config.json" in note for note in find_checkpoint(folder / WEIGHTS).notes)
    with pytest.raises(UserError, match="axes_dims_rope"):
        convert(folder / WEIGHTS, tmp_path / "again")


def test_a_lone_denoiser_opens_with_the_parts_of_another_model(root, tmp_path):
    write_text_parts(root)
    convert(root, tmp_path / "base")
    tuned = write_network(tmp_path / "tuned_384p", TINY_CONFIG, random_denoiser(seed=5))
    convert(tuned, tmp_path / "ours")
    base = M4VPipeline.from_pretrained(tmp_path / "base")
    names = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipeline = M4VPipeline.from_pretrained(tmp_path / "ours", **{name: base.components[name] for name in names})
    assert torch.equal(pipeline.transformer.proj_out.weight, random_denoiser(seed=5)["proj_out.weight"])
    assert pipeline.generation_defaults.height == 384
    assert pipeline.vae is base.vae


def test_fine_tuned_weights_go_back_under_the_original_layout(root, tmp_path):
    convert(root, tmp_path / "ours")
    weights = tmp_path / "ours" / "transformer" / WEIGHTS
    state = load_file(weights)
    state["proj_out.bias"] += 1
    save_file(state, weights, metadata={"format": "pt"})
    restore(tmp_path / "ours", tmp_path / "back")
    before, after = load_file(root / DENOISER / WEIGHTS), load_file(tmp_path / "back" / DENOISER / WEIGHTS)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["proj_out.bias"]


def test_a_folder_without_a_record_goes_back_as_a_fresh_checkpoint(root, tmp_path):
    convert(root, tmp_path / "ours")
    (tmp_path / "ours" / "conversion.json").unlink()
    restoration = restore(tmp_path / "ours", tmp_path / "back", variant="image")
    assert len(restoration.notes) == 2
    config = json.loads((tmp_path / "back" / "diffusion_transformer_image" / "config.json").read_text())
    assert config == TINY_CONFIG
    # The weights happen to be laid out as the release's; the configuration is written anew.
    folder = tmp_path / "back" / "diffusion_transformer_image"
    assert (folder / WEIGHTS).read_bytes() == (root / DENOISER / WEIGHTS).read_bytes()


def test_another_precision_is_written_and_cannot_go_back_exactly(root, tmp_path):
    convert(root, tmp_path / "ours", dtype=torch.bfloat16)
    for part in ("transformer", "vae"):
        assert {spec.dtype for spec in open_tensors(tmp_path / "ours" / part).specs.values()} == {torch.bfloat16}
    state = load_file(tmp_path / "ours" / "transformer" / WEIGHTS)
    assert torch.equal(state["proj_out.weight"], random_denoiser()["proj_out.weight"].bfloat16())
    assert len(restore(tmp_path / "ours", tmp_path / "back").notes) == 2


def test_the_largest_variant_is_taken_unless_one_is_named(tmp_path):
    root = write_root(tmp_path / "root", variants=("image", "384p"))
    checkpoint = find_checkpoint(root)
    assert checkpoint.variant == "384p"
    assert "384p, image; taking 384p" in checkpoint.notes[0]
    assert "tokenizer_2" in checkpoint.notes[1]
    convert(root, tmp_path / "ours", variant="image")
    restore(tmp_path / "ours", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "causal_video_vae",
        "diffusion_transformer_image",
    ]
    with pytest.raises(UserError, match="no diffusion_transformer_768p; it has 384p, image"):
        find_checkpoint(root, "768p")


@pytest.mark.parametrize("variant", VARIANTS)
def test_recommended_settings_are_the_published_ones(variant):
    defaults = from_plain(GenerationDefaults, generation_defaults(variant))
    assert (defaults.first_steps, defaults.later_steps, defaults.image_steps) == ((20,) * 3, (10,) * 3, (10,) * 3)
    assert defaults.first_guidance == {"768p": 7, "384p": 7, "image": 9}[variant]
    assert (defaults.later_guidance, defaults.image_guidance, defaults.fps) == (5, 4, 24)
    assert defaults.longest_frames == {"768p": 241, "384p": 121, "image": 1}[variant]
    assert (defaults.height, defaults.width) in defaults.trained_sizes
    assert defaults.prompt_suffix == ", hyper quality, Ultra HD, 8K"
    assert defaults.max_text_length == 128
    assert defaults.float16_overflows


def test_missing_and_unknown_tensors_are_listed(root, tmp_path):
    path = root / DENOISER / WEIGHTS
    state = load_file(path)
    for name in list(state):
        if ".attn.to_q" in name:
            del state[name]
    save_file(state | {f"extra.{number}": torch.zeros(1) for number in range(11)}, path)
    with pytest.raises(UserError) as caught:
        convert(root, tmp_path / "ours")
    message = str(caught.value)
    assert "8 missing: transformer_blocks.0.attn.to_q.weight" in message
    assert "11 unknown: extra.0" in message
    assert "and 1 more" in message
    assert not (tmp_path / "ours").exists()


def test_wrong_shapes_are_named_with_the_names_of_the_file(root, tmp_path):
    for folder, name in ((DENOISER, "proj_out.bias"), ("causal_video_vae", "quant_conv.conv.bias")):
        path = root / folder / WEIGHTS
        state = load_file(path)
        save_file(state | {name: torch.zeros(3)}, path)
        with pytest.raises(UserError, match=name.replace(".", r"\.") + r" is \(3,\)"):
            convert(root, tmp_path / "ours")
        save_file(state, path)


def test_cut_off_files_are_noticed_before_anything_is_written(root, tmp_path):
    write_text_parts(root)
    for folder, name in ((DENOISER, WEIGHTS), ("causal_video_vae", WEIGHTS), ("text_encoder_2", "model.safetensors")):
        path = root / folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-7])
        with pytest.raises(UserError, match="cut off"):
            convert(root, tmp_path / "ours")
        path.write_bytes(content)
    assert not (tmp_path / "ours").exists()


def test_other_checkpoints_are_refused(root, tmp_path):
    convert(root, tmp_path / "ours")
    with pytest.raises(UserError, match="needs no conversion"):
        convert(tmp_path / "ours" / "transformer", tmp_path / "x")
    with pytest.raises(UserError, match="autoencoder"):
        convert(root / "causal_video_vae", tmp_path / "x")
    write_network(tmp_path / "sd3", {"_class_name": "PyramidDiffusionMMDiT"}, {"pos_embed.proj.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="pyramid_mmdit"):
        convert(tmp_path / "sd3", tmp_path / "x")
    shutil.rmtree(root / DENOISER)
    with pytest.raises(UserError, match="diffusion_transformer_768p"):
        convert(root, tmp_path / "x")
    with pytest.raises(UserError, match="There is no"):
        convert(tmp_path / "none", tmp_path / "x")


def test_targets_that_would_lose_something_are_refused(root, tmp_path, monkeypatch):
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today.txt").write_text("dear diary")
    for target in (tmp_path / "diary", root, root / DENOISER / "inside"):
        with pytest.raises(UserError, match="target"):
            convert(root, target)
    convert(root, tmp_path / "ours")
    convert(root, tmp_path / "ours")
    with pytest.raises(UserError, match="would be lost"):
        restore(tmp_path / "ours", root)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match="GiB free"):
        convert(root, tmp_path / "other")
    with pytest.raises(UserError, match="GiB free"):
        restore(tmp_path / "ours", tmp_path / "back")


def test_going_back_from_something_else_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="model_index"):
        restore(root, tmp_path / "back")
    convert(root, tmp_path / "ours")
    folder = tmp_path / "ours"
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"mixer_plan": "full"}))
    with pytest.raises(UserError, match=r"layers 0 \(mm_dim\), 1 \(mm_dim\)"):
        restore(folder, tmp_path / "back")
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"_class_name": "WanTransformer3DModel"}))
    with pytest.raises(UserError, match="WanTransformer3DModel"):
        restore(folder, tmp_path / "back")
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    record = json.loads((folder / "conversion.json").read_text())
    record["originals"]["vae"]["headers"][WEIGHTS] = "{}x"
    (folder / "conversion.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"conversion\.json is damaged"):
        restore(folder, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_memory_holds_one_tensor_at_a_time(root, tmp_path, monkeypatch):
    reads = []
    part = type(open_tensors(root / DENOISER).parts[0])
    original = part.read

    def watched(self, name):
        tensor = original(self, name)
        reads.append((name, TensorSpec(tensor.dtype, tuple(tensor.shape))))
        return tensor

    monkeypatch.setattr(part, "read", watched)
    conversion = PyramidFlowConversion.open(find_checkpoint(root))
    assert reads == []
    conversion.write(tmp_path / "ours")
    assert len(reads) == len({name for name, _ in reads}) == len(random_denoiser()) + len(random_vae())


def test_the_record_tells_the_fate_of_every_tensor(root, tmp_path):
    convert(root, tmp_path / "ours")
    record = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    fates = record["networks"]["transformer"]["tensors"]
    assert fates["single_transformer_blocks.1.mixer.to_q.bias"] == {
        "fate": "renamed",
        "source": "single_transformer_blocks.1.attn.to_q.bias",
    }
    assert set(fates) == set(open_tensors(tmp_path / "ours" / "transformer").specs)
    assert record["originals"]["vae"]["texts"]["config.json"] == json.dumps(TINY_VAE_CONFIG, indent=2) + "\n"


def test_a_root_of_the_released_size_is_checked_from_its_headers(tmp_path):
    with torch.device("meta"):
        vae_shapes = {name: tuple(value.shape) for name, value in CausalVideoVAE().state_dict().items()}
    networks = {"diffusion_transformer_768p": denoiser_shapes(RELEASED_CONFIG), "causal_video_vae": vae_shapes}
    for folder, shapes in networks.items():
        header = SafetensorsHeader.build(
            {name: TensorSpec(torch.bfloat16, shape) for name, shape in shapes.items()}, {}
        )
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / WEIGHTS).open("wb") as file:
            file.write(header.raw)
            file.truncate(header.file_size)  # a hole: nothing but the header takes space
    conversion = PyramidFlowConversion.open(find_checkpoint(tmp_path))
    assert {part: len(network.recipes) for part, network in conversion.networks.items()} == {
        "transformer": 496,
        "vae": 260,
    }
    assert conversion.networks["transformer"].nbytes == 2 * 1_972_059_200
    assert conversion.networks["vae"].nbytes == 2 * 335_402_067
