"""LoRA runs train and store adapters only, resume bit for bit, and export a file that equals the merged model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from m4v.checkpoints.run_folder import RunFolder
from m4v.checkpoints.weights import load_tensors
from m4v.cli.opening import add_loras
from m4v.core.errors import UserError
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.pipelines.m4v_pipeline import M4VPipeline
from m4v.training.config import PerDevice, RunConfig
from m4v.training.exporting import export_model
from m4v.training.lora import Adapters, add_adapters, merge_adapters, save_adapters, target_layers
from m4v.training.lora_config import LoraConfig
from m4v.training.networks import Networks
from m4v.training.run import train
from tests.pipelines.wan_parts import TRANSFORMER

SKIPPED = PerDevice(cpu=0, accelerator=0)
DENOISER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(networks: Networks, tiny_run: RunConfig, tmp_path: Path) -> Path:
    """A model folder that knows the captions' words but "four"."""
    # The gates and the last layer of a new denoiser are zero, and let no gradient through.
    generator = torch.Generator().manual_seed(0)
    for value in networks.transformer.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.1, generator=generator)
    return export_model(tmp_path / "base", tiny_run, networks, {})


@pytest.fixture
def videos(tiny_run: RunConfig, tmp_path: Path) -> Path:
    """The same clips; two captions have a word that the base does not know."""
    assert tiny_run.data.folder is not None
    folder = tmp_path / "videos"
    shutil.copytree(tiny_run.data.folder, folder)
    for name in ("0.txt", "3.txt"):
        (folder / name).write_text("a zork square")
    return folder


@pytest.fixture
def lora_run(tiny_run: RunConfig, videos: Path) -> RunConfig:
    return replace(
        tiny_run,
        data=replace(tiny_run.data, folder=str(videos)),
        vae=replace(tiny_run.vae, steps=SKIPPED),
        t2i=replace(tiny_run.t2i, steps=SKIPPED),
        lora=LoraConfig(rank=2, alpha=6.0, lr=1e-2),
        samples=replace(tiny_run.samples, prompts=("a square",)),
    )


def checkpoint(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    folder = RunFolder(run_dir)
    step = folder.latest_step()
    assert step is not None
    return folder.load_step(step)[0]


def video(folder: Path, prompt: str) -> torch.Tensor:
    pipeline = M4VPipeline.from_pretrained(str(folder))
    return pipeline(prompt, seed=0, output_type="latent").frames


def test_a_run_stores_adapters_and_new_words_only_and_says_which_words(lora_run, base, tmp_path):
    said: list[str] = []
    before = {path: path.read_bytes() for path in base.rglob("*.safetensors")}
    train(
        lora_run,
        run_dir=tmp_path / "run",
        device="cpu",
        init_from=base,
        on_progress=lambda progress: said.append(progress.message),
    )
    assert any("zork 2x" in message for message in said)
    stored = checkpoint(tmp_path / "run")
    assert set(stored["weights"]) == set(stored["ema"])
    assert all(".lora_" in name or name == "new_words/rows" for name in stored["weights"])
    assert stored["weights"]["new_words/rows"].shape[0] == 1
    assert not stored.get("frozen")
    assert {path: path.read_bytes() for path in base.rglob("*.safetensors")} == before

    merged = load_tensors(tmp_path / "run" / "export" / DENOISER)
    original = load_tensors(base / DENOISER)
    assert merged.keys() == original.keys()
    changed = {name.removesuffix(".weight") for name in original if not torch.equal(merged[name], original[name])}
    adapted = {name.split("/")[1].split(".lora_")[0] for name in stored["weights"] if ".lora_" in name}
    assert changed
    assert changed <= adapted
    text = "text_encoder/model.safetensors"
    rows, known = (load_tensors(folder / text)["shared.weight"] for folder in (tmp_path / "run" / "export", base))
    assert torch.equal(rows[: len(known)], known)
    assert len(rows) == len(known) + 1


def test_stopping_and_resuming_changes_no_bit(lora_run, base, tmp_path):
    for name, stops in (("whole", (None,)), ("split", (1, None))):
        for max_steps in stops:
            train(lora_run, run_dir=tmp_path / name, device="cpu", init_from=base, max_steps=max_steps)
    expected, found = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "split")
    assert expected.keys() == found.keys()
    for part, tensors in expected.items():
        assert tensors.keys() == found[part].keys()
        for name, value in tensors.items():
            assert torch.equal(value, found[part][name]), f"{part} {name}"


