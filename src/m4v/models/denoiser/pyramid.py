"""The pyramid denoiser, Fig. 2a on one page: dual-stream MM-DiT blocks, then single-stream MM-DiM blocks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from m4v.core.errors import UserError
from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.blocks.dual_mm_dim import DualMMDiMBlock
from m4v.models.denoiser.blocks.mm_dit import MMDiTBlock
from m4v.models.denoiser.blocks.single_stream import SingleStreamBlock
from m4v.models.denoiser.caching import register_blocks
from m4v.models.denoiser.conditions import ReusesConditions
from m4v.models.denoiser.config import DenoiserConfig, denoiser_config
from m4v.models.denoiser.context import SequenceContext, sequence_context
from m4v.models.denoiser.embeddings import TimeTextEmbedding
from m4v.models.denoiser.fused_projections import FusesProjections
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.dual_mm_dim import DualMMDiMMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.mixers.parallel import ParallelMixer
from m4v.models.denoiser.modulation import Modulation, modulate
from m4v.models.denoiser.patches import patchify, unpatchify
from m4v.models.denoiser.recomposition.registers import RegisterRows
from m4v.models.denoiser.temporal_branch import TemporalBranch


def single_stream_block(config: DenoiserConfig, layer: int) -> SingleStreamBlock:
    """Build one single-stream block as the mixer plan says (Table 4)."""
    kind = config.kinds[layer]
    if kind == "attention":
        return SingleStreamBlock(config, AttentionMixer(config))
    if kind == "parallel":
        return SingleStreamBlock(config, ParallelMixer(config))
    branch = TemporalBranch(config) if config.temporal_branch.enabled else None
    return SingleStreamBlock(config, MMDiMMixer(config), branch)


class M4VTransformer3DModel(ReusesConditions, FusesProjections, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """Predicts the velocity of the noisy frame from history frames, prompt and timestep.

    The arguments are those of `DenoiserConfig` (see there); nested settings are given as dictionaries.

    Example:
        >>> model = M4VTransformer3DModel(**denoiser_preset("debug"))
        >>> velocity = model([LevelClip(noisy, level=0)], timesteps, text)
    """

    config: Any
    # Where ranks share a sequence, what they see of it is built elsewhere: see `sharded_context`.
    build_context: Callable[..., SequenceContext] = staticmethod(sequence_context)
    _gradient_checkpointing_func: Any
    _supports_gradient_checkpointing = True
    _no_split_modules = ["MMDiTBlock", "DualMMDiMBlock", "SingleStreamBlock"]  # noqa: RUF012 - the library reads a list
    _repeated_blocks = ["MMDiTBlock", "DualMMDiMBlock", "SingleStreamBlock"]  # noqa: RUF012
    # Float32 after loading in any precision, and left out by every quantiser: a step size is an exponent of the state.
    _keep_in_fp32_modules = ["A_log", "dt_bias", "D_skip", "dt_proj"]  # noqa: RUF012
    # Modules whose weights layer-wise casting leaves alone, as regular expressions; norms and `proj_out` go by default.
    _skip_layerwise_casting_patterns = ["modulation", "time_text_embed", "^text_embedder$", "^video_embedder$"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: int = 2,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        num_dual_layers: int = 8,
        num_single_layers: int = 16,
        mlp_ratio: int = 4,
        text_dim: int = 4096,
        pooled_text_dim: int = 768,
        rope_axes_dims: Sequence[int] = (16, 24, 24),
        num_levels: int = 3,
        mixer_plan: str | Sequence[str] = "full",
        dual_mixer: str = "attention",
        mixer: dict[str, Any] | None = None,
        recomposition: dict[str, Any] | None = None,
        temporal_branch: dict[str, Any] | None = None,
        temporal_causal_attention: bool = True,
        round_timesteps_to_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        known = {key: value for key, value in self.config.items() if not key.startswith("_") and value is not None}
        config = self.settings = denoiser_config(known)
        width = config.width
        token_dim = in_channels * patch_size**2
        self.time_text_embed = TimeTextEmbedding(width, pooled_text_dim)
        self.text_embedder = nn.Linear(text_dim, width)
        self.video_embedder = nn.Linear(token_dim, width)
        dual_block = DualMMDiMBlock if config.dual_mixer == "mm_dim" else MMDiTBlock
        self.transformer_blocks = nn.ModuleList(dual_block(config) for _ in range(num_dual_layers))
        self.single_transformer_blocks = nn.ModuleList(
            single_stream_block(config, layer) for layer in range(num_single_layers)
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, token_dim)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        """Xavier matrices, small embedders, zero modulations and head: each block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.time_text_embed.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.text_embedder.weight, std=0.02)
        modulations = [module.linear for module in self.modules() if isinstance(module, Modulation)]
        for linear in [*modulations, self.proj_out]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, clips: Sequence[LevelClip], timesteps: Float[Tensor, "b"], text: TextConditioning
    ) -> Float[Tensor, "b c t h w"]:
        """Predict the velocity of the last clip.

        Args:
            clips: History, oldest first; the last clip is the noisy one.
            timesteps: Scheduler units, 0 to 1000; one per sample, shared by all its tokens.
            text: Encoded prompts.

        Raises:
            UserError: if a clip's size is not a multiple of the patch size.

        Source: Fig. 2a.
        """
        config = self.settings
        layout = sequence_layout(clips, config.patch_size, text.tokens.shape[1])
        if config.round_timesteps_to_bfloat16 and clips[-1].latents.dtype == torch.bfloat16:
            timesteps = timesteps.to(torch.bfloat16)
        embedding = self.time_text_embed(timesteps, text.pooled)
        shared = self._recall(
            ("context", layout), [text.mask], lambda: self.build_context(config, layout, embedding, text.mask)
        )
        context = replace(shared, embedding=embedding)

        patches = torch.cat([patchify(clip.latents, config.patch_size) for clip in clips], dim=1)
        # Copies, because a linear layer returns a view and a dual-stream block does not: alike they compile once.
        video_tokens = self.video_embedder(context.own_video(patches)).clone()
        text_tokens = self._recall(
            "text", [text.tokens], lambda: self.text_embedder(context.own_text(text.tokens)).clone()
        )
        self.end_stale_fusion()
        modulations = self._modulations(embedding)
        registers = self._registers(video_tokens)
        for layer, dual_block in enumerate(self.transformer_blocks):
            own = context.along(config.scan_path(layer), modulations[layer], registers[layer])
            text_tokens, video_tokens = self._run(dual_block, text_tokens, video_tokens, own)
        # Views of one tensor, as single blocks return them: with the same strides everywhere each kind compiles once.
        sizes = [text_tokens.shape[1], video_tokens.shape[1]]
        text_tokens, video_tokens = torch.cat([text_tokens, video_tokens], dim=1).split(sizes, dim=1)
        for layer, single_block in enumerate(self.single_transformer_blocks):
            number = config.num_dual_layers + layer
            own = context.along(config.scan_path(layer), modulations[number], registers[number])
            text_tokens, video_tokens = self._run(single_block, text_tokens, video_tokens, own)

        noisy_tokens = context.noisy_tokens(video_tokens)
        scale, shift = self.norm_out(embedding, modulations[-1])
        velocity = context.whole_noisy(self.proj_out(modulate(noisy_tokens, shift, scale)))
        last = layout.frames[-1]
        return unpatchify(velocity, config.patch_size, last.height, last.width)

    def enable_cache(self, config: Any) -> None:
        """Skip blocks whose result is close to that of the step before.

        Args:
            config: A cache of diffusers, for example `FirstBlockCacheConfig(threshold=0.1)`.
        """
        register_blocks((MMDiTBlock, DualMMDiMBlock, SingleStreamBlock), video=1, text=0)
        super().enable_cache(config)

    def shared_projections(self) -> tuple[nn.Linear, ...]:
        """Modulations, in the order in which blocks run: two for a dual-stream block, and the head's last."""
        dual: Any = self.transformer_blocks
        single: Any = self.single_transformer_blocks
        modulations = [stream.modulation for block in dual for stream in (block.text, block.video)]
        modulations += [block.modulation for block in single]
        return tuple(modulation.linear for modulation in (*modulations, self.norm_out))

    def _modulations(self, embedding: Float[Tensor, "b d"]) -> Sequence[Tensor | None]:
        """Modulation of every block and of the head by one product, where projections are fused; else None each."""
        num_dual, num_single = len(self.transformer_blocks), len(self.single_transformer_blocks)
        if self.fused is None or torch.is_grad_enabled():
            return [None] * (num_dual + num_single + 1)
        width = self.settings.width
        sizes = [12 * width] * num_dual + [3 * width] * num_single + [2 * width]
        return self.fused(F.silu(embedding)).split(sizes, dim=-1)

    def _registers(self, tokens: Float[Tensor, "b n d"]) -> Sequence[RegisterRows | None]:
        """Projected registers of every block, where a caller evaluates repeatedly: few rows that read all weights."""
        blocks = [*self.transformer_blocks, *self.single_transformer_blocks]
        if not self._recalls:
            return [None] * len(blocks)
        name = ("registers", tokens.dtype, tokens.device)
        return self._recall(name, [], lambda: [_projected_registers(block, tokens) for block in blocks])

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


def _projected_registers(block: nn.Module, tokens: Float[Tensor, "b n d"]) -> RegisterRows | None:
    """None for blocks without a scan, and for those whose calls libraries replace, as offloading does to bring weights
    when a block needs them, and takes them away after.
    """
    if any("forward" in module.__dict__ for module in block.modules()):
        return None
    for module in block.modules():
        if isinstance(module, MMDiMMixer | DualMMDiMMixer):
            return module.project_registers(tokens)
    return None


def sequence_layout(clips: Sequence[LevelClip], patch_size: int, num_text_tokens: int) -> SequenceLayout:
    """Token layout of a list of clips.

    Raises:
        UserError: if a clip's size is not a multiple of the patch size.
    """
    frames: list[FrameGrid] = []
    for clip in clips:
        num_frames, height, width = clip.latents.shape[2:]
        if height % patch_size or width % patch_size:
            raise UserError(
                f"Latents are {height}x{width} at level {clip.level}; both must be multiples of the patch size "
                f"{patch_size}. Choose a larger picture."
            )
        frames += [FrameGrid(clip.level, height // patch_size, width // patch_size)] * num_frames
    return SequenceLayout(tuple(frames), num_text_tokens, num_noisy_frames=clips[-1].latents.shape[2])
