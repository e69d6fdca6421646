"""miniFLUX from its formulas alone: plain tensor algebra that imports nothing of the library.

Weights carry Pyramid-Flow's names. Columns are packed as in its training step: their video tokens lie end to end, the
prompts are stacked as rows (row r belongs to column r modulo columns), and one dense mask over the whole packed
sequence keeps columns, prompts' padding and later frames apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2


@dataclass
class Packed:
    """One packed sequence: [text 0, video 0, text 1, video 1, ...] along tokens."""

    lengths: list[int]
    num_text: int
    ids: Tensor  # [tokens, 3]: time, row, column
    mask: Tensor  # [b, tokens, tokens]

    def merge(self, text: Tensor, video: Tensor) -> Tensor:
        """Interleave prompts [b * columns, l, d] and video tokens [b, n, d] column by column."""
        count = len(self.lengths)
        pieces = []
        for column, part in enumerate(video.split(self.lengths, dim=1)):
            pieces += [text[column::count], part]
        return torch.cat(pieces, dim=1)

    def over_video(self, rows: Tensor) -> Tensor:
        """Repeat rows [b * columns, d] for every video token of their column."""
        count = len(self.lengths)
        parts = [rows[column::count, None].expand(-1, length, -1) for column, length in enumerate(self.lengths)]
        return torch.cat(parts, dim=1)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `merge`."""
        texts, videos = [], []
        for length in self.lengths:
            texts.append(tokens[:, : self.num_text])
            videos.append(tokens[:, self.num_text : self.num_text + length])
            tokens = tokens[:, self.num_text + length :]
        return torch.stack(texts, dim=1).flatten(0, 1), torch.cat(videos, dim=1)


