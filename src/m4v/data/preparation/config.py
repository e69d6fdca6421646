"""Settings of `m4v data prepare`, torch-free."""

from dataclasses import dataclass

from m4v.core.errors import UserError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """How a video becomes spans of one shot each; a change means that every source is read again.

    Attributes:
        fps: Frames per second of the clips, above 0.
        min_seconds: Shots shorter than this are dropped.
        max_seconds: Longer shots are divided into equal parts no longer than this; 0 leaves them whole.
        trim_seconds: What is taken off at each side of a cut, where encoders and cross-fades blur.
        cut_ratio: How much more than its surroundings a frame must change to be a cut (`adaptive_threshold` of
            PySceneDetect's AdaptiveDetector).
        cut_change: Least change of a cut, in 8-bit levels (`min_content_val` there).
    """

    fps: float = 24.0
    min_seconds: float = 2.0
    max_seconds: float = 20.0
    trim_seconds: float = 0.1
    cut_ratio: float = 3.0
    cut_change: float = 15.0

    def __post_init__(self) -> None:
        _require(0 < self.fps <= 1000, f"fps is {self.fps}; expected a number above 0 and up to 1000.")
        for name in ("min_seconds", "max_seconds", "trim_seconds"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more.")
        _require(
            self.max_seconds == 0 or self.max_seconds >= 2 * self.min_seconds,
            f"max_seconds is {self.max_seconds}, but min_seconds {self.min_seconds}; dividing a shot would make parts "
            f"that are too short. Expected 0 (never divide) or at least {2 * self.min_seconds:g}.",
        )
        _require(self.cut_ratio > 0, f"cut_ratio is {self.cut_ratio}; expected a number above 0.")
        _require(0 <= self.cut_change <= 255, f"cut_change is {self.cut_change}; expected 0 to 255.")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which spans become clips.

    Attributes:
        min_height: Fewest rows of the source.
        min_width: Fewest columns of the source.
        max_aspect: Largest ratio of the longer to the shorter side.
        min_motion: Least mean difference between consecutive frames of the clip, in 8-bit grey levels of a 64x64
            reduction; 0 keeps still clips.
        max_repeated: Largest share of frames that show the same as the frame before, from 0 to 1.
        duplicates: Whether clips that look like an earlier one are kept.
        text_score: `module:function` that gives the share of a picture covered by text or a watermark.
        max_text: Largest text score.
        aesthetic_score: `module:function` that gives a score of looks; more is better.
        min_aesthetic: Least aesthetic score.
    """

    min_height: int = 64
    min_width: int = 64
    max_aspect: float = 4.0
    min_motion: float = 0.02
    max_repeated: float = 0.5
    duplicates: bool = False
    text_score: str | None = None
    max_text: float = 0.05
    aesthetic_score: str | None = None
    min_aesthetic: float = 4.5

    def __post_init__(self) -> None:
        _require(
            min(self.min_height, self.min_width) >= 1,
            f"min_height and min_width are {self.min_height} and {self.min_width}; expected at least 1.",
        )
        _require(self.max_aspect >= 1, f"max_aspect is {self.max_aspect}; expected at least 1.")
        _require(self.min_motion >= 0, f"min_motion is {self.min_motion}; expected 0 or more.")
        _require(0 <= self.max_repeated <= 1, f"max_repeated is {self.max_repeated}; expected 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """All that decides which clips come out and what is in their files.

    Attributes:
        cut: How videos are cut.
        keep: Which spans become clips.
        short_side: Clips whose shorter side is longer are shrunk to it; 0 keeps the source's size.
        quality: x264 constant rate factor of the clips, 0 (lossless) to 51.
    """

    cut: CutConfig = CutConfig()
    keep: FilterConfig = FilterConfig()
    short_side: int = 0
    quality: int = 16

    def __post_init__(self) -> None:
        _require(
            self.short_side == 0 or self.short_side >= 16,
            f"short_side is {self.short_side}; expected 0 (keep the size) or at least 16.",
        )
        _require(0 <= self.quality <= 51, f"quality is {self.quality}; expected 0 to 51.")
