"""atomic_path: a reader finds the old thing or the new one, never half of it, and no leftovers."""

import os
from pathlib import Path

import pytest

from m4v.core.errors import UserError
from m4v.core.files import atomic_path


def test_the_file_appears_on_success_only(tmp_path: Path) -> None:
    target = tmp_path / "new" / "clip.mp4"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".mp4"
        assert temporary != target
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["clip.mp4"]


def _write(target: Path, error: BaseException | None = None, folder: bool = False) -> None:
    """Write something through atomic_path, then break."""
    with atomic_path(target) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "new").touch()
        else:
            temporary.write_text("half")
        if error:
            raise error


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="encoder"):
        _write(target, RuntimeError("encoder broke"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_interruption_cleans_up_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "a.txt", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    target.mkdir()
    (target / "old").touch()
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError, match="disk"):
        _write(target, RuntimeError("disk broke"), folder=True)
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_target_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_path(target) as first, atomic_path(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_where_a_folder_is_needed_is_the_users_error(tmp_path: Path) -> None:
    blocker = tmp_path / "runs"
    blocker.write_text("a file")
    for target in (blocker / "deep" / "a.txt", blocker / "a.txt"):
        with pytest.raises(UserError, match="Cannot write"):
            _write(target)
    assert blocker.read_text() == "a file"


def test_a_folder_in_the_files_place_is_the_users_error_and_survives(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.mkdir()
    (target / "keep").touch()
    with pytest.raises(UserError, match=r"Cannot write .*a\.txt"):
        _write(target)
    assert (target / "keep").exists()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_place_is_the_users_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            _write(tmp_path / "a.txt")
    finally:
        tmp_path.chmod(0o700)


def test_a_writer_that_writes_nothing_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"), atomic_path(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    for name in ("real", "absent"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
    (tmp_path / "real").mkdir()
    for name in ("real", "absent"):
        _write_folder(tmp_path / f"link-{name}")
        assert (tmp_path / f"link-{name}").is_symlink()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]


def test_the_folder_one_stands_in_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _write_folder(Path())
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["here", "here/new"]


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        _write(pipe)
    assert pipe.is_fifo()


def test_an_interrupted_exchange_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    replace, calls = Path.replace, iter((None, KeyboardInterrupt()))

    def interrupted(self: Path, other: Path) -> Path:
        if error := next(calls, None):
            raise error
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _write_folder(target)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/old"]


def test_names_too_long_and_links_in_circles_are_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for target in (tmp_path / ("x" * 300), tmp_path / "circle" / "a"):
        with pytest.raises(UserError, match="Cannot write"):
            _write(target)


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    gone = tmp_path / "sources" / "gone"
    with pytest.raises(UserError, match=r"gone cannot be read: No such file"), atomic_path(tmp_path / "out" / "a"):
        gone.read_bytes()


def _write_folder(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
