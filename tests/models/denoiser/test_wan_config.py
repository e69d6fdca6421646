"""Settings of the Wan denoiser: sizes, defaults that differ from the pyramid's, neighbours refused by name."""

from typing import Any

import pytest

from m4v.core.errors import UserError
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.models.denoiser.wan_config import PRESETS, WanConfig, wan_config, wan_preset


def test_released_sizes() -> None:
    small, large = PRESETS["wan-1.3b"], PRESETS["wan-14b"]
    assert (small.width, small.num_attention_heads, small.ffn_dim, small.num_layers) == (1536, 12, 8960, 30)
    assert (large.width, large.num_attention_heads, large.ffn_dim, large.num_layers) == (5120, 40, 13824, 40)
    for config in (small, large):
        assert config.rope_axes_dims == (44, 42, 42)
        assert set(config.kinds) == {"attention"}
        assert config.text_path == "carried"


def test_every_preset_survives_plain_types() -> None:
    for name, config in PRESETS.items():
        assert wan_config(wan_preset(name)) == config


def test_the_temporal_branch_is_not_causal_unless_asked() -> None:
    """Also where a table of settings leaves the field out: the pyramid's default is the other one."""
    assert not WanConfig().temporal_branch.causal
    assert not wan_config({"temporal_branch": {"enabled": True}}).temporal_branch.causal
    assert wan_config({"temporal_branch": {"causal": True}}).temporal_branch.causal


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "image-to-video channels": ({"in_channels": 36}, "in_channels is 36: a Wan2.1 or Wan2.2 image-to-video model"),
    "image-to-video": ({"in_channels": 36, "image_dim": 1280}, "image_dim is 1280: a Wan2.1 image-to-video model"),
    "added keys": ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim is 5120: a Wan2.1 image-to-video model"),
    "first and last frame": (
        {"in_channels": 36, "image_dim": 1280, "pos_embed_seq_len": 514},
        "pos_embed_seq_len is 514: a Wan2.1 first-last-frame model",
    ),
    "Wan2.2 5B": ({"in_channels": 48, "out_channels": 48}, "the Wan2.2 5B model"),
    "other inputs": ({"in_channels": 52}, "in_channels is 52 and out_channels 16"),
    "parallel plan": ({"mixer_plan": "parallel"}, "joint matrix of the pyramid base"),
    "a parallel layer": ({"num_layers": 1, "mixer_plan": ["parallel"]}, "joint matrix of the pyramid base"),
    "unknown plan": ({"mixer_plan": "fully"}, "mixer_plan is 'fully'"),
    "unknown text path": ({"text_path": "C1"}, "text_path is 'C1'; expected one of 'carried', 'read-only', 'none'"),
    "unknown registers": ({"recomposition": {"register_kinds": "two"}}, "recomposition.register_kinds is 'two'"),
    "added positions": ({"mixer": {"positions": "added"}}, 'expected "rope" or "none"'),
    "narrow state": ({"mixer": {"state_dim": 64}}, "rotary positions need the head width 128"),
    "other QK-norm": ({"qk_norm": "rms_norm"}, "qk_norm is 'rms_norm'"),
    "odd head": ({"attention_head_dim": 7}, "attention_head_dim is 7"),
    "no layers": ({"num_layers": 0}, "num_layers is 0"),
    "a scan over time that is not causal": ({"temporal_branch": {"mixer": "ssd"}}, "always causal"),
    "unknown setting": ({"window_size": 3}, "Unknown setting window_size"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        wan_config(arguments)


def test_construction_refuses_before_it_builds() -> None:
    with pytest.raises(UserError, match="image-to-video"):
        WanM4VTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)


def test_there_is_no_other_preset() -> None:
    with pytest.raises(UserError, match=r"no Wan size 'wan-5b'; expected one of wan-debug, wan-1\.3b, wan-14b"):
        wan_preset("wan-5b")
