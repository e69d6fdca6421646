"""File names made from sentences."""

from pathlib import Path

import pytest

from m4v.cli.output_paths import plan_jobs, require_writable, slug
from m4v.core.errors import UserError


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red ball, bouncing!", "a-red-ball-bouncing"),
        ("Ein größerer Würfel", "ein-groerer-wurfel"),
        ("../../etc/passwd", "etc-passwd"),
        ("一个红球", "video"),
        ("x" * 100, "x" * 60),
        ("word " * 30, "-".join(["word"] * 12)),
    ],
)
def test_slugs_are_plain_and_short(prompt, name):
    assert slug(prompt) == name


def test_folders_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_jobs(["a b"], 7, 1, None)[0].path == Path("outputs/a-b-seed7.mp4")
    assert plan_jobs(["a b"], 7, 1, "x.mp4")[0].path == Path("x.mp4")
    assert plan_jobs(["a b"], 7, 1, "new")[0].path == Path("new/a-b-seed7.mp4")
    assert plan_jobs(["a b"], 7, 1, "new.mp4/")[0].path == Path("new.mp4/a-b-seed7.mp4")
    (tmp_path / "there.mp4").mkdir()
    assert plan_jobs(["a b"], 7, 1, "there.mp4")[0].path == Path("there.mp4/a-b-seed7.mp4")


def test_every_video_has_its_own_file():
    jobs = plan_jobs(["a", "A!", "b"], 0, 3, "d")
    assert len({job.path for job in jobs}) == 9
    assert [job.seed for job in jobs[:3]] == [0, 1, 2]


def test_writability_is_found_out_without_leaving_anything(tmp_path):
    require_writable(tmp_path / "new" / "deep" / "v.mp4")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="is a folder"):
        require_writable(tmp_path)
