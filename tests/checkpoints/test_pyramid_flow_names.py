"""The table of the 496 tensors, and checkpoints that are something else."""

import math

import pytest
import torch

from m4v.checkpoints.pyramid_flow_config import denoiser_arguments, denoiser_config_of, vae_arguments, vae_config_of
from m4v.checkpoints.pyramid_flow_names import denoiser_renaming, plain_names, refuse_neighbours
from m4v.core.errors import UserError
from m4v.models.denoiser.config import DenoiserConfig
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig
from tests.checkpoints.pyramid_flow_files import RELEASED_CONFIG, TINY_CONFIG, TINY_VAE_CONFIG, denoiser_shapes


def test_the_table_is_a_bijection_over_all_496_tensors_of_the_released_network():
    shapes = denoiser_shapes(RELEASED_CONFIG)
    table = denoiser_renaming(num_dual=8, num_single=16)
    table.require_theirs(shapes, "the published table")
    with torch.device("meta"):
        model = M4VTransformer3DModel(**denoiser_arguments(RELEASED_CONFIG, denoiser_shapes(RELEASED_CONFIG)))
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    model.load_state_dict({table.theirs_to_ours[name]: value for name, value in state.items()}, strict=True)
    assert len(table.ours_to_theirs) == len(table.theirs_to_ours) == len(shapes) == 496
    assert sum(math.prod(shape) for shape in shapes.values()) == 1_972_059_200
    assert model.settings == DenoiserConfig(mixer_plan="attention-only", round_timesteps_to_bfloat16=True)


def test_configurations_survive_both_directions():
    arguments = denoiser_arguments(TINY_CONFIG, denoiser_shapes(TINY_CONFIG))
    back = denoiser_config_of(M4VTransformer3DModel(**arguments).settings)
    assert back == TINY_CONFIG
    released = vae_arguments({})
    assert vae_arguments(vae_config_of(CausalVideoVAEConfig.pyramid_flow())) == released
    tiny = CausalVideoVAE(**vae_arguments(TINY_VAE_CONFIG)).dataclass_config
    assert {key: value for key, value in vae_config_of(tiny).items() if key in TINY_VAE_CONFIG} == TINY_VAE_CONFIG


def test_the_released_autoencoder_has_260_tensors_and_the_published_size():
    with torch.device("meta"):
        vae = CausalVideoVAE(**vae_arguments({"_class_name": "CausalVideoVAE", "sample_size": 256}))
    assert len(vae.state_dict()) == 260
    assert sum(parameter.numel() for parameter in vae.parameters()) == 335_402_067
    statistics = vae.latent_statistics
    assert (statistics.image_shift, statistics.video_shift) == (-0.04, -0.2343)
    assert (1 / statistics.image_scale, 1 / statistics.video_scale) == pytest.approx((1.8726, 3.0986))


def test_sizes_come_from_the_tensors_where_the_configuration_is_silent():
    sparse = {"axes_dims_rope": TINY_CONFIG["axes_dims_rope"]}
    arguments = denoiser_arguments(sparse, denoiser_shapes(TINY_CONFIG))
    assert arguments == denoiser_arguments(TINY_CONFIG, denoiser_shapes(TINY_CONFIG))
    assert not denoiser_arguments({**TINY_CONFIG, "use_temporal_causal": False}, denoiser_shapes(TINY_CONFIG))[
        "temporal_causal_attention"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 19), ("num_attention_heads", 24), ("joint_attention_dim", 4096), ("in_channels", 64)],
)
def test_a_configuration_of_another_network_is_noticed(key, value):
    with pytest.raises(UserError, match=f"{key} = {value}, but the tensors have"):
        denoiser_arguments({**TINY_CONFIG, key: value}, denoiser_shapes(TINY_CONFIG))


def test_rotary_axes_must_fit_the_heads():
    without = {key: value for key, value in TINY_CONFIG.items() if key != "axes_dims_rope"}
    for config in (without, {**TINY_CONFIG, "axes_dims_rope": "abc"}, {**TINY_CONFIG, "axes_dims_rope": [4, 6, 8]}):
        with pytest.raises(UserError, match="axes_dims_rope"):
            denoiser_arguments(config, denoiser_shapes(TINY_CONFIG))


@pytest.mark.parametrize(
    "change",
    [
        {"add_post_quant_conv": False},
        {"encoder_act_fn": "relu"},
        {"encoder_norm_num_groups": 8},
        {"decoder_spatial_up_sample": [True, True, False, False]},
    ],
)
def test_other_autoencoders_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        vae_arguments({**TINY_VAE_CONFIG, **change})


@pytest.mark.parametrize(
    ("names", "class_name", "said"),
    [
        (["pos_embed.proj.weight", "context_embedder.weight"], None, "pyramid_mmdit"),
        (["x_embedder.weight"], "PyramidDiffusionMMDiT", "pyramid_mmdit"),
        (["x_embedder.weight", "context_embedder.weight"], "FluxTransformer2DModel", "FLUX.1, an image model"),
        (
            ["x_embedder.weight", "context_embedder.weight", "time_text_embed.guidance_embedder.linear_1.weight"],
            None,
            "FLUX.1-dev",
        ),
        (["double_blocks.0.img_attn.qkv.weight"], None, "FLUX"),
        (["condition_embedder.time_proj.weight"], "WanTransformer3DModel", "m4v convert wan"),
        (["time_projection.1.weight"], None, "m4v convert wan"),
        (["video_embedder.weight"], "M4VTransformer3DModel", "needs no conversion"),
        (["encoder.conv_in.conv.weight"], None, "autoencoder"),
        (["video_embedder.weight", "x_embedder.weight", "context_embedder.weight"], None, "mixes"),
        (["something.else"], None, "no Pyramid-Flow denoiser"),
    ],
)
def test_neighbours_are_refused_by_name(names, class_name, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        refuse_neighbours(names, class_name, "the folder")


def test_a_network_with_state_space_layers_or_other_sizes_cannot_go_back():
    with pytest.raises(UserError, match=r"layers 1 \(mm_dim\)"):
        denoiser_config_of(DenoiserConfig(num_single_layers=2, mixer_plan=("attention", "mm_dim")))
    with pytest.raises(UserError, match="patch_size"):
        denoiser_config_of(DenoiserConfig(mixer_plan="attention-only", patch_size=1))
    with pytest.raises(UserError, match="front_patch"):
        vae_config_of(CausalVideoVAEConfig.toybox_xs())
    with pytest.raises(UserError, match="latent statistics"):
        vae_config_of(CausalVideoVAEConfig())


def test_the_prefix_of_training_checkpoints_is_looked_through():
    names, dropped = plain_names(["dit.x_embedder.weight", "vae.quant_conv.bias", "text_encoder.w", "proj_out.bias"])
    assert names == {"x_embedder.weight": "dit.x_embedder.weight", "proj_out.bias": "proj_out.bias"}
    assert dropped == ["vae.quant_conv.bias", "text_encoder.w"]
    with pytest.raises(UserError, match=r"dit\.proj_out\.bias"):
        plain_names(["proj_out.bias", "dit.proj_out.bias"])
