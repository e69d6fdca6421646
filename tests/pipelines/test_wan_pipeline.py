"""The Wan pipeline on tiny real parts: equal to diffusers' own, our habits on top, and what it refuses."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.flow.library_schedulers import make_library_scheduler
from m4v.pipelines import wan_call
from m4v.pipelines.wan_config import WanGenerationDefaults, published_defaults
from m4v.pipelines.wan_pipeline import WanM4VPipeline
from tests.pipelines.wan_parts import DEFAULTS, stock_pipeline, wan_parts, wan_pipeline

PROMPT = "a red ball rolls to the right"
SIZE = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipeline() -> WanM4VPipeline:
    return wan_pipeline()


@pytest.fixture(scope="module")
def stock():
    return stock_pipeline()


def latents(pipeline, prompt=PROMPT, **options) -> torch.Tensor:
    return pipeline(prompt, output_type="latent", **options).frames


def stock_latents(stock, prompt=PROMPT, **options) -> torch.Tensor:
    return latents(stock, prompt, max_sequence_length=16, **SIZE | options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": 1.0},
        {"negative_prompt": "blue cube", "num_inference_steps": 3},
        {"num_videos_per_prompt": 2},
        {"height": 48, "width": 32, "num_frames": 1},
    ],
)
def test_latents_equal_those_of_diffusers(pipeline, stock, options):
    ours = latents(pipeline, generator=generator_for(3), **SIZE | options)
    assert torch.equal(ours, stock_latents(stock, generator=generator_for(3), **options))
    assert ours.std() > 0.1


def test_a_batch_of_prompts_equals_that_of_diffusers(pipeline, stock):
    prompts = [PROMPT, "a blue cube stops"]
    generators = [[generator_for(1), generator_for(2)] for _ in range(2)]
    ours = latents(pipeline, prompts, generator=generators[0], negative_prompt="left", **SIZE)
    theirs = stock_latents(stock, prompts, generator=generators[1], negative_prompt=["left", "left"])
    assert torch.equal(ours, theirs)


def test_latents_equal_those_of_diffusers_with_euler():
    ours = latents(wan_pipeline(scheduler="euler"), generator=generator_for(3), **SIZE)
    theirs = stock_latents(stock_pipeline(scheduler="euler"), generator=generator_for(3))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, latents(wan_pipeline(), generator=generator_for(3), **SIZE))


def test_decoded_videos_equal_those_of_diffusers_and_come_in_its_formats(pipeline, stock):
    ours = pipeline(PROMPT, generator=generator_for(3), **SIZE).frames
    theirs = stock(PROMPT, generator=generator_for(3), max_sequence_length=16, **SIZE).frames
    assert ours.shape == (1, 5, 32, 48, 3)
    assert np.array_equal(ours, theirs)
    (streamed,) = pipeline.stream(PROMPT, generator=generator_for(3))
    assert np.abs(streamed.astype(float) - 255 * ours).max() <= 0.51


def test_given_embeddings_and_latents_pass_through(pipeline, stock):
    positive, negative = stock.encode_prompt([PROMPT], ["left"], max_sequence_length=16)
    noise = torch.randn(1, 4, 2, 4, 6, generator=generator_for(0))
    given = {"prompt": None, "prompt_embeds": positive, "negative_prompt_embeds": negative, "latents": noise}
    assert torch.equal(latents(pipeline, **given), stock_latents(stock, **given))


def test_the_prompt_matters_and_seeds_name_videos(pipeline):
    base = latents(pipeline, seed=5)
    assert torch.equal(base, latents(pipeline, seed=5))
    assert not torch.equal(base, latents(pipeline, seed=6))
    assert not torch.equal(latents(pipeline), latents(pipeline))
    assert not torch.allclose(base, latents(pipeline, "a blue cube stops", seed=5), atol=1e-4)
    two = latents(pipeline, num_videos_per_prompt=2, seed=5)
    assert torch.allclose(two[0], base[0], atol=1e-4)
    assert torch.allclose(two[1], latents(pipeline, seed=6)[0], atol=1e-4)


@pytest.mark.parametrize("output_type", ["np", "pt", "pil", "latent"])
def test_stream_gives_the_whole_video_as_one_unit(pipeline, output_type):
    units = list(pipeline.stream(PROMPT, seed=1, output_type=output_type))
    assert len(units) == 1
    if output_type == "np":
        assert (units[0].shape, units[0].dtype) == ((1, 5, 32, 48, 3), np.uint8)
        assert units[0].std() > 1
    elif output_type == "pt":
        assert units[0].shape == (1, 5, 3, 32, 48)
        assert units[0].min() >= 0
        assert units[0].max() <= 1
    elif output_type == "pil":
        assert [picture.size for picture in units[0][0]] == [(48, 32)] * 5
    else:
        assert torch.equal(units[0], latents(pipeline, seed=1))


def test_stream_takes_the_arguments_of_the_pyramid_where_they_ask_for_nothing(pipeline):
    options = {"image": None, "history_window": None, "self_guidance_scale": 0.0}
    (unit,) = pipeline.stream(
        PROMPT, seed=1, guidance_scale=3.0, video_guidance_scale=3.0, num_inference_steps=(2,), **options
    )
    assert np.array_equal(unit, next(iter(pipeline.stream(PROMPT, seed=1))))


@pytest.mark.parametrize("entry", ["call", "stream"])
def test_callbacks_see_every_step_and_may_return_nothing(pipeline, entry):
    calls = []

    def callback(pipe, step, timestep, tensors):
        calls.append((pipe is pipeline, step, float(timestep), tuple(tensors["latents"].shape)))

    options = {"num_inference_steps": 3, "seed": 0, "callback_on_step_end": callback}
    if entry == "call":
        latents(pipeline, **options)
    else:
        list(pipeline.stream(PROMPT, **options))
    assert [step for _, step, _, _ in calls] == [0, 1, 2] == list(range(pipeline.num_timesteps))
    assert all(is_ours and shape == (1, 4, 2, 4, 6) for is_ours, _, _, shape in calls)
    timesteps = [timestep for _, _, timestep, _ in calls]
    assert timesteps[0] == 999
    assert timesteps == sorted(timesteps, reverse=True)


def test_callbacks_change_latents_and_stop_the_video(pipeline):
    def zero(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not latents(pipeline, callback_on_step_end=zero).any()
    (unit,) = pipeline.stream(PROMPT, callback_on_step_end=zero, output_type="latent")
    assert not unit.any()
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(step)
        pipe._interrupt = True

    assert list(pipeline.stream(PROMPT, num_inference_steps=4, callback_on_step_end=stop)) == []
    assert seen == [0]
    assert len(list(pipeline.stream(PROMPT))) == 1


def test_state_space_layers_run_in_the_pipeline():
    pipeline = wan_pipeline(mixer_plan="full")
    frames = pipeline(PROMPT, seed=0).frames
    assert np.isfinite(frames).all()
    assert not torch.equal(latents(pipeline, seed=0), latents(wan_pipeline(), seed=0))


def test_a_sampler_chosen_by_name_follows_the_size_and_a_given_one_stays():
    pipeline = wan_pipeline(defaults=replace(DEFAULTS, flow_shifts=((32, 3.0), (64, 5.0))))
    given = pipeline.scheduler
    latents(pipeline, height=64, width=64)
    assert pipeline.scheduler is given
    pipeline.use_scheduler("unipc")
    latents(pipeline)
    assert pipeline.scheduler.config["flow_shift"] == 3.0
    latents(pipeline, height=64, width=64)
    assert pipeline.scheduler.config["flow_shift"] == 5.0
    pipeline.use_scheduler("euler")
    latents(pipeline, height=64, width=64)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipeline.scheduler.config["shift"] == 5.0
    pipeline.use_scheduler("euler", flow_shift=8.0)
    latents(pipeline)
    assert pipeline.scheduler.config["shift"] == 8.0
    pipeline.scheduler = UniPCMultistepScheduler.from_config(make_library_scheduler("unipc", 7.0).config)
    latents(pipeline)
    assert pipeline.scheduler.config["flow_shift"] == 7.0


def test_tiling_by_the_name_people_know(pipeline):
    pipeline.enable_vae_tiling(tile_sample_min_height=128)
    assert pipeline.vae.use_tiling
    assert pipeline.vae.tile_sample_min_height == 128
    pipeline.disable_vae_tiling()
    assert not pipeline.vae.use_tiling


def test_published_numbers_of_both_sizes():
    small = published_defaults({"num_attention_heads": 12, "attention_head_dim": 128})
    large = published_defaults({"num_attention_heads": 40, "attention_head_dim": 128})
    assert (small.height, small.width, small.num_frames, small.fps, small.first_steps) == (480, 832, 81, 16.0, (50,))
    assert (small.first_guidance, large.first_guidance) == (6.0, 5.0)
    assert (720, 1280) in large.trained_sizes
    assert (720, 1280) not in small.trained_sizes
    assert small.flow_shift(480, 832) == 8
    assert [large.flow_shift(*size) for size in ((480, 832), (832, 480), (720, 1280), (1280, 720))] == [3, 3, 5, 5]


def test_prefix_and_negative_prompt_come_from_the_folder():
    plain = wan_pipeline()
    suffixed = wan_pipeline(defaults=replace(DEFAULTS, prompt_suffix=" and stops", negative_prompt="blue"))
    expected = latents(plain, PROMPT + " and stops", negative_prompt="blue", seed=0)
    assert torch.equal(latents(suffixed, seed=0), expected)


def test_what_the_model_was_not_made_for_is_said(caplog):
    pipeline = wan_pipeline(defaults=replace(DEFAULTS, trained_sizes=((48, 64), (64, 48))))
    with caplog.at_level(logging.WARNING):
        latents(pipeline, "a red ball " * 8, num_frames=9, seed=0)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "nearest size it knows is 64x48" in said
    assert "up to 5 frames" in said
    assert "longer than 16 tokens; cut off: a red ball a red ball a red ball" in said


def test_missing_ftfy_is_said_once(pipeline, caplog, monkeypatch):
    wan_call._say_ftfy_is_missing.cache_clear()
    monkeypatch.setattr(wan_call, "is_ftfy_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        latents(pipeline)
        assert "ftfy" not in caplog.text
        for _ in range(2):
            latents(pipeline, "a red ball â€“ the right")
    assert caplog.text.count("pip install ftfy") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": None}, "no prompt"),
        ({"num_frames": 6}, "5 or 9"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"height": 40}, "32 or 48"),
        ({"width": 8}, "multiple of 16"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": [2, 2, 2]}, "one level"),
        ({"guidance_scale": -1.0}, "-1.0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1, "generator": generator_for(1)}, "one of them"),
        ({"generator": [generator_for(1), generator_for(2)]}, "2 generators for 1 videos"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1"),
    ],
)
def test_bad_input_is_named(pipeline, options, words):
    arguments = {"prompt": PROMPT, **options}
    for entry in (pipeline, pipeline.stream):
        with pytest.raises(UserError) as caught:
            entry(**arguments)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "first.png"}, "image-to-video weights are another network"),
        ({"history_window": 4}, "no history"),
        ({"video_num_inference_steps": 3}, "use num_inference_steps"),
        ({"video_guidance_scale": 3.0}, "use guidance_scale"),
        ({"guidance_decay": 0.5}, "guidance cannot decay"),
        ({"self_guidance_scale": 0.5}, "self-quality guidance"),
        ({"output_type": "gif"}, "'gif'"),
    ],
)
def test_what_the_pyramid_has_and_wan_has_not_is_refused(pipeline, options, words):
    with pytest.raises(UserError, match=words):
        pipeline.stream(PROMPT, **options)


def test_unknown_arguments_are_refused_as_usual(pipeline):
    with pytest.raises(TypeError, match="num_frame"):
        pipeline.stream(PROMPT, num_frame=5)
    with pytest.raises(TypeError, match="num_frame"):
        pipeline(PROMPT, num_frame=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transformer_2": object()}, "transformer_2 is given, as in Wan2.2"),
        ({"boundary_ratio": 0.9}, "boundary_ratio is given, as in Wan2.2"),
        ({"expand_timesteps": True}, "expand_timesteps is given, as in Wan2.2"),
        ({"defaults": {"colour": 3}}, "defaults.colour"),
        ({"defaults": {"first_steps": [1, 2]}}, "one level"),
        ({"defaults": {"flow_shifts": []}}, "flow_shifts"),
    ],
)
def test_parts_and_settings_of_other_models_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        WanM4VPipeline(**wan_parts(), **change)


def test_parts_must_fit_together():
    with pytest.raises(UserError, match="text_dim is 8, but the text encoder's d_model is 16"):
        WanM4VPipeline(**wan_parts(text_dim=8))
    with pytest.raises(UserError, match="in_channels is 8, but the vae's z_dim is 4"):
        WanM4VPipeline(**wan_parts(in_channels=8, out_channels=8))


def test_defaults_are_those_of_the_original_unless_given():
    assert WanM4VPipeline(**wan_parts()).generation_defaults == WanGenerationDefaults(
        first_guidance=6.0, later_guidance=6.0, flow_shifts=((480, 8.0),)
    )