class PyramidFlowReference:
    """Forward pass of `pyramid_flux`.

    Args:
        weights: By Pyramid-Flow's names.
        num_heads: Attention heads.
        axes: Rotary channels for time, rows and columns; their sum is the head width.
    """

    def __init__(self, weights: Mapping[str, Tensor], num_heads: int, axes: Sequence[int]) -> None:
        self.weights = weights
        self.num_heads = num_heads
        self.head_dim = sum(axes)
        self.axes = axes
        self.num_dual = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks"))
        self.num_single = 1 + max(
            int(name.split(".")[1]) for name in weights if name.startswith("single_transformer_blocks")
        )

    def __call__(
        self, columns: Sequence[Sequence[Tensor]], timesteps: Tensor, text: Tensor, text_mask: Tensor, pooled: Tensor
    ) -> list[Tensor]:
        """Velocity of every column's last clip; clips are [b, c, t, h, w], oldest first."""
        embedding = self.embed(timesteps, pooled)
        text = self.linear("context_embedder", text)
        tokens = [torch.cat([self.to_tokens(clip) for clip in clips], dim=1) for clips in columns]
        packed = self.pack(columns, [part.shape[1] for part in tokens], text_mask)
        video = self.linear("x_embedder", torch.cat(tokens, dim=1))

        for layer in range(self.num_dual):
            text, video = self.dual_block(f"transformer_blocks.{layer}", text, video, embedding, packed)
        joint = packed.merge(text, video)
        for layer in range(self.num_single):
            name = f"single_transformer_blocks.{layer}"
            parts = self.modulation(f"{name}.norm", embedding, 3)
            over_all = [
                packed.merge(part[:, None].expand(-1, packed.num_text, -1), packed.over_video(part)) for part in parts
            ]
            joint = self.single_block(name, joint, over_all, packed)
        _, video = packed.split(joint)
        scale, shift = (packed.over_video(part) for part in self.modulation("norm_out", embedding, 2))
        out = self.linear("proj_out", self.layer_norm(video) * (1 + scale) + shift)
        velocities = []
        for clips, part in zip(columns, out.split(packed.lengths, dim=1), strict=True):
            velocities.append(self.from_tokens(part, clips[-1]))
        return velocities

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def embed(self, timesteps: Tensor, pooled: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = timesteps.float()[:, None] * frequencies[None]
        features = torch.cat([angles.cos(), angles.sin()], dim=1).to(pooled.dtype)
        total = torch.zeros(())
        for branch, x in (("timestep_embedder", features), ("text_embedder", pooled)):
            hidden = self.linear(f"time_text_embed.{branch}.linear_1", x)
            total = total + self.linear(f"time_text_embed.{branch}.linear_2", hidden * torch.sigmoid(hidden))
        return total

    def modulation(self, name: str, embedding: Tensor, chunks: int) -> Sequence[Tensor]:
        return self.linear(f"{name}.linear", embedding * torch.sigmoid(embedding)).chunk(chunks, dim=-1)

    @staticmethod
    def to_tokens(clip: Tensor) -> Tensor:
        """2 x 2 patches in (time, row, column) order; inside a token (row, column, channel), channel fastest."""
        b, c, t, h, w = clip.shape
        cells = clip.reshape(b, c, t, h // PATCH, PATCH, w // PATCH, PATCH)
        return cells.permute(0, 2, 3, 5, 4, 6, 1).reshape(b, t * h * w // PATCH**2, PATCH * PATCH * c)

    @staticmethod
    def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
        """Put the last clip's patches back."""
        b, c, t, h, w = like.shape
        noisy = tokens[:, -t * h * w // PATCH**2 :]
        cells = noisy.reshape(b, t, h // PATCH, w // PATCH, PATCH, PATCH, c)
        return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, t, h, w)

    def pack(self, columns: Sequence[Sequence[Tensor]], lengths: list[int], text_mask: Tensor) -> Packed:
        """Ids of all tokens, and who may see whom."""
        count, num_text = len(columns), text_mask.shape[1]
        ids, documents = [], []
        for column, clips in enumerate(columns):
            ids += [(0.0, 0.0, 0.0)] * num_text
            is_real = text_mask[column::count]
            # Padding forms a document of its own in every column.
            documents.append(torch.where(is_real, column + 1, -column - 1))
            documents.append(torch.full((len(is_real), lengths[column]), column + 1))
            time = 0
            for clip in clips:
                rows, row_ids = clip.shape[3] // PATCH, clips[-1].shape[3] // PATCH
                across, column_ids = clip.shape[4] // PATCH, clips[-1].shape[4] // PATCH
                for _ in range(clip.shape[2]):
                    ids += [
                        (float(time), self.half_pixel(row, rows, row_ids), self.half_pixel(x, across, column_ids))
                        for row in range(rows)
                        for x in range(across)
                    ]
                    time += 1
        positions = torch.tensor(ids, dtype=torch.float64)
        document = torch.cat(documents, dim=1)
        same_document = document[:, :, None] == document[:, None, :]
        not_later = positions[:, None, 0] >= positions[None, :, 0]
        return Packed(lengths, num_text, positions, same_document & not_later)

    @staticmethod
    def half_pixel(index: int, size: int, base: int) -> float:
        """Centre of cell `index` of a grid of `size` cells, on a grid of `base` cells that covers the same length."""
        centre = (index + 0.5) / size
        return centre * base - 0.5

    def rotate(self, x: Tensor, ids: Tensor) -> Tensor:
        """Turn adjacent channel pairs of [b, tokens, heads, head_dim] by position times frequency."""
        angles = []
        for axis, width in enumerate(self.axes):
            frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            angles.append(ids[:, axis, None] * frequencies)
        angle = torch.cat(angles, dim=1)[None, :, None]
        cosine, sine = angle.cos().float(), angle.sin().float()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([cosine * even - sine * odd, sine * even + cosine * odd], dim=-1).flatten(-2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        query, key = self.rotate(query, packed.ids), self.rotate(key, packed.ids)
        scores = torch.einsum("bqgd,bkgd->bgqk", query, key) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~packed.mask[:, None], -math.inf)
        return torch.einsum("bgqk,bkgd->bqgd", scores.softmax(dim=-1), value).flatten(2)

    def heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

    def normed_heads(self, name: str, x: Tensor) -> Tensor:
        x = self.heads(x)
        return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * self.weights[f"{name}.weight"]

    @staticmethod
    def layer_norm(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(dim=-1, keepdim=True) + 1e-6)

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))

    def dual_block(
        self, name: str, text: Tensor, video: Tensor, embedding: Tensor, packed: Packed
    ) -> tuple[Tensor, Tensor]:
        video_parts = [packed.over_video(part) for part in self.modulation(f"{name}.norm1", embedding, 6)]
        text_parts = [part[:, None] for part in self.modulation(f"{name}.norm1_context", embedding, 6)]
        at = f"{name}.attn"
        video_in = self.layer_norm(video) * (1 + video_parts[1]) + video_parts[0]
        text_in = self.layer_norm(text) * (1 + text_parts[1]) + text_parts[0]

        def joined(text_heads: Tensor, video_heads: Tensor) -> Tensor:
            return self.heads(packed.merge(text_heads.flatten(2), video_heads.flatten(2)))

        query = joined(
            self.normed_heads(f"{at}.norm_added_q", self.linear(f"{at}.add_q_proj", text_in)),
            self.normed_heads(f"{at}.norm_q", self.linear(f"{at}.to_q", video_in)),
        )
        key = joined(
            self.normed_heads(f"{at}.norm_added_k", self.linear(f"{at}.add_k_proj", text_in)),
            self.normed_heads(f"{at}.norm_k", self.linear(f"{at}.to_k", video_in)),
        )
        value = joined(
            self.heads(self.linear(f"{at}.add_v_proj", text_in)), self.heads(self.linear(f"{at}.to_v", video_in))
        )
        text_mixed, video_mixed = packed.split(self.attend(query, key, value, packed))
        video = video + video_parts[2] * self.linear(f"{at}.to_out.0", video_mixed)
        text = text + text_parts[2] * self.linear(f"{at}.to_add_out", text_mixed)
        video = video + video_parts[5] * self.feed_forward(f"{name}.ff", video, video_parts[3], video_parts[4])
        text = text + text_parts[5] * self.feed_forward(f"{name}.ff_context", text, text_parts[3], text_parts[4])
        return text, video

    def feed_forward(self, name: str, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        hidden = self.linear(f"{name}.net.0.proj", self.layer_norm(x) * (1 + scale) + shift)
        return self.linear(f"{name}.net.2", self.gelu(hidden))

    def single_block(self, name: str, x: Tensor, modulation: Sequence[Tensor], packed: Packed) -> Tensor:
        shift, scale, gate = modulation
        normed = self.layer_norm(x) * (1 + scale) + shift
        mixed = self.attend(
            self.normed_heads(f"{name}.attn.norm_q", self.linear(f"{name}.attn.to_q", normed)),
            self.normed_heads(f"{name}.attn.norm_k", self.linear(f"{name}.attn.to_k", normed)),
            self.heads(self.linear(f"{name}.attn.to_v", normed)),
            packed,
        )
        wide = self.gelu(self.linear(f"{name}.proj_mlp", normed))
        return x + gate * self.linear(f"{name}.proj_out", torch.cat([mixed, wide], dim=-1))


class HalfPrecisionReference(PyramidFlowReference):
    """The same in bfloat16, rounded where the released example scripts round: bfloat16 weights under GPU autocast.

    Matrices multiply in bfloat16 and layer norms give float32, which modulation then keeps; all else goes by the types
    that meet. Weights, texts and timesteps are to be given in bfloat16.
    """

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def embed(self, timesteps: Tensor, pooled: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = timesteps.float()[:, None] * frequencies[None]
        features = torch.cat([angles.cos(), angles.sin()], dim=1).bfloat16()

        def branch(name: str, x: Tensor) -> Tensor:
            hidden = F.silu(self.linear(f"time_text_embed.{name}.linear_1", x))
            return self.linear(f"time_text_embed.{name}.linear_2", hidden)

        return branch("timestep_embedder", features) + branch("text_embedder", pooled)

    def modulation(self, name: str, embedding: Tensor, chunks: int) -> Sequence[Tensor]:
        return self.linear(f"{name}.linear", F.silu(embedding)).chunk(chunks, dim=-1)

    @staticmethod
    def layer_norm(x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)

    def normed_heads(self, name: str, x: Tensor) -> Tensor:
        x = self.heads(x)
        normed = x * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + 1e-6)
        return normed.bfloat16() * self.weights[f"{name}.weight"]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        query, key = (self.rotate(x.float(), packed.ids).bfloat16() for x in (query, key))
        heads = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(*heads, attn_mask=packed.mask[:, None]).transpose(1, 2).flatten(2)

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


def weight_shapes(
    *,
    num_heads: int,
    head_dim: int,
    num_dual: int,
    num_single: int,
    channels: int,
    text_dim: int,
    pooled_dim: int,
    mlp_ratio: int = 4,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint, as released for 30 heads of 64, 8 dual and 16 single blocks."""
    d, token = num_heads * head_dim, channels * PATCH**2
    linears: dict[str, tuple[int, int]] = {
        "time_text_embed.timestep_embedder.linear_1": (d, 256),
        "time_text_embed.timestep_embedder.linear_2": (d, d),
        "time_text_embed.text_embedder.linear_1": (d, pooled_dim),
        "time_text_embed.text_embedder.linear_2": (d, d),
        "context_embedder": (d, text_dim),
        "x_embedder": (d, token),
        "norm_out.linear": (2 * d, d),
        "proj_out": (token, d),
    }
    norms = []
    for layer in range(num_dual):
        block = f"transformer_blocks.{layer}"
        linears |= {f"{block}.{norm}.linear": (6 * d, d) for norm in ("norm1", "norm1_context")}
        projections = (
            "to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "add_q_proj", "to_out.0", "to_add_out",
        )  # fmt: skip
        linears |= {f"{block}.attn.{projection}": (d, d) for projection in projections}
        for feed_forward in ("ff", "ff_context"):
            linears[f"{block}.{feed_forward}.net.0.proj"] = (mlp_ratio * d, d)
            linears[f"{block}.{feed_forward}.net.2"] = (d, mlp_ratio * d)
        norms += [f"{block}.attn.{norm}" for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
    for layer in range(num_single):
        block = f"single_transformer_blocks.{layer}"
        linears[f"{block}.norm.linear"] = (3 * d, d)
        linears[f"{block}.proj_mlp"] = (mlp_ratio * d, d)
        linears[f"{block}.proj_out"] = (d, (1 + mlp_ratio) * d)
        linears |= {f"{block}.attn.{projection}": (d, d) for projection in ("to_q", "to_k", "to_v")}
        norms += [f"{block}.attn.{norm}" for norm in ("norm_q", "norm_k")]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes | {f"{name}.weight": (head_dim,) for name in norms}


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights without a zero gate: matrices keep the size of what passes through them, norms stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            weights[name] = noise / math.sqrt(shape[1])
        else:
            is_norm = ".norm_" in name and name.endswith("weight")
            weights[name] = 1 + 0.3 * noise if is_norm else 0.3 * noise
    return weights
