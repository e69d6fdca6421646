"""The definition of the scan section is what both mixers compute between projection and output matrix."""

from typing import Any

import pytest

from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.context import ScanOrder, sequence_context
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.ops.scan_section.interface import ScanOptions, ScanWeights, SectionOrder
from m4v.ops.scan_section.reference import scan_section
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import (
    NUM_TEXT,
    debug_arguments,
    history_and_noisy,
    layout_of,
    normal,
    prompts,
    randomise,
)

LENGTHS = (3, NUM_TEXT, 0)
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "text once, no registers": {"recomposition": {"text_at_both_ends": False, "registers": False}},
    "no convolution": {"mixer": {"conv_width": 0}},
    "no SiLU, norm or rotation": {"mixer": {"conv_activation": "none", "qk_norm": False, "positions": "none"}},
    "wider state, zero-order hold": {"mixer": {"positions": "none", "state_dim": 12, "discretisation": "zoh"}},
}


def _section_order(scan: ScanOrder) -> SectionOrder:
    return SectionOrder(scan.bound.order, scan.bound.is_real, scan.rotary)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_equals_the_mixer(changes: dict[str, Any]) -> None:
    config = denoiser_config(debug_arguments(**changes))
    layout = layout_of(history_and_noisy((0, 1, 2)))
    mixer = MMDiMMixer(config).double()
    randomise(mixer)
    tokens = normal(len(LENGTHS), NUM_TEXT + layout.num_video_tokens, config.width)
    context = sequence_context(config, layout, normal(len(LENGTHS), config.width), prompts(LENGTHS).mask)
    context = context.along(config.scan_path(0))
    assert context.scan is not None

    options, has_norm = config.mixer, config.mixer.qk_norm
    registers = mixer.registers.rows if config.recomposition.registers else tokens.new_zeros(0, config.width)
    weights = ScanWeights(
        mixer.conv_weight if options.conv_width else None,
        mixer.conv_bias if options.conv_width else None,
        mixer.A_log,
        mixer.D_skip,
        mixer.dt_bias,
        mixer.norm_weight,
        mixer.norm_b.weight if has_norm else None,
        mixer.norm_c.weight if has_norm else None,
    )
    settings = ScanOptions(conv_silu=options.conv_activation == "silu", discretisation=options.discretisation)
    projected = (mixer.in_proj(tokens), mixer.in_proj(registers), mixer.dt_proj(tokens), mixer.dt_proj(registers))
    section = scan_section(*projected, weights, _section_order(context.scan), settings)
    assert_relative_close(section.mixed, mixer(tokens, context), 1e-12)
