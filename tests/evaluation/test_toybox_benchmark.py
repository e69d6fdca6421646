"""The benchmark on pipelines whose scores are known: perfect, mirrored, and noise."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from m4v.core.errors import UserError
from m4v.evaluation.generation import GenerationOptions, generate_clips
from m4v.evaluation.saving import save_clips
from m4v.evaluation.scores import AXES, expected_of
from m4v.evaluation.steps_curve import steps_curve
from m4v.evaluation.toybox_benchmark import BenchmarkReport, benchmark_prompts, run_benchmark
from m4v.evaluation.vae_round_trip import peak_signal_to_noise, vae_round_trip
from m4v.media.images import read_image
from m4v.media.video import read_video
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.models.vae.config import CausalVideoVAEConfig
from m4v.toybox.scene import sample_scene
from tests.evaluation.pipelines import MirroredPipeline, NoisePipeline, PerfectPipeline

LIMIT = 12


@pytest.fixture(scope="module")
def perfect() -> BenchmarkReport:
    return run_benchmark(PerfectPipeline(), "xs", limit=LIMIT, batch_size=8)


def test_a_perfect_pipeline_reaches_the_ceiling(perfect):
    for group in perfect.groups.values():
        assert group.scores == group.anchors["ceiling"]
        assert min(group.scores.colour, group.scores.object, group.scores.motion) >= 0.95


def test_a_noise_pipeline_stays_on_the_floor():
    report = run_benchmark(NoisePipeline(), "xs", limit=LIMIT)
    for group in report.groups.values():
        assert max(group.scores.colour, group.scores.object, group.scores.motion) <= 0.1
        assert group.anchors["noise"].all == 0.0


def test_wrong_captions_score_near_chance(perfect):
    floor = perfect.groups["seen"].anchors["wrong_caption"]
    for axis in AXES:
        assert 0.05 < getattr(floor, axis) < 0.4


def test_a_mirrored_pipeline_loses_motion_only():
    group = run_benchmark(MirroredPipeline(), "xs", limit=LIMIT).groups["seen"]
    sideways = sum(prompt.scene.objects[0].motions[0].name in ("left", "right") for prompt in group.prompts)
    assert group.scores.motion == pytest.approx(1.0 - sideways / LIMIT)
    assert group.scores.colour == group.scores.object == 1.0


def test_prompt_lists_are_long_fixed_and_disjoint_in_their_pairs():
    lists = benchmark_prompts("xs")
    assert len(lists["seen"]) >= 60
    pairs = {name: {(p.scene.objects[0].kind, p.scene.objects[0].colour) for p in lists[name]} for name in lists}
    assert not pairs["seen"] & pairs["held_out"]
    tested = Counter(prompt.scene.objects[0].kind for prompt in lists["held_out"])
    assert min(tested.values()) >= 20
    assert [p.text for p in benchmark_prompts("xs")["seen"]] == [p.text for p in lists["seen"]]


def test_a_limit_takes_a_fixed_mixed_choice():
    some, more = benchmark_prompts("xs", 12)["seen"], benchmark_prompts("xs", 20)["seen"]
    assert more[:12] == some
    assert len({prompt.scene.objects[0].kind for prompt in more}) == 6
    assert len({prompt.scene.objects[0].motions[0].name for prompt in more}) == 6
    with pytest.raises(UserError, match="limit"):
        benchmark_prompts("xs", 0)


def test_json_has_the_stable_keys(perfect):
    report = json.loads(json.dumps(perfect.to_json()))
    for name in ("seen", "held_out"):
        assert {"colour", "object", "motion", "intervals"} <= set(report[name])
        low, high = report[name]["intervals"]["colour"]
        assert 0.0 <= low <= report[name]["colour"] <= high <= 1.0
        assert set(report["anchors"][name]) == {"ceiling", "wrong_caption", "noise"}
        assert set(report["confusions"][name]) == set(AXES)


def test_options_and_seeds_reach_the_pipeline():
    pipeline = PerfectPipeline()
    texts = [prompt.text for prompt in benchmark_prompts("xs", 5)["seen"]]
    options = GenerationOptions(first_steps=4, later_steps=(2, 2, 3), first_guidance=5.0)
    made = generate_clips(pipeline, texts, 7, options, batch_size=2)
    assert [len(call["prompt"]) for call in pipeline.calls] == [2, 2, 1]
    assert len(made.clips) == 5
    assert pipeline.calls[0]["num_inference_steps"] == 4
    assert pipeline.calls[0]["video_num_inference_steps"] == (2, 2, 3)
    assert pipeline.calls[0]["guidance_scale"] == 5.0
    assert "video_guidance_scale" not in pipeline.calls[0]
    seeds = [generator.initial_seed() for call in pipeline.calls for generator in call["generator"]]
    assert len(set(seeds)) == 5


def test_batch_size_does_not_change_seeds():
    texts = [prompt.text for prompt in benchmark_prompts("xs", 4)["seen"]]
    one = generate_clips(NoisePipeline(), texts, 0, GenerationOptions(), batch_size=1)
    four = generate_clips(NoisePipeline(), texts, 0, GenerationOptions(), batch_size=4)
    np.testing.assert_array_equal(np.stack(one.clips), np.stack(four.clips))
    with pytest.raises(UserError, match="batch size"):
        generate_clips(NoisePipeline(), texts, 0, GenerationOptions(), batch_size=0)


def test_progress_counts_all_clips():
    seen: list[tuple[int, int]] = []
    run_benchmark(NoisePipeline(), "xs", limit=3, batch_size=4, on_progress=lambda *parts: seen.append(parts))
    assert seen == [(4, 6), (6, 6)]


def test_steps_curve_scores_every_setting():
    pipeline = PerfectPipeline()
    points = steps_curve(pipeline, [(1, 1), (4, 3)], "xs", limit=3, options=GenerationOptions(first_guidance=2.0))
    assert [(point.first_steps, point.later_steps) for point in points] == [(1, 1), (4, 3)]
    assert all(point.scores.all == 1.0 and point.seconds_alone > 0 for point in points)
    assert all(call["guidance_scale"] == 2.0 for call in pipeline.calls)
    assert json.loads(json.dumps(points[1].to_json()))["first_steps"] == 4


def test_saving_leaves_sheets_videos_and_answers(perfect, tmp_path):
    sheets = save_clips(perfect, tmp_path)
    assert [path.name for path in sheets] == ["seen.png", "held_out.png"]
    assert read_image(sheets[0]).shape[1] > 3 * 6 * 64
    lines = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert len(lines) == LIMIT
    video = read_video(tmp_path / lines[0]["file"])
    assert video.frames.shape == (17, 64, 64, 3)
    assert lines[0]["expected"]["colour"] in lines[0]["prompt"]


def test_motions_that_the_judge_does_not_name_are_not_expected():
    scene = next(
        scene
        for scene in (sample_scene(0, index, "s") for index in range(200))
        if scene.objects[0].motions and scene.objects[0].motions[0].name == "spins"
    )
    assert expected_of(scene)["motion"] is None


def test_round_trip_measures_what_the_autoencoder_loses():
    torch.manual_seed(0)
    vae = CausalVideoVAE.build(CausalVideoVAEConfig.debug()).eval()
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8) for _ in range(3)]
    masks = [np.zeros((9, 32, 32), dtype=bool) for _ in clips]
    for mask in masks:
        mask[:, 8:16, 8:16] = True
    trip = vae_round_trip(vae, clips, masks)
    assert np.stack(trip.clips).shape == (3, 9, 32, 32, 3)
    error = np.square(np.stack(trip.clips).astype(float) - np.stack(clips)) / 255.0**2
    assert trip.psnr == pytest.approx(-10 * np.log10(error.mean()), abs=0.05)
    assert trip.object_psnr == pytest.approx(-10 * np.log10(error[:, :, 8:16, 8:16].mean()), abs=0.05)


def test_psnr_of_known_errors():
    assert peak_signal_to_noise(0.01) == pytest.approx(20.0)
    assert peak_signal_to_noise(0.0) == float("inf")
