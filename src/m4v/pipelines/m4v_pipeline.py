"""Text to video with the pyramid denoiser (Fig. 2a); image-to-video and streaming are the same call."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

from m4v.checkpoints.export import tidy_model_folder
from m4v.checkpoints.model_card import read_training_facts, write_model_card
from m4v.checkpoints.model_folder import M4V_COMPONENTS, check_model_folder
from m4v.checkpoints.resolve import resolve_model
from m4v.core.config_io import from_plain, to_plain
from m4v.core.files import atomic_path
from m4v.core.shapes import Compression
from m4v.flow.guidance import LinearDecay
from m4v.flow.scheduler import PyramidFlowScheduler
from m4v.flow.self_quality import SelfQualityGuidance
from m4v.models.denoiser.pyramid import M4VTransformer3DModel
from m4v.models.vae.causal_video_vae import CausalVideoVAE
from m4v.pipelines.call_arguments import SamplingArguments
from m4v.pipelines.callbacks import changed_tensors
from m4v.pipelines.compiling import compile_denoiser
from m4v.pipelines.config import GenerationDefaults
from m4v.pipelines.first_frame import ImageLatents, Picture, first_unit
from m4v.pipelines.frames import OutputType, join, present
from m4v.pipelines.graph_replay import MAX_GRAPH_TOKENS, CudaRecorder, GraphReplay
from m4v.pipelines.limits import check_precision
from m4v.pipelines.lora import M4VLoraLoaderMixin
from m4v.pipelines.parts import align_weights, check_parts
from m4v.pipelines.prompt_encoding import TEXT_PARTS, encode_for_guidance
from m4v.pipelines.unit_loop import GeneratedUnit, StepReport, UnitRequest, generate_units
from m4v.pipelines.video_job import StepCallback, VideoJob, prepare_job

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


@dataclass
class M4VPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        frames: The videos; uint8 `b t h w 3` unless another `output_type` was asked for.
    """

    frames: Any


