"""What evaluations in one scope share: computed once, never stale, and without a trace in the result."""

import pytest
import torch
from torch import Tensor, nn

from m4v.core.level_clip import LevelClip
from m4v.core.text_conditioning import TextConditioning
from m4v.models.denoiser.conditions import Conditions, with_shared_conditions
from m4v.models.denoiser.config import denoiser_preset
from m4v.models.denoiser.mixers.dual_mm_dim import DualMMDiMMixer
from m4v.models.denoiser.mixers.mm_dim import MMDiMMixer
from m4v.models.denoiser.pyramid import M4VTransformer3DModel, _projected_registers
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from tests.models.denoiser.wan_builders import debug_model, inputs, velocity


class Counter:
    """Counts calls of modules."""

    def __init__(self, *modules: nn.Module) -> None:
        self.calls = 0
        for module in modules:
            module.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.calls += 1


@pytest.fixture
def pyramid() -> M4VTransformer3DModel:
    torch.manual_seed(0)
    return stirred(M4VTransformer3DModel(**denoiser_preset("debug")))


@pytest.fixture
def wan() -> WanM4VTransformer3DModel:
    return debug_model()


def stirred(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def prompts(length: int = 5) -> TextConditioning:
    mask = torch.arange(length) < torch.tensor([[length], [length - 2]])
    return TextConditioning(torch.randn(2, length, 16), mask, torch.randn(2, 16))


def clips(size: int = 4) -> list[LevelClip]:
    return [LevelClip(torch.randn(2, 4, 1, size, size), 0), LevelClip(torch.randn(2, 4, 1, size, size), 0)]


def test_a_value_is_built_once_until_a_source_changes() -> None:
    conditions, source, built = Conditions(), torch.zeros(2), []

    def recall(name: str) -> None:
        conditions.recall(name, [source], lambda: built.append(name))

    recall("a"), recall("a"), recall("b")
    assert built == ["a", "b"]
    source += 1
    recall("a")
    assert built == ["a", "b", "a"]
    conditions.recall("a", [source.clone()], lambda: built.append("copy"))
    assert built[-1] == "copy"


def test_a_tensor_that_is_gone_is_not_mistaken_for_another() -> None:
    conditions, built = Conditions(max_entries=100), []
    for number in range(20):  # which would live at the same place, one after another
        conditions.recall("a", [torch.zeros(2)], lambda number=number: built.append(number))
    assert built == list(range(20))


def test_as_many_values_are_kept_as_allowed_and_the_oldest_go_first() -> None:
    conditions, built = Conditions(max_entries=2), []
    for name in ("a", "b", "a", "c", "a", "b"):
        conditions.recall(name, [], lambda name=name: built.append(name))
    assert len(conditions) == 2
    assert built == ["a", "b", "c", "b"]


@torch.no_grad()
def test_pyramid_steps_in_a_scope_embed_text_once_and_give_the_same_bits(pyramid: M4VTransformer3DModel) -> None:
    text, steps = prompts(), [(clips(), torch.full((2,), time)) for time in (900.0, 500.0, 100.0)]
    plain = [pyramid(*step, text) for step in steps]
    count = Counter(pyramid.text_embedder)
    with pyramid.reusing_conditions() as conditions:
        assert all(torch.equal(pyramid(*step, text), expected) for step, expected in zip(steps, plain, strict=True))
        assert (count.calls, len(conditions)) == (1, 3)
        # Another size or other prompts are other conditions.
        other = clips(8)
        assert torch.equal(pyramid(other, steps[0][1], text), outside(pyramid, other, steps[0][1], text))
        new = prompts()
        assert torch.equal(pyramid(*steps[0], new), outside(pyramid, *steps[0], new))
    count.calls = 0
    pyramid(*steps[0], text), pyramid(*steps[0], text)
    assert count.calls == 2


def outside(model: M4VTransformer3DModel, *inputs: object) -> Tensor:
    """Evaluate with nothing to recall."""
    with model.reusing_conditions(Conditions()):
        return model(*inputs)


@torch.no_grad()
def test_prompts_changed_in_place_are_other_prompts(pyramid: M4VTransformer3DModel) -> None:
    text, frames, times = prompts(), clips(), torch.full((2,), 500.0)
    with pyramid.reusing_conditions():
        before = pyramid(frames, times, text)
        text.tokens.mul_(2)
        text.mask[1, -2] = True
        after = pyramid(frames, times, text)
    assert not torch.equal(before, after)
    assert torch.equal(after, pyramid(frames, times, text))


def test_training_recalls_nothing(pyramid: M4VTransformer3DModel) -> None:
    count, text = Counter(pyramid.text_embedder), prompts()
    with pyramid.reusing_conditions() as conditions:
        for _ in range(2):
            pyramid(clips(), torch.full((2,), 500.0), text).sum().backward()
    assert count.calls == 2
    assert len(conditions) == 0


@torch.no_grad()
def test_scopes_nest_and_leave_nothing_behind(pyramid: M4VTransformer3DModel) -> None:
    text, frames, times = prompts(), clips(), torch.full((2,), 500.0)
    with pyramid.reusing_conditions() as outer:
        with pytest.raises(RuntimeError, match="inside"), pyramid.reusing_conditions():
            raise RuntimeError("inside")
        pyramid(frames, times, text)
        assert len(outer) == 3
    assert pyramid._conditions is None


@torch.no_grad()
def test_wan_recalls_both_guidance_branches_and_gives_the_same_bits(wan: WanM4VTransformer3DModel) -> None:
    # The prompts' tensors stay the same objects from step to step, as in diffusers' loop.
    branches = [inputs(lengths=(3, 6)), inputs(lengths=(2, 1), seed=5)]
    calls = [branch | {"timestep": torch.tensor([time, time])} for time in (900, 500) for branch in branches]
    plain = [velocity(wan, call) for call in calls]
    count = Counter(wan.condition_embedder.text_embedder.linear_1, wan.rope)
    with wan.reusing_conditions():
        again = [velocity(wan, call) for call in calls]
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))
    # Each prompt once, one rotation table for both; the embedding of every timestep passes over no rows of text.
    assert count.calls == 2 + 1 + len(again)


