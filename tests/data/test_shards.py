"""WebDataset tars: written whole or not at all, readable by others, read back clip by clip."""

import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.folder_entry import FolderEntry
from m4v.data.folder_listing import list_folder
from m4v.data.folder_source import FolderSource
from m4v.data.loader import Prefetcher
from m4v.data.sampler import indices_for_step, share_of_rank
from m4v.data.shards import writer
from m4v.data.shards.index import index_path, read_index
from m4v.data.shards.writer import plan_shards, write_shards
from m4v.data.source import UnusableClip
from tests.data.folders import make_dataset, write_rows

SHAPE = VideoShape(num_frames=9, height=16, width=16)


def entries_of(root: Path) -> tuple[FolderEntry, ...]:
    return list_folder(root).entries


def open_source(root: Path) -> FolderSource:
    return FolderSource(root, shape=SHAPE, fps=8.0, time_compression=4)


def test_shards_give_the_very_clips_of_the_folder(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=3))
    files, shards = open_source(root), open_source(tmp_path / "tars")
    assert len(shards) == len(files) == 4
    assert "2 WebDataset tars" in shards.listing.layout
    assert "without an index" not in shards.listing.layout
    for index in range(4):
        np.testing.assert_array_equal(shards.clip(index).frames, files.clip(index).frames)
        assert shards.clip(index).captions == files.clip(index).captions


def test_plain_tarfile_reads_them_and_the_offsets_are_right(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    (tar,) = write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=9)).paths
    with tarfile.open(tar) as archive:
        names = archive.getnames()
        content = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        offsets = {info.name: info.offset_data for info in archive.getmembers()}
    keys = [name.partition(".")[0] for name in names]
    assert [key for key, _ in itertools.groupby(keys)] == sorted(set(keys))  # a sample's members follow each other
    assert all(name.count(".") == 1 for name in names)
    assert content["000000000.mp4"] == (root / "videos" / "a.mp4").read_bytes()
    assert content["000000000.txt"] == b"video a"
    facts = json.loads(content["000000000.json"])
    assert (facts["fps"], facts["num_frames"], facts["height"], facts["width"]) == (8.0, 9, 32, 32)
    assert facts["source"] == "videos/a.mp4"
    index = read_index(tar)
    assert index is not None
    assert [sample.media.offset for sample in index.samples] == [
        offsets[f"{sample.key}{sample.suffix}"] for sample in index.samples
    ]


def test_several_captions_and_annotations_survive(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    write_rows(root, [{"path": "videos/a.mp4", "captions": ["long", "short"], "aesthetic": 5.5}])
    write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=9))
    (entry,) = entries_of(tmp_path / "tars")
    assert entry.captions == ("long", "short")
    assert entry.facts["aesthetic"] == 5.5


def test_an_interrupted_run_goes_on_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_dataset(tmp_path), tmp_path / "tars"
    plan = plan_shards(entries_of(root), per_shard=1)
    whole = write_shards(tmp_path / "whole", plan)
    real, calls = writer._add_sample, itertools.count()

    def dies(*arguments: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_add_sample", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shards(out, plan)
    assert sorted(path.name for path in out.glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(writer, "_add_sample", real)
    again = write_shards(out, plan)
    assert (again.num_reused, again.num_written, again.num_replaced) == (2, 2, 0)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in whole.paths]


def test_a_tar_of_a_changed_file_or_caption_is_written_anew(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path), tmp_path / "tars"
    write_shards(out, plan_shards(entries_of(root), per_shard=1))
    os.utime(root / "videos" / "b.mp4", ns=(0, 0))
    outcome = write_shards(out, plan_shards(entries_of(root), per_shard=1))
    assert (outcome.num_reused, outcome.num_replaced) == (3, 1)
    metadata = root / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("video c", "video C"))
    outcome = write_shards(out, plan_shards(entries_of(root), per_shard=1))
    assert (outcome.num_reused, outcome.num_replaced) == (3, 1)
    assert ("video C",) in [entry.captions for entry in entries_of(out)]


def test_tars_of_other_data_are_never_mixed_in(tmp_path: Path) -> None:
    root, out = make_dataset(tmp_path), tmp_path / "tars"
    write_shards(out, plan_shards(entries_of(root), per_shard=1))
    with pytest.raises(UserError, match="holds 3 tars that are not part"):
        write_shards(out, plan_shards(entries_of(root), per_shard=4))


def test_damaged_files_stay_out_and_are_listed_again_from_the_index(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    video = root / "videos" / "b.mp4"
    video.write_bytes(video.read_bytes()[:600])
    outcome = write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=9))
    assert outcome.num_samples == 3
    assert [(drop.reason, drop.source) for drop in outcome.drops] == [("unreadable file", "videos/b.mp4")]
    listing = list_folder(tmp_path / "tars")
    assert [(drop.reason, drop.source) for drop in listing.drops] == [("unreadable file", "videos/b.mp4")]


def test_an_index_that_does_not_fit_its_tar_is_not_used(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    (tar,) = write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=9)).paths
    tar.write_bytes(tar.read_bytes() + bytes(512))
    assert read_index(tar) is None
    assert "1 of them without an index" in list_folder(tmp_path / "tars").layout
    index_path(tar).write_text("{")
    assert read_index(tar) is None


def test_a_tar_cut_short_after_listing_makes_its_last_clips_unusable(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    (tar,) = write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=9)).paths
    source = open_source(tmp_path / "tars")
    tar.write_bytes(tar.read_bytes()[: source.entries[2].member.offset + 10])  # type: ignore[union-attr]
    assert len(source.clip(1).frames) == 9
    with pytest.raises(UnusableClip, match="archive is truncated"):
        source.clip(2)


def test_shards_of_a_size(tmp_path: Path) -> None:
    entries = entries_of(make_dataset(tmp_path))
    sizes = [entry.num_bytes() for entry in entries]
    plan = plan_shards(entries, shard_bytes=sizes[0] + sizes[1])
    assert [entry for shard in plan for entry in shard] == list(entries)
    assert len(plan[0]) == 2
    assert len(plan_shards(entries, shard_bytes=1)) == len(entries)
    for wrong in ({}, {"per_shard": 1, "shard_bytes": 1}, {"per_shard": 0}):
        with pytest.raises(UserError):
            plan_shards(entries, **wrong)


def global_order(source: FolderSource, world: int, threads: int, steps: range) -> list[str]:
    """Names of the clips in the order that all ranks together see them, each with its own threads."""
    batch = 4

    def rank_stream(rank: int) -> list[list[str]]:
        def make(step: int) -> list[str]:
            mine = share_of_rank(indices_for_step(3, step, batch, len(source)), rank, world)
            return [source.clip(int(index)).source for index in mine]

        with Prefetcher(make, steps, num_threads=threads) as batches:
            return list(batches)

    ranks = [rank_stream(rank) for rank in range(world)]
    return [name for step in range(len(steps)) for rank in ranks for name in rank[step]]


def test_the_global_order_is_the_same_for_any_ranks_and_workers_and_after_a_resume(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    write_shards(tmp_path / "tars", plan_shards(entries_of(root), per_shard=2))
    source = open_source(tmp_path / "tars")
    expected = global_order(source, 1, 1, range(6))
    assert sorted(set(expected)) == sorted(entry.name for entry in source.entries)
    for world, threads in itertools.product((1, 2, 4), (1, 3)):
        assert global_order(source, world, threads, range(6)) == expected
    resumed = global_order(source, 4, 2, range(2, 6))  # after two steps on another number of ranks
    assert global_order(source, 2, 1, range(2)) + resumed == expected
