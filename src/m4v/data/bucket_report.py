"""How the files of a data set fall into buckets, as `m4v data check` tells it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m4v.data.buckets import Bucket, BucketPlan, MediaSize, SmallBuckets, choose_bucket, unfit
from m4v.data.drops import DropReason, count_drops


@dataclass(frozen=True, kw_only=True)
class BucketReport:
    """Clips per bucket, and what a run would do with small and empty ones.

    Attributes:
        clips: Bucket -> number of its clips, 0 for an empty one.
        drops: Clips that fit no bucket, by reason.
        notes: What would be merged, repeated or is empty, in words.
    """

    clips: dict[Bucket, int]
    drops: tuple[DropReason, ...]
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Give the report as JSON types."""
        return {
            "buckets": [
                {
                    "height": bucket.height,
                    "width": bucket.width,
                    "frames": bucket.num_frames,
                    "batch_size": bucket.batch_size,
                    "count": count,
                }
                for bucket, count in self.clips.items()
            ],
            "without_bucket": [drop.to_plain() for drop in self.drops],
            "bucket_notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Write the report for people."""
        rows = [
            f"bucket {bucket.name}: {count} {'images' if bucket.is_image else 'videos'}, "
            f"{math.ceil(count / bucket.batch_size)} batches of {bucket.batch_size}"
            for bucket, count in self.clips.items()
            if count
        ]
        return [*rows, *(f"  {note}" for note in self.notes), *(f"in no bucket: {drop}" for drop in self.drops)]


def sort_into_buckets(buckets: Sequence[Bucket], media: Sequence[MediaSize], small: SmallBuckets) -> BucketReport:
    """Sort files into buckets as training does.

    Raises:
        UserError: if two buckets are of one size, or one is too small and `small` is `refuse`.
    """
    chosen = [choose_bucket(buckets, item) for item in media]
    kinds = {bucket.is_image for bucket in chosen if bucket is not None}
    if not kinds:
        drops = count_drops(unfit(buckets, item) for item in media)
        return BucketReport(clips=dict.fromkeys(sorted(buckets), 0), drops=drops, notes=())
    plan = BucketPlan.make(
        buckets, media, images_per_window=int(True in kinds), videos_per_window=int(False in kinds), small=small
    )
    clips = {bucket: len(plan.members.get(bucket, ())) for bucket in sorted(buckets)}
    return BucketReport(clips=clips, drops=count_drops(plan.drops), notes=plan.notes)
