"""Settings of pyramid flow: ranges, even levels, JSON round trip."""

import json
import subprocess
import sys

import pytest

from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.flow.config import PyramidFlowConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_levels": 0}, "num_levels is 0"),
        ({"num_levels": 2}, "level_range has 4 entries; expected 3"),
        ({"level_range": (0.0, 0.5, 0.4, 1.0)}, "level_range"),
        ({"level_range": (0.1, 0.4, 0.5, 1.0)}, "level_range"),
        ({"level_range": (0.0, 0.4, 0.5, 0.9)}, "level_range"),
        ({"level_range": (0.0, 0.4, 0.4001, 1.0)}, "apart"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": 0.34}, "gamma is 0.34"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"history_halvings": ()}, "history_halvings"),
        ({"history_halvings": (1, 0)}, "never fall"),
        ({"history_halvings": (-1, 0)}, "history_halvings"),
    ],
)
def test_a_value_out_of_range_is_named(settings: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        PyramidFlowConfig(**settings)


def test_equal_levels_with_three_are_the_default() -> None:
    assert PyramidFlowConfig.with_equal_levels(3) == PyramidFlowConfig()
    assert PyramidFlowConfig.with_equal_levels(2).level_range == (0.0, 0.5, 1.0)
    with pytest.raises(UserError, match="num_levels is 0"):
        PyramidFlowConfig.with_equal_levels(0)


def test_config_survives_json() -> None:
    config = PyramidFlowConfig(gamma=0.25, history_halvings=(0, 0, 1))
    assert from_plain(PyramidFlowConfig, json.loads(json.dumps(to_plain(config)))) == config


def test_config_imports_no_torch() -> None:
    code = "import sys, m4v.flow.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
