"""Annotation files of published data sets, in the very columns that they are published with."""

import json
from pathlib import Path

import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.annotations.detection import recognise
from m4v.data.annotations.filters import ScoreFilter
from m4v.data.drops import count_drops
from m4v.data.folder_listing import list_folder
from m4v.data.folder_source import FolderSource
from m4v.data.source import UnusableClip
from m4v.media.video import write_video
from tests.data.folders import numbered_frames, numbers_of

WEBVID = """videoid,contentUrl,duration,page_dir,name
21179416,https://host/v/21179416/preview/stock-footage.mp4,PT00H00M11S,006001_006050,"Aerial shot, winter forest"
5629184,https://host/v/5629184/preview/stock-footage.mp4,PT00H01M29S,071501_071550,Senior couple
1063125190,https://host/v/1063125190/preview/stock-footage.mp4,PT00H00M10S,055901_055950,A beautiful cookie
"""
OPENVID = """video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds
-_iRTHryQ_13_0to241.mp4,"A woman, on a couch",5.1,3.5,0.99,static,241,24.0,10.04
-_iRTHryQ_14_0to100.mp4,A man,4.2,9.5,0.91,pan_left,100,30.0,3.3
gone.mp4,Nobody,6.0,1.0,1.0,zoom_in,100,30.0,3.3
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, numbered_frames(21), fps=8)
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_webvid_in_pages_or_flat_and_missing_files_counted(tmp_path: Path, video: bytes) -> None:
    (tmp_path / "results_10M_train.csv").write_text(WEBVID)
    put(tmp_path / "videos" / "006001_006050" / "21179416.mp4", video)
    put(tmp_path / "videos" / "5629184.mp4", video)
    listing = list_folder(tmp_path / "results_10M_train.csv")
    assert [(entry.name, entry.captions, entry.facts) for entry in listing.entries] == [
        ("006001_006050/21179416.mp4", ("Aerial shot, winter forest",), {"seconds": 11}),
        ("5629184.mp4", ("Senior couple",), {"seconds": 89}),
    ]
    (drop,) = count_drops(listing.drops)
    assert (drop.reason, drop.count) == ("missing file", 1)
    assert "1063125190.mp4" in drop.examples[0]
    assert listing.layout.startswith("WebVid annotations")
    assert list_folder(tmp_path).entries == listing.entries  # found by its columns in the folder, too


def test_openvid_scores_choose(tmp_path: Path, video: bytes) -> None:
    (tmp_path / "OpenVid-1M.csv").write_text(OPENVID)
    for name in ("-_iRTHryQ_13_0to241.mp4", "-_iRTHryQ_14_0to100.mp4"):
        put(tmp_path / "elsewhere" / name, video)
    listing = list_folder(
        tmp_path / "OpenVid-1M.csv",
        media=tmp_path / "elsewhere",
        filters=[ScoreFilter(score="aesthetic", minimum=4.5), ScoreFilter(score="motion", maximum=8)],
    )
    (entry,) = listing.entries
    assert entry.captions == ("A woman, on a couch",)
    assert entry.facts == {
        "aesthetic": 5.1,
        "motion": 3.5,
        "temporal_consistency": 0.99,
        "num_frames": 241,
        "fps": 24,
        "seconds": 10.04,
    }
    assert {drop.reason: drop.count for drop in count_drops(listing.drops)} == {
        "missing file": 1,
        "aesthetic below 4.5": 1,
    }


def test_open_sora_plan_lists_with_parts_of_files(tmp_path: Path, video: bytes) -> None:
    items = [
        {
            "path": "part/x.mp4",
            "cap": ["long caption", "short"],
            "resolution": {"height": 32, "width": 32},
            "fps": 8,
            "duration": 2.6,
            "num_frames": 9,
            "cut": [10, 19],
            "crop": [0, 16, 8, 32],
            "aes": 5.2,
            "motion_average": 0.4,
        },
        {"path": "part/x.mp4", "cap": "whole"},
        {"path": "part/none.mp4", "cap": "gone"},
        {"path": "part/x.mp4", "cap": "bad cut", "cut": "all"},
        {"path": "part/x.mp4"},
        "no object",
    ]
    (tmp_path / "anno.json").write_text(json.dumps(items))
    put(tmp_path / "media" / "part" / "x.mp4", video)
    (tmp_path / "data.txt").write_text("media,anno.json\n")
    listing = list_folder(tmp_path / "data.txt")
    first = listing.entries[0]
    assert first.captions == ("long caption", "short")
    assert (first.cut, first.crop) == ((10, 19), (0, 8, 16, 32))
    assert first.facts["aesthetic"] == 5.2
    assert first.facts["motion"] == 0.4
    assert first.facts["seconds"] == 2.6
    assert sorted(drop.reason for drop in listing.drops) == [
        "missing file",
        "no caption",
        "unreadable metadata row",
        "unreadable metadata row",
    ]
    source = FolderSource(
        tmp_path / "data.txt", shape=VideoShape(num_frames=17, height=16, width=16), fps=8, time_compression=4
    )
    assert numbers_of(source.clip(0).frames) == list(range(10, 19))
    assert numbers_of(source.clip(1).frames) == list(range(17))
    facts = source.header(0)
    assert (facts.num_frames, facts.height, facts.width) == (9, 24, 16)


def test_pyramid_flow_rows_with_frames(tmp_path: Path, video: bytes) -> None:
    put(tmp_path / "v.mp4", video)
    rows = [
        {"video": "v.mp4", "text": "whole", "latent": "v.pt", "text_fea": "t.pt"},
        {"video": "v.mp4", "text": "part", "latent": "v.pt", "frames": list(range(4, 13))},
        {"video": "v.mp4", "text": "gaps", "latent": "v.pt", "frames": [0, 2, 4]},
    ]
    (tmp_path / "video_text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listing = list_folder(tmp_path / "video_text.jsonl")
    assert [(entry.captions, entry.cut) for entry in listing.entries] == [(("whole",), None), (("part",), (4, 13))]
    assert [drop.reason for drop in listing.drops] == ["frames with gaps"]
    assert "Pyramid-Flow" in listing.layout


def test_a_crop_outside_the_picture_is_said(tmp_path: Path, video: bytes) -> None:
    put(tmp_path / "v.mp4", video)
    (tmp_path / "a.json").write_text(json.dumps([{"path": "v.mp4", "cap": "x", "crop": [40, 50, 0, 8]}]))
    source = FolderSource(
        tmp_path / "a.json", shape=VideoShape(num_frames=9, height=16, width=16), fps=8, time_compression=4
    )
    with pytest.raises(UnusableClip, match="crop outside the picture"):
        source.clip(0)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.csv", WEBVID, "webvid"),
        ("a.csv", OPENVID, "openvid"),
        ("a.csv", "path,caption\n", None),
        ("a.json", '[{"path": "x.mp4", "cap": ["y"]}]', "open-sora-plan"),
        ("a.json", '[{"path": "x.mp4", "text": "y"}]', None),
        ("a.jsonl", '{"video": "x.mp4", "text": "y", "latent": "z.pt"}', "pyramid-flow"),
        ("a.jsonl", '{"video": "x.mp4", "text": "y"}', None),
        ("a.jsonl", "", None),
        ("a.txt", "root/dir,anno.json\n", "open-sora-plan"),
        ("a.txt", "just words\n", None),
    ],
)
def test_annotation_files_are_known_by_their_columns(tmp_path: Path, name: str, text: str, kind: str | None) -> None:
    (tmp_path / name).write_text(text)
    assert recognise(tmp_path / name) == kind


def test_filters_need_bounds_that_leave_something() -> None:
    with pytest.raises(UserError, match="no bound"):
        ScoreFilter(score="motion")
    with pytest.raises(UserError, match="which is nothing"):
        ScoreFilter(score="motion", minimum=2, maximum=1)
