"""Networks that a run builds when none are loaded, torch-free: the pyramid base, or a small Wan base."""

from dataclasses import dataclass, field, replace
from typing import Literal

from m4v.flow.config import PyramidFlowConfig
from m4v.models.denoiser.config import PRESETS, DenoiserConfig
from m4v.models.denoiser.wan_config import PRESETS as PRESETS_WAN
from m4v.models.denoiser.wan_config import WanConfig
from m4v.models.text.config import TextEncoderConfig
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.training.optim_config import require

Base = Literal["pyramid", "wan"]


@dataclass(frozen=True, kw_only=True)
class WanVaeConfig:
    """Shape of Wan's autoencoder: arguments of diffusers' `AutoencoderKLWan`; defaults are those of the smallest one.

    Attributes:
        base_dim: Channels of the finest level.
        z_dim: Channels of a latent.
        dim_mult: Channels per level as multiples of `base_dim`; height and width halve between levels.
        num_res_blocks: Residual blocks per level.
    """

    base_dim: int = 4
    z_dim: int = 4
    dim_mult: tuple[int, ...] = (1, 1, 1, 1)
    num_res_blocks: int = 1


@dataclass(frozen=True, kw_only=True)
class WanModelsConfig:
    """A Wan base: the classes of Wan2.1 in any size.

    Attributes:
        vae: Shape of the autoencoder.
        denoiser: Shape of the denoiser.
        text: Shape of the umT5 encoder.
        text_length: Rows that the denoiser reads of every prompt; zeros after the real ones.
    """

    vae: WanVaeConfig = WanVaeConfig()
    denoiser: WanConfig = field(
        default_factory=lambda: replace(PRESETS_WAN["wan-debug"], in_channels=4, out_channels=4)
    )
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig.debug)
    text_length: int = 12


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Networks that a run builds when none are loaded.

    Attributes:
        base: Which base the run trains; what is said about the other is not read.
        vae: Shape of the autoencoder.
        denoiser: Shape of the denoiser.
        text: Shape of the text encoder.
        pooled_text_dim: Width of the pooled vector of a second, frozen text encoder (Pyramid-Flow's CLIP); 0: there is
            none, and the pooled vector is the mean over the text encoder's states.
        flow: Constants of pyramid flow matching.
        wan: Shapes of a Wan base.
    """

    base: Base = "pyramid"
    vae: CausalVideoVAEConfig = field(default_factory=CausalVideoVAEConfig.toybox_xs)
    denoiser: DenoiserConfig = field(default_factory=lambda: PRESETS["toybox-xs"])
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig.toybox_xs)
    pooled_text_dim: int = 0
    flow: PyramidFlowConfig = field(default_factory=PyramidFlowConfig)
    wan: WanModelsConfig = field(default_factory=WanModelsConfig)

    def __post_init__(self) -> None:
        if self.base == "pyramid":
            self._check_pyramid()
        else:
            _check_equal(
                ("models.wan.denoiser.in_channels", self.wan.denoiser.in_channels),
                ("models.wan.vae.z_dim", self.wan.vae.z_dim),
            )
            _check_equal(
                ("models.wan.denoiser.text_dim", self.wan.denoiser.text_dim),
                ("models.wan.text.model_dim", self.wan.text.model_dim),
            )

    def _check_pyramid(self) -> None:
        denoiser, text = self.denoiser, ("models.text.model_dim", self.text.model_dim)
        pooled = ("models.pooled_text_dim", self.pooled_text_dim) if self.pooled_text_dim else text
        _check_equal(
            ("models.denoiser.in_channels", denoiser.in_channels),
            ("models.vae.latent_channels", self.vae.latent_channels),
        )
        _check_equal(("models.denoiser.text_dim", denoiser.text_dim), text)
        _check_equal(("models.denoiser.pooled_text_dim", denoiser.pooled_text_dim), pooled)
        _check_equal(
            ("models.denoiser.num_levels", denoiser.num_levels), ("models.flow.num_levels", self.flow.num_levels)
        )

    @property
    def text_length(self) -> int:
        """Tokens of a prompt, end mark included."""
        return self.text.max_length if self.base == "pyramid" else self.wan.text.max_length

    @property
    def time_compression(self) -> int:
        """Frames per latent frame; Wan's autoencoders all have 4."""
        return self.vae.compression.time if self.base == "pyramid" else 4


def _check_equal(first: tuple[str, int], second: tuple[str, int]) -> None:
    (name, value), (other_name, other) = first, second
    require(value == other, f"{name} is {value}, but {other_name} is {other}; they must be equal.")
