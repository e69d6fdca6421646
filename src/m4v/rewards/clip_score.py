"""CLIP and HPSv2 as rewards: cosines between frames and prompts, from local files (Sec. 3.4; Wu et al., 2023)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from m4v.rewards.clip_files import load_clip_tokenizer, load_clip_towers
from m4v.rewards.preprocessing import CLIP_MEAN, CLIP_STD, Preparation
from m4v.rewards.protocol import Sees

CLIP_SOURCES = "openai/clip-vit-base-patch32 or laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HPSV2_SOURCES = "HPS_v2.1_compressed.pt of xswu/HPSv2"


class ClipReward:
    """Mean cosine between every frame and the prompt, from -1 to 1, without the scale that contrastive training learns.

    Text is encoded without a graph, once per prompt while the prompt stays the same.

    Args:
        model: Both towers.
        tokenizer: Its tokenizer.
        preparation: How frames become its input.
        name: Name in logs.
    """

    sees: Sees = "frames"

    def __init__(self, model: CLIPModel, tokenizer: Any, preparation: Preparation, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preparation = preparation
        self.name = name

    def __call__(self, frames: Float[Tensor, "b t 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score videos against their prompts."""
        pictures = self.preparation(frames.flatten(0, 1)).to(self.model.dtype)
        seen = self.model.vision_model(pixel_values=pictures).pooler_output
        seen = F.normalize(self.model.visual_projection(seen).float(), dim=-1).unflatten(0, frames.shape[:2])
        return (seen * self.text_features(prompts, frames.device)[:, None]).sum(dim=-1).mean(dim=1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str], device: torch.device) -> Float[Tensor, "b d"]:
        """Describe prompts by vectors of length 1; words beyond the tower's length are cut off."""
        length = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        said = self.model.text_model(input_ids=batch["input_ids"]).pooler_output
        return F.normalize(self.model.text_projection(said).float(), dim=-1)


def load_clip_reward(path: Path, device: torch.device | str = "cpu") -> ClipReward:
    """Load CLIP: a transformers folder, or an open_clip file with tokenizer files beside it.

    Raises:
        UserError: if a file is missing, damaged or of another network; the message says where to get it.
    """
    model = load_clip_towers(path, CLIP_SOURCES).to(device)
    size = model.config.vision_config.image_size
    preparation = Preparation(size=size, fit="crop", mean=CLIP_MEAN, std=CLIP_STD)
    return ClipReward(model, load_clip_tokenizer(path), preparation, "clip")


def load_hpsv2_reward(path: Path, device: torch.device | str = "cpu") -> ClipReward:
    """Load HPSv2: its checkpoint with tokenizer files of CLIP beside it; frames are padded, not cropped, as it was.

    Raises:
        UserError: if a file is missing, damaged or of another network; the message says where to get it.
    """
    model = load_clip_towers(path, HPSV2_SOURCES).to(device)
    preparation = Preparation(size=model.config.vision_config.image_size, fit="pad", mean=CLIP_MEAN, std=CLIP_STD)
    return ClipReward(model, load_clip_tokenizer(path), preparation, "hpsv2")
