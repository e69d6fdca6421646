"""The causal video VAE: pixels to latents and back, whole or in chunks (Sec. 3.1; one setting is Pyramid-Flow's)."""

import dataclasses
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.generators import RowGenerator
from m4v.core.shapes import Compression, VideoShape
from m4v.models.vae.causal_conv import POINT, CausalConv3d, CausalState, ChunkPass
from m4v.models.vae.coders import Decoder, Encoder
from m4v.models.vae.config import CausalVideoVAEConfig, LatentStatistics, Statistic
from m4v.models.vae.gaussian import DiagonalGaussian
from m4v.models.vae.latent_statistics import denormalise_latents, normalise_latents
from m4v.models.vae.tiling import TileLayers, Tiling, run_in_tiles


class CausalVideoVAE(ModelMixin, ConfigMixin):
    """Variational autoencoder of videos, causal in time: frame 0 has a latent of its own and never sees later frames.

    Pixels are floats in [-1, 1]. Arguments are the fields of `CausalVideoVAEConfig`; `CausalVideoVAE.build` takes one.

    Example:
        >>> vae = CausalVideoVAE.build(CausalVideoVAEConfig.toybox_xs())
        >>> video = vae.decode(vae.encode(video).mode())

    Source: Pyramid-Flow causal VAE (its 260 parameter names with the `pyramid_flow` preset).
    """

    # `encode` and `decode` bypass `forward`, which brings everything outside these parts under group offload.
    _group_offload_block_modules = ["encoder", "decoder", "quant_conv", "post_quant_conv"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        front_patch: int = 1,
        encoder_widths: tuple[int, ...] = (128, 256, 512, 512),
        decoder_widths: tuple[int, ...] = (128, 256, 512, 512),
        encoder_resnets: tuple[int, ...] = (2, 2, 2, 2),
        decoder_resnets: tuple[int, ...] = (3, 3, 3, 3),
        mid_resnets: int = 2,
        spatial_down: tuple[bool, ...] = (True, True, True, False),
        temporal_down: tuple[bool, ...] = (True, True, True, False),
        norm: Literal["group", "none"] = "group",
        norm_groups: int = 32,
        mid_attention: bool = True,
        samplers: Literal["full", "lean"] = "full",
        image_shift: Statistic = 0.0,
        image_scale: Statistic = 1.0,
        video_shift: Statistic = 0.0,
        video_scale: Statistic = 1.0,
    ) -> None:
        super().__init__()
        config = self.dataclass_config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = CausalConv3d(2 * latent_channels, 2 * latent_channels, POINT)
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, POINT)
        self.tiling: Tiling | None = None
        self.units_per_chunk: int | None = None

    @classmethod
    def build(cls, config: CausalVideoVAEConfig) -> "CausalVideoVAE":
        """Make an untrained VAE from its configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    @property
    def dataclass_config(self) -> CausalVideoVAEConfig:
        """The registered configuration as the dataclass it came from."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(CausalVideoVAEConfig):
            value = self.config[field.name]
            values[field.name] = tuple(value) if isinstance(value, list | tuple) else value
        return CausalVideoVAEConfig(**values)

    @property
    def compression(self) -> Compression:
        """Pixels per latent cell and axis."""
        return self.dataclass_config.compression

    @property
    def latent_statistics(self) -> LatentStatistics:
        """The numbers `normalise` uses."""
        return self.dataclass_config.latent_statistics

    def set_latent_statistics(self, statistics: LatentStatistics) -> None:
        """Store measured statistics in the configuration, so that `save_pretrained` keeps them.

        Raises:
            UserError: if a pair has another number of channels than the latents.
        """
        values = dataclasses.asdict(statistics)
        dataclasses.replace(self.dataclass_config, **values)  # raises if they do not fit the latents
        self.register_to_config(**values)

    def normalise(self, latents: Float[Tensor, "b c t h w"], first_unit: int = 0) -> Float[Tensor, "b c t h w"]:
        """Map latents to the denoiser's range; `first_unit` is the index of the first frame in its video."""
        return normalise_latents(latents, self.latent_statistics, first_unit)

    def denormalise(self, latents: Float[Tensor, "b c t h w"], first_unit: int = 0) -> Float[Tensor, "b c t h w"]:
        """Undo `normalise`."""
        return denormalise_latents(latents, self.latent_statistics, first_unit)

    def enable_tiling(self, tile_size: int = 256, units_per_chunk: int | None = None) -> None:
        """Bound memory: pass tiles of `tile_size` pixels, and optionally few latent frames, at a time.

        Tiles are blended where they overlap, so the result differs slightly from an untiled pass; chunks in time
        change nothing. `encode` and `decode` finish a tile's whole length before the next tile, so that what causal
        convolutions remember is kept for one tile only; `encode_chunk` and `decode_chunk`, which hand over frames as
        they come, have to keep it for all. Pyramid-Flow uses tile 256 with 1 unit to save memory, else 512 with 2.

        Raises:
            UserError: if the tile is not a multiple of four latent cells or a chunk has no frame.
        """
        if units_per_chunk is not None and units_per_chunk < 1:
            raise UserError(f"units_per_chunk is {units_per_chunk}; expected 1 or more, or None for the whole video.")
        self.tiling = Tiling(tile_size, self.compression.space)
        self.units_per_chunk = units_per_chunk

    def disable_tiling(self) -> None:
        """Pass whole videos again."""
        self.tiling = None
        self.units_per_chunk = None

    @apply_forward_hook
    def encode(self, video: Float[Tensor, "b c t h w"]) -> DiagonalGaussian:
        """Encode a whole video of `time * k + 1` frames.

        Raises:
            UserError: if the frame count or size does not fit the compression.
        """
        self._check_video(video, num_opening_frames=1)
        parts = None if self.units_per_chunk is None else (1, self.units_per_chunk * self.compression.time)
        moments, _ = run_in_tiles(_in_parts(self._encode_frames, parts), video, self._encoding_tiles, None, False)
        return DiagonalGaussian.from_moments(moments)

    @apply_forward_hook
    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c u v x"]:
        """Decode whole (un-normalised) latents; pixels are not clamped to [-1, 1]."""
        parts = None if self.units_per_chunk is None else (self.units_per_chunk, self.units_per_chunk)
        return run_in_tiles(_in_parts(self._decode_frames, parts), latents, self._decoding_tiles, None, False)[0]

    @apply_forward_hook
    def encode_chunk(
        self, video: Float[Tensor, "b c t h w"], state: CausalState | None
    ) -> tuple[DiagonalGaussian, CausalState]:
        """Encode the next frames of a video; chunk after chunk gives what `encode` gives for the whole.

        Args:
            video: First chunk: `time * k + 1` frames, later ones: `time * k`.
            state: What the call for the chunk before returned; None opens a video.

        Raises:
            UserError: if the frame count or size does not fit the compression.
        """
        self._check_video(video, num_opening_frames=1 if state is None else 0)
        moments, state = run_in_tiles(self._encode_frames, video, self._encoding_tiles, state, keeps_state=True)
        return DiagonalGaussian.from_moments(moments), state

    @apply_forward_hook
    def decode_chunk(
        self, latents: Float[Tensor, "b c t h w"], state: CausalState | None
    ) -> tuple[Float[Tensor, "b c u v x"], CausalState]:
        """Decode the next latent frames of a video; chunk after chunk gives what `decode` gives for the whole.

        Args:
            latents: One or more un-normalised latent frames.
            state: What the call for the chunk before returned; None opens a video.
        """
        return run_in_tiles(self._decode_frames, latents, self._decoding_tiles, state, keeps_state=True)

    def forward(
        self, video: Float[Tensor, "b c t h w"], generator: RowGenerator | None = None
    ) -> tuple[Float[Tensor, "b c t h w"], DiagonalGaussian]:
        """Encode and decode; latents are sampled if a generator is given, else the most likely ones."""
        posterior = self.encode(video)
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return self.decode(latents), posterior

    def _encode_frames(self, video: Tensor, chunk: ChunkPass | None) -> Tensor:
        return self.quant_conv(self.encoder(video, chunk))

    def _decode_frames(self, latents: Tensor, chunk: ChunkPass | None) -> Tensor:
        return self.decoder(self.post_quant_conv(latents), chunk)

    @property
    def _encoding_tiles(self) -> tuple[int, int] | None:
        return None if self.tiling is None else (self.tiling.tile_size, self.tiling.latent_tile_size)

    @property
    def _decoding_tiles(self) -> tuple[int, int] | None:
        return None if self.tiling is None else (self.tiling.latent_tile_size, self.tiling.tile_size)

    def _check_video(self, video: Tensor, num_opening_frames: int) -> None:
        """Check a whole video or first chunk (one opening frame) or a later chunk (none)."""
        _, _, num_frames, height, width = video.shape
        if num_opening_frames == 0 and (num_frames == 0 or num_frames % self.compression.time):
            raise UserError(
                f"A later chunk has {num_frames} frames; expected a positive multiple of {self.compression.time}."
            )
        shape = VideoShape(num_frames=num_frames + 1 - num_opening_frames, height=height, width=width)
        self.compression.latent_shape(shape)


def _in_parts(layers: TileLayers, parts: tuple[int, int] | None) -> TileLayers:
    """Run a tile's whole length through the layers part after part: a first part, then equal ones; None: at once."""
    if parts is None:
        return layers

    def run(frames: Tensor, _: ChunkPass | None) -> Tensor:
        earlier, outputs = None, []
        for part in _split_time(frames, *parts):
            chunk = ChunkPass(earlier)
            outputs.append(layers(part, chunk))
            earlier = tuple(chunk.collected)
        return torch.cat(outputs, dim=2)

    return run


def _split_time(frames: Tensor, first: int, following: int) -> list[Tensor]:
    num_frames = frames.shape[2]
    starts = [0, *range(first, num_frames, following)]
    return [frames[:, :, start:end] for start, end in pairwise([*starts, num_frames])]
