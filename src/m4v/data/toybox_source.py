"""Clips of the procedural world, rendered when asked for."""

from m4v.core.errors import UserError
from m4v.data.clip import Clip, LabelledClip
from m4v.toybox.clip import make_clip
from m4v.toybox.tiers import get_tier


class ToyboxSource:
    """`num_clips` scenes of one tier and split; clip `index` is a pure function of the seed and the index."""

    def __init__(
        self, tier: str, *, split: str = "train", seed: int = 0, num_clips: int, num_frames: int | None = None
    ) -> None:
        """Choose a part of the world; nothing is rendered yet.

        Args:
            tier: Size of the world, such as `xs`.
            split: `train` or one of the test splits.
            seed: Which of the endless sequences of scenes.
            num_clips: Length of the source, at least 1.
            num_frames: Keep only the first frames; 1 makes images. By default all that the tier has.

        Raises:
            UserError: if the tier is unknown or a number is out of range.
        """
        self.tier = get_tier(tier)
        if num_clips < 1:
            raise UserError(f"num_clips is {num_clips}; expected at least 1.")
        if num_frames is not None and not 1 <= num_frames <= self.tier.num_frames:
            raise UserError(f"num_frames is {num_frames}; the toybox tier {tier} has 1 to {self.tier.num_frames}.")
        self.split = split
        self.seed = seed
        self.num_clips = num_clips
        self.num_frames = num_frames

    def __len__(self) -> int:
        """Count the clips."""
        return self.num_clips

    def clip(self, index: int) -> Clip:
        """Render clip `index` with all its captions, the short one first."""
        return self.labelled_clip(index).clip

    def labelled_clip(self, index: int) -> LabelledClip:
        """Render clip `index` together with the truth about it."""
        rendered = make_clip(self.tier.name, self.split, self.seed, index)
        clip = Clip(
            frames=rendered.frames[: self.num_frames],
            captions=rendered.captions.texts,
            fps=float(rendered.fps),
            source=f"toybox:{self.tier.name}/{self.split}/{self.seed}/{index}",
        )
        return LabelledClip(clip, dict(rendered.labels))