class M4VPipeline(DiffusionPipeline, M4VLoraLoaderMixin):
    """Turns sentences into videos, unit by unit.

    On CUDA, evaluations of short sequences are recorded and replayed (`graph_replay`), which changes no result. A
    callback that changes a network, not the latents, must switch that off first: `pipeline.use_cuda_graphs = False`.

    Args:
        transformer: The denoiser.
        vae: Causal video autoencoder.
        text_encoder: Prompt encoder: T5, or CLIP where `text_encoder_2` is T5.
        tokenizer: Its tokenizer.
        scheduler: Pyramid flow matching.
        text_encoder_2: T5 of models with two text encoders (Pyramid-Flow's), which then gives the text stream while
            CLIP gives the pooled vector.
        tokenizer_2: Its tokenizer.
        defaults: `GenerationDefaults` or their plain form.

    Example:
        >>> pipeline = M4VPipeline.from_pretrained("toybox-xs")
        >>> frames = pipeline("a red ball rolls to the right", seed=0).frames

    Source: Fig. 2a, Sec. 3.1.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _optional_components = list(TEXT_PARTS)  # noqa: RUF012 - the library reads a list here
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    use_cuda_graphs: bool = True

    def __init__(
        self,
        transformer: M4VTransformer3DModel,
        vae: CausalVideoVAE,
        text_encoder: T5EncoderModel | CLIPTextModel | None,
        tokenizer: PreTrainedTokenizerFast | None,
        scheduler: PyramidFlowScheduler,
        text_encoder_2: T5EncoderModel | None = None,
        tokenizer_2: PreTrainedTokenizerFast | None = None,
        defaults: Mapping[str, Any] | GenerationDefaults | None = None,
    ) -> None:
        super().__init__()
        plain = to_plain(defaults) if defaults is not None else {}
        typed = from_plain(GenerationDefaults, plain, "defaults.")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(defaults=to_plain(typed))
        self._interrupt = False
        self._num_timesteps = 0
        self._training_facts: dict[str, Any] = {}
        check_parts(transformer, vae, scheduler, text_encoder, text_encoder_2)

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

    def compile_denoiser(self) -> None:
        """Compile the denoiser's blocks for prediction; the first evaluations then take minutes, later ones less time.

        Compiled code serves all sizes, units and levels. Load LoRA weights before.
        """
        compile_denoiser(self.transformer)

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
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        **kwargs: Any,
    ) -> "M4VPipeline":
        """Open a model.

        Args:
            pretrained_model_name_or_path: An existing folder, a bundled name, or a hub id (the only case that uses
                the network, after saying so).
            dtype: Precision to load the weights in, one for all or one per part by name; default float32.
            torch_dtype: The same, under its older name.
            kwargs: What diffusers takes, for example `variant`, `revision`, `device_map`, `quantization_config`, or a
                part of the pipeline by name.

        Raises:
            UserError: if there is no such model, it is incomplete, damaged or of another kind, or the precision is
                float16 and the model's activations overflow there.
        """
        options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        folder = resolve_model(str(pretrained_model_name_or_path), **options)
        check_model_folder(folder, skip=frozenset(M4V_COMPONENTS) & frozenset(kwargs), variant=kwargs.get("variant"))
        precision = dtype or torch_dtype or torch.float32
        stored = cls.load_config(str(folder)).get("defaults") or {}
        wanted = precision.values() if isinstance(precision, dict) else [precision]
        check_precision(from_plain(GenerationDefaults, stored, "defaults."), wanted)
        pipeline: M4VPipeline = super().from_pretrained(str(folder), dtype=precision, **kwargs)
        pipeline._training_facts = read_training_facts(folder)
        align_weights(pipeline)
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

    def enable_vae_tiling(self, tile_size: int = 256, units_per_chunk: int | None = 1) -> None:
        """Let the autoencoder work on tiles and few latent frames at a time, which needs less memory.

        Args:
            tile_size: Side of a tile in pixels; tiles overlap and are blended, so results differ slightly.
            units_per_chunk: Latent frames at a time, which changes no result; None: all at once.

        Raises:
            UserError: if the tile is not a multiple of four latent cells or a chunk has no frame.

        Source: Pyramid-Flow's memory-saving setting (256 and 1).
        """
        self.vae.enable_tiling(tile_size, units_per_chunk)

    def disable_vae_tiling(self) -> None:
        """Let the autoencoder work on whole pictures again."""
        self.vae.disable_tiling()

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        image: Picture | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        video_num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float | None = None,
        guidance_decay: float | LinearDecay | None = None,
        self_guidance_scale: float | SelfQualityGuidance | None = None,
        history_window: int | None = None,
        image_latents: ImageLatents = "mode",
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
            guidance_decay=guidance_decay,
            self_guidance_scale=self_guidance_scale,
            history_window=history_window,
            image_latents=image_latents,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            callback_on_step_end=callback_on_step_end,
            output_type=output_type,
            decode_last=True,
        )
        frames = join(list(units), output_type)
        return M4VPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        image: Picture | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        video_num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float | None = None,
        guidance_decay: float | LinearDecay | None = None,
        self_guidance_scale: float | SelfQualityGuidance | None = None,
        history_window: int | None = None,
        image_latents: ImageLatents = "mode",
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "np",
        decode_last: bool = False,
    ) -> Iterator[Any]:
        """Check the arguments now, then make videos and hand over the frames of each unit as soon as it is decoded.

        Args:
            prompt: One sentence or several.
            negative_prompt: What to steer away from; default: the model's own.
            image: First frame, instead of a generated one; scaled to cover the video's size, overhang cut (and said).
            height: Rows of pixels.
            width: Columns of pixels.
            num_frames: Length; may exceed that of training videos.
            num_inference_steps: Solver steps per pyramid level of the first unit, one number or one per level, coarsest
                first; also of the later units unless those are given.
            video_num_inference_steps: Solver steps of the later units. Default: the model's own, which may be others
                when an image is given.
            guidance_scale: Classifier-free guidance of the first unit, and of the later ones unless given; 0 and 1
                switch it off.
            video_guidance_scale: Guidance of the later units, with defaults like those of their steps.
            guidance_decay: Loss of guidance per unit, from `guidance_scale` of unit 0 down to the model's floor (or all
                of it as a `LinearDecay`); 0 switches it off. Default: the model's own.
            self_guidance_scale: Weight of self-quality guidance (E.3), or all of its settings; 0 switches it off.
                Default: the model's own.
            history_window: Earlier units a unit looks back on, at least 1; None: all.
            image_latents: "mode": the image's most likely latents. "sample": drawn with the video's noise, as
                Pyramid-Flow does.
            num_videos_per_prompt: Videos made of each prompt, with seeds `seed`, `seed + 1`, ...
            generator: Source of the noise, instead of `seed`: one for all, or one per video.
            seed: Starting point of the noise; a video depends on its own seed and prompt only. None: a new one.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, {"latents": ...})` after every solver
                step; may return changed latents, and stops the video by setting `pipeline._interrupt = True`.
            output_type: "np": uint8 arrays `b t h w 3`; "pt": tensors `b t 3 h w` in [0, 1]; "pil": lists of pictures;
                "latent": normalised latents `b c t h w`.
            decode_last: Denoise all units before the first is decoded. Frames come late, but under model offload
                denoiser and autoencoder change places once instead of at every unit; plain calls do this.

        Returns:
            An iterator over units.

        Raises:
            UserError: for an empty or wholly unknown prompt, a size or length the model cannot make, an unreadable
                image, a setting out of range, a text encoder the model lacks, or a precision it overflows in.
        """
        job = prepare_job(
            self,
            prompt,
            negative_prompt,
            SamplingArguments(
                num_inference_steps=num_inference_steps,
                video_num_inference_steps=video_num_inference_steps,
                guidance_scale=guidance_scale,
                video_guidance_scale=video_guidance_scale,
                guidance_decay=guidance_decay,
                self_guidance_scale=self_guidance_scale,
                history_window=history_window,
            ),
            image=image,
            height=height,
            width=width,
            num_frames=num_frames,
            image_latents=image_latents,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            callback_on_step_end=callback_on_step_end,
            output_type=output_type,
        )
        return self._stream(job, decode_last)

    def _stream(self, job: VideoJob, decode_last: bool) -> Iterator[Any]:
        units: Iterable[GeneratedUnit] = self._denoise(job)
        try:
            if not decode_last:
                yield from self._decode_units(units, job.output_type)
            elif made := list(units):
                yield from self._decode_video(made, job.output_type)
        finally:
            self.maybe_free_model_hooks()

    @torch.no_grad()
    def _denoise(self, job: VideoJob) -> Iterator[GeneratedUnit]:
        """Make the latents of one unit after the other."""
        given: tuple[Tensor, ...] = ()
        device = self._execution_device
        if job.pixels is not None:
            pixels = job.pixels.to(device, self.vae.dtype)
            given = (first_unit(self.vae, pixels, job.image_latents, job.noise),)
            self.maybe_free_model_hooks()  # under model offload the autoencoder would stay beside the denoiser
        negatives = job.negatives if job.is_guided else None
        length = self.generation_defaults.max_text_length
        text, negative_text = encode_for_guidance(
            job.reader, job.prompts, negatives, job.copies, length, device, self.transformer.dtype
        )
        request = UnitRequest(
            shape=job.shape,
            num_channels=self.transformer.config["in_channels"],
            noise=job.noise,
            text=text,
            negative_text=negative_text,
            given_units=given,
            latent_statistics=self.vae.latent_statistics,
        )
        self._interrupt = False
        self._num_timesteps = job.settings.num_steps(job.shape.num_units, len(given))
        with self.progress_bar(total=self._num_timesteps) as progress:

            def observe(report: StepReport) -> Tensor | None:
                progress.update()
                return self._after_step(report, job.callback)

            graphs = self._graph_replay(device)
            try:
                yield from generate_units(
                    self.transformer, self.scheduler.schedule, request, job.settings, observe, graphs
                )
            finally:
                if graphs is not None:
                    graphs.close()

    def _graph_replay(self, device: torch.device) -> GraphReplay | None:
        if device.type != "cuda" or not self.use_cuda_graphs:
            return None
        cells = MAX_GRAPH_TOKENS * self.transformer.config["patch_size"] ** 2
        return GraphReplay(self.transformer, CudaRecorder(device), max_cells=cells)

    def _decode_video(self, units: list[GeneratedUnit], output_type: OutputType) -> Iterator[Any]:
        """Decode finished units; in tiles all at once, which takes the memory of one tile instead of all."""
        if self.vae.tiling is None or output_type == "latent":
            yield from self._decode_units(units, output_type)
            return
        latents = self.vae.denormalise(torch.cat([unit.latents for unit in units], dim=2))
        with torch.no_grad():
            video = self.vae.decode(latents.to(self.vae.dtype))
        yield present(video, output_type)

    @torch.no_grad()
    def _decode_units(self, units: Iterable[GeneratedUnit], output_type: OutputType) -> Iterator[Any]:
        """Turn each unit into what the caller asked for; the autoencoder carries its state from one to the next."""
        state = None
        for unit in units:
            if output_type == "latent":
                yield unit.latents
                continue
            latents = self.vae.denormalise(unit.latents, first_unit=unit.index).to(self.vae.dtype)
            video, state = self.vae.decode_chunk(latents, state)
            yield present(video, output_type)

    def _after_step(self, report: StepReport, callback: StepCallback | None) -> Tensor | None:
        if callback is None:
            return report.latents
        returned = callback(self, report.step, report.timestep, {"latents": report.latents})
        changed = changed_tensors(returned, report.latents)
        return None if self._interrupt else changed.get("latents", report.latents)