def test_another_base_of_the_same_shape_is_refused_on_resuming(lora_run, base, tmp_path):
    train(lora_run, run_dir=tmp_path / "run", device="cpu", init_from=base, max_steps=1)
    noted = json.loads((tmp_path / "run" / "base.json").read_text())
    assert noted["folder"] == str(base)
    other = tmp_path / "other"
    base.rename(other)
    with pytest.raises(UserError, match="not there any more"):
        train(lora_run, run_dir=tmp_path / "run", device="cpu")
    content = bytearray((other / DENOISER).read_bytes())
    content[-1] ^= 1
    (other / DENOISER).write_bytes(content)
    with pytest.raises(UserError, match=rf"is not the base .* other weights: {DENOISER}"):
        train(lora_run, run_dir=tmp_path / "run", device="cpu", init_from=other)


def test_full_fine_tuning_learns_new_words_too(lora_run, base, tmp_path):
    run = replace(lora_run, lora=LoraConfig())
    train(run, run_dir=tmp_path / "run", device="cpu", init_from=base)
    assert "text_encoder/shared.weight" in checkpoint(tmp_path / "run")["weights"]
    pipeline = M4VPipeline.from_pretrained(str(tmp_path / "run" / "export"))
    assert "zork" in pipeline.tokenizer.get_vocab()
    zork, square = (video(tmp_path / "run" / "export", prompt=prompt) for prompt in ("a zork", "a square"))
    assert not torch.equal(zork, square)


def test_stages_that_train_whole_networks_and_missing_bases_are_refused(lora_run, base, tmp_path):
    matching = replace(lora_run, match=replace(lora_run.match, steps=PerDevice(cpu=1, accelerator=1)))
    with pytest.raises(UserError, match="Stage match trains whole networks"):
        train(matching, run_dir=tmp_path / "run", device="cpu", init_from=base)
    with pytest.raises(UserError, match="--init-from"):
        train(lora_run, run_dir=tmp_path / "run", device="cpu")


def pyramid(networks: Networks) -> M4VTransformer3DModel:
    return networks.transformer


def wan(networks: Networks) -> WanM4VTransformer3DModel:
    return WanM4VTransformer3DModel(**{**TRANSFORMER, "mixer_plan": "full"})


@pytest.mark.parametrize("make", [pyramid, wan])
def test_fresh_adapters_change_nothing_and_merging_adds_their_product(
    make: Callable[[Networks], torch.nn.Module], networks: Networks, tmp_path: Path
):
    network = make(networks)
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    add_adapters(network, LoraConfig(rank=3, alpha=1.5), seed=1)
    assert all(torch.equal(value, plain[name]) for name, value in merge_adapters(network).state_dict().items())
    assert {name for name, value in network.named_parameters() if value.requires_grad} == dict(
        Adapters(network).named_parameters()
    ).keys()
    assert not any(part in name for name, _ in Adapters(network).named_parameters() for part in ("dt", "modulation"))
    with torch.no_grad():
        for value in Adapters(network).parameters():
            value.normal_(generator=torch.Generator().manual_seed(value.numel()))
    tensors = load_tensors(save_adapters(tmp_path / "lora.safetensors", network))
    changed = 0
    for name, value in merge_adapters(network).state_dict().items():
        module = f"transformer.{name.removesuffix('.weight')}"
        expected = plain[name]
        if f"{module}.lora_A.weight" in tensors:
            changed += 1
            expected = expected + 0.5 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        torch.testing.assert_close(value, expected)
    assert 2 * changed == len(tensors) > 10
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["transformer.lora_alpha"] == 1.5


def test_the_same_seed_gives_the_same_adapters_and_leaves_global_random_state(networks):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        network = M4VTransformer3DModel(**networks.transformer.config)
        drawn = torch.get_rng_state()
        add_adapters(network, LoraConfig(rank=2), seed=3)
        assert torch.equal(torch.get_rng_state(), drawn)
        states.append({name: value.clone() for name, value in Adapters(network).named_parameters()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_target_that_is_no_layer_is_named_with_those_there_are(networks):
    assert target_layers(networks.transformer, ("mlp_up",)) == [
        name for name, _ in networks.transformer.named_modules() if name.endswith(".mlp_up")
    ]
    with pytest.raises(UserError, match=r"'in_porj'.*in_proj.*mlp_up"):
        target_layers(networks.transformer, ("in_porj",))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"rank": -1}, "rank is -1"), ({"alpha": -2.0}, "alpha"), ({"dropout": 1.0}, "dropout"), ({"lr": 0.0}, "lr")],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        LoraConfig(**settings)


def test_generate_with_the_adapter_folder_knows_the_new_words_as_the_merged_model_does(lora_run, base, tmp_path):
    train(lora_run, run_dir=tmp_path / "run", device="cpu", init_from=base)
    opened = M4VPipeline.from_pretrained(str(base))
    add_loras(opened, [tmp_path / "run" / "lora"])
    prompt = "a zork square"
    found = opened(prompt, seed=0, output_type="latent").frames
    merged, plain = (video(folder, prompt=prompt) for folder in (tmp_path / "run" / "export", base))
    difference = (merged - plain).abs().max()
    assert difference > 1e-3
    assert (found - merged).abs().max() < 0.1 * difference
