"""One call of the Wan pipeline, from loose arguments to what diffusers' own call takes."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import is_ftfy_available
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.shapes import Compression, VideoShape
from m4v.models.text.prompt_encoder import PromptEncoder
from m4v.pipelines.call_arguments import generators_for
from m4v.pipelines.callbacks import changed_tensors
from m4v.pipelines.limits import size_note
from m4v.pipelines.prompts import as_prompts, check_words, negatives_for
from m4v.pipelines.wan_config import WanGenerationDefaults

if TYPE_CHECKING:
    from m4v.pipelines.wan_pipeline import WanM4VPipeline

logger = logging.getLogger(__name__)

_NOT_FOR_WAN = {
    "image": "starts from text alone; Wan2.1's image-to-video weights are another network",
    "history_window": "denoises all frames together and has no history",
    "video_num_inference_steps": "denoises all frames together; use num_inference_steps",
    "video_guidance_scale": "denoises all frames together; use guidance_scale",
    "guidance_decay": "denoises all frames together, so that guidance cannot decay over them",
    "self_guidance_scale": "has no history to compare with, which self-quality guidance needs",
    "image_latents": "starts from text alone",
}


def settle(
    pipeline: "WanM4VPipeline",
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    *,
    height: int | None,
    width: int | None,
    num_frames: int | None,
    num_inference_steps: int | Sequence[int] | None,
    guidance_scale: float | None,
    num_videos_per_prompt: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seed: int | None,
    max_sequence_length: int | None = None,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
) -> dict[str, Any]:
    """Check the arguments of a call, fill the gaps from the model's defaults, and warn of what will not turn out well.

    Arguments are those of `WanM4VPipeline.__call__`.

    Returns:
        What `WanPipeline.__call__` takes, embeddings left out.

    Raises:
        UserError: as there.
    """
    if num_videos_per_prompt < 1:
        raise UserError(f"num_videos_per_prompt is {num_videos_per_prompt}; make at least 1.")
    defaults = pipeline.generation_defaults
    max_length = defaults.max_text_length if max_sequence_length is None else max_sequence_length
    prompts: list[str] | None = None
    if prompt is None and prompt_embeds is not None:
        num_prompts = len(prompt_embeds)
    else:
        prompts = _complete_prompts(pipeline, prompt, defaults.prompt_suffix, max_length)
        num_prompts = len(prompts)
    if negative_prompt_embeds is None:
        negative_prompt = negatives_for(negative_prompt, defaults.negative_prompt, num_prompts)
    video = _video_shape(defaults, pipeline.compression, height, width, num_frames)
    return {
        "prompt": prompts,
        "negative_prompt": negative_prompt,
        "height": video.height,
        "width": video.width,
        "num_frames": video.num_frames,
        "num_inference_steps": _num_steps(num_inference_steps, defaults),
        "guidance_scale": _guidance(guidance_scale, defaults),
        "num_videos_per_prompt": num_videos_per_prompt,
        "generator": _noise_generators(generator, seed, num_prompts, num_videos_per_prompt),
        "max_sequence_length": max_length,
    }


def _video_shape(
    defaults: WanGenerationDefaults,
    compression: Compression,
    height: int | None,
    width: int | None,
    num_frames: int | None,
) -> VideoShape:
    """Settle the size of a video, and warn of one that was not trained."""
    video = VideoShape(
        num_frames=defaults.num_frames if num_frames is None else num_frames,
        height=defaults.height if height is None else height,
        width=defaults.width if width is None else width,
    )
    compression.latent_shape(video)
    if note := size_note(defaults, video.height, video.width):
        logger.warning(note)
    if video.num_frames > defaults.longest_trained:
        logger.warning(
            "This model was trained on up to %d frames; the motion of longer videos tends to repeat itself.",
            defaults.longest_trained,
        )
    return video


def _num_steps(wanted: int | Sequence[int] | None, defaults: WanGenerationDefaults) -> int:
    """Settle the number of solver steps."""
    counts = (wanted,) if isinstance(wanted, int) else tuple(wanted or defaults.first_steps)
    if len(counts) != 1:
        raise UserError(f"num_inference_steps is {list(counts)}, but a Wan model has one level; give one number.")
    if counts[0] < 1:
        raise UserError(f"num_inference_steps is {counts[0]}; expected at least 1.")
    return counts[0]


def _guidance(wanted: float | None, defaults: WanGenerationDefaults) -> float:
    """Settle the guidance scale; up to 1 is off."""
    scale = defaults.first_guidance if wanted is None else wanted
    if not 0 <= scale < float("inf"):
        raise UserError(f"guidance_scale is {scale}; expected 0 or more, and finite (up to 1 switches guidance off).")
    return scale


def _complete_prompts(
    pipeline: "WanM4VPipeline", prompt: str | Sequence[str] | None, suffix: str, max_length: int
) -> list[str]:
    """Append the suffix, and say what the model will not see of the prompts."""
    prompts = [text + suffix for text in as_prompts([] if prompt is None else prompt)]
    if not all(text.isascii() for text in prompts) and not is_ftfy_available():
        _say_ftfy_is_missing()
    reader = PromptEncoder(pipeline.text_encoder, pipeline.tokenizer)
    for note in check_words(reader, [prompt_clean(text) for text in prompts], max_length):
        logger.warning(note)
    return prompts


@functools.cache
def _say_ftfy_is_missing() -> None:
    """Say it once: the original cleans broken characters, and so conditions on other tokens where there are some."""
    logger.warning(
        "A prompt has characters beyond ASCII. Wan2.1 repairs wrongly decoded ones with the package ftfy, which is not "
        "installed; without it, odd characters can give another video (pip install ftfy)."
    )


def _noise_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, seed: int | None, num_prompts: int, copies: int
) -> torch.Generator | list[torch.Generator]:
    """One generator per video, or the single one that the caller gave, which diffusers draws the whole batch from."""
    generators = generators_for(generator, seed, num_prompts, copies)
    return generators[0] if isinstance(generator, torch.Generator) else generators


def refuse_what_wan_has_not(options: Mapping[str, Any], guidance_scale: float | None) -> None:
    """Refuse what the pyramid pipeline takes beyond this one; nothing is silently left out.

    Args:
        options: Further arguments of a call; None means not given.
        guidance_scale: What `video_guidance_scale` may repeat.

    Raises:
        UserError: for an option that was given.
        TypeError: for a name that neither pipeline knows.
    """
    for name, value in options.items():
        if name == "decode_last":  # all frames are denoised together, so they are decoded last in any case
            continue
        if name not in _NOT_FOR_WAN:
            raise TypeError(f"stream() got an unexpected keyword argument {name!r}")
        is_repetition = name == "video_guidance_scale" and value == guidance_scale
        is_off = name in ("self_guidance_scale", "guidance_decay") and value == 0
        if value is not None and not is_repetition and not is_off:
            raise UserError(f"{name} is given, but a Wan model {_NOT_FOR_WAN[name]}. Leave it out.")


Callback = Callable[..., Mapping[str, Any] | None]


def as_library_callback(callback: Callback | None) -> Any:
    """Let a plain callback return nothing, which diffusers' loop does not expect."""
    if callback is None or isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        return callback

    def call(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        returned = callback(pipeline, step, timestep, tensors)
        return changed_tensors(returned, tensors["latents"]) if "latents" in tensors else dict(returned or {})

    return call
