"""Training on whole clips: what the network is given, what it is asked for, and that it learns."""

from collections import Counter

import pytest
import torch
from diffusers import WanPipeline
from torch import nn

from m4v.core.errors import UserError
from m4v.flow.config import FullSequenceFlowConfig
from m4v.flow.protocol import integrate
from m4v.training.config import FullSequenceStageConfig, OptimConfig
from m4v.training.full_sequence_objective import FullSequenceObjective, encode_wan_text
from m4v.training.latent_bank import LatentBank, build_bank
from m4v.training.loop import train_step
from m4v.training.state import TrainState
from tests.pipelines.wan_parts import wan_parts

CAPTIONS = ("a red ball rolls", "a blue cube stops")
TEXT_LENGTH = 16


@pytest.fixture(scope="module")
def parts():
    return wan_parts(mixer_plan="interleaved")


@pytest.fixture(scope="module")
def wan_bank(parts) -> LatentBank:
    """Two clips that differ in sign, with a caption each."""
    clip = torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    return build_bank(torch.cat([clip, -clip]), [(text,) for text in CAPTIONS], parts["tokenizer"], TEXT_LENGTH)


@pytest.fixture
def make_objective(parts, wan_bank):
    def make(batch_size=4, transformer=None, flow=None, **settings):
        return FullSequenceObjective(
            transformer or parts["transformer"],
            parts["text_encoder"],
            wan_bank,
            FullSequenceStageConfig(flow=flow or FullSequenceFlowConfig(), **settings),
            stage="wan-480p",
            batch_size=batch_size,
            seed=3,
            use_bf16=False,
            text_length=TEXT_LENGTH,
        )

    return make


