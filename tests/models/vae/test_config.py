"""Configuration checks, and that the module answers without torch."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import Compression
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig


@pytest.mark.parametrize("module", ["m4v.models.vae.config", "m4v.models.text.config"])
def test_config_modules_import_neither_torch_nor_transformers(module):
    code = (
        f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_model_takes_exactly_the_fields_of_the_dataclass_with_the_same_defaults():
    parameters = list(inspect.signature(CausalVideoVAE.__init__).parameters.values())[1:]
    fields = dataclasses.fields(CausalVideoVAEConfig)
    assert [(p.name, p.default) for p in parameters] == [(f.name, f.default) for f in fields]


@pytest.mark.parametrize(
    ("preset", "compression"),
    [
        ("pyramid_flow", Compression(time=8, space=8)),
        ("toybox_xs", Compression(time=4, space=8)),
        ("toybox_m", Compression(time=4, space=8)),
        ("debug", Compression(time=4, space=8)),
    ],
)
def test_presets_compress_as_stated(preset, compression):
    assert getattr(CausalVideoVAEConfig, preset)().compression == compression


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_widths": (128, 256)}, "decoder_widths has 2 entries; expected 4"),
        ({"spatial_down": (True, True, True, True)}, "last level cannot downsample"),
        ({"encoder_resnets": (2, 2, 0, 2)}, "at least one residual block"),
        ({"norm_groups": 48}, "not a multiple of norm_groups 48"),
        ({"image_shift": (0.0, 1.0)}, "image_shift has 2 entries"),
        ({"samplers": "lean", "encoder_widths": (96, 256, 512, 512)}, "encoder_widths 96 and 256 do not fit"),
    ],
)
def test_inconsistent_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        CausalVideoVAEConfig(**fields)
