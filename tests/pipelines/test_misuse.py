"""What Python callers get wrong is named by both pipelines, and the pipeline works as before afterwards."""

import numpy as np
import pytest

from m4v.core.errors import UserError
from tests.pipelines.debug_parts import debug_pipeline
from tests.pipelines.wan_parts import wan_pipeline

PROMPT = "a red ball"


@pytest.fixture(scope="module", params=[debug_pipeline, wan_pipeline], ids=["pyramid", "wan"])
def pipeline(request):
    return request.param()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda latents: {"latents": latents[..., :-1]}, "returned latents that are"),
        (lambda latents: {"latents": latents.repeat(2, 1, 1, 1, 1)}, "returned latents that are"),
        (lambda latents: {"latents": latents.int()}, "int32"),
        (lambda latents: {"latents": None}, "that are None"),
        (lambda latents: [latents], "returned a list"),
    ],
)
def test_callbacks_that_return_something_else_are_named(pipeline, returned, message):
    before = pipeline(PROMPT, seed=0).frames
    with pytest.raises(UserError, match=message):
        pipeline(PROMPT, seed=0, callback_on_step_end=lambda pipe, step, time, given: returned(given["latents"]))
    np.testing.assert_array_equal(pipeline(PROMPT, seed=0).frames, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": "32"}, "height is '32'; expected a whole number"),
        ({"width": 32.0}, r"width is 32\.0"),
        ({"num_frames": 9.0}, r"num_frames is 9\.0"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"seed": "0"}, "seed is 0; expected a whole number"),
        ({"prompt": 3}, "prompt is 3"),
    ],
)
def test_numbers_of_another_kind_are_named(pipeline, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(**{"prompt": PROMPT, **options})
