"""What a run samples: requests from JSON, and what is always among them."""

import json

import pytest
import torch

from m4v.core.errors import UserError
from m4v.media.images import write_png
from m4v.recipes.debug import debug
from m4v.training import samples
from m4v.training.sample_requests import SampleRequest, all_requests, read_requests
from m4v.training.samples import write_samples


def test_fields_of_finetrainers_and_paths_beside_the_file(tmp_path):
    entry = {
        "caption": "a ball",
        "image_path": "ball.png",
        "video_path": None,
        "num_inference_steps": 3,
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "frame_rate": 8,
    }
    path = tmp_path / "validation.json"
    for content in ([entry], {"data": [entry]}):
        path.write_text(json.dumps(content))
        (request,) = read_requests(path)
        assert (request.caption, request.num_frames, request.frame_rate) == ("a ball", 9, 8.0)
        assert request.image_path == str(tmp_path / "ball.png")


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "validation.json"
    for content, message in (("{", "not valid JSON"), ("3", "list of objects"), ('[{"promt": "a"}]', "promt")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_requests(path)


def test_an_empty_prompt_and_a_given_frame_are_always_among_them():
    requests = all_requests(["a ball"], None, with_image=True)
    assert requests == (
        SampleRequest(caption="a ball"),
        SampleRequest(caption="a ball", from_data=True),
        SampleRequest(),
    )
    assert all_requests(["a ball"], None, with_image=False) == (SampleRequest(caption="a ball"), SampleRequest())
    assert all_requests([], None, with_image=True) == ()


def test_a_sample_that_fails_is_logged_and_the_others_are_made(networks, tmp_path, caplog, monkeypatch):
    real = samples._sample

    def failing(pipeline, request, *rest):
        if request.caption == "square two":
            raise RuntimeError("no memory")
        return real(pipeline, request, *rest)

    monkeypatch.setattr(samples, "_sample", failing)
    latents = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()  # as banks keep them
    prompts = ["square one", "square two"]
    write_samples(tmp_path, debug(), networks, prompts, num_frames=9, first_latents=latents)
    assert "no memory" in caplog.text
    made = sorted(path.name for path in tmp_path.glob("*.mp4"))
    assert made == ["prompt-00_seed-0.mp4", "prompt-02_seed-0.mp4", "prompt-03_seed-0.mp4"]


def test_a_first_frame_is_read_from_its_file(networks, tmp_path, monkeypatch):
    seen = []

    class Pipeline:
        def __call__(self, prompt, **options):
            seen.append(options)
            raise UserError("stop here")

    write_png(tmp_path / "first.png", torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())
    with pytest.raises(UserError, match="stop here"):
        samples._sample(Pipeline(), SampleRequest(image_path=str(tmp_path / "first.png"), height=32), 9, None)
    assert seen == [{"num_frames": 9, "seed": 0, "height": 32, "image": str(tmp_path / "first.png")}]
