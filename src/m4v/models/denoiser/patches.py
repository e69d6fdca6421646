"""Latents to tokens and back; channel order inside a token is (row, column, channel), as in Pyramid-Flow."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def patchify(latents: Float[Tensor, "b c t h w"], patch_size: int) -> Float[Tensor, "b n d"]:
    """Cut frames into square patches, tokens in (time, row, column) order."""
    return rearrange(latents, "b c t (h p) (w q) -> b (t h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(tokens: Float[Tensor, "b n d"], patch_size: int, height: int, width: int) -> Float[Tensor, "b c t h w"]:
    """Put patches back; `height` and `width` count tokens of one frame."""
    return rearrange(tokens, "b (t h w) (p q c) -> b c t (h p) (w q)", h=height, w=width, p=patch_size, q=patch_size)
