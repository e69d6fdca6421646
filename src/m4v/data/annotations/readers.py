"""Rows of the annotation files that WebVid-10M, OpenVid-1M, Open-Sora-Plan and Pyramid-Flow publish or expect.

Media are downloaded apart from them, so every reader gets the folder they lie in and tries the places where the public
download scripts put them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4v.data.folder_entry import EntryOrDrop, FolderEntry, check_file, clean_captions
from m4v.data.listing.tables import numbers
from m4v.data.source import UnusableClip

_ISO_DURATION = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?$")


def webvid_entry(media: Path, where: str, row: Mapping[str, Any]) -> EntryOrDrop:
    """Read a row of WebVid-10M: `videoid,contentUrl,duration,page_dir,name`.

    Source: WebVid's `results_10M_train.csv`; its own script stores `page_dir/videoid.mp4`, others `videoid.mp4`.
    """
    number = _text(row, "videoid")
    if not number:
        return UnusableClip("metadata row without a file", where, "no videoid")
    places = [f"{_text(row, 'page_dir')}/{number}.mp4", f"{number}.mp4"]
    facts = {}
    if matched := _ISO_DURATION.match(_text(row, "duration")):
        hours, minutes, seconds = (float(part or 0) for part in matched.groups())
        facts["seconds"] = 3600 * hours + 60 * minutes + seconds
    return _at_first_place(media, places, where, FolderEntry(media, "", clean_captions(row.get("name")), facts=facts))


def openvid_entry(media: Path, where: str, row: Mapping[str, Any]) -> EntryOrDrop:
    """Read a row of OpenVid-1M or OpenVidHD.

    Columns: `video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds`.
    Scores are named `aesthetic`, `motion` and `temporal_consistency` here, `frame` is `num_frames`.

    Source: OpenVid-1M's CSV files; the videos of its zip files lie in one flat folder.
    """
    name = _text(row, "video")
    if not name:
        return UnusableClip("metadata row without a file", where, "no video")
    facts = {
        {"frame": "num_frames"}.get(key, key.removesuffix(" score").replace(" ", "_")): value
        for key, value in numbers({key: value for key, value in row.items() if key not in ("video", "caption")}).items()
    }
    places = [name, Path(name).name]
    return _at_first_place(
        media, places, where, FolderEntry(media, "", clean_captions(row.get("caption")), facts=facts)
    )


def open_sora_plan_entry(media: Path, where: str, row: Mapping[str, Any]) -> EntryOrDrop:
    """Read an item of Open-Sora-Plan: `path`, `cap` (one or several), `resolution`, and for videos `fps`, `duration`.

    From version 1.2 on an item may be part of its file: `cut` [first, after the last frame] and `crop`
    [left, right, top, bottom]. Scores are `aesthetic` (or `aes`) and `motion` (or `motion_average`).

    Source: Open-Sora-Plan `opensora/dataset/t2v_datasets.py` and the data cards of versions 1.1 to 1.3.
    """
    name = _text(row, "path")
    if not name:
        return UnusableClip("metadata row without a file", where, "no path")
    facts = numbers(row)
    resolution = row.get("resolution")
    if isinstance(resolution, Mapping):
        facts |= numbers(resolution)
    for ours, theirs in (("aesthetic", "aes"), ("motion", "motion_average"), ("seconds", "duration")):
        if theirs in facts:
            facts.setdefault(ours, facts.pop(theirs))
    cut, crop = _whole_numbers(row.get("cut"), 2), _whole_numbers(row.get("crop"), 4)
    for key, part in (("cut", cut), ("crop", crop)):
        if row.get(key) is not None and part is None:
            return UnusableClip("unreadable metadata row", where, f"{key} is {row[key]!r}")
    entry = FolderEntry(
        media,
        "",
        clean_captions(row.get("cap")),
        cut=None if cut is None else (cut[0], cut[1]),
        crop=None if crop is None else (crop[0], crop[2], crop[1], crop[3]),
        facts=facts,
    )
    return _at_first_place(media, [name, Path(name).name], where, entry)


def pyramid_flow_entry(media: Path, where: str, row: Mapping[str, Any]) -> EntryOrDrop:
    """Read a row of Pyramid-Flow's annotation: `video` or `image`, `text`, and optionally `frames`.

    Its `latent` and `text_fea` are not read: they are pickled, belong to one autoencoder, and are not normalised.
    `frames` must follow each other without gaps.

    Source: Pyramid-Flow `annotation/*.jsonl`, `dataset/dataset_cls.py`.
    """
    name = _text(row, "video") or _text(row, "image")
    if not name:
        return UnusableClip("metadata row without a file", where, "no video or image")
    cut = None
    frames = row.get("frames")
    if frames is not None:
        chosen = _whole_numbers(frames, None)
        if not chosen or chosen != list(range(chosen[0], chosen[0] + len(chosen))):
            return UnusableClip("frames with gaps", where, "expected numbers that follow each other")
        cut = (chosen[0], chosen[-1] + 1)
    return _at_first_place(media, [name], where, FolderEntry(media, "", clean_captions(row.get("text")), cut=cut))


def _at_first_place(media: Path, places: list[str], where: str, entry: FolderEntry) -> EntryOrDrop:
    problem = None
    for place in places:
        problem = check_file(media / place, place, where)
        if problem is None:
            return FolderEntry(media / place, place, entry.captions, cut=entry.cut, crop=entry.crop, facts=entry.facts)
        if problem.reason != "missing file":
            return problem
    assert problem is not None
    return UnusableClip(problem.reason, places[0], where)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return str(value).strip() if isinstance(value, str | int) else ""


def _whole_numbers(value: object, count: int | None) -> list[int] | None:
    if not isinstance(value, list) or not all(isinstance(item, int) and item >= 0 for item in value):
        return None
    return value if count is None or len(value) == count else None
