"""CLIP and HPSv2 from local files: the towers against a second implementation, files against faults."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from m4v.core.errors import UserError
from m4v.rewards.clip_score import ClipReward, load_clip_reward, load_hpsv2_reward
from m4v.rewards.open_clip_names import read_config, to_transformers
from m4v.rewards.preprocessing import CLIP_MEAN, CLIP_STD
from tests.rewards.conftest import IMAGE, VOCABULARY, WORDS, write_tokenizer
from tests.rewards.open_clip_forward import encode_image, encode_text

PROMPTS = ("a red ball jumps", "a blue cube")


def quick_gelu(value: Tensor) -> Tensor:
    return value * torch.sigmoid(1.702 * value)


def expected_score(state: dict[str, Tensor], frames: Tensor, act=F.gelu) -> Tensor:  # type: ignore[no-untyped-def]
    """Cosines of frames that already have the size of the tower."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    pictures = ((frames.flatten(0, 1) + 1) / 2 - mean) / std
    seen = F.normalize(encode_image(state, pictures, 2, act), dim=-1).unflatten(0, frames.shape[:2])
    end = VOCABULARY - 1
    rows = [[VOCABULARY - 2, *(1 + WORDS.index(word) for word in text.split()), end] for text in PROMPTS]
    # Padded with the end mark here and with zeros by open_clip: what follows the end cannot matter.
    ids = torch.tensor([row + [0] * (9 - len(row)) for row in rows])
    said = F.normalize(encode_text(state, ids, 1, act), dim=-1)
    return (seen * said[:, None]).sum(dim=-1).mean(dim=1)


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(2, 3, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_open_clip_files_score_as_a_second_implementation_does(
    open_clip_folder: Path, state: dict[str, Tensor], frames: Tensor
) -> None:
    reward = load_clip_reward(open_clip_folder)
    torch.testing.assert_close(reward(frames, PROMPTS), expected_score(state, frames), atol=2e-6, rtol=1e-5)
    assert (reward.name, reward.sees) == ("clip", "frames")


def test_the_activation_of_openai_is_read_from_the_configuration(
    open_clip_folder: Path, state: dict[str, Tensor], frames: Tensor
) -> None:
    model = {"quick_gelu": True, "vision_cfg": {"width": 128}, "text_cfg": {"width": 64, "heads": 1}}
    (open_clip_folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    score = load_clip_reward(open_clip_folder)(frames, PROMPTS)
    torch.testing.assert_close(score, expected_score(state, frames, quick_gelu), atol=2e-6, rtol=1e-5)
    assert not torch.allclose(score, expected_score(state, frames), atol=1e-5)


def test_hpsv2_checkpoints_are_torch_files_with_a_state_dict(
    tmp_path: Path, state: dict[str, Tensor], frames: Tensor
) -> None:
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value.half() for name, value in state.items()}}, path)
    write_tokenizer(tmp_path)
    reward = load_hpsv2_reward(path)
    rounded = {name: value.half().float() for name, value in state.items()}
    torch.testing.assert_close(reward(frames, PROMPTS), expected_score(rounded, frames), atol=2e-6, rtol=1e-5)
    assert (reward.name, reward.preparation.fit) == ("hpsv2", "pad")


def test_transformers_folders_give_the_same_scores(tmp_path: Path, open_clip_folder: Path, frames: Tensor) -> None:
    reward = load_clip_reward(open_clip_folder)
    folder = tmp_path / "transformers"
    reward.model.save_pretrained(folder)
    write_tokenizer(folder)
    assert torch.equal(load_clip_reward(folder)(frames, PROMPTS), reward(frames, PROMPTS))
    sharded = tmp_path / "sharded"
    reward.model.save_pretrained(sharded, max_shard_size="200KB")
    write_tokenizer(sharded)
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    assert torch.equal(load_clip_reward(sharded)(frames, PROMPTS), reward(frames, PROMPTS))


def test_every_tensor_finds_its_place_once(state: dict[str, Tensor]) -> None:
    renamed = to_transformers(state)
    model = CLIPModel(read_config(state))
    assert renamed.keys() == model.state_dict().keys()
    assert sum(value.numel() for value in renamed.values()) == sum(value.numel() for value in state.values())


