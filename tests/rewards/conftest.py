"""Tiny CLIP models in both file layouts, and their tokenizer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

WORDS = ("a", "red", "blue", "ball", "cube", "jumps", "rolls")
VISION_WIDTH, TEXT_WIDTH, JOINT, LAYERS, PATCH, IMAGE, LENGTH = 128, 64, 24, 2, 8, 32, 9
VOCABULARY = 3 + len(WORDS)


def open_clip_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under open_clip's names; widths of two heads of 64 for pictures, one for text."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.2) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    state = {
        "logit_scale": torch.tensor(4.6),
        "positional_embedding": random(LENGTH, TEXT_WIDTH),
        "text_projection": random(TEXT_WIDTH, JOINT),
        "token_embedding.weight": random(VOCABULARY, TEXT_WIDTH),
        "visual.class_embedding": random(VISION_WIDTH),
        "visual.positional_embedding": random((IMAGE // PATCH) ** 2 + 1, VISION_WIDTH),
        "visual.proj": random(VISION_WIDTH, JOINT),
        "visual.conv1.weight": random(VISION_WIDTH, 3, PATCH, PATCH),
    }
    norms = {"ln_final": TEXT_WIDTH, "visual.ln_pre": VISION_WIDTH, "visual.ln_post": VISION_WIDTH}
    for tower, width in (("transformer", TEXT_WIDTH), ("visual.transformer", VISION_WIDTH)):
        for number in range(LAYERS):
            block = f"{tower}.resblocks.{number}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            state |= {
                f"{block}.attn.in_proj_weight": random(3 * width, width),
                f"{block}.attn.in_proj_bias": random(3 * width),
                f"{block}.attn.out_proj.weight": random(width, width),
                f"{block}.attn.out_proj.bias": random(width),
                f"{block}.mlp.c_fc.weight": random(4 * width, width),
                f"{block}.mlp.c_fc.bias": random(4 * width),
                f"{block}.mlp.c_proj.weight": random(width, 4 * width),
                f"{block}.mlp.c_proj.bias": random(width),
            }
    for name, width in norms.items():
        state |= {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}
    return state


def write_tokenizer(folder: Path) -> None:
    """Words, then the start and the end mark last, as in CLIP's vocabulary."""
    ids = {word: number for number, word in enumerate(("<unk>", *WORDS, "<start>", "<end>"))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<start>", eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return open_clip_state()


@pytest.fixture
def open_clip_folder(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    folder = tmp_path / "open_clip"
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    write_tokenizer(folder)
    return folder
