"""Image-to-video: numbers of its own, what is said about cropping, and how the picture becomes latents."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.data.pixels import to_pixels
from m4v.flow.noise import standard_normal
from m4v.pipelines.first_frame import crop_note
from tests.pipelines.debug_parts import DEFAULTS, debug_pipeline

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def picture(height, width):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ((768, 1280), (768, 1280), None),
        ((1536, 2560), (768, 1280), None),
        ((50, 100), (32, 32), "(100x50 pixels) has another aspect than the video (32x32); cut off: 25 columns at the "
                              "left, 25 at the right."),
        ((1000, 1000), (768, 1280), "cut off: 200 rows at the top, 200 at the bottom."),
        ((768, 1281), (768, 1280), None),
    ],
)  # fmt: skip
def test_what_is_cropped_is_said_in_the_pictures_own_pixels(source, target, words):
    note = crop_note(picture(*source), *target)
    assert note is None if words is None else words in note


def test_the_pipeline_says_it_once(caplog):
    pipeline = debug_pipeline()
    with caplog.at_level(logging.WARNING):
        pipeline("a ball", image=picture(40, 32), seed=0, num_frames=1)
        pipeline("a ball", image=picture(64, 64), seed=0, num_frames=1)
    assert [record.getMessage() for record in caplog.records] == [
        "The picture (32x40 pixels) has another aspect than the video (32x32); cut off: 4 rows at the top, 4 at the "
        "bottom."
    ]


def test_a_given_picture_has_steps_and_guidance_of_its_own():
    defaults = replace(DEFAULTS, image_steps=(2, 3, 1), image_guidance=1.0)
    pipeline = debug_pipeline(defaults=defaults)
    steps = []
    pipeline("a ball", image=PICTURE, seed=0, callback_on_step_end=lambda *arguments: steps.append(arguments[1]))
    assert len(steps) == pipeline.num_timesteps == 2 * (2 + 3 + 1)
    same = debug_pipeline()("a ball", image=PICTURE, seed=0, video_num_inference_steps=[2, 3, 1],
                            video_guidance_scale=1.0, output_type="latent").frames  # fmt: skip
    assert torch.equal(pipeline("a ball", image=PICTURE, seed=0, output_type="latent").frames, same)


def test_without_guidance_negative_prompts_are_not_encoded():
    pipeline = debug_pipeline(defaults=replace(DEFAULTS, image_guidance=1.0))
    rows = []
    pipeline.text_encoder.register_forward_pre_hook(
        lambda module, inputs, options: rows.append(len(options["input_ids"])), with_kwargs=True
    )
    pipeline("a ball", image=PICTURE, seed=0)
    pipeline("a ball", seed=0)
    assert rows == [1, 2]


def test_sampled_latents_are_mean_plus_deviation_times_the_videos_own_noise():
    pipeline = debug_pipeline()
    options = {"image": PICTURE, "num_frames": 1, "output_type": "latent"}
    sampled = pipeline("a ball", seed=3, num_videos_per_prompt=2, image_latents="sample", **options).frames
    with torch.no_grad():
        posterior = pipeline.vae.encode(to_pixels(torch.from_numpy(PICTURE[None, None])))
    deviation = torch.exp(posterior.log_variance / 2)
    for row, seed in enumerate((3, 4)):
        noise = standard_normal(posterior.mean.shape[1:], generator_for(seed), torch.device("cpu"))
        expected = pipeline.vae.normalise(posterior.mean + deviation * noise)
        assert torch.allclose(sampled[row], expected[0], atol=1e-6)
    mode = pipeline("a ball", seed=3, num_videos_per_prompt=2, **options).frames
    assert torch.equal(mode[0], mode[1])
    assert not torch.allclose(mode[0], sampled[0])


def test_another_way_of_encoding_is_refused():
    with pytest.raises(UserError, match="image_latents is 'mean'; expected one of mode, sample"):
        debug_pipeline()("a ball", image=PICTURE, image_latents="mean")


def test_tiling_is_switched_on_and_off_at_the_pipeline():
    pipeline = debug_pipeline()
    whole = pipeline("a ball", height=96, width=96, num_frames=5, seed=0).frames
    pipeline.enable_vae_tiling(tile_size=64)
    assert pipeline.vae.tiling.tile_size == 64
    assert pipeline.vae.units_per_chunk == 1
    tiled = pipeline("a ball", height=96, width=96, num_frames=5, seed=0).frames
    assert not np.array_equal(tiled, whole)
    pipeline.disable_vae_tiling()
    assert np.array_equal(pipeline("a ball", height=96, width=96, num_frames=5, seed=0).frames, whole)
