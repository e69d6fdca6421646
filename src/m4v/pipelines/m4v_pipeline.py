"""Text to video with the pyramid denoiser (Fig. 2a); image-to-video and streaming are the same call."""

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from m4v.checkpoints.export import tidy_model_folder
from m4v.checkpoints.model_card import read_training_facts, write_model_card
from m4v.checkpoints.model_folder import M4V_COMPONENTS, check_model_folder
from m4v.checkpoints.resolve import resolve_model
from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.core.generators import generator_for
from m4v.core.shapes import Compression, LatentShape, VideoShape
from m4v.core.text_conditioning import TextConditioning
from m4v.data.pixels import to_pixels
from m4v.flow.guidance import UnitGuidance
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.media.images import read_image, resize_cover
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.text.encoder import encode_prompts
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.config import GenerationDefaults, steps_per_level
from m4v.pipelines.frames import OUTPUT_TYPES, OutputType, join, present
from m4v.pipelines.noise import NoiseSource
from m4v.pipelines.prompts import as_prompts, check_words, negatives_for
from m4v.pipelines.unit_loop import LoopSettings, StepReport, UnitRequest, generate_units

logger = logging.getLogger(__name__)

StepCallback = Callable[[DiffusionPipeline, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
_MAX_SEED = 2**63 - 1


@dataclass
class M4VPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        frames: The videos; uint8 `b t h w 3` unless another `output_type` was asked for.
    """

    frames: Any


class M4VPipeline(DiffusionPipeline):
    """Turns sentences into videos, unit by unit.

    Args:
        transformer: The denoiser.
        vae: Causal video autoencoder.
        text_encoder: Prompt encoder.
        tokenizer: Its tokenizer.
        scheduler: Pyramid flow matching.
        defaults: `GenerationDefaults` or their plain form.

    Example:
        >>> pipeline = M4VPipeline.from_pretrained("toybox-xs")
        >>> frames = pipeline("a red ball rolls to the right", seed=0).frames

    Source: Fig. 2a, Sec. 3.1.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 - the library reads a list here

    def __init__(
        self,
        transformer: M4VTransformer3DModel,
        vae: CausalVideoVAE,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: PyramidFlowScheduler,
        defaults: Mapping[str, Any] | GenerationDefaults | None = None,
    ) -> None:
        super().__init__()
        plain = to_plain(defaults) if defaults is not None else {}
        typed = from_plain(GenerationDefaults, plain, "defaults.")
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(defaults=to_plain(typed))
        self._interrupt = False
        self._num_timesteps = 0
        self._training_facts: dict[str, Any] = {}
        _check_parts(transformer, vae, text_encoder, scheduler)

    @property
    def generation_defaults(self) -> GenerationDefaults:
        """What a call uses where the caller says nothing."""
        return from_plain(GenerationDefaults, self.config["defaults"], "defaults.")

    @property
    def training_facts(self) -> dict[str, Any]:
        """How the model was trained, as its folder tells; empty if nothing was recorded."""
        return self._training_facts

    @property
    def compression(self) -> Compression:
        """Pixels per cell of the coarsest pyramid level's token grid: what sizes must be multiples of."""
        own = self.vae.compression
        halvings = self.scheduler.schedule.num_levels - 1
        return Compression(time=own.time, space=own.space * self.transformer.config["patch_size"] * 2**halvings)

    @property
    def num_timesteps(self) -> int:
        """Solver steps of the call that runs, or ran last."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback asked to stop, by setting `_interrupt` as in all diffusers pipelines."""
        return self._interrupt

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> "M4VPipeline":
        """Open a model.

        Args:
            pretrained_model_name_or_path: An existing folder, a bundled name, or a hub id (the only case that uses
                the network, after saying so).
            dtype: Precision to load the weights in; default float32.
            torch_dtype: The same, under its older name.
            kwargs: What diffusers takes, for example `revision`, `device_map`, `quantization_config`, or a part of the
                pipeline by name.

        Raises:
            UserError: if there is no such model, or it is incomplete, damaged or of another kind.
        """
        options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        folder = resolve_model(str(pretrained_model_name_or_path), **options)
        check_model_folder(folder, skip=frozenset(M4V_COMPONENTS) & frozenset(kwargs))
        precision = dtype or torch_dtype or torch.float32
        pipeline: M4VPipeline = super().from_pretrained(str(folder), dtype=precision, **kwargs)
        pipeline._training_facts = read_training_facts(folder)
        _align_weights(pipeline)
        return pipeline

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        training_facts: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model folder, with a model card; safetensors only.

        Args:
            save_directory: The folder; an existing model there is replaced once the new one is complete.
            training_facts: JSON values for the card and `training.json`; default: those the model came with.
            kwargs: What diffusers takes, for example `max_shard_size`.

        Raises:
            UserError: if the place cannot be written.
        """
        target = Path(save_directory)
        facts = self.training_facts if training_facts is None else training_facts
        with atomic_path(target) as temporary:
            super().save_pretrained(str(temporary), **kwargs)
            write_model_card(temporary, target.name, self.config["defaults"], facts)
            tidy_model_folder(temporary)

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        image: Image | np.ndarray | str | Path | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        video_num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float | None = None,
        history_window: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "np",
        return_dict: bool = True,
    ) -> M4VPipelineOutput | tuple[Any]:
        """Make videos; all arguments but `return_dict` are those of `stream`.

        Returns:
            The videos, prompt after prompt, in `.frames`; a plain tuple if `return_dict` is off. A call that a callback
            stopped returns the units finished by then.

        Raises:
            UserError: as `stream`.
        """
        units = self.stream(
            prompt,
            negative_prompt,
            image=image,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            video_num_inference_steps=video_num_inference_steps,
            guidance_scale=guidance_scale,
            video_guidance_scale=video_guidance_scale,
            history_window=history_window,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            callback_on_step_end=callback_on_step_end,
            output_type=output_type,
        )
        frames = join(list(units), output_type)
        return M4VPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        image: Image | np.ndarray | str | Path | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        video_num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float | None = None,
        history_window: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "np",
    ) -> Iterator[Any]:
        """Check the arguments now, then make videos and hand over the frames of each unit as soon as it is decoded.

        Args:
            prompt: One sentence or several.
            negative_prompt: What to steer away from; default: the model's own.
            image: First frame, instead of a generated one; scaled to cover the video's size, overhang cut.
            height: Rows of pixels.
            width: Columns of pixels.
            num_frames: Length; may exceed that of training videos.
            num_inference_steps: Solver steps per pyramid level of the first unit, one number or one per level, coarsest
                first; also of the later units unless those are given.
            video_num_inference_steps: Solver steps of the later units.
            guidance_scale: Classifier-free guidance of the first unit, and of the later ones unless given; 0 and 1
                switch it off.
            video_guidance_scale: Guidance of the later units.
            history_window: Earlier units a unit looks back on, at least 1; None: all.
            num_videos_per_prompt: Videos made of each prompt, with seeds `seed`, `seed + 1`, ...
            generator: Source of the noise, instead of `seed`: one for all, or one per video.
            seed: Starting point of the noise; a video depends on its own seed and prompt only. None: a new one.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, {"latents": ...})` after every solver
                step; may return changed latents, and stops the video by setting `pipeline._interrupt = True`.
            output_type: "np": uint8 arrays `b t h w 3`; "pt": tensors `b t 3 h w` in [0, 1]; "pil": lists of pictures;
                "latent": normalised latents `b c t h w`.

        Returns:
            An iterator over units.

        Raises:
            UserError: for an empty or wholly unknown prompt, a size or length the model cannot make, an unreadable
                image, or a setting out of range.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
        if num_videos_per_prompt < 1:
            raise UserError(f"num_videos_per_prompt is {num_videos_per_prompt}; make at least 1.")
        prompts = as_prompts(prompt)
        shape = self._latent_shape(height, width, num_frames)
        settings = self._loop_settings(
            num_inference_steps, video_num_inference_steps, guidance_scale, video_guidance_scale, history_window
        )
        generators = _generators(generator, seed, len(prompts), num_videos_per_prompt)
        pixels = None if image is None else self._first_frame(image, shape)
        full_prompts = [text + self.generation_defaults.prompt_suffix for text in prompts]
        negatives = negatives_for(negative_prompt, self.generation_defaults.negative_prompt, len(prompts))
        for note in check_words(self.tokenizer, full_prompts, self.generation_defaults.max_text_length):
            logger.warning(note)
        return self._run(
            full_prompts, negatives, num_videos_per_prompt, generators, shape, settings, pixels,
            callback_on_step_end, output_type,
        )  # fmt: skip

    @torch.no_grad()
    def _run(
        self,
        prompts: list[str],
        negatives: list[str],
        copies: int,
        generators: list[torch.Generator],
        shape: LatentShape,
        settings: LoopSettings,
        pixels: Tensor | None,
        callback: StepCallback | None,
        output_type: OutputType,
    ) -> Iterator[Any]:
        batch = len(prompts) * copies
        text, negative_text = self._encode(prompts, negatives, copies, settings)
        given = () if pixels is None else (self._encode_image(pixels).expand(batch, -1, -1, -1, -1),)
        request = UnitRequest(
            shape=shape,
            num_channels=self.transformer.config["in_channels"],
            noise=NoiseSource(generators, batch),
            text=text,
            negative_text=negative_text,
            given_units=given,
        )
        self._interrupt = False
        self._num_timesteps = settings.num_steps(shape.num_units, len(given))
        state = None
        with self.progress_bar(total=self._num_timesteps) as progress:

            def observe(report: StepReport) -> Tensor | None:
                progress.update()
                return self._after_step(report, callback)

            schedule = self.scheduler.schedule
            for unit in generate_units(self.transformer, schedule, request, settings, observe):
                if output_type == "latent":
                    yield unit.latents
                    continue
                latents = self.vae.denormalise(unit.latents, first_unit=unit.index).to(self.vae.dtype)
                video, state = self.vae.decode_chunk(latents, state)
                yield present(video, output_type)
        self.maybe_free_model_hooks()

    def _after_step(self, report: StepReport, callback: StepCallback | None) -> Tensor | None:
        if callback is None:
            return report.latents
        changed = callback(self, report.step, report.timestep, {"latents": report.latents}) or {}
        return None if self._interrupt else changed.get("latents", report.latents)

    def _encode(
        self, prompts: list[str], negatives: list[str], copies: int, settings: LoopSettings
    ) -> tuple[TextConditioning, TextConditioning | None]:
        """Encode prompts, and negative prompts where guidance needs them, one row per video."""
        is_guided = any(settings.guidance.for_unit(unit).needs_negative for unit in (0, 1))
        texts = [*prompts, *negatives] if is_guided else prompts
        length = self.generation_defaults.max_text_length
        encoded = encode_prompts(self.text_encoder, self.tokenizer, texts, length)
        encoded = encoded.to(device=self._execution_device, dtype=self.transformer.dtype)

        def rows(start: int) -> TextConditioning:
            numbers = torch.arange(start, start + len(prompts), device=encoded.tokens.device).repeat_interleave(copies)
            return TextConditioning(encoded.tokens[numbers], encoded.mask[numbers], encoded.pooled[numbers])

        return rows(0), rows(len(prompts)) if is_guided else None

    def _encode_image(self, pixels: Float[Tensor, "1 3 1 h w"]) -> Float[Tensor, "1 c 1 h w"]:
        """Make unit 0 of a picture: its most likely latents, with the statistics of first frames."""
        latents = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype)).mode()
        return self.vae.normalise(latents.float(), first_unit=0)

    def _latent_shape(self, height: int | None, width: int | None, num_frames: int | None) -> LatentShape:
        defaults = self.generation_defaults
        video = VideoShape(
            num_frames=defaults.num_frames if num_frames is None else num_frames,
            height=defaults.height if height is None else height,
            width=defaults.width if width is None else width,
        )
        self.compression.latent_shape(video)
        return self.vae.compression.latent_shape(video)

    def _loop_settings(
        self,
        first_steps: int | Sequence[int] | None,
        later_steps: int | Sequence[int] | None,
        first_guidance: float | None,
        later_guidance: float | None,
        history_window: int | None,
    ) -> LoopSettings:
        defaults = self.generation_defaults
        num_levels = self.scheduler.schedule.num_levels
        first = _first_given(first_steps, defaults.first_steps)
        later = _first_given(later_steps, first_steps, defaults.later_steps)
        guidance = UnitGuidance(
            first=_first_given(first_guidance, defaults.first_guidance),
            later=_first_given(later_guidance, first_guidance, defaults.later_guidance),
        )
        return LoopSettings(
            first_steps=steps_per_level(first, num_levels),
            later_steps=steps_per_level(later, num_levels),
            guidance=guidance,
            history_window=history_window,
        )

    def _first_frame(self, image: Image | np.ndarray | str | Path, shape: LatentShape) -> Float[Tensor, "1 3 1 h w"]:
        pixels = read_image(image) if isinstance(image, str | Path) else image
        if isinstance(pixels, Image):
            pixels = np.array(pixels.convert("RGB"))
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(f"The image is {pixels.dtype} of shape {pixels.shape}; expected uint8 (height, width, 3).")
        size = self.vae.compression.video_shape(shape)
        return to_pixels(torch.from_numpy(resize_cover(pixels, size.height, size.width)[None, None]))


def _align_weights(pipeline: DiffusionPipeline) -> None:
    """Copy weights out of the mapped file, where they start at odd addresses.

    Kernels round differently at other alignments, and the same seed must give the same video after any loading.
    """
    for part in pipeline.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data = parameter.data.clone()


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, seed: int | None, num_prompts: int, copies: int
) -> list[torch.Generator]:
    """One generator per video, prompt after prompt, or a single one for all that the caller gave."""
    if generator is None:
        start = secrets.randbelow(2**31) if seed is None else seed
        if not 0 <= start <= _MAX_SEED - copies:
            raise UserError(f"seed is {start}; expected a whole number from 0 to {_MAX_SEED - copies}.")
        return [generator_for(start + copy) for _, copy in itertools.product(range(num_prompts), range(copies))]
    if seed is not None:
        raise UserError("Both generator and seed are given; give one of them.")
    if isinstance(generator, torch.Generator):
        return [generator]
    if len(generator) != num_prompts * copies:
        raise UserError(f"There are {len(generator)} generators for {num_prompts * copies} videos; give one for each.")
    return list(generator)


def _check_parts(transformer: Any, vae: Any, text_encoder: Any, scheduler: Any) -> None:
    """Refuse parts that do not speak the same sizes; parts left out by the caller are not looked at."""
    if transformer is None:
        return
    sizes: list[tuple[str, str, Any]] = []
    if vae is not None:
        sizes.append(("in_channels", "the vae's latent_channels", vae.config["latent_channels"]))
    if scheduler is not None:
        sizes.append(("num_levels", "the scheduler's num_levels", scheduler.schedule.num_levels))
    if text_encoder is not None:
        sizes.append(("text_dim", "the text encoder's d_model", text_encoder.config.d_model))
    for field, partner, needed in sizes:
        found = transformer.config[field]
        if found != needed:
            raise UserError(
                f"The transformer's {field} is {found}, but {partner} is {needed}. Use parts of the same model."
            )
