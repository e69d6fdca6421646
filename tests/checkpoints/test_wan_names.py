"""The table of Wan2.1 names is a bijection, and the one that diffusers' own converter follows."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from m4v.checkpoints.wan_names import count_layers, same_names, wan_renaming

SIZES = {
    "1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "14B": {},
}


@pytest.mark.parametrize(("size", "count"), [("1.3B", 825), ("14B", 1095)])
def test_the_table_is_that_of_diffusers(size, count):
    with torch.device("meta"):
        network = WanTransformer3DModel(**SIZES[size])
    needed = network.state_dict()
    renaming = wan_renaming(len(network.blocks))
    assert len(needed) == count
    assert set(renaming.ours_to_theirs) == set(needed)

    checkpoint = {theirs: needed[ours] for theirs, ours in renaming.theirs_to_ours.items()}
    converted = convert_wan_transformer_to_diffusers(dict(checkpoint))
    assert set(converted) == set(needed)
    for theirs, ours in renaming.theirs_to_ours.items():
        assert converted[ours] is checkpoint[theirs], theirs


def test_the_norm_before_cross_attention_changes_its_number():
    assert wan_renaming(1).theirs_to_ours["blocks.0.norm3.weight"] == "blocks.0.norm2.weight"


def test_names_of_diffusers_stay():
    table = same_names(wan_renaming(2)).theirs_to_ours
    assert all(theirs == ours for theirs, ours in table.items())
    assert len(table) == 15 + 2 * 27


def test_layers_are_counted_by_the_largest_number():
    assert count_layers(["blocks.3.modulation", "head.modulation", "blocks.11.norm3.weight"]) == 12
    assert count_layers(["head.modulation"]) == 0
