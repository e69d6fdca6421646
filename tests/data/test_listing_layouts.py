"""The layouts that people's data sets already have, each taken in the documented order."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.data.annotations.filters import ScoreFilter
from m4v.data.folder_listing import list_folder
from m4v.data.listing import tables
from m4v.media.images import write_png
from tests.data.folders import write_rows

PIXEL = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_png(tmp_path / f"{name}.png", PIXEL)
    return tmp_path


def captions_of(root: Path) -> list[tuple[str, ...]]:
    return [entry.captions for entry in list_folder(root).entries]


def test_the_order_of_detection_and_its_reason(root: Path) -> None:
    with tarfile.open(root / "shard-000000.tar", "w"):
        pass
    (root / "a.txt").write_text("beside")
    (root / "b.txt").write_text("beside")
    assert captions_of(root) == [("beside",), ("beside",)]
    assert "1 tars of the folder are not read" in list_folder(root).layout
    (root / "videos.txt").write_text("a.png\nc.png\n")
    (root / "captions.txt").write_text("line one\nline two\n")
    assert captions_of(root) == [("line one",), ("line two",)]
    (root / "prompts.txt").write_text("prompt one\nprompt two\n")
    assert captions_of(root) == [("prompt one",), ("prompt two",)]
    assert "line i of videos.txt with line i of prompts.txt" in list_folder(root).layout
    (root / "videos2caption.json").write_text(json.dumps([{"path": "a.png", "cap": ["from json", "again"]}]))
    assert captions_of(root) == [("from json", "again")]
    (root / "metadata.json").write_text(json.dumps([{"path": "b.png", "text": "from a list"}]))
    assert captions_of(root) == [("from a list",)]
    (root / "metadata.csv").write_text("path,caption\na.png,from csv\n")
    assert captions_of(root) == [("from csv",)]
    assert "metadata.json not read" in list_folder(root).layout


def test_videos2caption_reads_beside_its_videos_folder(tmp_path: Path) -> None:
    write_png(tmp_path / "videos" / "a.png", PIXEL)
    (tmp_path / "videos2caption.json").write_text(json.dumps([{"path": "a.png", "cap": "one"}]))
    (entry,) = list_folder(tmp_path).entries
    assert entry.path == tmp_path / "videos" / "a.png"


def test_lines_that_do_not_pair_up_are_refused_with_both_counts(root: Path) -> None:
    (root / "videos.txt").write_text("a.png\nb.png\nc.png\n\n")
    (root / "prompts.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"has 3 lines, but .*prompts\.txt has 2"):
        list_folder(root)


def test_a_blank_line_among_captions_is_a_missing_caption(root: Path) -> None:
    (root / "videos.txt").write_text("a.png\nb.png\nc.png\n")
    (root / "prompts.txt").write_text("one\n\nthree\n")
    listing = list_folder(root)
    assert [entry.name for entry in listing.entries] == ["a.png", "c.png"]
    assert [(drop.reason, drop.source) for drop in listing.drops] == [("no caption", "b.png")]


def test_files_of_no_bytes_are_dropped_and_named(root: Path) -> None:
    (root / "b.png").write_bytes(b"")
    write_rows(root, [{"path": f"{name}.png", "caption": name} for name in "abc"])
    listing = list_folder(root)
    assert [entry.name for entry in listing.entries] == ["a.png", "c.png"]
    assert [(drop.reason, drop.source) for drop in listing.drops] == [("empty file", "b.png")]


def test_a_json_table_that_is_no_list_is_refused(root: Path) -> None:
    (root / "metadata.json").write_text('{"a.png": "caption"}')
    with pytest.raises(UserError, match="JSON dict; expected a list"):
        list_folder(root)
    (root / "metadata.json").write_text("[{]")
    with pytest.raises(UserError, match="not JSON"):
        list_folder(root)


def test_parquet_without_pyarrow_names_the_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(tables.importlib, "import_module", absent)
    (root / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="needs pyarrow"):
        list_folder(root)


def test_a_table_may_be_named_itself_and_filtered(root: Path) -> None:
    (root / "mine.csv").write_text("path,caption,motion\na.png,one,0.2\nb.png,two,0.9\nc.png,three,\n")
    listing = list_folder(root / "mine.csv", filters=[ScoreFilter(score="motion", minimum=0.5)])
    assert [entry.name for entry in listing.entries] == ["b.png"]
    assert {drop.reason for drop in listing.drops} == {"motion below 0.5", "no motion score"}
    with pytest.raises(UserError, match="no data set layout"):
        list_folder(root / "a.png")


def webdataset(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_foreign_webdataset_tars_are_read_through_their_headers(root: Path, tmp_path: Path) -> None:
    picture = (root / "a.png").read_bytes()
    folder = tmp_path / "tars"
    folder.mkdir()
    webdataset(
        folder / "x-0.tar",
        {
            "0001.png": picture,
            "0001.txt": b"first",
            "0002.txt": b"alone",
            "sub/0003.json": b'{"caption": "third", "fps": 24, "aesthetic": 5.5}',
            "sub/0003.png": picture,
            "0004.png": b"",
            "0004.txt": b"nothing in it",
        },
    )
    listing = list_folder(folder)
    assert [(entry.name, entry.captions) for entry in listing.entries] == [
        ("x-0.tar:0001.png", ("first",)),
        ("x-0.tar:sub/0003.png", ("third",)),
    ]
    assert all(entry.content() == picture for entry in listing.entries)
    assert listing.entries[1].facts["aesthetic"] == 5.5
    assert [(drop.reason, drop.source) for drop in listing.drops] == [
        ("empty file", "x-0.tar:0004.png"),
        ("sample without video or image", "x-0.tar:0002"),
    ]
    assert "without an index" in listing.layout


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"\x1f\x8b compressed or else")
    with pytest.raises(UserError, match="uncompressed tar"):
        list_folder(tmp_path)
