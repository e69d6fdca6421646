"""Frames never see later frames, as far as the method promises it.

Promised for video tokens inside every single mixer and the temporal branch, in the attention-only denoiser, and in the
whole denoiser when text stands once. With text at both ends, a later frame reaches earlier ones through the summed text
rows of the next layer, and through nothing else.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.sequence_layout import SequenceLayout
from m4v.models.denoiser.config import DenoiserConfig, denoiser_config
from m4v.models.denoiser.context import SequenceContext, sequence_context
from m4v.models.denoiser.mixers.attention import AttentionMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.mixers.parallel import ParallelMixer
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.denoiser.temporal_branch import TemporalBranch
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

TOLERANCE = 1e-12
SEEN = 1e-7

LAYOUTS: dict[str, tuple[int, ...]] = {"finest level": (0, 0, 1, 2), "coarsest level": (0, 0, 0), "middle": (0, 1, 1)}


def _context(config: DenoiserConfig, layout: SequenceLayout, seed: int = 0) -> SequenceContext:
    context = sequence_context(config, layout, normal(2, config.width, seed=seed), prompts().mask)
    return context.along(config.scan_path(0))


def _frame_rows(layout: SequenceLayout, frame: int) -> slice:
    return slice(
        layout.num_text_tokens + layout.frame_starts[frame], layout.num_text_tokens + layout.frame_starts[frame + 1]
    )


def _perturbed(tokens: Tensor, layout: SequenceLayout, frame: int) -> Tensor:
    changed = tokens.clone()
    rows = _frame_rows(layout, frame)
    changed[:, rows] += normal(*changed[:, rows].shape, seed=99)
    return changed


def _changed_frames(layout: SequenceLayout, before: Tensor, after: Tensor) -> list[bool | None]:
    """For each frame: did its rows change? None where it is neither rounding nor a real change."""
    changed: list[bool | None] = []
    for frame in range(len(layout.frames)):
        rows = _frame_rows(layout, frame)
        difference = (before[:, rows] - after[:, rows]).abs().max().item()
        changed.append(False if difference < TOLERANCE else True if difference > SEEN else None)
    return changed


MIXERS: dict[str, Callable[[DenoiserConfig], nn.Module]] = {
    "attention": AttentionMixer,
    "mm_dim": MMDiMMixer,
    "parallel": ParallelMixer,
}


@pytest.mark.parametrize("levels", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", MIXERS)
def test_every_single_mixer_is_causal_over_frames(kind: str, levels: tuple[int, ...]) -> None:
    config = denoiser_config(debug_arguments())
    layout = layout_of(history_and_noisy(levels))
    mixer = MIXERS[kind](config).double()
    randomise(mixer)
    context = _context(config, layout)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width)
    before = mixer(tokens, context)
    for frame in range(1, len(levels)):
        after = mixer(_perturbed(tokens, layout, frame), context)
        expected = [number >= frame for number in range(len(levels))]
        assert _changed_frames(layout, before, after) == expected, f"frame {frame} perturbed"
        text_changed = (before[:, :NUM_TEXT] - after[:, :NUM_TEXT]).abs().max().item() > SEEN
        assert text_changed == (kind != "attention")  # the closing text copy collects the video


@pytest.mark.parametrize("kind", MIXERS)
def test_frames_of_one_noisy_clip_are_causal_too(kind: str) -> None:
    config = denoiser_config(debug_arguments())
    clips = [*history_and_noisy((0,)), LevelClip(normal(2, 4, 3, 2, 4), 1)]
    layout = layout_of(clips)
    assert layout.num_noisy_frames == 3
    mixer = MIXERS[kind](config).double()
    randomise(mixer)
    context = _context(config, layout)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width)
    after = mixer(_perturbed(tokens, layout, 2), context)
    assert _changed_frames(layout, mixer(tokens, context), after) == [False, False, True, True]


def test_without_the_temporal_mask_attention_sees_all_frames() -> None:
    config = denoiser_config(debug_arguments(temporal_causal_attention=False))
    layout = layout_of(history_and_noisy())
    mixer = AttentionMixer(config).double()
    randomise(mixer)
    context = _context(config, layout)
    tokens = normal(2, NUM_TEXT + layout.num_video_tokens, config.width)
    after = mixer(_perturbed(tokens, layout, 3), context)
    assert _changed_frames(layout, mixer(tokens, context), after) == [True] * 4


@pytest.mark.parametrize("levels", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("mixer", ["attention", "ssd"])
def test_the_temporal_branch_is_causal_over_frames(mixer: str, levels: tuple[int, ...]) -> None:
    config = denoiser_config(debug_arguments(temporal_branch={"mixer": mixer}))
    layout = layout_of(history_and_noisy(levels))
    branch = TemporalBranch(config).double()
    randomise(branch)
    context = _context(config, layout)
    shape = (2, NUM_TEXT + layout.num_video_tokens, config.width)
    tokens, modulated = normal(*shape), normal(*shape, seed=1)
    before = branch(tokens, modulated, context)
    assert torch.equal(before[:, :NUM_TEXT], tokens[:, :NUM_TEXT])
    for frame in range(len(levels)):
        after = branch(tokens, _perturbed(modulated, layout, frame), context)
        assert _changed_frames(layout, before, after) == [number >= frame for number in range(len(levels))]


def test_a_temporal_branch_that_is_not_causal_says_so_by_seeing_all() -> None:
    config = denoiser_config(debug_arguments(temporal_branch={"causal": False}))
    layout = layout_of(history_and_noisy())
    branch = TemporalBranch(config).double()
    randomise(branch)
    context = _context(config, layout)
    shape = (2, NUM_TEXT + layout.num_video_tokens, config.width)
    tokens, modulated = normal(*shape), normal(*shape, seed=1)
    after = branch(tokens, _perturbed(modulated, layout, 3), context)
    assert _changed_frames(layout, branch(tokens, modulated, context), after) == [True] * 4


def _perturb_clip(clips: list[LevelClip], frame: int) -> list[LevelClip]:
    latents = clips[frame].latents
    return [
        *clips[:frame],
        LevelClip(latents + normal(*latents.shape, seed=98), clips[frame].level),
        *clips[frame + 1 :],
    ]


class _Recorder:
    """Token sequence after every block, text first; can hold the text fixed between single blocks."""

    def __init__(self, model: M4VTransformer3DModel, hold_text: list[Tensor] | None = None) -> None:
        self.outputs: list[Tensor] = []
        self.single_inputs: list[Tensor] = []
        self.hold_text = hold_text
        blocks = (*model.transformer_blocks, *model.single_transformer_blocks)
        self.handles: list[Any] = [block.register_forward_hook(self._after) for block in blocks]
        for block in model.single_transformer_blocks:
            self.handles.append(block.register_forward_pre_hook(self._before))

    def _after(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        self.outputs.append(torch.cat(output, dim=1))

    def _before(self, module: nn.Module, inputs: tuple[Tensor, Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        text, video, context = inputs
        if self.hold_text is not None:
            text = self.hold_text[len(self.single_inputs)]
        self.single_inputs.append(text)
        return text, video, context


def _block_outputs(
    model: M4VTransformer3DModel, clips: list[LevelClip], hold_text: list[Tensor] | None = None
) -> _Recorder:
    recorder = _Recorder(model, hold_text)
    with torch.no_grad():
        model(clips, times(), prompts())
    for handle in recorder.handles:
        handle.remove()
    return recorder


WHOLE = {
    "attention-only": {"mixer_plan": "attention-only"},
    "full, text once": {"mixer_plan": "full", "recomposition": {"text_at_both_ends": False}},
    "interleaved, text once": {"mixer_plan": "interleaved", "recomposition": {"text_at_both_ends": False}},
    "parallel, text once": {"mixer_plan": "parallel", "recomposition": {"text_at_both_ends": False}},
    "scan over time": {"temporal_branch": {"mixer": "ssd"}, "recomposition": {"text_at_both_ends": False}},
    "no conv, added positions": {
        "mixer": {"conv_width": 0, "positions": "added"},
        "recomposition": {"text_at_both_ends": False, "registers": False},
    },
}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE)
def test_the_whole_denoiser_is_causal_where_promised(changes: dict[str, Any]) -> None:
    model = random_model(num_single_layers=3, **changes)
    clips = history_and_noisy()
    layout = layout_of(clips)
    before = _block_outputs(model, clips)
    assert len(before.outputs) == 4
    for frame in (1, 2, 3):
        after = _block_outputs(model, _perturb_clip(clips, frame))
        for block, (old, new) in enumerate(zip(before.outputs, after.outputs, strict=True)):
            changed = _changed_frames(layout, old, new)
            assert changed == [number >= frame for number in range(4)], f"block {block}, frame {frame} perturbed"
            assert (old[:, :NUM_TEXT] - new[:, :NUM_TEXT]).abs().max() < TOLERANCE  # text saw nothing of it


def test_text_at_both_ends_leaks_through_text_rows_and_nothing_else() -> None:
    model = random_model(num_single_layers=3)
    clips = history_and_noisy()
    layout = layout_of(clips)
    before = _block_outputs(model, clips)
    for frame in (1, 2, 3):
        causal = [number >= frame for number in range(4)]
        perturbed = _perturb_clip(clips, frame)
        free = _block_outputs(model, perturbed)
        changed = [_changed_frames(layout, *pair) for pair in zip(before.outputs, free.outputs, strict=True)]
        assert changed[0] == changed[1] == causal  # the dual block, and the first scan
        assert changed[2] == changed[3] == [True] * 4  # from the second scan on
        held = _block_outputs(model, perturbed, hold_text=before.single_inputs)
        for old, new in zip(before.outputs, held.outputs, strict=True):
            assert _changed_frames(layout, old, new) == causal