@torch.no_grad()
def test_another_size_of_a_wan_clip_is_another_condition(wan: WanM4VTransformer3DModel) -> None:
    large, small = inputs(), inputs(size=(2, 4, 4))
    calls = [large, large | {"hidden_states": small["hidden_states"]}]
    plain = [velocity(wan, call) for call in calls]
    with wan.reusing_conditions():
        assert all(torch.equal(velocity(wan, call), expected) for call, expected in zip(calls, plain, strict=True))


@torch.no_grad()
def test_another_mask_of_the_same_wan_prompts_is_another_condition(wan: WanM4VTransformer3DModel) -> None:
    masks = [torch.arange(6) < torch.tensor([[length], [6]]) for length in (6, 2)]
    calls = [call | {"encoder_attention_mask": mask} for call in [inputs(lengths=(6, 6))] for mask in masks]
    plain = [velocity(wan, call) for call in calls]
    assert not torch.equal(*plain)
    with wan.reusing_conditions():
        assert all(torch.equal(velocity(wan, call), expected) for call, expected in zip(calls, plain, strict=True))


def test_a_network_without_scopes_is_called_as_it_is() -> None:
    def double(frames: list[LevelClip], timesteps: Tensor, text: TextConditioning) -> Tensor:
        return frames[-1].latents * 2

    frames = clips()
    evaluate = with_shared_conditions(double, double)
    assert torch.equal(evaluate(frames, torch.zeros(2), prompts()), frames[-1].latents * 2)


SCANS = {
    "single-stream": {"mixer_plan": "full"},
    "parallel": {"mixer_plan": "parallel"},
    "dual-stream": {"mixer_plan": "attention-only", "dual_mixer": "mm_dim"},
}


@torch.no_grad()
@pytest.mark.parametrize("changes", SCANS.values(), ids=SCANS)
def test_registers_are_projected_once_in_a_scope_and_give_the_same_bits(changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = stirred(M4VTransformer3DModel(**denoiser_preset("debug") | changes))
    text, steps = prompts(), [(clips(), torch.full((2,), time)) for time in (900.0, 500.0, 100.0)]
    plain = [model(*step, text) for step in steps]
    mixers = [module for module in model.modules() if isinstance(module, MMDiMMixer | DualMMDiMMixer)]
    count = Counter(*(mixer.registers for mixer in mixers))
    with model.reusing_conditions():
        assert all(torch.equal(model(*step, text), expected) for step, expected in zip(steps, plain, strict=True))
    assert count.calls == len(mixers) > 0
    model(*steps[0], text)
    assert count.calls == 2 * len(mixers)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_registers_are_left_to_blocks_whose_weights_come_and_go(pyramid: M4VTransformer3DModel, kind: str) -> None:
    tokens, blocks = torch.zeros(1, 2, pyramid.settings.width), pyramid.single_transformer_blocks
    assert _projected_registers(blocks[0], tokens) is not None
    assert _projected_registers(pyramid.transformer_blocks[0], tokens) is None
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pyramid.enable_group_offload(onload_device=torch.device("cpu"), offload_type=kind, **options)
    assert [_projected_registers(block, tokens) for block in blocks] == [None] * len(blocks)
