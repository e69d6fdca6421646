"""The smallest real parts of a pipeline, with random weights that let every input matter."""

from typing import Any

import torch
from torch import nn

from m4v.flow.config import PyramidFlowConfig
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.config import TextEncoderConfig
from m4v.models.text.encoder import build_text_encoder
from m4v.models.text.tokenizer import build_tokenizer
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.models.text.debug_encoders import CLIP_DIM, T5_DIM, text_parts

WORDS = ("a", "red", "blue", "ball", "cube", "rolls", "to", "the", "right", "left", "and", "stops")
DEFAULTS = GenerationDefaults(
    height=32,
    width=32,
    num_frames=9,
    fps=8.0,
    first_steps=(2, 1, 1),
    later_steps=(1, 1, 1),
    first_guidance=3.0,
    later_guidance=2.0,
    max_text_length=12,
)


def debug_parts(seed: int = 0) -> dict[str, Any]:
    """Build transformer, vae, text_encoder, tokenizer and scheduler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(WORDS)
        parts = {
            "transformer": M4VTransformer3DModel(**denoiser_preset("debug")).eval(),
            "vae": CausalVideoVAE.build(CausalVideoVAEConfig.debug()).eval(),
            "text_encoder": build_text_encoder(TextEncoderConfig.debug(), len(tokenizer)).eval(),
            "tokenizer": tokenizer,
            "scheduler": PyramidFlowScheduler.from_flow_config(PyramidFlowConfig()),
        }
        for name in ("transformer", "vae"):
            _stir(parts[name])
    return parts


def two_encoder_parts(seed: int = 0) -> dict[str, Any]:
    """The same with Pyramid-Flow's kind of text parts: CLIP and T5, each with its tokenizer."""
    parts = debug_parts(seed) | text_parts(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = {"text_dim": T5_DIM, "pooled_text_dim": CLIP_DIM}
        parts["transformer"] = M4VTransformer3DModel(**denoiser_preset("debug") | widths).eval()
        _stir(parts["transformer"])
    return parts


def debug_pipeline(seed: int = 0, defaults: GenerationDefaults = DEFAULTS) -> M4VPipeline:
    """Build the whole pipeline."""
    pipeline = M4VPipeline(**debug_parts(seed), defaults=defaults)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stir(module: nn.Module) -> None:
    """Replace weights that start at zero, which would hide the inputs behind them."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
