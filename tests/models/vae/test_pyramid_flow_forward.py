"""The Pyramid-Flow form against a second forward, written from the published formulas over the parameter names."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.assertions import assert_relative_close
from tests.models.vae.builders import PYRAMID_FLOW_LIKE, random_tensor, random_vae

LEVELS, GROUPS = 4, 2


class _Reference:
    """Functional encoder and decoder over a state dictionary."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def conv(self, x: Tensor, name: str, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        weight, bias = self.weights[f"{name}.conv.weight"], self.weights[f"{name}.conv.bias"]
        time, side = weight.shape[2] - 1, weight.shape[3] // 2
        return F.conv3d(F.pad(x, (side, side, side, side, time, 0)), weight, bias, stride)

    def norm(self, x: Tensor, name: str) -> Tensor:
        frames = [
            F.group_norm(frame, GROUPS, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-6)
            for frame in x.unbind(2)
        ]
        return torch.stack(frames, dim=2)

    def resnet(self, x: Tensor, name: str) -> Tensor:
        y = self.conv(F.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        y = self.conv(F.silu(self.norm(y, f"{name}.norm2")), f"{name}.conv2")
        has_shortcut = f"{name}.conv_shortcut.conv.weight" in self.weights
        return y + (self.conv(x, f"{name}.conv_shortcut") if has_shortcut else x)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def mid(self, x: Tensor, name: str) -> Tensor:
        x = self.resnet(x, f"{name}.resnets.0")
        attention = f"{name}.attentions.0"
        tokens = self.norm(x, f"{attention}.group_norm").permute(0, 2, 3, 4, 1).flatten(2, 3)
        q, k, v = (self.linear(tokens, f"{attention}.to_{part}") for part in "qkv")
        attended = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        y = self.linear(attended, f"{attention}.to_out.0").unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)
        return self.resnet(x + y, f"{name}.resnets.1")

    def encode(self, x: Tensor) -> Tensor:
        x = self.conv(x, "encoder.conv_in")
        for level in range(LEVELS):
            block = f"encoder.down_blocks.{level}"
            x = self.resnet(x, f"{block}.resnets.0")
            if level < LEVELS - 1:
                x = self.conv(x, f"{block}.downsamplers.0.conv", (1, 2, 2))
                x = self.conv(x, f"{block}.temporal_downsamplers.0.conv", (2, 1, 1))
        x = F.silu(self.norm(self.mid(x, "encoder.mid_block"), "encoder.conv_norm_out"))
        return self.conv(self.conv(x, "encoder.conv_out"), "quant_conv")

    def decode(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv(self.conv(x, "post_quant_conv"), "decoder.conv_in"), "decoder.mid_block")
        for level in range(LEVELS):
            block = f"decoder.up_blocks.{level}"
            x = self.resnet(x, f"{block}.resnets.0")
            if level < LEVELS - 1:
                x = self.conv(x, f"{block}.upsamplers.0.conv")
                batch, channels, time, height, width = x.shape
                x = x.view(batch, channels // 4, 2, 2, time, height, width).permute(0, 1, 4, 5, 2, 6, 3)
                x = x.reshape(batch, channels // 4, time, 2 * height, 2 * width)
                x = self.conv(x, f"{block}.temporal_upsamplers.0.conv")
                x = torch.stack([x[:, 0::2], x[:, 1::2]], dim=3).flatten(2, 3)[:, :, 1:]
        return self.conv(F.silu(self.norm(x, "decoder.conv_norm_out")), "decoder.conv_out")


def test_forward_follows_the_published_formulas():
    vae = random_vae(PYRAMID_FLOW_LIKE).double()
    reference = _Reference(vae.state_dict())
    video, latents = random_tensor(2, 3, 17, 16, 24).double(), random_tensor(2, 4, 3, 2, 3).double()
    moments = reference.encode(video)
    posterior = vae.encode(video)
    assert moments.shape == (2, 8, 3, 2, 3)
    assert_relative_close(posterior.mean, moments[:, :4], 1e-12)
    assert_relative_close(posterior.log_variance, moments[:, 4:], 1e-12)
    decoded = vae.decode(latents)
    assert decoded.shape == video.shape
    assert_relative_close(decoded, reference.decode(latents), 1e-12)
