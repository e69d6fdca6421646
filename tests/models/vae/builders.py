"""Small autoencoders with random weights everywhere, so that no mechanism hides behind a zero initialisation."""

from dataclasses import replace

import torch
from torch import Tensor

from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig

LEAN_WITH_NORMS = CausalVideoVAEConfig.debug()
LEAN_WITHOUT_NORMS = replace(LEAN_WITH_NORMS, norm="none", mid_attention=False, mid_resnets=0)
PYRAMID_FLOW_LIKE = CausalVideoVAEConfig(
    latent_channels=4,
    encoder_widths=(4, 4, 8, 8),
    decoder_widths=(4, 8, 8, 8),
    encoder_resnets=(1, 1, 1, 1),
    decoder_resnets=(1, 1, 1, 1),
    norm_groups=2,
)
CONFIGS = {
    "lean with norms": LEAN_WITH_NORMS,
    "lean without norms": LEAN_WITHOUT_NORMS,
    "pyramid flow": PYRAMID_FLOW_LIKE,
}


def random_vae(config: CausalVideoVAEConfig, seed: int = 0) -> CausalVideoVAE:
    """Build a VAE with weights that keep activations of order one."""
    vae = CausalVideoVAE.build(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vae.parameters():
            scale = 1.0 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.2
            offset = 1.0 if parameter.ndim == 1 and parameter.min() == 1.0 else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return vae.eval().requires_grad_(False)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    """Draw from the standard normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
