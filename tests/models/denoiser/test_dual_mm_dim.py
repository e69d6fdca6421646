"""Dual-stream MM-DiM blocks against their definition, and what the option changes in the network."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m4v.models.denoiser.blocks.dual_mm_dim import DualMMDiMBlock
from m4v.models.denoiser.config import DenoiserConfig, denoiser_config
from m4v.models.denoiser.context import SequenceContext, sequence_context
from m4v.models.denoiser.mixers.dual_mm_dim import DualMMDiMMixer, project_streams
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import (
    NUM_TEXT,
    debug_arguments,
    history_and_noisy,
    layout_of,
    normal,
    prompts,
    random_model,
    randomise,
    times,
)

DUAL = {"dual_mixer": "mm_dim"}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "text once": {"recomposition": {"text_at_both_ends": False}},
    "no registers": {"recomposition": {"registers": False}},
    "added positions": {"mixer": {"positions": "added"}},
    "wider state": {"mixer": {"positions": "none", "state_dim": 12}},
}


class _ByPlace(nn.Module):
    """A linear map with other weights for the first rows of three-dimensional input, and for no rows of registers."""

    def __init__(self, first: nn.Module, others: nn.Module) -> None:
        super().__init__()
        self.first, self.others = first, others

    def forward(self, rows: Tensor) -> Tensor:
        if rows.ndim == 2:
            return self.others(rows)
        return torch.cat([self.first(rows[:, :NUM_TEXT]), self.others(rows[:, NUM_TEXT:])], dim=1)


def _context(config: DenoiserConfig, path: str = "a") -> tuple[SequenceContext, Tensor, Tensor]:
    """Context with embedding, and tokens of both streams."""
    layout = layout_of(history_and_noisy((0, 1, 2)))
    context = sequence_context(config, layout, normal(2, config.width, seed=3), prompts().mask).along(path)
    return context, normal(2, NUM_TEXT, config.width), normal(2, layout.num_video_tokens, config.width, seed=1)


def _single_stream(mixer: DualMMDiMMixer, config: DenoiserConfig) -> MMDiMMixer:
    """The single-stream mixer with the same scan, told apart only by which matrix a row meets."""
    single = MMDiMMixer(config).double()
    own = mixer.state_dict()
    single.load_state_dict({name: own.get(name, value) for name, value in single.state_dict().items()})
    single.in_proj = _ByPlace(mixer.text.in_proj, mixer.video.in_proj)
    single.dt_proj = _ByPlace(mixer.text.dt_proj, mixer.video.dt_proj)
    return single


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_one_scan_over_rows_that_each_modality_projects(changes: dict[str, Any], with_gradients: bool) -> None:
    config = denoiser_config(debug_arguments(**DUAL, **changes))
    mixer = DualMMDiMMixer(config).double()
    randomise(mixer)
    context, text, video = _context(config)
    with torch.set_grad_enabled(with_gradients):
        mixed = torch.cat(mixer(text, video, context), dim=1)
        expected = _single_stream(mixer, config)(torch.cat([text, video], dim=1), context)
    assert_relative_close(mixed, expected, 1e-12)
    swapped = mixer(video[:, :NUM_TEXT], torch.cat([text, video[:, NUM_TEXT:]], dim=1), context)
    assert (torch.cat(swapped, dim=1) - mixed).abs().max() > 1e-3


def test_a_block_modulates_mixes_and_feeds_forward_per_stream() -> None:
    config = denoiser_config(debug_arguments(**DUAL))
    block = DualMMDiMBlock(config).double()
    randomise(block)
    context, text, video = _context(config)
    vectors = {
        name: stream.modulation.linear(F.silu(context.embedding))[:, None].chunk(6, dim=-1)
        for name, stream in (("text", block.text), ("video", block.video))
    }

    def normed(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift

    mixed = block.mixer(normed(text, *vectors["text"][:2]), normed(video, *vectors["video"][:2]), context)
    expected = []
    for tokens, mix, stream, name in zip((text, video), mixed, (block.text, block.video), vectors, strict=True):
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = vectors[name]
        tokens = tokens + gate * stream.to_out(mix)
        up = stream.feed_forward.up(normed(tokens, mlp_shift, mlp_scale))
        expected.append(tokens + mlp_gate * stream.feed_forward.down(F.gelu(up, approximate="tanh")))
    for stream, right in zip(block(text, video, context), expected, strict=True):
        assert_relative_close(stream, right, 1e-12)


def test_dual_layers_scan_along_the_paths_of_their_numbers() -> None:
    """With one path for all layers, nothing changes where layers had that path anyway, and something where not."""
    changes = DUAL | {"num_dual_layers": 2, "num_single_layers": 0, "mixer_plan": "full"}
    both, first, second = (random_model(**changes, recomposition={"scan_paths": paths}) for paths in ("ae", "aa", "ee"))
    outputs = {}
    for name, model in (("both", both), ("first", first), ("second", second)):
        seen: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output[1]))
            for block in model.transformer_blocks
        ]
        with torch.no_grad():
            model(history_and_noisy(), times(), prompts())
        outputs[name] = seen
        assert len(handles) == 2
    assert torch.equal(outputs["both"][0], outputs["first"][0])
    assert not torch.equal(outputs["both"][0], outputs["second"][0])
    assert not torch.equal(outputs["both"][1], outputs["first"][1])


def test_parameters_of_the_option() -> None:
    """Per dual block and modality [z | x | B | C] and step sizes take the place of queries, keys, values and norms."""
    width, heads, head_dim, levels = 16, 2, 8, 3
    counts = [
        sum(parameter.numel() for parameter in M4VTransformer3DModel(**debug_arguments(**changes)).parameters())
        for changes in ({}, DUAL)
    ]
    attention = 2 * (3 * width * (width + 1) + 2 * head_dim)
    projections = 2 * (4 * width + heads) * (width + 1)
    scan = 3 * width * 5 + 2 * head_dim + 3 * heads + width + levels * width
    assert counts[1] - counts[0] == projections + scan - attention


def test_rows_without_gradients_are_those_with() -> None:
    """Products written into one buffer, for several samples and a stream without tokens, equal a concatenation."""
    linears = [nn.Linear(6, 10).double() for _ in range(2)]
    for lengths in ((3, 5), (0, 4)):
        streams = [normal(2, length, 6, seed=length) for length in lengths]
        joined = project_streams(streams, linears)
        with torch.no_grad():
            written = project_streams(streams, linears)
        assert written.is_contiguous()
        assert_relative_close(written, joined.detach(), 1e-14)


def test_text_reaches_video_and_video_reaches_text() -> None:
    config = denoiser_config(debug_arguments(**DUAL))
    mixer = DualMMDiMMixer(config).double()
    randomise(mixer)
    context, text, video = _context(config)
    with torch.no_grad():
        base = mixer(text, video, context)
        by_text = mixer(text + 1, video, context)
        by_video = mixer(text, video + 1, context)
    assert (by_text[1] - base[1]).abs().max() > 1e-3
    assert (by_video[0] - base[0]).abs().max() > 1e-3