def test_the_largest_published_towers_have_their_published_heads_and_sizes() -> None:
    """ViT-H-14: 632,076,800 parameters in the picture tower, 16 heads of 80; text 16 heads of 64."""
    with torch.device("meta"):
        state = {
            "visual.conv1.weight": torch.empty(1280, 3, 14, 14),
            "visual.positional_embedding": torch.empty(257, 1280),
            "token_embedding.weight": torch.empty(49408, 1024),
            "positional_embedding": torch.empty(77, 1024),
            "text_projection": torch.empty(1024, 1024),
            **{f"visual.transformer.resblocks.{n}.mlp.c_fc.weight": torch.empty(5120, 1280) for n in range(32)},
            **{f"transformer.resblocks.{n}.mlp.c_fc.weight": torch.empty(4096, 1024) for n in range(24)},
        }
        config = read_config(state)
        model = CLIPModel(config)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (16, 16)
    assert (config.vision_config.image_size, config.text_config.eos_token_id) == (224, 49407)
    assert sum(value.numel() for value in model.parameters()) == 986_109_441


def test_gradients_reach_the_pixels_and_no_weight(open_clip_folder: Path, frames: Tensor) -> None:
    reward = load_clip_reward(open_clip_folder)
    large = F.interpolate(frames.flatten(0, 1), size=(48, 64)).unflatten(0, (2, 3)).requires_grad_()
    reward(large, PROMPTS).sum().backward()
    assert large.grad is not None
    assert large.grad.abs().sum() > 0
    assert all(value.grad is None for value in reward.model.parameters())


def test_a_step_along_the_gradient_raises_the_score(open_clip_folder: Path, frames: Tensor) -> None:
    reward = load_clip_reward(open_clip_folder)
    pixels = (0.5 * frames).requires_grad_()
    before = reward(pixels, PROMPTS)
    before.sum().backward()
    assert pixels.grad is not None
    after = reward(pixels.detach() + 0.01 * pixels.grad / pixels.grad.abs().max(), PROMPTS)
    assert (after > before).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "1 missing: text_model.final_layer_norm.bias"),
        ("extra", "1 tensors have no place .*: visual.trunk.weight"),
        ("shape", "1 of another shape: text_model.final_layer_norm.weight"),
        ("swapped", "of another shape: "),
    ],
)
def test_key_mapping_faults_are_named(tmp_path: Path, state: dict[str, Tensor], fault: str, message: str) -> None:
    if fault == "missing":
        del state["ln_final.bias"]
    elif fault == "extra":
        state["visual.trunk.weight"] = torch.ones(2)
    elif fault == "shape":
        state["ln_final.weight"] = torch.ones(3)
    else:
        one, other = "transformer.resblocks.1.mlp.c_fc.weight", "transformer.resblocks.1.mlp.c_proj.weight"
        state[one], state[other] = state[other], state[one]
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match=message):
        load_clip_reward(path)


def test_missing_files_say_where_to_get_them(tmp_path: Path, open_clip_folder: Path) -> None:
    with pytest.raises(UserError, match=r"HPS_v2\.1_compressed\.pt of xswu/HPSv2"):
        load_hpsv2_reward(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"holds no weights .*openai/clip-vit-base-patch32"):
        load_clip_reward(empty)
    (open_clip_folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer .*openai/clip-vit-base-patch32"):
        load_clip_reward(open_clip_folder)


def test_wrong_files_are_told_apart(tmp_path: Path) -> None:
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="type 'bert'; expected clip"):
        load_clip_reward(other)
    stranger = tmp_path / "unet.safetensors"
    save_file({"conv_in.weight": torch.ones(2)}, stranger)
    with pytest.raises(UserError, match="none of an open_clip picture tower"):
        load_clip_reward(stranger)
    page = tmp_path / "page.pt"
    page.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"page\.pt"):
        load_clip_reward(page)


def test_files_that_hold_code_are_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "sprung"),))  # type: ignore[return-value]

    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(UserError, match="can run code"):
        load_hpsv2_reward(path)
    assert not (tmp_path / "sprung").exists()


def test_long_prompts_are_cut(open_clip_folder: Path, frames: Tensor) -> None:
    reward: ClipReward = load_clip_reward(open_clip_folder)
    assert torch.isfinite(reward(frames, ["a red ball " * 40, ""])).all()
