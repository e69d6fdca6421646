from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from m4v.core.level_clip import LevelClip
from m4v.flow.config import PyramidFlowConfig
from m4v.flow.schedule import PyramidSchedule
from m4v.training.config import FlowStageConfig
from m4v.training.flow_objective import PyramidFlowObjective


@pytest.fixture
def make_objective(networks, bank):
    def make(config=None, batch_size=8, **networks_kwargs):
        return PyramidFlowObjective(
            networks_kwargs.get("transformer", networks.transformer),
            networks.text_encoder,
            bank,
            PyramidSchedule.from_config(PyramidFlowConfig()),
            config or FlowStageConfig(),
            stage="t2v",
            batch_size=batch_size,
            seed=3,
            use_bf16=False,
        )

    return make


class Recorder(nn.Module):
    """Remembers what it was asked and answers zero."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, clips, timesteps, text):
        self.calls.append((clips, timesteps, text))
        return torch.zeros_like(clips[-1].latents)


def test_every_window_of_nine_steps_has_one_image_step(make_objective):
    objective = make_objective()
    kinds = [objective.draws.is_image_step(step) for step in range(900)]
    assert all(sum(kinds[start : start + 9]) == 1 for start in range(0, 900, 9))
    # The place inside the window must not be periodic.
    assert len({kinds[start : start + 9].index(True) for start in range(0, 900, 9)}) > 4


def test_facts_count_image_and_video_steps(make_objective):
    objective = make_objective()
    images = 0
    for step in range(30):
        images += objective.draws.is_image_step(step)
        assert objective.facts(step) == {"image_batches": images, "video_batches": step + 1 - images}


def test_text_to_image_has_images_only(make_objective):
    objective = make_objective(FlowStageConfig(images_per_window=1, videos_per_window=0))
    for step in range(20):
        assert {column.unit for column in objective.columns(step)} == {0}


def test_columns_share_the_batch_one_two_one(make_objective):
    columns = make_objective().columns(0)
    assert [column.level for column in columns] == [0, 1, 1, 2]
    assert [column.rows for column in columns] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


def test_units_are_uniform_over_video_steps(make_objective):
    objective = make_objective(FlowStageConfig(images_per_window=0, videos_per_window=1))
    counts = Counter(column.unit for step in range(900) for column in objective.columns(step))
    assert set(counts) == {0, 1, 2}
    assert all(abs(count - 1200) < 120 for count in counts.values())


def test_columns_of_equal_level_draw_their_own_units(make_objective):
    objective = make_objective(FlowStageConfig(images_per_window=0, videos_per_window=1))
    pairs = {(objective.columns(step)[1].unit, objective.columns(step)[2].unit) for step in range(100)}
    assert len(pairs) == 9


def test_complement_rule_mirrors_the_finest_level(make_objective):
    config = FlowStageConfig(images_per_window=0, videos_per_window=1, unit_rule="complement")
    objective = make_objective(config)
    for step in range(6):
        low, *_, high = objective.columns(step)
        assert low.unit + high.unit == 2


def test_the_network_sees_compressed_history_and_one_noisy_frame(make_objective):
    recorder = Recorder()
    objective = make_objective(FlowStageConfig(images_per_window=0, videos_per_window=1), transformer=recorder)
    step = next(step for step in range(100) if objective.columns(step)[3].unit == 2)
    list(objective.terms(objective.batch(step), step))
    clips, timesteps, _ = recorder.calls[3]
    assert [(clip.level, tuple(clip.latents.shape[2:])) for clip in clips] == [
        (1, (1, 4, 4)),
        (2, (1, 8, 8)),
        (2, (1, 8, 8)),
    ]
    assert isinstance(clips[-1], LevelClip)
    # The finest level's timesteps.
    assert timesteps.max() <= 386.0
    assert timesteps.min() >= 1.0


def test_loss_of_a_silent_network_is_the_mean_squared_velocity(make_objective):
    """At the coarsest level the start point is white noise and the end point 0.667 noise and 0.333 latents."""
    recorder = Recorder()
    config = FlowStageConfig(columns=(1, 0, 0), images_per_window=1, videos_per_window=0)
    objective = make_objective(config, batch_size=512, transformer=recorder)
    (term,) = objective.terms(objective.batch(0), 0)
    # Latents here are white too; halving them twice leaves variance 1/16, and noise is rescaled to 1.
    assert term.loss.item() == pytest.approx(0.333**2 * (1 + 1 / 16), rel=0.1)


def test_a_step_is_a_pure_function_of_its_number(make_objective):
    losses = [[term.loss.item() for term in make_objective().terms(make_objective().batch(5), 5)] for _ in range(2)]
    assert losses[0] == losses[1]
    other = [term.loss.item() for term in make_objective().terms(make_objective().batch(6), 6)]
    assert other != losses[0]


def test_captions_belong_to_their_clip_and_some_are_dropped(make_objective, bank):
    objective = make_objective(FlowStageConfig(text_drop=0.25), batch_size=4000)
    batch = objective.batch(0)
    is_empty = batch["token_mask"].sum(dim=1) == 1
    assert is_empty.float().mean().item() == pytest.approx(0.25, abs=0.03)
    for latents, ids, empty in zip(batch["latents"][:200], batch["token_ids"], is_empty, strict=False):
        row = int((bank.latents == latents).flatten(1).all(dim=1).nonzero()[0])
        allowed = bank.token_ids[bank.caption_rows[row]]
        assert bool(empty) or bool((allowed == ids).all(dim=1).any())


def test_an_epoch_visits_every_clip_equally_often(make_objective, bank):
    objective = make_objective(batch_size=4)
    seen = Counter()
    for step in range(3):
        for latents in objective.batch(step)["latents"]:
            seen[int((bank.latents == latents).flatten(1).all(dim=1).nonzero()[0])] += 1
    assert seen == dict.fromkeys(range(6), 2)


def test_padding_the_captions_further_changes_nothing(make_objective, bank):
    short = make_objective(FlowStageConfig(text_drop=0.0))
    long = make_objective(FlowStageConfig(text_drop=0.0))
    pad = (0, 5)
    long.draws.bank = replace(
        bank,
        token_ids=nn.functional.pad(bank.token_ids, pad),
        token_mask=nn.functional.pad(bank.token_mask, pad),
    )
    step = 1
    with torch.no_grad():
        for parameter in short.transformer.proj_out.parameters():
            parameter.fill_(0.1)
        first = [term.loss.item() for term in short.terms(short.batch(step), step)]
        second = [term.loss.item() for term in long.terms(long.batch(step), step)]
    assert first == pytest.approx(second, rel=1e-4)
