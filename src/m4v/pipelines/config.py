"""What a model folder recommends for generation (torch-free; Pyramid-Flow keeps such numbers in its scripts)."""

from collections.abc import Sequence
from dataclasses import dataclass

from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """How a model wants to be used; stored in `model_index.json` so that weights and recommendation travel together.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        num_frames: Frames of one video, `time * k + 1`.
        fps: Frames per second of the written file.
        first_steps: Solver steps of the first unit, one entry per pyramid level, coarsest first.
        later_steps: Solver steps of every later unit.
        first_guidance: Classifier-free guidance scale of the first unit; 0 or 1 switches guidance off.
        later_guidance: Guidance scale of every later unit.
        max_text_length: Tokens a prompt may have, end token included; words after that are cut.
        prompt_suffix: Text appended to every prompt (never to the negative prompt).
        negative_prompt: What guidance steers away from when the caller names nothing.
        trained_sizes: Sizes (height, width) seen in training; another one is made with a warning that names the
            nearest. Empty: not recorded, so nothing is said.
        longest_frames: Longest video seen in training; None: `num_frames`.
        image_steps: Solver steps of the later units when the first frame is given; None: `later_steps`.
        image_guidance: Guidance scale of the later units when the first frame is given; None: `later_guidance`.
        guidance_decay_slope: Loss of guidance per unit, starting from `first_guidance`; None: no decay.
        guidance_decay_minimum: Floor of the decaying guidance.
        self_guidance: Weight of self-quality guidance (E.3), at least 0; 0 switches it off.
        float16_overflows: Whether activations leave the range of float16, so that it is refused.

    Raises:
        UserError: if a value is out of range.
    """

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    first_steps: tuple[int, ...] = (20, 20, 20)
    later_steps: tuple[int, ...] = (10, 10, 10)
    first_guidance: float = 7.0
    later_guidance: float = 5.0
    max_text_length: int = 64
    prompt_suffix: str = ""
    negative_prompt: str = ""
    trained_sizes: tuple[tuple[int, int], ...] = ()
    longest_frames: int | None = None
    image_steps: tuple[int, ...] | None = None
    image_guidance: float | None = None
    guidance_decay_slope: float | None = None
    guidance_decay_minimum: float = 2.0
    self_guidance: float = 0.0
    float16_overflows: bool = False

    def __post_init__(self) -> None:
        sizes = [size for pair in self.trained_sizes for size in pair]
        counts = {"height": [self.height], "width": [self.width], "num_frames": [self.num_frames],
                  "first_steps": self.first_steps, "later_steps": self.later_steps,
                  "image_steps": self.image_steps or (1,), "max_text_length": [self.max_text_length],
                  "trained_sizes": sizes, "longest_frames": [self.longest_frames or 1]}  # fmt: skip
        for name, values in counts.items():
            if any(value < 1 for value in values):
                raise UserError(f"defaults.{name} is {getattr(self, name)}; expected 1 or more.")
        amounts = ("first_guidance", "later_guidance", "image_guidance", "guidance_decay_slope",
                   "guidance_decay_minimum", "self_guidance")  # fmt: skip
        for name in amounts:
            if not (getattr(self, name) or 0.0) >= 0:
                raise UserError(f"defaults.{name} is {getattr(self, name)}; expected 0 or more.")
        if not self.fps > 0:
            raise UserError(f"defaults.fps is {self.fps}; expected a number above 0.")

    @property
    def longest_trained(self) -> int:
        """Frames of the longest video seen in training."""
        return self.num_frames if self.longest_frames is None else self.longest_frames

    def nearest_trained_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Find the trained size closest in shape, then in area; None if this size was trained, or none is recorded."""
        if not self.trained_sizes or (height, width) in self.trained_sizes:
            return None

        def distance(size: tuple[int, int]) -> tuple[float, float]:
            rows, columns = size
            shape = max(rows * width, height * columns) / min(rows * width, height * columns)
            area = max(rows * columns, height * width) / min(rows * columns, height * width)
            return shape, area

        return min(self.trained_sizes, key=distance)


def steps_per_level(steps: int | Sequence[int], num_levels: int) -> tuple[int, ...]:
    """Spread a step count over the pyramid levels; a sequence must already name one count per level.

    Raises:
        UserError: if the sequence has another length than the model has levels.
    """
    if isinstance(steps, int):
        return (steps,) * num_levels
    counts = tuple(int(count) for count in steps)
    if len(counts) != num_levels:
        raise UserError(
            f"num_inference_steps is {list(counts)}, but this model has {num_levels} pyramid levels; "
            f"give one number, or {num_levels} of them, coarsest level first."
        )
    return counts
