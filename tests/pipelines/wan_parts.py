"""The smallest real parts of a Wan pipeline, with random weights that let every input matter."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from m4v.flow.library_schedulers import make_library_scheduler
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.text.tokenizer import build_tokenizer
from m4v.pipelines.wan_config import WanGenerationDefaults
from m4v.pipelines.wan_pipeline import WanM4VPipeline

WORDS = ("a", "red", "blue", "ball", "cube", "rolls", "to", "the", "right", "left", "and", "stops")
DEFAULTS = WanGenerationDefaults(
    height=32,
    width=48,
    num_frames=5,
    first_steps=(2,),
    first_guidance=3.0,
    max_text_length=16,
    trained_sizes=(),
)
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}


def wan_parts(seed: int = 0, scheduler: str = "unipc", stock: bool = False, **transformer: Any) -> dict[str, Any]:
    """Build tokenizer, text_encoder, vae, scheduler and transformer; equal seeds give equal weights.

    Args:
        seed: Of the weights.
        scheduler: `unipc` or `euler`, with a shift of 3.
        stock: Whether the denoiser is diffusers' class.
        transformer: Changes to the denoiser's settings.
    """
    denoiser = WanTransformer3DModel if stock else WanM4VTransformer3DModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(WORDS)
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        )
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 1.0, 2.0],
        )
        module = denoiser(**TRANSFORMER | transformer)
        torch.manual_seed(seed + 1)
        for part in (text_encoder, vae, module):
            _stir(part)
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder.eval(),
        "vae": vae.eval(),
        "scheduler": make_library_scheduler(scheduler, 3.0),
        "transformer": module.eval(),
    }


def wan_pipeline(seed: int = 0, defaults: WanGenerationDefaults = DEFAULTS, **options: Any) -> WanM4VPipeline:
    """Build our pipeline; options are those of `wan_parts`."""
    pipeline = WanM4VPipeline(**wan_parts(seed, **options), defaults=defaults)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_pipeline(seed: int = 0, **options: Any) -> WanPipeline:
    """Build diffusers' pipeline around diffusers' denoiser, with the weights of `wan_pipeline(seed)`."""
    pipeline = WanPipeline(**wan_parts(seed, stock=True, **options))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stir(module: nn.Module) -> None:
    """Draw all weights anew, in the order of their names: the two classes initialise theirs in different orders."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            std = 0.2 if "table" in name else 0.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.05
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, std)