class Recorder(nn.Module):
    """Remembers what it was asked and answers zero."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, **inputs):
        self.calls.append(inputs)
        return (torch.zeros_like(inputs["hidden_states"]),)


def test_images_and_videos_come_in_the_ratio_asked_for(make_objective):
    objective = make_objective(images_per_window=1, videos_per_window=3)
    frames = [objective.batch(step)["latents"].shape[2] for step in range(40)]
    assert Counter(frames) == {1: 10, 2: 30}
    assert all(frames[start : start + 4].count(1) == 1 for start in range(0, 40, 4))
    assert objective.facts(39) == {"image_batches": 10, "video_batches": 30}


def test_an_image_is_the_first_latent_frame(make_objective, wan_bank):
    objective = make_objective(images_per_window=1, videos_per_window=0)
    for latents in objective.batch(0)["latents"]:
        assert any(torch.equal(latents, clip[:, :1]) for clip in wan_bank.latents)


def test_the_network_is_called_as_diffusers_calls_it(make_objective):
    recorder = Recorder()
    objective = make_objective(transformer=recorder)
    list(objective.terms(objective.batch(1), 1))
    (inputs,) = recorder.calls
    assert inputs["hidden_states"].shape == (4, 4, 2, 4, 6)
    assert inputs["encoder_hidden_states"].shape == (4, TEXT_LENGTH, 16)
    assert inputs["timestep"].shape == (4,)
    assert 0 < inputs["timestep"].min() < inputs["timestep"].max() <= 1000


def test_text_is_what_diffusers_encodes(parts, wan_bank):
    pipeline = WanPipeline(**{**parts, "transformer": None})
    expected, _ = pipeline.encode_prompt(["", *CAPTIONS], do_classifier_free_guidance=False, max_sequence_length=16)
    ours = encode_wan_text(parts["text_encoder"], wan_bank.token_ids, wan_bank.token_mask, text_length=TEXT_LENGTH)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert (ours[:, -1] == 0).all()


def test_a_dropped_caption_is_the_encoded_empty_prompt_not_zeros(make_objective, parts, wan_bank):
    recorder = Recorder()
    objective = make_objective(transformer=recorder, text_drop=1.0)
    list(objective.terms(objective.batch(1), 1))
    text = recorder.calls[0]["encoder_hidden_states"]
    empty = encode_wan_text(
        parts["text_encoder"], wan_bank.token_ids[:1], wan_bank.token_mask[:1], text_length=TEXT_LENGTH
    )
    torch.testing.assert_close(text, empty.expand(4, -1, -1), rtol=1e-5, atol=1e-6)
    assert text[:, 0].abs().max() > 0.01


def test_loss_of_a_silent_network_is_the_mean_squared_velocity(make_objective, wan_bank):
    objective = make_objective(batch_size=2000, transformer=Recorder(), images_per_window=0)
    (term,) = objective.terms(objective.batch(0), 0)
    assert term.loss.item() == pytest.approx(1 + wan_bank.latents.square().mean().item(), rel=0.02)
    assert set(term.metrics) == {"loss/video"}


def test_bell_weights_reach_the_loss(make_objective):
    recorder = Recorder()
    flow = FullSequenceFlowConfig(shift=5.0, timestep_distribution="grid-bell")
    objective = make_objective(batch_size=3, transformer=recorder, flow=flow)
    batch = objective.batch(1)
    (term,) = objective.terms(batch, 1)
    timesteps = recorder.calls[0]["timestep"].double()
    grid = 5 * torch.arange(1, 1001).double() / 1000
    grid = 1000 * grid / (1 + 4 * grid / 5)
    bell = (-2 * ((grid - 500) / 1000) ** 2).exp()
    weights = ((-2 * ((timesteps - 500) / 1000) ** 2).exp() - bell.min()) / (bell - bell.min()).mean()
    # From noisy = (1 - s) x + s n follows n - x = (noisy - x) / s.
    sigma = (timesteps / 1000).float().view(-1, 1, 1, 1, 1)
    velocity = (recorder.calls[0]["hidden_states"] - batch["latents"]) / sigma
    expected = (velocity.square().mean(dim=(1, 2, 3, 4)) * weights).mean()
    assert term.loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_step_is_a_pure_function_of_its_number(make_objective):
    def loss(step):
        objective = make_objective()
        return [term.loss.item() for term in objective.terms(objective.batch(step), step)]

    assert loss(5) == loss(5)
    assert loss(5) != loss(6)


def test_only_the_denoiser_learns(make_objective, parts):
    objective = make_objective()
    for term in objective.terms(objective.batch(0), 0):
        term.loss.backward()
    assert set(objective.modules) == {"transformer"}
    assert all(parameter.grad is None for parameter in parts["text_encoder"].parameters())
    assert parts["transformer"].proj_out.weight.grad.abs().max() > 0
    parts["transformer"].zero_grad()


def test_captions_longer_than_the_denoiser_reads_are_refused(parts, wan_bank):
    with pytest.raises(UserError, match="captions have 5 tokens, but the denoiser reads 4"):
        FullSequenceObjective(
            parts["transformer"], parts["text_encoder"], wan_bank, FullSequenceStageConfig(),
            stage="wan", batch_size=1, seed=0, use_bf16=False, text_length=4,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images_per_window": 0, "videos_per_window": 0}, "mixture is 0 image and 0 video"),
        ({"text_drop": 1.5}, "text_drop is 1.5"),
    ],
)
def test_stage_settings_out_of_range(settings, words):
    with pytest.raises(UserError, match=words):
        FullSequenceStageConfig(**settings)


def test_training_lowers_the_loss_and_sampling_follows_the_caption(wan_bank):
    """Two clips, each the negative of the other: after training the caption decides which of them appears."""
    fresh = wan_parts(mixer_plan="interleaved", num_attention_heads=4)
    objective = FullSequenceObjective(
        fresh["transformer"].train(),
        fresh["text_encoder"],
        wan_bank,
        FullSequenceStageConfig(images_per_window=0, text_drop=0.0, flow=FullSequenceFlowConfig(shift=1.0)),
        stage="wan",
        batch_size=8,
        seed=0,
        use_bf16=False,
        text_length=TEXT_LENGTH,
    )
    state = TrainState(objective.modules, OptimConfig(lr=1e-2, warmup_steps=5, weight_decay=0.0), 0)
    losses = [float(train_step(objective, state, 90, objective.batch(step))[0]["loss"]) for step in range(90)]
    assert sum(losses[-15:]) < 0.5 * sum(losses[:15])

    text = encode_wan_text(
        fresh["text_encoder"], wan_bank.token_ids[1:], wan_bank.token_mask[1:], text_length=TEXT_LENGTH
    )

    text = text.repeat_interleave(8, dim=0)

    @torch.no_grad()
    def velocity(latents, level, timestep):
        times = torch.full((16,), timestep)
        return fresh["transformer"].eval()(latents, times, text, return_dict=False)[0]

    noise = torch.randn(16, 4, 2, 4, 6, generator=torch.Generator().manual_seed(5))
    samples = integrate(objective.flow, velocity, noise, [10], torch.Generator())
    captioned = wan_bank.latents.repeat_interleave(8, dim=0)
    likeness = nn.functional.cosine_similarity(samples.flatten(1), captioned.flatten(1))
    assert likeness.min() > 0.2
    assert likeness.mean() > 0.4
