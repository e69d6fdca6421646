"""Denoiser configurations: presets, plans, and errors that name what was wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from m4v.core.config_io import to_plain
from m4v.core.errors import UserError
from m4v.models.denoiser.config import PRESETS, DenoiserConfig, denoiser_config, denoiser_preset
from m4v.models.denoiser.mixer_plan import PLAN_NAMES, named_plan, resolve_plan
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.models.denoiser.builders import debug_arguments


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert denoiser_config(json.loads(json.dumps(denoiser_preset(name)))) == PRESETS[name]


def test_defaults_of_the_model_are_those_of_the_config() -> None:
    config = PRESETS["pyramid-2b"]
    assert config == DenoiserConfig()
    assert denoiser_config({}) == config
    assert config.width == 1920


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'huge'; expected one of debug, toybox-xs, toybox-m, pyramid-2b"):
        denoiser_preset("huge")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "plan name": ({"mixer_plan": "half"}, "mixer_plan is 'half'; expected one of attention-only, full, pre-half"),
    "plan length": ({"mixer_plan": ["mm_dim"]}, "mixer_plan has 1 entries, but the model has 2"),
    "plan kind": (
        {"mixer_plan": ["mm_dim", "mamba"]},
        "mixer_plan names 'mamba'; expected attention, mm_dim, parallel",
    ),
    "state with rope": (
        {"mixer": {"state_dim": 4}},
        "mixer.state_dim is 4, but rotary positions need the head width 8",
    ),
    "state": ({"mixer": {"state_dim": 0}}, "mixer.state_dim is 0; expected 1 or more"),
    "scan back in time": ({"temporal_branch": {"mixer": "ssd", "causal": False}}, "a scan over time is always causal"),
    "plan type": ({"mixer_plan": 3}, "mixer_plan is 3"),
    "path letter": ({"recomposition": {"scan_paths": "abz"}}, "scan_paths is 'abz'; expected letters from a to h"),
    "no path": ({"recomposition": {"scan_paths": ""}}, "scan_paths is ''"),
    "axes sum": ({"rope_axes_dims": [4, 2, 4]}, r"rope_axes_dims is \[4, 2, 4\].*attention_head_dim = 8"),
    "odd axis": ({"rope_axes_dims": [5, 1, 2]}, r"rope_axes_dims is \[5, 1, 2\]; expected even numbers"),
    "positions": ({"mixer": {"positions": "learned"}}, "mixer.positions is 'learned'; expected one of 'rope'"),
    "discretisation": ({"mixer": {"discretisation": "bilinear"}}, "mixer.discretisation is 'bilinear'"),
    "nested key": ({"temporal_branch": {"window": 3}}, "Unknown setting temporal_branch.window; .* has: causal"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads is 0; expected 1 or more"),
    "negative channels": ({"in_channels": -4}, "in_channels is -4; expected 1 or more"),
    "empty chunks": ({"mixer": {"chunk_size": 0}}, "mixer.chunk_size is 0; expected 1 or more"),
    "negative conv": ({"mixer": {"conv_width": -1}}, "mixer.conv_width is -1; expected 0"),
    "kind of value": ({"num_single_layers": 2.0}, "num_single_layers is 2.0; expected int"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        denoiser_config(debug_arguments(**changes))
    with pytest.raises(UserError, match=message):
        M4VTransformer3DModel(**debug_arguments(**changes))


def test_a_plan_may_be_spelled_out_or_named() -> None:
    for name in PLAN_NAMES:
        assert resolve_plan(name, 6) == named_plan(name, 6) == resolve_plan(list(named_plan(name, 6)), 6)
    assert denoiser_config(debug_arguments(mixer_plan=["parallel", "attention"])).kinds == ("parallel", "attention")


def test_paths_repeat_over_layers() -> None:
    config = PRESETS["debug"]
    config = replace(config, num_single_layers=5, recomposition=replace(config.recomposition, scan_paths="hb"))
    assert [config.scan_path(layer) for layer in range(5)] == ["h", "b", "h", "b", "h"]


def test_configuration_needs_no_torch() -> None:
    modules = "m4v.models.denoiser.config, m4v.core.sequence_layout, m4v.core.seeds, m4v.core.shapes, m4v.core.files"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_plain_form_holds_every_field() -> None:
    plain = to_plain(PRESETS["debug"])
    assert set(plain) == set(DenoiserConfig.__dataclass_fields__)
    assert plain["recomposition"]["scan_paths"] == "ae"
