"""Buckets by size and length: where clips go, and that none of them vanishes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4v.core.errors import UserError
from m4v.core.shapes import VideoShape
from m4v.data.bucketed_source import BucketedClips, plan_buckets
from m4v.data.buckets import Bucket, BucketPlan, MediaSize, choose_bucket
from m4v.data.folder_source import FolderSource
from m4v.data.resampling import resample, resampled_length
from m4v.data.source import UnusableClip
from m4v.media.images import write_png
from m4v.media.video import TimedFrame, write_video
from tests.data.folders import numbered_frames

WIDE, TALL, LONG = (
    Bucket(height=384, width=640, num_frames=57, batch_size=4),
    Bucket(height=640, width=384, num_frames=57, batch_size=4),
    Bucket(height=384, width=640, num_frames=121, batch_size=2),
)
LARGE = Bucket(height=768, width=1280, num_frames=121, batch_size=2)
STILL = Bucket(height=384, width=640, num_frames=1, batch_size=8)
ALL = (WIDE, TALL, LONG, STILL)


def video(num_frames: int, height: int = 720, width: int = 1280, name: str = "v") -> MediaSize:
    return MediaSize(name=name, height=height, width=width, num_frames=num_frames, is_image=False)


def image(height: int = 720, width: int = 1280) -> MediaSize:
    return MediaSize(name="i", height=height, width=width, num_frames=1, is_image=True)


def make(media: list[MediaSize], buckets: tuple[Bucket, ...] = ALL, **changes: object) -> BucketPlan:
    settings = {"images_per_window": 0, "videos_per_window": 1, **changes}
    return BucketPlan.make(buckets, media, **settings)


def test_the_nearest_aspect_and_the_longest_that_is_filled() -> None:
    assert choose_bucket(ALL, video(300)) == LONG
    assert choose_bucket(ALL, video(121)) == LONG
    assert choose_bucket(ALL, video(120)) == WIDE
    assert choose_bucket(ALL, video(300, 1280, 720)) == TALL
    assert choose_bucket(ALL, video(56)) is None
    assert choose_bucket(ALL, image(1280, 720)) == STILL
    assert choose_bucket((*ALL, LARGE), video(200)) == LONG  # 768 rows would have to be made up
    assert choose_bucket((*ALL, LARGE), video(200, 1080, 1920)) == LARGE


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 200), st.integers(100, 900), st.integers(100, 900)), max_size=40)
)
def test_images_and_videos_never_share_and_every_clip_is_accounted_for(rows: list[tuple[bool, int, int, int]]) -> None:
    media = [
        MediaSize(name=str(number), height=height, width=width, num_frames=1 if still else frames, is_image=still)
        for number, (still, frames, height, width) in enumerate(rows)
    ]
    kinds = Counter(item.is_image for item in media)
    fits = any(not item.is_image and item.num_frames >= 57 for item in media)
    if not fits:
        return
    plan = make(media, images_per_window=min(1, kinds[True]))
    placed = [number for numbers in plan.members.values() for number in numbers]
    assert len(placed) + len(plan.drops) == len(media)
    assert len(set(placed)) == len(placed)
    for bucket, numbers in plan.members.items():
        assert all(media[number].is_image == bucket.is_image for number in numbers)
        assert all(bucket.is_image or media[number].num_frames >= bucket.num_frames for number in numbers)
    for step in range(30):
        bucket, indices = plan.batch(0, step)
        assert len(indices) == bucket.batch_size
        assert set(indices) <= set(plan.members[bucket])


def test_every_clip_comes_equally_often_and_buckets_by_their_batches() -> None:
    plan = make([video(60)] * 8 + [video(200)] * 6)
    assert plan.num_batches(WIDE) == 2
    assert plan.num_batches(LONG) == 3
    for epoch in range(3):
        batches = [plan.batch(7, step) for step in range(5 * epoch, 5 * epoch + 5)]
        assert Counter(batch.bucket for batch in batches) == {WIDE: 2, LONG: 3}
        assert sorted(int(index) for batch in batches for index in batch.indices) == list(range(14))


def test_repeats_make_a_bucket_come_more_often() -> None:
    doubled = Bucket(height=384, width=640, num_frames=121, batch_size=2, repeats=3)
    plan = make([video(60)] * 8 + [video(200)] * 6, (WIDE, doubled))
    counts = Counter(int(index) for step in range(2 + 9) for index in plan.batch(1, step).indices)
    assert [counts[number] for number in range(14)] == [1] * 8 + [3] * 6


def test_the_image_to_video_ratio_is_exact_over_every_window() -> None:
    plan = make([video(60)] * 5 + [image()] * 9, images_per_window=1, videos_per_window=8)
    kinds = [plan.batch(5, step).bucket.is_image for step in range(900)]
    assert [sum(kinds[start : start + 9]) for start in range(0, 900, 9)] == [1] * 100


def test_batches_do_not_depend_on_ranks_and_start_anywhere() -> None:
    plan = make([video(60)] * 13 + [video(200)] * 7)
    for step in (0, 3, 17):
        whole = plan.batch(2, step)
        for world in (1, 2):
            parts = [plan.rank_batch(2, step, rank, world) for rank in range(world)]
            assert all(part.bucket == whole.bucket for part in parts)
            np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), whole.indices)
    with pytest.raises(UserError, match=r"Bucket 384x640x\d+ has \d clips, which 3 ranks cannot share"):
        plan.rank_batch(2, 0, 0, 3)


def test_a_small_bucket_repeats_merges_or_stops_and_always_says_so() -> None:
    media = [video(60)] * 8 + [video(200)]
    repeating = make(media)
    assert len(repeating.members[LONG]) == 1
    assert "Bucket 384x640x121 has 1 clips for batches of 2: they repeat within a batch." in repeating.lines()
    merged = make(media, small="merge")
    assert LONG not in merged.members
    assert len(merged.members[WIDE]) == 9
    assert "1 clips of bucket 384x640x121 are merged into 384x640x57." in merged.notes
    with pytest.raises(UserError, match="384x640x121 has 1 of 2"):
        make(media, small="refuse")
    lonely = make([video(60)] * 2, small="merge")  # nowhere to go
    assert len(lonely.members[WIDE]) == 2
    assert any("they repeat" in note for note in lonely.notes)


def test_what_fits_no_bucket_or_has_no_clip_is_counted() -> None:
    plan = make([video(60), video(30, name="short"), image()], (WIDE, LONG))
    assert [(drop.reason, drop.source) for drop in plan.drops] == [
        ("shorter than every bucket", "short"),
        ("no bucket for images", "i"),
    ]
    assert "Bucket 384x640x121 is empty." in plan.notes
    with pytest.raises(UserError, match="takes 8 video batches of 9, but no video bucket has a clip: 1 clips"):
        make([image()], images_per_window=1, videos_per_window=8)
    with pytest.raises(UserError, match="Two buckets are 384x640x57"):
        make([video(60)], (WIDE, Bucket(height=384, width=640, num_frames=57, batch_size=1)))


@given(st.integers(1, 60), st.sampled_from([8.0, 15.0, 24.0, 25.0, 30.0, 60.0]), st.sampled_from([8.0, 16.0, 24.0]))
def test_the_predicted_length_is_the_resampled_one(num_frames: int, fps: float, target: float) -> None:
    frames = (TimedFrame(np.zeros((1, 1, 3), np.uint8), index / fps) for index in range(num_frames))
    assert resampled_length(num_frames, fps, target) == len(list(resample(frames, target)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    for name, frames, height, width in (("a", 21, 32, 48), ("b", 9, 32, 48), ("c", 9, 48, 32), ("d", 3, 32, 48)):
        write_video(root / f"{name}.mp4", numbered_frames(frames, height, width), fps=8)
        (root / f"{name}.txt").write_text(name)
    write_png(root / "e.png", np.zeros((30, 40, 3), np.uint8))
    (root / "e.txt").write_text("still")
    return root


def test_real_files_come_at_the_size_of_their_buckets(folder: Path, tmp_path: Path) -> None:
    buckets = (
        Bucket(height=16, width=24, num_frames=9, batch_size=1),
        Bucket(height=16, width=24, num_frames=17, batch_size=1),
        Bucket(height=24, width=16, num_frames=9, batch_size=1),
        Bucket(height=16, width=16, num_frames=1, batch_size=2),
    )
    source = FolderSource(folder, shape=VideoShape(num_frames=17, height=16, width=16), fps=8, time_compression=4)
    plan = plan_buckets(source, buckets, images_per_window=1, videos_per_window=3)
    assert {bucket.name: numbers for bucket, numbers in plan.members.items()} == {
        "16x24x9": (1,),
        "16x24x17": (0,),
        "24x16x9": (2,),
        "16x16x1": (4,),
    }
    assert [drop.source for drop in plan.drops] == ["d.mp4"]
    clips = BucketedClips(source, plan, seed=0)
    for step in range(4):
        bucket, batch = clips.batch(step)
        assert [clip.frames.shape for clip in batch] == [
            (bucket.num_frames, bucket.height, bucket.width, 3)
        ] * bucket.batch_size


def test_a_clip_that_breaks_later_is_replaced_and_reported(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes((folder / "b.mp4").read_bytes())
        (tmp_path / f"{name}.txt").write_text(name)
    source = FolderSource(tmp_path, shape=VideoShape(num_frames=9, height=16, width=16), fps=8, time_compression=4)
    bucket = Bucket(height=16, width=24, num_frames=9, batch_size=3)
    plan = plan_buckets(source, (bucket,), images_per_window=0, videos_per_window=1)
    (tmp_path / "b.mp4").write_bytes(b"damaged")
    seen: list[UnusableClip] = []
    clips = BucketedClips(source, plan, 0, seen.append)
    names = [[clip.source for clip in clips.batch(0)[1]] for _ in range(2)]
    assert names[0] == names[1]
    assert "b.mp4" not in names[0]
    assert {drop.source for drop in seen} == {"b.mp4"}
    for name in ("a", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(b"damaged")
    with pytest.raises(UserError, match="No usable clip in bucket 16x24x9"):
        clips.batch(0)
