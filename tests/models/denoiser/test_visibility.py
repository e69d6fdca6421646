"""Four ways to compute who sees whom, against the mask of all pairs; and which of them is taken."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from m4v.core.errors import UserError
from m4v.core.sequence_layout import FrameGrid, SequenceLayout
from m4v.models.denoiser import visibility as module
from m4v.models.denoiser.blocks.mm_dit import MMDiTBlock
from m4v.models.denoiser.config import denoiser_config
from m4v.models.denoiser.context import sequence_context
from m4v.models.denoiser.visibility import attention_mask, block_mask, sequence_visibility
from m4v.ops.attention import attention
from tests.assertions import assert_relative_close
from tests.models.denoiser.builders import debug_arguments, history_and_noisy, normal, prompts, random_model, times

LAYOUT = SequenceLayout((FrameGrid(0, 1, 2), FrameGrid(0, 1, 2), FrameGrid(1, 2, 4), FrameGrid(2, 4, 8)), 5)


def _text_mask(num_text: int, lengths: list[int]) -> Tensor:
    return torch.arange(num_text) < torch.tensor(lengths)[:, None]


def _sequences(max_text: int, max_side: int) -> Any:
    """Layouts with a batch of prompt lengths."""
    frames = st.lists(st.builds(FrameGrid, st.just(0), st.integers(1, max_side), st.integers(1, max_side)), min_size=1)
    layouts = st.builds(lambda frames, text: SequenceLayout(tuple(frames[:5]), text), frames, st.integers(0, max_text))
    return layouts.flatmap(
        lambda layout: st.tuples(
            st.just(layout), st.lists(st.integers(0, layout.num_text_tokens), min_size=1, max_size=3)
        )
    )


@settings(max_examples=25, deadline=None)
@given(_sequences(4, 3), st.booleans())
def test_prefixes_equal_the_mask_of_all_pairs(sequence: tuple[SequenceLayout, list[int]], causal: bool) -> None:
    layout, lengths = sequence
    text_mask = _text_mask(layout.num_text_tokens, lengths)
    num_tokens = layout.num_text_tokens + layout.num_video_tokens
    query, key, value = (normal(len(lengths), num_tokens, 2, 4, seed=seed) for seed in range(3))
    expected = attention(query, key, value, attention_mask(layout, text_mask, causal))
    found = sequence_visibility(layout, text_mask, causal, "prefix").attend(query, key, value)
    assert_relative_close(found, expected, 1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [2, 4, 16])
def test_blocks_are_sorted_as_all_their_pairs_say(block: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)

    @settings(max_examples=25, deadline=None)
    @given(_sequences(9, 5))
    def check(sequence: tuple[SequenceLayout, list[int]]) -> None:
        layout, lengths = sequence
        text_mask = _text_mask(layout.num_text_tokens, lengths)
        pairs = attention_mask(layout, text_mask, causal)[:, 0]
        size, batch = pairs.shape[1], len(lengths)
        mask = block_mask(layout, text_mask, causal)
        assert mask.shape == (batch, 1, size, size)

        index = torch.arange(size)
        rule = mask.mask_mod(torch.arange(batch)[:, None, None], torch.tensor(0), index[:, None], index[None])
        assert torch.equal(rule, pairs)

        def equal_pairs(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return pairs[b, q, k]

        library = create_block_mask(equal_pairs, batch, 1, size, size, "cpu", BLOCK_SIZE=block)
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
            assert torch.equal(getattr(mask, name), getattr(library, name)), name
            queries = name.replace("kv", "q")
            assert torch.equal(getattr(mask, queries), getattr(library, queries)), queries

    check()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m4v.ops.attention._compiled_flex_attention", lambda: flex_attention)
    operands = [normal(2, 49, 2, 16, seed=seed) for seed in range(3)]
    flex, dense = (sequence_visibility(LAYOUT, _text_mask(5, [3, 5]), True, kind) for kind in ("flex", "dense"))
    assert_relative_close(flex.attend(*operands), dense.attend(*operands), 1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flex", "prefix"])
def test_gradients_equal_those_of_the_mask(kind: module.VisibilityKind) -> None:
    layout = SequenceLayout((FrameGrid(0, 4, 10),) * 6 + (FrameGrid(1, 8, 20), FrameGrid(2, 16, 40)), 20)
    text_mask = _text_mask(20, [13, 20]).cuda()
    results = []
    for way in (kind, "dense"):
        operands = [normal(2, 1060, 2, 64, seed=seed).cuda().bfloat16().requires_grad_() for seed in range(3)]
        mixed = sequence_visibility(layout, text_mask, True, way).attend(*operands)
        upstream = normal(2, 1060, 2, 64, seed=4).cuda().bfloat16()
        results.append((mixed.detach(), *torch.autograd.grad(mixed, operands, upstream)))
    for one, other in zip(*results, strict=True):
        assert_relative_close(one.double(), other.double(), 0.02)


@pytest.mark.slow
def test_compiled_flex_attention_equals_the_mask() -> None:
    frames = [FrameGrid(0, 3, 7), FrameGrid(0, 3, 7), FrameGrid(1, 6, 20), FrameGrid(2, 12, 20)]
    for last in (3, 4):
        layout = SequenceLayout(tuple(frames[:last]), 20)
        text_mask = _text_mask(20, [13, 20])
        num_tokens = 20 + layout.num_video_tokens
        operands = [normal(2, num_tokens, 2, 16, seed=seed, dtype=torch.float32) for seed in range(3)]
        flex, dense = (sequence_visibility(layout, text_mask, True, kind) for kind in ("flex", "dense"))
        assert_relative_close(flex.attend(*operands), dense.attend(*operands), 1e-5)


@pytest.mark.parametrize(
    ("side", "num_frames", "lengths", "causal", "kind"),
    [
        (8, 3, [4, 4], True, "dense"),
        (8, 1, [4, 4], True, "dense"),  # short: nothing is read back from the device
        (8, 3, [4, 4], False, "full"),
        (8, 3, [3, 4], False, "dense"),
        (64, 1, [4, 4], True, "full"),
        (64, 1, [4, 3], True, "prefix"),
        (64, 2, [4, 4], True, "prefix"),
        (64, 2, [4, 4], False, "full"),
        (64, 2, [4, 3], False, "prefix"),
    ],
)
def test_the_way_is_chosen_by_length_and_by_what_is_hidden(
    side: int, num_frames: int, lengths: list[int], causal: bool, kind: str
) -> None:
    layout = SequenceLayout((FrameGrid(0, side, side),) * num_frames, 4)
    assert sequence_visibility(layout, _text_mask(4, lengths), causal).kind == kind


def test_lengths_that_cannot_be_read_count_as_full() -> None:
    layout = SequenceLayout((FrameGrid(0, 64, 64),) * 2, 4)
    text_mask = torch.ones(2, 4, dtype=torch.bool, device="meta")
    visibility = sequence_visibility(layout, text_mask, True)
    assert isinstance(visibility, module.PrefixVisibility)
    assert visibility.order.text_lengths.tolist() == [4, 4]
    assert visibility.order.bounds.tolist() == [4, 4 + 64 * 64, 4 + 2 * 64 * 64]
    assert sequence_visibility(layout, text_mask, False).kind == "full"


@pytest.mark.parametrize(("lengths", "causal"), [([5, 5], True), ([5, 4], False)])
def test_no_mask_is_refused_where_something_is_hidden(lengths: list[int], causal: bool) -> None:
    with pytest.raises(UserError, match="without a mask"):
        sequence_visibility(LAYOUT, _text_mask(5, lengths), causal, "full")


def _prediction_and_gradients(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    prediction = model(history_and_noisy(), times(), prompts())
    prediction.square().sum().backward()
    return [prediction.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_with_long_sequences_predicts_and_trains_alike(
    checkpointing: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(mixer_plan="attention-only", temporal_causal_attention=causal).train()
    expected = _prediction_and_gradients(model)
    monkeypatch.setattr(module, "_LONG", 0)
    if checkpointing:
        model.enable_gradient_checkpointing()
    found = _prediction_and_gradients(model)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert_relative_close(one, other, 1e-9)


def test_blocks_with_long_sequences_compile_whole_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG", 0)
    torch._dynamo.reset()
    counters.clear()
    model = random_model(mixer_plan="attention-only")
    assert any(isinstance(block, MMDiTBlock) for block in model.modules())
    plain = {}
    # First one with no two sizes alike, here frames and text tokens: the compiler would take them for one.
    layouts = [(0, 0, 0, 1, 2), (0, 0, 1, 2), (0, 0, 0, 0, 1, 2)]
    with torch.no_grad():
        for levels in layouts:
            plain[levels] = model(history_and_noisy(levels), times(), prompts())
        model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend="eager")
        for levels in layouts:
            assert torch.equal(model(history_and_noisy(levels), times(), prompts()), plain[levels])
    assert counters["stats"]["unique_graphs"] == 2  # dual-stream and single-stream
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("changes", "attends"),
    [
        ({"mixer_plan": "full", "dual_mixer": "mm_dim"}, False),
        ({"mixer_plan": "full", "num_dual_layers": 0}, False),
        ({"mixer_plan": "full"}, True),
        ({"mixer_plan": "parallel", "dual_mixer": "mm_dim"}, True),
        ({"mixer_plan": "attention-only", "dual_mixer": "mm_dim"}, True),
    ],
)
def test_only_networks_that_attend_find_out_who_sees_whom(changes: dict[str, Any], attends: bool) -> None:
    """Finding out may read the lengths of prompts from the device, which waits for it."""
    config = denoiser_config(debug_arguments(**changes))
    text_mask = _text_mask(LAYOUT.num_text_tokens, [3, 5])
    context = sequence_context(config, LAYOUT, normal(2, config.width), text_mask)
    assert (context.visibility is not None) == attends
