"""What a model was not made for: sizes and lengths are warned of, precisions that overflow are refused."""

import logging
from dataclasses import replace

import pytest
import torch

from m4v.core.errors import UserError
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.limits import self_guidance_note, size_note
from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import DEFAULTS, debug_parts, debug_pipeline

PYRAMID = GenerationDefaults(height=768, width=1280, trained_sizes=((768, 1280), (384, 640), (1024, 1024)))


@pytest.mark.parametrize("size", [(768, 1280), (384, 640), (1024, 1024)])
def test_trained_sizes_need_no_note(size):
    assert size_note(PYRAMID, *size) is None


@pytest.mark.parametrize(
    ("size", "nearest"), [((480, 832), (384, 640)), ((720, 1280), (768, 1280)), ((512, 512), (1024, 1024))]
)
def test_other_sizes_are_warned_of_with_the_nearest(size, nearest):
    assert PYRAMID.nearest_trained_size(*size) == nearest
    note = size_note(PYRAMID, *size)
    assert f"not trained for {size[1]}x{size[0]}" in note
    assert f"{nearest[1]}x{nearest[0]} (height {nearest[0]}, width {nearest[1]})" in note


def test_models_that_record_no_size_say_nothing():
    assert size_note(GenerationDefaults(), 48, 80) is None


def test_the_pipeline_warns_and_still_makes_the_video(caplog):
    pipeline = debug_pipeline(defaults=replace(DEFAULTS, trained_sizes=((32, 32),)))
    with caplog.at_level(logging.WARNING):
        assert pipeline("a ball", seed=0, width=64, num_frames=1).frames.shape == (1, 1, 32, 64, 3)
        pipeline("a ball", seed=0, num_frames=1)
    assert len(caplog.records) == 1
    assert "the nearest size it knows is 32x32" in caplog.text


def test_a_video_too_short_for_self_guidance_is_said(caplog):
    assert self_guidance_note(SelfQualityGuidance(), 3) is None
    assert self_guidance_note(SelfQualityGuidance(weight=0.5), 9) is None
    assert self_guidance_note(SelfQualityGuidance(weight=0.5, first_unit=2), 3) is None
    pipeline = debug_pipeline()
    with caplog.at_level(logging.WARNING):
        pipeline("a ball", seed=0, self_guidance_scale=0.5)
    assert "acts from unit 8 on, counted from 0, but this video has 3 units" in caplog.text


def test_a_video_longer_than_training_is_said_unless_it_has_a_window(caplog):
    pipeline = debug_pipeline()
    with caplog.at_level(logging.WARNING):
        pipeline.stream("a ball", num_frames=17, history_window=2)
        pipeline.stream("a ball", num_frames=9)
        debug_pipeline(defaults=replace(DEFAULTS, longest_frames=17)).stream("a ball", num_frames=17)
        assert not caplog.records
        pipeline.stream("a ball", num_frames=17)
    assert "17 frames are more than the 9 of the training videos" in caplog.text


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "overflowing"
    debug_pipeline(defaults=replace(DEFAULTS, float16_overflows=True)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("options", [{"dtype": torch.float16}, {"torch_dtype": torch.float16}])
def test_float16_is_refused_before_weights_are_read(overflowing, options):
    with pytest.raises(UserError, match="Use bfloat16"):
        M4VPipeline.from_pretrained(overflowing, **options)
    with pytest.raises(UserError, match="Use bfloat16"):
        M4VPipeline.from_pretrained(overflowing, dtype={"transformer": torch.float16, "default": torch.float32})
    assert M4VPipeline.from_pretrained(overflowing, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_float16_is_refused_after_a_cast_too(overflowing):
    pipeline = M4VPipeline.from_pretrained(overflowing).to(torch.float16)
    with pytest.raises(UserError, match="float16 is too narrow"):
        pipeline("a ball")


def test_models_that_do_not_overflow_may_use_float16():
    assert M4VPipeline(**debug_parts(), defaults=DEFAULTS).to(torch.float16).stream("a ball") is not None
