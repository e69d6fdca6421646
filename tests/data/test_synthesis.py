"""Synthetic videos: seeds by sentence, ranks share the work, nothing is made twice or mixed."""

import json
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.data.synthesis import merge_rows, plan_videos, read_prompts, synthesize


@pytest.fixture
def prompts(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a red ball", "tags": ["ball"]}\n\n{"prompt": "a cube"}\n{"prompt": "a cube"}\n')
    return read_prompts(path)


def noise(prompt: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def test_a_seed_depends_on_sentence_and_copy_not_on_its_place(prompts) -> None:
    assert [prompt.tags for prompt in prompts] == [("ball",), ()]
    seeds = {(video.prompt.text, video.seed) for video in plan_videos(prompts, 3, seed=0)}
    assert len(seeds) == 6
    assert {(video.prompt.text, video.seed) for video in plan_videos(prompts[::-1], 4, seed=0)} > seeds
    assert not {seed for _, seed in seeds} & {video.seed for video in plan_videos(prompts, 3, seed=1)}


def test_ranks_together_make_what_one_makes(prompts, tmp_path: Path) -> None:
    videos = plan_videos(prompts, 3, seed=0)
    for root, num_ranks in ((tmp_path / "one", 1), (tmp_path / "four", 4)):
        made = [
            synthesize(root, videos, noise, fps=8, facts={"model": "m"}, rank=rank, num_ranks=num_ranks)
            for rank in range(num_ranks)
        ]
        assert sum(made) == merge_rows(root, videos) == 6
    assert (tmp_path / "one/metadata.jsonl").read_bytes() == (tmp_path / "four/metadata.jsonl").read_bytes()
    row = json.loads((tmp_path / "one/metadata.jsonl").read_text().splitlines()[0])
    assert row["source"] == "synthetic"
    assert (row["prompt"], row["tags"], row["frames"], row["fps"]) == ("a red ball", ["ball"], 5, 8)


def test_an_interruption_loses_only_the_video_under_way(prompts, tmp_path: Path) -> None:
    videos = plan_videos(prompts, 2, seed=0)
    calls = []

    def failing(prompt: str, seed: int) -> np.ndarray:
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return noise(prompt, seed)

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path, videos, failing, fps=8, facts={"model": "m"})
    assert synthesize(tmp_path, videos, noise, fps=8, facts={"model": "m"}) == 2
    assert synthesize(tmp_path, videos, noise, fps=8, facts={"model": "m"}) == 0
    with pytest.raises(UserError, match="model m -> other"):
        synthesize(tmp_path, videos, noise, fps=8, facts={"model": "other"})


def test_prompt_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for content, message in (("", "no prompt"), ('{"text": "x"}', "line 1"), ("[]", "line 1"), ("{", "line 1")):
        (tmp_path / "p.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            read_prompts(tmp_path / "p.jsonl")
