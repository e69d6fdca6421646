"""The attention-only denoiser against a second, plain writing of the Pyramid-Flow network, one token at a time.

It shares no code with the library and reads the weights by name, so that a swapped pair (shift and scale, sine and
cosine, row and channel, mixer and feed-forward) cannot hide in both.
"""

import cmath
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m4v.core.level_clip import LevelClip
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import NUM_TEXT, normal, prompts, random_model

HEADS, HEAD_DIM, AXES, PATCH, CHANNELS = 2, 12, (4, 6, 2), 2, 3
WIDTH = HEADS * HEAD_DIM

ARGUMENTS: dict[str, Any] = {
    "mixer_plan": "attention-only",
    "in_channels": CHANNELS,
    "patch_size": PATCH,
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD_DIM,
    "rope_axes_dims": AXES,
    "num_dual_layers": 2,
    "num_single_layers": 2,
    "mlp_ratio": 3,
}


class PlainFlux:
    """Forward pass of one sample; `weights` by the names of the library."""

    def __init__(self, weights: dict[str, Tensor], temporal_causal: bool) -> None:
        self.weights = weights
        self.temporal_causal = temporal_causal

    def linear(self, name: str, x: Tensor) -> Tensor:
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def embedding(self, timestep: float, pooled: Tensor) -> Tensor:
        # In single precision, as the public network: at timestep 744 the angle itself carries an error of 4e-5.
        angles = torch.tensor(timestep) * torch.exp(torch.arange(128.0) * -math.log(10000) / 128)
        features = torch.cat([angles.cos(), angles.sin()]).double()
        total = torch.zeros(WIDTH, dtype=torch.float64)
        for branch, x in (("timestep_embedder", features), ("text_embedder", pooled)):
            hidden = self.linear(f"time_text_embed.{branch}.linear_1", x)
            total = total + self.linear(f"time_text_embed.{branch}.linear_2", hidden * torch.sigmoid(hidden))
        return total

    def modulation(self, name: str, embedding: Tensor, chunks: int) -> list[Tensor]:
        out = self.linear(f"{name}.linear", embedding * torch.sigmoid(embedding))
        return [out[i * WIDTH : (i + 1) * WIDTH] for i in range(chunks)]

    @staticmethod
    def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        mean = x.sum() / WIDTH
        variance = ((x - mean) ** 2).sum() / WIDTH
        return (x - mean) / torch.sqrt(variance + 1e-6) * (1 + scale) + shift

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def head_norm(self, name: str, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).sum() / HEAD_DIM + 1e-6) * self.weights[f"{name}.weight"]

    def turned(self, x: Tensor, position: tuple[float, float, float]) -> Tensor:
        out, channel = [], 0
        for axis, dim in enumerate(AXES):
            for j in range(dim // 2):
                turn = cmath.exp(1j * position[axis] * 10000 ** (-2 * j / dim))
                pair = complex(x[channel], x[channel + 1]) * turn
                out += [pair.real, pair.imag]
                channel += 2
        return torch.tensor(out, dtype=torch.float64)

    def attend(self, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        """Rows are (d,) after projection; norms have been applied per head already."""
        outputs = []
        for n, query in enumerate(queries):
            heads = []
            for g in range(HEADS):
                part = slice(g * HEAD_DIM, (g + 1) * HEAD_DIM)
                seen = [m for m in range(len(keys)) if self.sees(n, m)]
                scores = []
                for m in seen:
                    turned_query = self.turned(query[part], self.positions[n])
                    turned_key = self.turned(keys[m][part], self.positions[m])
                    scores.append(float(turned_query @ turned_key) / math.sqrt(HEAD_DIM))
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                heads.append(sum(w / sum(weights) * values[m][part] for w, m in zip(weights, seen, strict=True)))
            outputs.append(torch.cat(heads))
        return outputs

    def sees(self, query: int, key: int) -> bool:
        if self.is_real[query] != self.is_real[key]:
            return False
        return not self.temporal_causal or self.positions[query][0] >= self.positions[key][0]

    def normed_heads(self, name: str, x: Tensor) -> Tensor:
        return torch.cat([self.head_norm(name, x[g * HEAD_DIM : (g + 1) * HEAD_DIM]) for g in range(HEADS)])

    def dual_block(self, name: str, streams: dict[str, list[Tensor]], embedding: Tensor) -> dict[str, list[Tensor]]:
        modulations = {stream: self.modulation(f"{name}.{stream}.modulation", embedding, 6) for stream in streams}
        queries, keys, values = [], [], []
        for stream in ("text", "video"):
            shift, scale = modulations[stream][:2]
            for token in streams[stream]:
                x = self.normed(token, shift, scale)
                at = f"{name}.{stream}"
                queries.append(self.normed_heads(f"{at}.norm_q", self.linear(f"{at}.to_q", x)))
                keys.append(self.normed_heads(f"{at}.norm_k", self.linear(f"{at}.to_k", x)))
                values.append(self.linear(f"{at}.to_v", x))
        mixed = self.attend(queries, keys, values)
        mixed_by_stream = {"text": mixed[: len(streams["text"])], "video": mixed[len(streams["text"]) :]}
        out: dict[str, list[Tensor]] = {"text": [], "video": []}
        for stream in ("text", "video"):
            _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulations[stream]
            for token, mix in zip(streams[stream], mixed_by_stream[stream], strict=True):
                token = token + gate * self.linear(f"{name}.{stream}.to_out", mix)
                hidden = self.linear(f"{name}.{stream}.feed_forward.up", self.normed(token, mlp_shift, mlp_scale))
                out[stream].append(
                    token + mlp_gate * self.linear(f"{name}.{stream}.feed_forward.down", self.gelu(hidden))
                )
        return out

    def single_block(self, name: str, tokens: list[Tensor], embedding: Tensor) -> list[Tensor]:
        shift, scale, gate = self.modulation(f"{name}.modulation", embedding, 3)
        normed = [self.normed(token, shift, scale) for token in tokens]
        mixed = self.attend(
            [self.normed_heads(f"{name}.mixer.norm_q", self.linear(f"{name}.mixer.to_q", x)) for x in normed],
            [self.normed_heads(f"{name}.mixer.norm_k", self.linear(f"{name}.mixer.to_k", x)) for x in normed],
            [self.linear(f"{name}.mixer.to_v", x) for x in normed],
        )
        out = []
        for token, x, mix in zip(tokens, normed, mixed, strict=True):
            wide = self.gelu(self.linear(f"{name}.mlp_up", x))
            out.append(token + gate * self.linear(f"{name}.joint_out", torch.cat([mix, wide])))
        return out

    def __call__(self, clips: list[Tensor], timestep: float, text: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        """Clips are `c t h w`, oldest first; returns the velocity of the last."""
        embedding = self.embedding(timestep, pooled)
        self.positions: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * text.shape[0]
        self.is_real = mask.tolist()
        base = [clips[-1].shape[2] // PATCH, clips[-1].shape[3] // PATCH]
        video, time = [], 0
        for clip in clips:
            _, frames, height, width = clip.shape
            ids = []
            for size, base_size in zip((height // PATCH, width // PATCH), base, strict=True):
                grid = torch.arange(base_size, dtype=torch.float64)[None, None]
                ids.append(F.interpolate(grid, size=size, mode="linear", align_corners=False)[0, 0].tolist())
            for frame in range(frames):
                for row in range(height // PATCH):
                    for column in range(width // PATCH):
                        token = []
                        for p in range(PATCH):
                            for q in range(PATCH):
                                for c in range(CHANNELS):
                                    token.append(clip[c, frame, row * PATCH + p, column * PATCH + q])
                        video.append(self.linear("video_embedder", torch.stack(token)))
                        self.positions.append((float(time), ids[0][row], ids[1][column]))
                        self.is_real.append(True)
                time += 1
        streams = {"text": [self.linear("text_embedder", token) for token in text], "video": video}
        for layer in range(2):
            streams = self.dual_block(f"transformer_blocks.{layer}", streams, embedding)
        tokens = streams["text"] + streams["video"]
        for layer in range(2):
            tokens = self.single_block(f"single_transformer_blocks.{layer}", tokens, embedding)

        scale, shift = self.modulation("norm_out", embedding, 2)
        velocity = torch.zeros_like(clips[-1])
        noisy = tokens[-velocity.shape[1] * base[0] * base[1] :]
        for number, token in enumerate(noisy):
            channels = self.linear("proj_out", self.normed(token, shift, scale)).tolist()
            frame, cell = divmod(number, base[0] * base[1])
            row, column = divmod(cell, base[1])
            for p in range(PATCH):
                for q in range(PATCH):
                    for c in range(CHANNELS):
                        velocity[c, frame, row * PATCH + p, column * PATCH + q] = channels.pop(0)
        return velocity


CLIPS = {
    "two coarse frames, one half, one noisy": [(0, 2, 2, 4), (1, 1, 4, 8), (1, 1, 4, 8)],
    "three levels": [(0, 1, 2, 2), (1, 1, 4, 4), (2, 1, 8, 8)],
    "an image": [(1, 1, 4, 4)],
    "several noisy frames": [(0, 1, 2, 2), (1, 2, 4, 4)],
}


@pytest.mark.parametrize("temporal_causal", [True, False])
@pytest.mark.parametrize("shapes", CLIPS.values(), ids=CLIPS)
def test_equals_the_plain_network(shapes: list[tuple[int, int, int, int]], temporal_causal: bool) -> None:
    model = random_model(**ARGUMENTS, temporal_causal_attention=temporal_causal)
    clips = [LevelClip(normal(2, CHANNELS, t, h, w, seed=i), level) for i, (level, t, h, w) in enumerate(shapes)]
    text = prompts((3, NUM_TEXT))
    timesteps = torch.tensor([744.256, 1.385], dtype=torch.float64)
    with torch.no_grad():
        velocity = model(clips, timesteps, text)
    plain = PlainFlux(dict(model.state_dict()), temporal_causal)
    for sample in range(2):
        expected = plain(
            [clip.latents[sample] for clip in clips],
            float(timesteps[sample]),
            text.tokens[sample],
            text.mask[sample],
            text.pooled[sample],
        )
        assert_relative_close(velocity[sample], expected, 1e-5, f"sample {sample}")


def test_single_precision_is_as_close() -> None:
    model = random_model(**ARGUMENTS)
    clips = [LevelClip(normal(2, CHANNELS, 1, 4, 4, seed=i), 1) for i in range(2)]
    text, timesteps = prompts((3, NUM_TEXT)), torch.tensor([744.256, 1.385], dtype=torch.float64)
    with torch.no_grad():
        wide = model(clips, timesteps, text)
        single = model.float()(
            [LevelClip(clip.latents.float(), clip.level) for clip in clips],
            timesteps.float(),
            text.to(dtype=torch.float32),
        )
    assert_relative_close(single, wide, 1e-5)
