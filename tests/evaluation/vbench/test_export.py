"""Exporting videos for the standard suite."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.evaluation.vbench.export import ExportPlan, check_completeness, export_videos
from m4v.evaluation.vbench.suite import SuitePrompt, case_clashes, draw_stratified, read_suite

ENTRIES = [
    {"prompt_en": "a dog", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "dog"}}},
    {"prompt_en": "A fantasy landscape", "dimension": ["overall_consistency", "aesthetic_quality"]},
    {"prompt_en": "a fantasy landscape", "dimension": ["appearance_style"]},
    {"prompt_en": "a dog", "dimension": ["color"]},
]


def _suite(tmp_path: Path, entries: object = ENTRIES) -> Path:
    folder = tmp_path / "VBench" / "vbench"
    folder.mkdir(parents=True)
    (folder / "VBench_full_info.json").write_text(json.dumps(entries))
    return folder.parent


def _frames(prompt: str, seed: int) -> np.ndarray:
    return np.full((2, 16, 16, 3), seed % 251, dtype=np.uint8)


def _plan(prompts: tuple[SuitePrompt, ...], **changes: object) -> ExportPlan:
    plan = ExportPlan(prompts=prompts, fps=8.0, facts={"model": "tiny"}, spoken={}, num_per_prompt=2)
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_prompts_come_once_with_all_their_dimensions(tmp_path: Path) -> None:
    prompts = read_suite(_suite(tmp_path))
    assert [prompt.text for prompt in prompts] == ["a dog", "A fantasy landscape", "a fantasy landscape"]
    assert prompts[0].dimensions == ("object_class", "color")
    assert case_clashes(prompts) == ("A fantasy landscape", "a fantasy landscape")
    assert [prompt.text for prompt in read_suite(tmp_path / "VBench", ["color"])] == ["a dog"]


@pytest.mark.parametrize(
    "entry",
    [{"prompt_en": "a dog"}, {"prompt_en": "a/b", "dimension": ["color"]}, {"prompt_en": "x", "dimension": ["y"]}, 3],
)
def test_another_file_is_refused(tmp_path: Path, entry: object) -> None:
    with pytest.raises(UserError, match="Entry 0"):
        read_suite(_suite(tmp_path, [entry]))


def test_an_export_goes_on_where_it_stopped(tmp_path: Path) -> None:
    prompts = read_suite(_suite(tmp_path))
    calls: list[tuple[str, int]] = []

    def make(prompt: str, seed: int) -> np.ndarray:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((prompt, seed))
        return _frames(prompt, seed)

    plan = _plan(prompts)
    with pytest.raises(KeyboardInterrupt):
        export_videos(plan, tmp_path / "out", make)
    assert len(check_completeness(prompts, tmp_path / "out", 2).missing) == 3
    before = list(calls)
    assert export_videos(plan, tmp_path / "out", _frames) == 3
    done = check_completeness(prompts, tmp_path / "out", 2)
    assert done.is_complete
    assert done.expected == 6
    assert len({seed for _, seed in before}) == 3
    assert export_videos(plan, tmp_path / "out", _frames) == 0


def test_other_settings_never_join_a_folder(tmp_path: Path) -> None:
    prompts = read_suite(_suite(tmp_path))
    export_videos(_plan(prompts), tmp_path / "out", _frames)
    for change in ({"seed": 1}, {"facts": {"model": "other"}}, {"spoken": {"a dog": "a very nice dog"}}, {"fps": 9.0}):
        with pytest.raises(UserError, match="other settings"):
            export_videos(_plan(prompts, **change), tmp_path / "out", _frames)
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(UserError, match="nobody knows"):
        export_videos(_plan(prompts), tmp_path / "out", _frames)


def test_lengthened_prompts_are_told_to_the_model_only(tmp_path: Path) -> None:
    prompts = read_suite(_suite(tmp_path), ["color"])
    told: list[str] = []

    def make(prompt: str, seed: int) -> np.ndarray:
        told.append(prompt)
        return _frames(prompt, seed)

    export_videos(_plan(prompts, spoken={"a dog": "a very nice dog"}), tmp_path / "out", make)
    assert told == ["a very nice dog"] * 2
    assert (tmp_path / "out" / "a dog-0.mp4").is_file()


def test_misnamed_and_empty_files_are_found(tmp_path: Path) -> None:
    prompts = read_suite(_suite(tmp_path), ["color"])
    export_videos(_plan(prompts), tmp_path / "out", _frames)
    (tmp_path / "out" / "a dog-0.mp4").write_bytes(b"")
    (tmp_path / "out" / "a dog-1.mp4").rename(tmp_path / "out" / "a dog_1.mp4")
    found = check_completeness(prompts, tmp_path / "out", 2)
    assert (found.missing, found.empty, found.unexpected) == (("a dog-1.mp4",), ("a dog-0.mp4",), ("a dog_1.mp4",))
    assert not found.is_complete


def test_a_fast_list_takes_suites_in_turn(tmp_path: Path) -> None:
    prompts = [
        SuitePrompt(text=f"{name} {number}", dimensions=(name,))
        for name in ("color", "human_action", "scene")
        for number in range(10)
    ]
    drawn = draw_stratified(prompts, 6, seed=0)
    assert sorted(prompt.dimensions[0] for prompt in drawn) == ["color"] * 2 + ["human_action"] * 2 + ["scene"] * 2
    assert draw_stratified(prompts[::-1], 6, seed=0) == drawn
    assert draw_stratified(prompts, 6, seed=1) != drawn
    with pytest.raises(UserError, match="31"):
        draw_stratified(prompts, 31, seed=0)
