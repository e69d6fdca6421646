"""M4V: text-to-video diffusion whose token mixer is a state-space model (arXiv 2506.10915).

The public classes are re-exported lazily, so that ``import m4v`` and every ``--help`` stay free of torch.

Example:
    >>> from m4v import M4VPipeline
    >>> frames = M4VPipeline.from_pretrained("toybox-xs")("a red ball bounces", seed=0).frames
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m4v.models.denoiser.pyramid import M4VTransformer3DModel as M4VTransformer3DModel
    from m4v.models.denoiser.wan import WanM4VTransformer3DModel as WanM4VTransformer3DModel
    from m4v.models.vae.causal_video_vae import CausalVideoVAE as CausalVideoVAE
    from m4v.pipelines.m4v_pipeline import M4VPipeline as M4VPipeline
    from m4v.pipelines.wan_pipeline import WanM4VPipeline as WanM4VPipeline

__version__ = "0.1.0"

_HOME_OF = {
    "CausalVideoVAE": "m4v.models.vae.causal_video_vae",
    "M4VPipeline": "m4v.pipelines.m4v_pipeline",
    "M4VTransformer3DModel": "m4v.models.denoiser.pyramid",
    "WanM4VPipeline": "m4v.pipelines.wan_pipeline",
    "WanM4VTransformer3DModel": "m4v.models.denoiser.wan",
}

__all__ = [
    "CausalVideoVAE",
    "M4VPipeline",
    "M4VTransformer3DModel",
    "WanM4VPipeline",
    "WanM4VTransformer3DModel",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public class from its home module at first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
