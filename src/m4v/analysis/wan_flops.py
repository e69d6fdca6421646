"""Floating-point operations of the Wan denoiser, from shapes (a multiply-add counts as 2).

Attention counts all pairs of tokens. A layer's mixer is what stands in the place of its self-attention, output matrix
included, and in MM-DiM layers the temporal branch; cross-attention is kept in every layer and belongs to the rest.
"""

from m4v.analysis.flops import CallFlops, LayerMixerFlops
from m4v.analysis.mixer_flops import attention_scores_flops, projection_flops, ssd_flops, temporal_branch_flops
from m4v.core.errors import UserError
from m4v.core.shapes import LatentShape
from m4v.models.denoiser.wan_config import WanConfig


def wan_grid(config: WanConfig, latent: LatentShape) -> tuple[int, int, int]:
    """Token frames, rows and columns of a clip.

    Raises:
        UserError: if a size is not a multiple of the patch size.
    """
    cells = (("frames", latent.num_units), ("rows", latent.height), ("columns", latent.width))
    for (name, size), side in zip(cells, config.patch_size, strict=True):
        if size % side:
            raise UserError(f"Latents have {size} {name}; expected a multiple of the patch size {side}.")
    frames, rows, columns = (size // side for (_, size), side in zip(cells, config.patch_size, strict=True))
    return frames, rows, columns


def wan_layer_mixer_flops(config: WanConfig, grid: tuple[int, int, int], num_text_tokens: int) -> LayerMixerFlops:
    """Cost of each kind of mixer on one sample.

    Args:
        grid: Token frames, rows and columns.
        num_text_tokens: Length of the padded prompt.
    """
    frames, rows, columns = grid
    width, tokens = config.width, frames * rows * columns
    square = projection_flops(tokens, width, width)
    return LayerMixerFlops(
        attention=attention_scores_flops(tokens, tokens, width) + 4 * square,
        scan=_scan_flops(config, tokens, frames, num_text_tokens),
        temporal_branch=temporal_branch_flops(
            frames, rows * columns, config.num_attention_heads, config.attention_head_dim, config.temporal_branch.mixer
        ),
        output=square,
    )


def _scan_flops(config: WanConfig, num_video_tokens: int, num_frames: int, num_text_tokens: int) -> float:
    width, heads, head = config.width, config.num_attention_heads, config.attention_head_dim
    state = config.mixer.state_dim or head
    options = config.recomposition
    text = 0 if config.text_path == "none" else num_text_tokens
    tokens = num_video_tokens + text
    scanned = tokens + text * options.text_at_both_ends + num_frames * options.registers
    projected = tokens + options.num_register_kinds * options.registers
    # Gate z and value x, B and C, step sizes.
    projection = projection_flops(projected, width, 2 * width + 2 * heads * state + heads)
    scan = ssd_flops(scanned, heads, head, state, config.mixer.chunk_size)
    return projection + scan + projection_flops(tokens, width, width)


def wan_call_flops(config: WanConfig, grid: tuple[int, int, int], num_text_tokens: int) -> CallFlops:
    """Cost of one call on one sample.

    Args:
        grid: Token frames, rows and columns.
        num_text_tokens: Length of the padded prompt.
    """
    width, tokens = config.width, grid[0] * grid[1] * grid[2]
    layer = wan_layer_mixer_flops(config, grid, num_text_tokens)
    mixers = sum(layer.of_kind(kind, config.temporal_branch.enabled) for kind in config.kinds)
    cross = projection_flops(tokens, width, 2 * width) + projection_flops(num_text_tokens, width, 2 * width)
    cross += attention_scores_flops(tokens, num_text_tokens, width)
    feed_forward = 2 * projection_flops(tokens, width, config.ffn_dim)
    # The timestep becomes an embedding and six modulation rows; a patch goes in and comes out through one matrix each.
    conditioning = projection_flops(1, config.freq_dim, width) + projection_flops(1, width, 7 * width)
    text = projection_flops(num_text_tokens, config.text_dim, width) + projection_flops(num_text_tokens, width, width)
    ends = projection_flops(tokens, (config.in_channels + config.out_channels) * config.patch_volume, width)
    return CallFlops(mixers, config.num_layers * (cross + feed_forward) + conditioning + text + ends)
