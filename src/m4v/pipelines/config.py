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
        num_frames: Frames of one video, `time * k + 1`; also the longest video seen in training.
        fps: Frames per second of the written file.
        first_steps: Solver steps of the first unit, one entry per pyramid level, coarsest first.
        later_steps: Solver steps of every later unit.
        first_guidance: Classifier-free guidance scale of the first unit; 0 or 1 switches guidance off.
        later_guidance: Guidance scale of every later unit.
        max_text_length: Tokens a prompt may have, end token included; words after that are cut.
        prompt_suffix: Text appended to every prompt (never to the negative prompt).
        negative_prompt: What guidance steers away from when the caller names nothing.
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
