"""The attention-only denoiser against an independent miniFLUX with the same weights, under Pyramid-Flow's names."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from m4v.checkpoints.pyramid_flow_names import denoiser_renaming
from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.columns import column_velocities
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from tests.assertions import relative_error
from tests.models.denoiser.builders import normal
from tests.models.denoiser.pyramid_flow_reference import (
    HalfPrecisionReference,
    Packed,
    PyramidFlowReference,
    random_weights,
    weight_shapes,
)

HEADS, AXES, CHANNELS = 2, (16, 24, 24), 16
NUM_TEXT, TEXT_DIM, POOLED_DIM = 6, 24, 20
COARSEST = (4, 8)  # latent cells at stage 0
BATCH = 2
# (stage, unit) of four columns: the stages of a training step, from no history to a history on all levels.
COLUMNS = ((0, 3), (1, 0), (1, 2), (2, 5))
TEXT_LENGTHS = (6, 3, 1, 4, 5, 2, 6, 3)
TIMESTEPS = torch.tensor([1000.0, 744.0, 506.5, 1.385, 744.256, 386.358, 700.25, 130.0])
"""Row r belongs to column r modulo 4, as in the packed training step."""

SHAPES = weight_shapes(
    num_heads=HEADS,
    head_dim=sum(AXES),
    num_dual=2,
    num_single=2,
    channels=CHANNELS,
    text_dim=TEXT_DIM,
    pooled_dim=POOLED_DIM,
)


def pyramid_flow_columns() -> list[list[LevelClip]]:
    """Clips of every column, oldest first, by the table of stages (Pyramid-Flow, training and inference alike)."""
    columns = []
    for number, (stage, unit) in enumerate(COLUMNS):
        # Going back in time: the previous frame at this stage, then one stage lower per frame, then all at stage 0.
        stages = [max(stage - back, 0) for back in range(unit)][::-1]
        frames: list[tuple[int, int]] = []
        for at in stages:
            if at == 0 and frames:
                frames[0] = (0, frames[0][1] + 1)
            else:
                frames.append((at, 1))
        frames.append((stage, 1))
        columns.append(
            [
                LevelClip(
                    normal(BATCH, CHANNELS, count, *(side * 2**at for side in COARSEST), seed=10 * number + i).float(),
                    at,
                )
                for i, (at, count) in enumerate(frames)
            ]
        )
    return columns


def packed_prompts() -> TextConditioning:
    rows = len(TEXT_LENGTHS)
    return TextConditioning(
        normal(rows, NUM_TEXT, TEXT_DIM, seed=1).float(),
        torch.arange(NUM_TEXT) < torch.tensor(TEXT_LENGTHS)[:, None],
        normal(rows, POOLED_DIM, seed=2).float(),
    )


def loaded_model(weights: dict[str, Tensor], **changes: Any) -> M4VTransformer3DModel:
    """Our network with a Pyramid-Flow checkpoint, every name accounted for."""
    model = M4VTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=sum(AXES),
        rope_axes_dims=AXES,
        num_dual_layers=2,
        num_single_layers=2,
        text_dim=TEXT_DIM,
        pooled_text_dim=POOLED_DIM,
        mixer_plan="attention-only",
        **changes,
    )
    names = denoiser_renaming(num_dual=2, num_single=2)
    model.load_state_dict({names.theirs_to_ours[name]: weight for name, weight in weights.items()}, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights(SHAPES)


def reference_velocities(
    weights: dict[str, Tensor],
    timesteps: Tensor = TIMESTEPS,
    network: type[PyramidFlowReference] = PyramidFlowReference,
) -> list[Tensor]:
    text = packed_prompts()
    latents = [[clip.latents for clip in clips] for clips in pyramid_flow_columns()]
    reference = network(weights, HEADS, AXES)
    return reference(latents, timesteps, text.tokens, text.mask, text.pooled)


def test_packed_columns_give_the_velocities_of_pyramid_flow(weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        ours = column_velocities(loaded_model(weights), pyramid_flow_columns(), TIMESTEPS, packed_prompts())
    theirs = reference_velocities(weights)
    assert [velocity.shape for velocity in ours] == [velocity.shape for velocity in theirs]
    for mine, reference in zip(ours, theirs, strict=True):
        # Otherwise the bound below would say little.
        assert reference.abs().mean() > 0.3
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=0)


class CornerPositions(PyramidFlowReference):
    """Coarse cells at the corner of the cells they cover."""

    @staticmethod
    def half_pixel(index: int, size: int, base: int) -> float:
        return index * base / size


class NoTimeMask(PyramidFlowReference):
    """Every token sees its whole column."""

    def pack(self, columns: Sequence[Sequence[Tensor]], lengths: list[int], text_mask: Tensor) -> Packed:
        packed = super().pack(columns, lengths, text_mask)
        document = packed.mask | packed.mask.transpose(1, 2)
        return replace(packed, mask=document)


class SeenPadding(PyramidFlowReference):
    """Padding counts as text."""

    def pack(self, columns: Sequence[Sequence[Tensor]], lengths: list[int], text_mask: Tensor) -> Packed:
        return super().pack(columns, lengths, torch.ones_like(text_mask))


class ChannelFirstPatches(PyramidFlowReference):
    """Channel order of the public FLUX: channel slowest."""

    @staticmethod
    def to_tokens(clip: Tensor) -> Tensor:
        tokens = PyramidFlowReference.to_tokens(clip)
        return tokens.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2)


@pytest.mark.parametrize(
    ("fault", "affected"),
    [
        (CornerPositions, [False, False, True, True]),
        (NoTimeMask, [True, False, True, True]),
        (SeenPadding, [True, True, True, True]),
        (ChannelFirstPatches, [True, True, True, True]),
    ],
)
def test_a_wrong_reading_would_be_noticed(
    weights: dict[str, Tensor], fault: type[PyramidFlowReference], affected: list[bool]
) -> None:
    right, wrong = reference_velocities(weights), reference_velocities(weights, network=fault)
    differences = [(a - b).abs().max().item() for a, b in zip(right, wrong, strict=True)]
    assert [difference > 1e-2 for difference in differences] == affected, differences


def test_the_reference_has_the_tensors_of_the_released_network() -> None:
    shapes = weight_shapes(
        num_heads=30, head_dim=64, num_dual=8, num_single=16, channels=16, text_dim=4096, pooled_dim=768
    )
    assert len(shapes) == 496
    assert sum(math.prod(shape) for shape in shapes.values()) == 1_972_059_200


def test_the_history_is_that_of_the_stage_table() -> None:
    layouts = [[(clip.level, clip.latents.shape[2]) for clip in clips] for clips in pyramid_flow_columns()]
    assert layouts == [[(0, 3), (0, 1)], [(1, 1)], [(0, 1), (1, 1), (1, 1)], [(0, 3), (1, 1), (2, 1), (2, 1)]]


def test_every_weight_is_read_and_by_the_same_name(weights: dict[str, Tensor]) -> None:
    """Changing any one tensor of the first blocks, embedders or head changes both networks alike."""
    model, clip = loaded_model(weights), pyramid_flow_columns()[1][-1]
    rows = slice(1, None, 4)
    text, timesteps = packed_prompts(), TIMESTEPS[rows]
    text = TextConditioning(text.tokens[rows], text.mask[rows], text.pooled[rows])
    names = denoiser_renaming(num_dual=2, num_single=2).theirs_to_ours
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        before = model([clip], timesteps, text)
        for name, weight in weights.items():
            if "blocks.1." in name:
                continue
            changed = weight + 0.3 * normal(*weight.shape, seed=3).float()
            parameters[names[name]].copy_(changed)
            ours = model([clip], timesteps, text)
            parameters[names[name]].copy_(weight)
            reference = PyramidFlowReference(weights | {name: changed}, HEADS, AXES)
            [theirs] = reference([[clip.latents]], timesteps, text.tokens, text.mask, text.pooled)
            assert (ours - before).abs().max() > 1e-3, name
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4, msg=name)


def test_half_precision_is_finite_and_near(weights: dict[str, Tensor]) -> None:
    """Timesteps are rounded as the released pipeline rounds them, so the reference gets the rounded ones."""
    model = loaded_model(weights, round_timesteps_to_bfloat16=True).to(torch.bfloat16)
    columns = [[LevelClip(clip.latents.bfloat16(), clip.level) for clip in clips] for clips in pyramid_flow_columns()]
    with torch.no_grad():
        ours = column_velocities(model, columns, TIMESTEPS, packed_prompts().to(dtype=torch.bfloat16))
    for mine, theirs in zip(ours, reference_velocities(weights, TIMESTEPS.bfloat16().float()), strict=True):
        assert mine.dtype == torch.bfloat16
        assert mine.isfinite().all()
        assert relative_error(mine, theirs) < 0.03


def test_half_precision_rounds_where_the_release_rounds(weights: dict[str, Tensor]) -> None:
    """The two differ by far less than either does from exact arithmetic (about 0.008)."""
    model = loaded_model(weights, round_timesteps_to_bfloat16=True).to(torch.bfloat16)
    reference = HalfPrecisionReference({name: weight.bfloat16() for name, weight in weights.items()}, HEADS, AXES)
    columns = [[LevelClip(clip.latents.bfloat16(), clip.level) for clip in clips] for clips in pyramid_flow_columns()]
    prompts = packed_prompts().to(dtype=torch.bfloat16)
    for index, clips in enumerate(columns):
        rows = slice(index, None, len(columns))
        timesteps = TIMESTEPS[rows]
        text = TextConditioning(prompts.tokens[rows], prompts.mask[rows], prompts.pooled[rows])
        latents = [clip.latents for clip in clips]
        with torch.no_grad():
            ours = model(clips, timesteps, text)
            [theirs] = reference([latents], timesteps.bfloat16(), text.tokens, text.mask, text.pooled)
        assert relative_error(ours, theirs) < 1e-3
