"""One call of the pyramid pipeline, from loose arguments to settled ones."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from m4v.core.errors import UserError
from m4v.core.shapes import LatentShape, VideoShape
from m4v.models.text.prompt_encoder import PromptEncoder
from m4v.pipelines.call_arguments import SamplingArguments, generators_for
from m4v.pipelines.first_frame import (
    IMAGE_LATENTS,
    ImageLatents,
    Picture,
    as_picture,
    crop_note,
    first_frame_pixels,
)
from m4v.pipelines.frames import OUTPUT_TYPES, OutputType
from m4v.pipelines.limits import check_precision, length_note, self_guidance_note, size_note
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.prompt_encoding import prompt_encoder
from m4v.pipelines.prompts import as_prompts, check_words, negatives_for
from m4v.pipelines.unit_loop import LoopSettings

if TYPE_CHECKING:
    from m4v.pipelines.m4v_pipeline import M4VPipeline

logger = logging.getLogger(__name__)

StepCallback = Callable[[DiffusionPipeline, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A call whose arguments have been checked and settled.

    Attributes:
        reader: What prompts are read with.
        prompts: Whole prompts, suffix included.
        negatives: One per prompt; used where guidance is on.
        copies: Videos per prompt.
        noise: Source of all randomness.
        shape: Latent size.
        settings: Step counts, guidance, window.
        pixels: The first frame, if given: `1 3 1 h w` in [-1, 1].
        image_latents: How the first frame is encoded.
        callback: Called after every solver step.
        output_type: What becomes of decoded frames.
    """

    reader: PromptEncoder
    prompts: list[str]
    negatives: list[str]
    copies: int
    noise: NoiseSource
    shape: LatentShape
    settings: LoopSettings
    pixels: Tensor | None
    image_latents: ImageLatents
    callback: StepCallback | None
    output_type: OutputType

    @property
    def is_guided(self) -> bool:
        """Whether any unit that is not given needs the negative prompts."""
        units = range(0 if self.pixels is None else 1, self.shape.num_units)
        return any(self.settings.guidance.for_unit(unit).needs_negative for unit in units)


def prepare_job(
    pipeline: "M4VPipeline",
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    sampling: SamplingArguments,
    *,
    image: Picture | None,
    height: int | None,
    width: int | None,
    num_frames: int | None,
    image_latents: ImageLatents,
    num_videos_per_prompt: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seed: int | None,
    callback_on_step_end: StepCallback | None,
    output_type: OutputType,
) -> VideoJob:
    """Check all arguments, settle what they leave open, and warn of what will not turn out as asked.

    Arguments are those of `M4VPipeline.stream`.

    Raises:
        UserError: as there.
    """
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
    if image_latents not in IMAGE_LATENTS:
        raise UserError(f"image_latents is {image_latents!r}; expected one of {', '.join(IMAGE_LATENTS)}.")
    if not isinstance(num_videos_per_prompt, int) or num_videos_per_prompt < 1:
        raise UserError(f"num_videos_per_prompt is {num_videos_per_prompt!r}; make at least 1.")
    defaults = pipeline.generation_defaults
    check_precision(defaults, [pipeline.transformer.dtype, pipeline.vae.dtype])
    prompts = as_prompts(prompt)
    video = VideoShape(
        num_frames=defaults.num_frames if num_frames is None else num_frames,
        height=defaults.height if height is None else height,
        width=defaults.width if width is None else width,
    )
    pipeline.compression.latent_shape(video)  # checks the coarsest level, too
    shape = pipeline.vae.compression.latent_shape(video)
    settings = sampling.loop_settings(defaults, pipeline.scheduler.schedule.num_levels, has_image=image is not None)
    generators = generators_for(generator, seed, len(prompts), num_videos_per_prompt)
    picture = None if image is None else as_picture(image)
    negatives = negatives_for(negative_prompt, defaults.negative_prompt, len(prompts))
    reader = prompt_encoder(pipeline)
    prompts = [text + defaults.prompt_suffix for text in prompts]
    notes = [
        size_note(defaults, video.height, video.width),
        length_note(defaults, video.num_frames, sampling.history_window),
        self_guidance_note(settings.self_quality, shape.num_units),
    ]
    notes += [] if picture is None else [crop_note(picture, video.height, video.width)]
    for note in [*notes, *check_words(reader, prompts, defaults.max_text_length)]:
        if note is not None:
            logger.warning(note)
    return VideoJob(
        reader=reader,
        prompts=prompts,
        negatives=negatives,
        copies=num_videos_per_prompt,
        noise=NoiseSource(generators, len(prompts) * num_videos_per_prompt),
        shape=shape,
        settings=settings,
        pixels=None if picture is None else first_frame_pixels(picture, video.height, video.width),
        image_latents=image_latents,
        callback=callback_on_step_end,
        output_type=output_type,
    )
