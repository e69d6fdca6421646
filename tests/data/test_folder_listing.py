"""Recognising a dataset folder's layout, and naming everything that is left out of it."""

from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.data.drops import count_drops
from m4v.data.folder_listing import CAPTION_COLUMNS, PATH_COLUMNS, list_folder
from m4v.media.images import write_png
from tests.data.folders import write_rows

PIXEL = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_png(tmp_path / f"{name}.png", PIXEL)
    return tmp_path


@pytest.mark.parametrize("path_column", PATH_COLUMNS)
@pytest.mark.parametrize("caption_column", CAPTION_COLUMNS)
def test_every_alias_of_the_columns(root: Path, path_column: str, caption_column: str) -> None:
    write_rows(root, [{path_column: "a.png", caption_column: "  a red\n ball "}])
    (entry,) = list_folder(root).entries
    assert (entry.path, entry.name, entry.captions) == (root / "a.png", "a.png", ("a red ball",))


def test_jsonl_before_csv_before_text_files(root: Path) -> None:
    (root / "b.txt").write_text("from text")
    assert [entry.captions for entry in list_folder(root).entries] == [("from text",)]
    (root / "metadata.csv").write_text("path,caption\na.png,from csv\n")
    assert [entry.captions for entry in list_folder(root).entries] == [("from csv",)]
    assert "metadata.csv" in list_folder(root).layout
    write_rows(root, [{"path": "a.png", "caption": "from jsonl"}])
    assert [entry.captions for entry in list_folder(root).entries] == [("from jsonl",)]


def test_several_captions_of_one_clip(root: Path) -> None:
    write_rows(root, [{"path": "a.png", "caption": "short", "captions": ["short", "", "a longer one"]}])
    assert list_folder(root).entries[0].captions == ("short", "a longer one")


def test_csv_with_quotes_a_byte_order_mark_and_spaces_in_the_header(root: Path) -> None:
    (root / "metadata.csv").write_text('\ufeffvideo , prompt\na.png,"red, round"\n', encoding="utf-8")
    assert list_folder(root).entries[0].captions == ("red, round",)


def test_a_quoted_caption_may_span_lines(root: Path) -> None:
    (root / "metadata.csv").write_text('path,caption\na.png,"one\ntwo"\nb.png,three\n')
    assert [entry.captions for entry in list_folder(root).entries] == [("one two",), ("three",)]


def test_bad_rows_are_counted_and_named(root: Path) -> None:
    good = {"path": "a.png", "caption": "fine"}
    bad = [
        "{broken",
        "[1, 2]",
        {"caption": "no file"},
        {"path": "gone.mp4", "caption": "x"},
        {"path": "notes.pdf", "caption": "x"},
        {"path": "b.png", "caption": "   "},
        {"path": "c.png"},
        {"path": 7, "caption": "x"},
    ]
    write_rows(root, [good, "", *bad])
    listing = list_folder(root)
    assert [entry.name for entry in listing.entries] == ["a.png"]
    reasons = {drop.reason: drop for drop in count_drops(listing.drops)}
    assert {reason: drop.count for reason, drop in reasons.items()} == {
        "unreadable metadata row": 2,
        "metadata row without a file": 2,
        "missing file": 1,
        "unknown kind of file": 1,
        "no caption": 2,
    }
    assert reasons["no caption"].examples == ("b.png", "c.png")
    assert "metadata.jsonl line 3" in reasons["unreadable metadata row"].examples[0]
    assert len(listing.drops) == len(bad)


def test_a_missing_caption_may_count_as_empty(root: Path) -> None:
    assert list_folder(root).entries == ()
    assert len(list_folder(root).drops) == 3
    assert [entry.captions for entry in list_folder(root, missing_caption="empty").entries] == [("",)] * 3


def test_text_files_in_subfolders_and_hidden_files(root: Path) -> None:
    write_png(root / "sub" / "d.PNG", PIXEL)
    (root / "sub" / "d.txt").write_text("deep")
    write_png(root / ".cache" / "e.png", PIXEL)
    (root / ".cache" / "e.txt").write_text("hidden")
    listing = list_folder(root)
    assert [entry.captions for entry in listing.entries] == [("deep",)]
    assert [drop.source for drop in listing.drops] == ["a.png", "b.png", "c.png"]


def test_a_table_without_paths_names_the_columns(root: Path) -> None:
    (root / "metadata.csv").write_text("file,words\na.png,x\n")
    with pytest.raises(UserError, match=r"file, words.*file_name"):
        list_folder(root)


def test_no_folder_and_no_text(root: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        list_folder(root / "absent")
    (root / "metadata.jsonl").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="UTF-8"):
        list_folder(root)


def test_only_three_examples_are_given(root: Path) -> None:
    write_rows(root, [{"path": f"{index}.mp4", "caption": "x"} for index in range(10)])
    (reason,) = count_drops(list_folder(root).drops)
    assert reason.count == 10
    assert len(reason.examples) == 3
    assert str(reason).startswith("10 x missing file, for example 0.mp4")
