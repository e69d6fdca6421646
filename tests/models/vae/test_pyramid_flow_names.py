"""The full preset has the tensors of Pyramid-Flow's released VAE: names, shapes and counts."""

import re

import pytest
import torch

from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        vae = CausalVideoVAE.build(CausalVideoVAEConfig.pyramid_flow())
    return {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}


def _count(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> int:
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefix))


def test_parameter_counts(shapes):
    assert len(shapes) == 260
    assert _count(shapes) == 335_402_067
    assert _count(shapes, "encoder.") == 109_632_032
    assert _count(shapes, "decoder.") == 225_768_707
    assert _count(shapes, "quant_conv.") == 1_056
    assert _count(shapes, "post_quant_conv.") == 272


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.conv_in.conv.weight", (128, 3, 3, 3, 3)),
        ("encoder.down_blocks.1.resnets.0.norm1.weight", (128,)),
        ("encoder.down_blocks.1.resnets.0.conv1.conv.weight", (256, 128, 3, 3, 3)),
        ("encoder.down_blocks.3.resnets.1.conv2.conv.bias", (512,)),
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.conv.weight", (256, 128, 1, 1, 1)),
        ("encoder.down_blocks.2.resnets.0.conv_shortcut.conv.weight", (512, 256, 1, 1, 1)),
        ("encoder.down_blocks.0.downsamplers.0.conv.conv.weight", (128, 128, 3, 3, 3)),
        ("encoder.down_blocks.2.temporal_downsamplers.0.conv.conv.weight", (512, 512, 3, 3, 3)),
        ("encoder.mid_block.resnets.1.norm2.bias", (512,)),
        ("encoder.mid_block.attentions.0.group_norm.weight", (512,)),
        ("encoder.mid_block.attentions.0.to_q.weight", (512, 512)),
        ("encoder.mid_block.attentions.0.to_out.0.bias", (512,)),
        ("encoder.conv_norm_out.weight", (512,)),
        ("encoder.conv_out.conv.weight", (32, 512, 3, 3, 3)),
        ("decoder.conv_in.conv.weight", (512, 16, 3, 3, 3)),
        ("decoder.up_blocks.2.resnets.0.conv_shortcut.conv.weight", (256, 512, 1, 1, 1)),
        ("decoder.up_blocks.3.resnets.0.conv_shortcut.conv.weight", (128, 256, 1, 1, 1)),
        ("decoder.up_blocks.3.resnets.2.conv1.conv.weight", (128, 128, 3, 3, 3)),
        ("decoder.up_blocks.0.upsamplers.0.conv.conv.weight", (2048, 512, 3, 3, 3)),
        ("decoder.up_blocks.2.upsamplers.0.conv.conv.weight", (1024, 256, 3, 3, 3)),
        ("decoder.up_blocks.1.temporal_upsamplers.0.conv.conv.weight", (1024, 512, 3, 3, 3)),
        ("decoder.up_blocks.2.temporal_upsamplers.0.conv.conv.weight", (512, 256, 3, 3, 3)),
        ("decoder.conv_norm_out.weight", (128,)),
        ("decoder.conv_out.conv.weight", (3, 128, 3, 3, 3)),
        ("quant_conv.conv.weight", (32, 32, 1, 1, 1)),
        ("post_quant_conv.conv.weight", (16, 16, 1, 1, 1)),
    ],
)
def test_named_tensors(shapes, name, shape):
    assert shapes[name] == shape


def test_every_name_follows_the_published_patterns(shapes):
    resnet = r"resnets\.\d\.(norm[12]|conv[12]\.conv|conv_shortcut\.conv)"
    attention = r"attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)"
    pattern = (
        r"((encoder|decoder)\.(conv_in\.conv|conv_norm_out|conv_out\.conv"
        rf"|mid_block\.({resnet}|{attention})"
        rf"|(down|up)_blocks\.\d\.({resnet}|(temporal_)?(down|up)samplers\.0\.conv\.conv))"
        r"|(post_)?quant_conv\.conv)\.(weight|bias)"
    )
    assert [name for name in shapes if not re.fullmatch(pattern, name)] == []
    assert not any(".up_blocks.3.upsamplers" in name or ".down_blocks.3.downsamplers" in name for name in shapes)
