"""Numbers of a call: what the model's defaults fill in, for sentences and for pictures, and guidance that decays."""

from dataclasses import replace

import pytest
import torch

from m4v.core.errors import UserError
from m4v.core.generators import generator_for
from m4v.flow.guidance import LinearDecay
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.pipelines.call_arguments import SamplingArguments, generators_for
from m4v.pipelines.config import GenerationDefaults

# The published settings of Pyramid-Flow at 768p.
PUBLISHED = GenerationDefaults(
    first_steps=(20, 20, 20),
    later_steps=(10, 10, 10),
    first_guidance=7.0,
    later_guidance=5.0,
    image_steps=(10, 10, 10),
    image_guidance=4.0,
)


def settle(has_image=False, defaults=PUBLISHED, **numbers):
    return SamplingArguments(**numbers).loop_settings(defaults, num_levels=3, has_image=has_image)


def scales(settings, units=6):
    return [settings.guidance.for_unit(unit).scale for unit in range(units)]


def test_a_sentence_uses_the_published_steps_and_guidance():
    settings = settle()
    assert (settings.first_steps, settings.later_steps) == ((20,) * 3, (10,) * 3)
    assert scales(settings, 3) == [7.0, 5.0, 5.0]
    assert settings.num_steps(16) == 60 + 15 * 30
    assert settings.self_quality.weight == 0


def test_a_picture_uses_the_published_steps_and_guidance_of_its_own():
    settings = settle(has_image=True, defaults=replace(PUBLISHED, image_steps=(4, 5, 6)))
    assert settings.later_steps == (4, 5, 6)
    assert scales(settings, 3)[1:] == [4.0, 4.0]
    plain = settle(has_image=True, defaults=replace(PUBLISHED, image_steps=None, image_guidance=None))
    assert plain.later_steps == (10, 10, 10)
    assert scales(plain, 2)[1] == 5.0


@pytest.mark.parametrize("has_image", [False, True])
def test_what_the_caller_gives_wins_and_a_first_number_serves_all(has_image):
    settings = settle(has_image, num_inference_steps=3, guidance_scale=2.0)
    assert (settings.first_steps, settings.later_steps) == ((3,) * 3, (3,) * 3)
    assert scales(settings, 2) == [2.0, 2.0]
    settings = settle(has_image, video_num_inference_steps=[1, 2, 3], video_guidance_scale=6.0)
    assert settings.later_steps == (1, 2, 3)
    assert scales(settings, 2) == [7.0, 6.0]


def test_guidance_decays_from_the_first_scale_by_the_slope_to_the_floor():
    assert scales(settle(guidance_decay=1.5)) == [max(7.0 - 1.5 * unit, 2.0) for unit in range(6)]
    assert scales(settle(guidance_decay=LinearDecay(slope=3.0, minimum=0.5))) == [7.0, 4.0, 1.0, 0.5, 0.5, 0.5]
    by_model = replace(PUBLISHED, guidance_decay_slope=0.5, guidance_decay_minimum=6.0)
    assert scales(settle(defaults=by_model), 4) == [7.0, 6.5, 6.0, 6.0]
    assert scales(settle(defaults=by_model, guidance_scale=8.0), 3) == [8.0, 7.5, 7.0]
    assert scales(settle(True, by_model), 2) == [7.0, 6.5]


def test_decay_is_switched_off_by_0_and_by_a_scale_for_later_units():
    by_model = replace(PUBLISHED, guidance_decay_slope=0.5)
    assert scales(settle(defaults=by_model, guidance_decay=0), 2) == [7.0, 5.0]
    assert scales(settle(defaults=by_model, video_guidance_scale=3.0), 2) == [7.0, 3.0]
    with pytest.raises(UserError, match="give one of the two"):
        settle(guidance_decay=0.5, video_guidance_scale=3.0)
    with pytest.raises(UserError, match="decay is slope -1"):
        settle(guidance_decay=-1.0)


def test_self_guidance_comes_from_the_caller_then_from_the_model():
    assert settle(self_guidance_scale=0.3).self_quality == SelfQualityGuidance(weight=0.3)
    assert settle(defaults=replace(PUBLISHED, self_guidance=0.2)).self_quality.weight == 0.2
    assert settle(defaults=replace(PUBLISHED, self_guidance=0.2), self_guidance_scale=0).self_quality.weight == 0
    whole = SelfQualityGuidance(weight=1.0, first_unit=3)
    assert settle(self_guidance_scale=whole).self_quality is whole
    with pytest.raises(UserError, match="self-guidance weight is -1"):
        settle(self_guidance_scale=-1)


def test_one_generator_per_video_prompt_after_prompt():
    made = generators_for(None, seed=5, num_prompts=2, copies=2)
    draws = [torch.rand(1, generator=generator).item() for generator in made]
    again = [torch.rand(1, generator=generator_for(seed)).item() for seed in (5, 6, 5, 6)]
    assert draws == again


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 0),
        ("num_frames", -1),
        ("first_steps", (1, 0)),
        ("image_steps", (0, 1, 1)),
        ("trained_sizes", ((0, 8),)),
        ("longest_frames", -5),
        ("first_guidance", -1.0),
        ("image_guidance", float("nan")),
        ("guidance_decay_slope", -0.5),
        ("self_guidance", -0.1),
        ("fps", 0.0),
    ],
)
def test_defaults_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=f"defaults.{field} is"):
        GenerationDefaults(**{field: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_scale", "7"),
        ("video_guidance_scale", [7.0, 5.0]),
        ("num_inference_steps", 2.5),
        ("num_inference_steps", (2, 2.5, 3)),
        ("video_num_inference_steps", "4"),
        ("history_window", 1.5),
    ],
)
def test_values_of_another_kind_are_named(name, value):
    with pytest.raises(UserError, match=f"{name} is "):
        SamplingArguments(**{name: value})
