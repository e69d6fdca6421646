"""The pipeline on real debug-size parts: sizes, seeds, streaming, images, callbacks, and what it refuses."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.data.pixels import to_pixels
from m4v.pipelines.frames import to_uint8
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, debug_parts, debug_pipeline

PROMPT = "a red ball rolls to the right"


def latents(pipeline: M4VPipeline, prompt=PROMPT, **options) -> torch.Tensor:
    return pipeline(prompt, output_type="latent", **options).frames


def test_a_sentence_becomes_uint8_frames_of_the_default_size(pipeline):
    frames = pipeline(PROMPT, seed=0).frames
    assert frames.shape == (1, 9, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 1


def test_same_seed_same_video_and_other_seed_other_video(pipeline):
    assert torch.equal(latents(pipeline, seed=5), latents(pipeline, seed=5))
    assert not torch.equal(latents(pipeline, seed=5), latents(pipeline, seed=6))
    assert not torch.equal(latents(pipeline), latents(pipeline))


def test_the_prompt_and_the_negative_prompt_matter(pipeline):
    base = latents(pipeline, seed=5)
    assert not torch.allclose(base, latents(pipeline, "a blue cube stops", seed=5), atol=1e-5)
    assert not torch.allclose(base, latents(pipeline, negative_prompt="blue cube", seed=5), atol=1e-5)
    off = latents(pipeline, guidance_scale=1, seed=5)
    assert torch.equal(off, latents(pipeline, negative_prompt="blue cube", guidance_scale=1, seed=5))


def test_a_batch_holds_the_videos_that_single_calls_make(pipeline):
    prompts = ["a red ball rolls", "a blue cube stops"]
    batch = latents(pipeline, prompts, num_videos_per_prompt=2, seed=3)
    assert len(batch) == 4
    for row, (prompt, seed) in enumerate([(prompts[0], 3), (prompts[0], 4), (prompts[1], 3), (prompts[1], 4)]):
        assert torch.allclose(batch[row], latents(pipeline, prompt, seed=seed)[0], atol=1e-4)


def test_generators_replace_seeds(pipeline):
    by_seed = latents(pipeline, seed=7)
    assert torch.equal(by_seed, latents(pipeline, generator=generator_for(7)))
    assert torch.equal(by_seed, latents(pipeline, generator=[generator_for(7)]))
    shared = latents(pipeline, num_videos_per_prompt=2, generator=generator_for(7))
    assert not torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("output_type", ["np", "pt", "pil", "latent"])
def test_stream_pieces_make_the_whole(pipeline, output_type):
    pieces = list(pipeline.stream(PROMPT, seed=1, output_type=output_type))
    whole = pipeline(PROMPT, seed=1, output_type=output_type).frames
    assert len(pieces) == 3
    if output_type == "np":
        assert [piece.shape[1] for piece in pieces] == [1, 4, 4]
        assert np.array_equal(np.concatenate(pieces, axis=1), whole)
    elif output_type == "pil":
        assert [picture for piece in pieces for picture in piece[0]] == whole[0]
    else:
        assert torch.equal(torch.cat(pieces, dim=1 if output_type == "pt" else 2), whole)


def test_streamed_frames_equal_the_decode_of_all_latents_at_once(pipeline):
    streamed = torch.cat(list(pipeline.stream(PROMPT, seed=1, output_type="pt")), dim=1)
    with torch.no_grad():
        video = pipeline.vae.decode(pipeline.vae.denormalise(latents(pipeline, seed=1)))
    assert torch.allclose(streamed, (video / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4), atol=1e-5)


def test_stream_checks_arguments_before_the_first_unit(pipeline):
    with pytest.raises(UserError):
        pipeline.stream("")


def test_image_to_video_starts_with_the_vae_round_trip_of_the_picture(pipeline, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    result = pipeline(PROMPT, image=tmp_path / "first.png", seed=0).frames
    with torch.no_grad():
        vae = pipeline.vae
        round_trip = to_uint8(vae.decode(vae.encode(to_pixels(torch.from_numpy(picture[None, None]))).mode()))
    assert result.shape == (1, 9, 32, 32, 3)
    assert np.abs(result[:, :1].astype(int) - round_trip.astype(int)).max() <= 1
    by_array = pipeline(PROMPT, image=picture, seed=0).frames
    by_pillow = pipeline(PROMPT, image=Image.fromarray(picture), seed=0).frames
    assert np.array_equal(result, by_array)
    assert np.array_equal(result, by_pillow)


def test_a_picture_of_another_size_is_scaled_to_cover_and_serves_all_videos(pipeline):
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[:, 25:75] = 200
    frames = pipeline(PROMPT, image=picture, num_videos_per_prompt=2, num_frames=1, seed=0).frames
    square = pipeline(PROMPT, image=picture[:, 25:75], num_frames=1, seed=0).frames
    assert np.abs(frames[:1].astype(int) - square.astype(int)).max() <= 2
    assert np.array_equal(frames[0], frames[1])


def test_unit_0_of_a_picture_is_normalised_with_the_statistics_of_first_frames():
    pipeline = debug_pipeline()
    picture = np.full((32, 32, 3), 90, np.uint8)
    plain = latents(pipeline, image=picture, num_frames=1)
    pipeline.vae.register_to_config(image_shift=0.25, image_scale=2.0, video_shift=9.0, video_scale=9.0)
    assert torch.allclose(latents(pipeline, image=picture, num_frames=1), (plain - 0.25) * 2, atol=1e-5)


def test_a_longer_video_starts_with_the_shorter_one(pipeline):
    short, long = latents(pipeline, seed=2), latents(pipeline, seed=2, num_frames=17)
    assert long.shape[2] == 5
    assert torch.equal(long[:, :, :3], short)


def test_history_window(pipeline):
    full = latents(pipeline, seed=2)
    assert torch.equal(latents(pipeline, seed=2, history_window=3), full)
    assert not torch.equal(latents(pipeline, seed=2, history_window=1), full)


def test_other_sizes(pipeline):
    assert pipeline(PROMPT, height=64, width=32, num_frames=5, seed=0).frames.shape == (1, 5, 64, 32, 3)


def test_step_counts_and_callback_arguments(pipeline):
    calls = []

    def callback(pipe, step, timestep, tensors):
        assert pipe is pipeline
        calls.append((step, timestep, tuple(tensors["latents"].shape)))
        return tensors

    pipeline(PROMPT, num_inference_steps=[3, 2, 1], video_num_inference_steps=1, callback_on_step_end=callback)
    assert [step for step, _, _ in calls] == list(range(6 + 3 + 3)) == list(range(pipeline.num_timesteps))
    assert [shape[-1] for _, _, shape in calls[:6]] == [1, 1, 1, 2, 2, 4]
    assert calls[0][1] == 1000
    calls.clear()
    pipeline(PROMPT, num_inference_steps=2, callback_on_step_end=callback)
    assert len(calls) == 3 * 3 * 2


def test_callbacks_change_latents_and_stop(pipeline):
    def zero(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not latents(pipeline, callback_on_step_end=zero).any()

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step >= 5

    stopped = latents(pipeline, seed=3, callback_on_step_end=stop)
    assert torch.equal(stopped, latents(pipeline, seed=3)[:, :, :1])
    assert pipeline(PROMPT, seed=3).frames.shape[1] == 9


def test_return_dict_off_gives_a_tuple(pipeline):
    (frames,) = pipeline(PROMPT, seed=0, return_dict=False)
    assert np.array_equal(frames, pipeline(PROMPT, seed=0).frames)


def test_arguments_are_not_changed_and_the_global_random_state_is_not_touched(pipeline):
    picture = np.full((32, 32, 3), 90, np.uint8)
    before = torch.get_rng_state()
    pipeline(PROMPT, image=picture, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert (picture == 90).all()


def test_unknown_and_cut_words_are_said_once(pipeline, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline(["a red giraffe", "a blue giraffe " + "and the ball " * 6], seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        "The prompt is longer than 12 tokens; cut off: ball and the ball and the ball and the ball",
        "The model has not learned: giraffe. It sees the other words only.",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "   "}, "empty"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": "giraffe zebra"}, "giraffe, zebra"),
        ({"prompt": "?!"}, "none of the words"),
        ({"num_frames": 10}, "9 or 13"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"height": 40}, "32 or 64"),
        ({"width": 8}, "32"),
        ({"num_inference_steps": [1, 2]}, "3 pyramid levels"),
        ({"num_inference_steps": 0}, "at least 1 step"),
        ({"guidance_scale": -2.0}, "-2.0"),
        ({"history_window": 0}, "history_window is 0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1, "generator": generator_for(1)}, "one of them"),
        ({"generator": [generator_for(1), generator_for(2)]}, "2 generators for 1 videos"),
        ({"output_type": "gif"}, "'gif'"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1"),
        ({"image": "/nowhere/picture.png"}, "/nowhere/picture.png"),
        ({"image": np.zeros((4, 4), np.uint8)}, "(4, 4)"),
    ],
)
def test_bad_input_is_named(pipeline, options, words):
    with pytest.raises(UserError) as caught:
        pipeline(**{"prompt": PROMPT, **options})
    assert words in str(caught.value)


def test_parts_of_different_models_are_refused():
    parts = debug_parts()
    parts["vae"].register_to_config(latent_channels=7)
    with pytest.raises(UserError, match="in_channels is 4"):
        M4VPipeline(**parts, defaults=DEFAULTS)


def test_defaults_come_from_the_model_and_reject_unknown_keys():
    pipeline = M4VPipeline(**debug_parts())
    assert pipeline.generation_defaults.height == 64
    with pytest.raises(UserError, match=r"defaults\.colour"):
        M4VPipeline(**debug_parts(), defaults={"colour": 3})


def test_suffix_and_negative_default_are_applied():
    plain = debug_pipeline()
    suffixed = debug_pipeline(defaults=replace(DEFAULTS, prompt_suffix=" and stops", negative_prompt="blue"))
    expected = latents(plain, PROMPT + " and stops", negative_prompt="blue", seed=0)
    assert torch.equal(latents(suffixed, seed=0), expected)


def test_a_folder_without_autoencoder_names_it_and_takes_the_callers(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": [None, None]}))
    shutil.rmtree(tmp_path / "model" / "vae")
    with pytest.raises(UserError, match=r"has no vae\. Bring one, from_pretrained\(\.\.\., vae="):
        M4VPipeline.from_pretrained(tmp_path / "model")
    brought = M4VPipeline.from_pretrained(tmp_path / "model", vae=pipeline.vae)
    brought.set_progress_bar_config(disable=True)
    assert np.array_equal(brought(PROMPT, seed=0).frames, pipeline(PROMPT, seed=0).frames)


def test_decoding_last_changes_nothing_but_when_frames_come(pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(step)

    first = next(pipeline.stream(PROMPT, seed=1, callback_on_step_end=callback))
    assert len(seen) < pipeline.num_timesteps
    seen.clear()
    late = pipeline.stream(PROMPT, seed=1, callback_on_step_end=callback, decode_last=True)
    assert np.array_equal(next(late), first)
    assert len(seen) == pipeline.num_timesteps
