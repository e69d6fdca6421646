"""Text to video on whole clips with the Wan denoiser: diffusers' own loop around our network (Wan base)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import T5TokenizerFast, UMT5EncoderModel

from m4v.checkpoints.export import tidy_model_folder
from m4v.checkpoints.model_card import read_training_facts, write_model_card
from m4v.checkpoints.model_folder import WAN_COMPONENTS
from m4v.checkpoints.resolve import resolve_model
from m4v.checkpoints.wan_folder import STOCK_PIPELINE, check_wan_folder, with_our_transformer
from m4v.core.config_io import from_plain, to_plain
from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.core.shapes import Compression
from m4v.flow.library_schedulers import (
    LibraryScheduler,
    SchedulerName,
    describe_library_scheduler,
    make_library_scheduler,
    same_library_scheduler,
)
from m4v.models.denoiser.conditions import reusing_conditions
from m4v.models.denoiser.wan import WanM4VTransformer3DModel
from m4v.pipelines.compiling import compile_denoiser
from m4v.pipelines.frames import OUTPUT_TYPES, OutputType, present
from m4v.pipelines.parts import align_weights
from m4v.pipelines.video_job import StepCallback
from m4v.pipelines.wan_call import as_library_callback, refuse_what_wan_has_not, settle
from m4v.pipelines.wan_config import WanGenerationDefaults, published_defaults

logger = logging.getLogger(__name__)

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class WanM4VPipeline(WanPipeline):
    """Turns sentences into videos with a Wan2.1 text-to-video network, any of whose layers may be MM-DiM.

    Loop, text encoding, offload and LoRA are diffusers'; with the same parts, latents equal those of `WanPipeline` bit
    for bit. What differs: arguments left out come from the model folder, sizes that do not fit are refused instead of
    rounded, and a sampler chosen by `use_scheduler` gets the shift that suits each call's size.

    `DiffusionPipeline.from_pretrained` finds classes of diffusers only: open folders of this pipeline with this class.

    The two branches of guidance are evaluated one after the other, as there: a batch of both rounds differently, and at
    tens of thousands of tokens saves nothing. For the same reason nothing is recorded as CUDA graphs.

    Args:
        tokenizer: umT5's tokenizer.
        text_encoder: umT5 encoder.
        vae: Wan's autoencoder.
        scheduler: `UniPCMultistepScheduler` or `FlowMatchEulerDiscreteScheduler`; used as it is until `use_scheduler`.
        transformer: The denoiser.
        transformer_2: Must be None, and the next two unset: only Wan2.2 has them.
        boundary_ratio: See above.
        expand_timesteps: See above.
        defaults: `WanGenerationDefaults` or their plain form; default: what Wan2.1 recommends for the network's size.
            (The original ships a long negative prompt in Chinese and uses it where none is given; a folder can carry
            one as `defaults.negative_prompt`, which is empty unless set.)

    Example:
        >>> pipeline = WanM4VPipeline.from_pretrained("Wan2.1-T2V-1.3B-Diffusers", dtype=torch.bfloat16).to("cuda")
        >>> video = pipeline("a red ball rolls to the right", seed=0).frames[0]

    Raises:
        UserError: for parts of Wan2.2, or parts that do not fit together.

    Source: Sec. 4.1 (M4V on Wan2.1); Wan2.1.
    """

    def __init__(
        self,
        tokenizer: T5TokenizerFast,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: LibraryScheduler,
        transformer: WanM4VTransformer3DModel | WanTransformer3DModel | None = None,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
        defaults: Mapping[str, Any] | WanGenerationDefaults | None = None,
    ) -> None:
        _check_parts(transformer, vae, text_encoder, transformer_2, boundary_ratio, expand_timesteps)
        super().__init__(tokenizer, text_encoder, vae, scheduler, transformer)
        if defaults is None:
            defaults = WanGenerationDefaults() if transformer is None else published_defaults(transformer.config)
        typed = from_plain(WanGenerationDefaults, to_plain(defaults), "defaults.")
        self.register_to_config(defaults=to_plain(typed))
        self._interrupt = False
        self._num_timesteps = 0
        self._training_facts: dict[str, Any] = {}
        self._fitted_scheduler: LibraryScheduler | None = None

    @property
    def generation_defaults(self) -> WanGenerationDefaults:
        """What a call uses where the caller says nothing."""
        return from_plain(WanGenerationDefaults, self.config["defaults"], "defaults.")

    @property
    def training_facts(self) -> dict[str, Any]:
        """How the model was trained, as its folder tells; empty if nothing was recorded."""
        return self._training_facts

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser; the autoencoder has its own."""
        part = self.text_encoder if self.transformer is None else self.transformer
        precision: torch.dtype = part.dtype
        return precision

    @property
    def compression(self) -> Compression:
        """Pixels per token: what sizes must be multiples of."""
        patch = self.transformer.config["patch_size"]
        return Compression(time=self.vae_scale_factor_temporal, space=self.vae_scale_factor_spatial * patch[-1])

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        **kwargs: Any,
    ) -> "WanM4VPipeline":
        """Open a model folder of ours, or a stock Wan2.1 text-to-video folder of diffusers.

        A stock folder is opened with our network in place of diffusers', attention in every layer, and gives the very
        latents of `WanPipeline`. Its sampler is kept; as samplers have differed between revisions of the published
        folders, one that is not the recommended one is said aloud (see `use_scheduler`).

        Args:
            pretrained_model_name_or_path: An existing folder, a bundled name, or a hub id (the only case that uses
                the network, after saying so).
            dtype: Precision to load the weights in, one for all or one per part by name; default float32. The
                autoencoder stays in float32 unless it is named.
            torch_dtype: The same, under its older name.
            kwargs: What diffusers takes, for example `variant`, `device_map`, `quantization_config`, or a part of the
                pipeline by name.

        Raises:
            UserError: if there is no such model, or it is incomplete, damaged or of another kind.
        """
        options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        folder = resolve_model(str(pretrained_model_name_or_path), **options)
        brought = frozenset(WAN_COMPONENTS) & frozenset(kwargs)
        kind = check_wan_folder(folder, skip=brought, variant=kwargs.get("variant"))
        precision = dtype or torch_dtype or torch.float32
        if not isinstance(precision, dict):
            precision = {"default": precision, "vae": torch.float32}
        pipeline: WanM4VPipeline = super().from_pretrained(str(folder), dtype=precision, **kwargs)
        if kind == STOCK_PIPELINE and "transformer" not in kwargs:
            logger.warning("%s holds stock Wan2.1 weights: opened with attention in every layer.", folder)
        if "scheduler" not in kwargs:
            pipeline._adopt_scheduler(is_stock=kind == STOCK_PIPELINE)
        pipeline._training_facts = read_training_facts(folder)
        if kind != STOCK_PIPELINE:
            # Stock weights stay where diffusers put them, so that rounding, too, is that of its own pipeline.
            align_weights(pipeline)
        return pipeline

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json`; in a stock one, diffusers' denoiser and pipeline are replaced by ours."""
        loaded = super().load_config(*args, **kwargs)
        index, *rest = loaded if isinstance(loaded, tuple) else (loaded,)
        index = with_our_transformer(index)
        return (index, *rest) if rest else index

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
            kwargs: What diffusers takes, for example `max_shard_size` or `variant`.

        Raises:
            UserError: if the place cannot be written.
        """
        target = Path(save_directory)
        facts = self.training_facts if training_facts is None else training_facts
        with atomic_path(target) as temporary:
            super().save_pretrained(str(temporary), **kwargs)
            write_model_card(temporary, target.name, self.config["defaults"], facts, pipeline=type(self).__name__)
            tidy_model_folder(temporary)

    def use_scheduler(self, name: SchedulerName, flow_shift: float | None = None) -> None:
        """Choose the sampler.

        Args:
            name: `unipc` or `euler`.
            flow_shift: Sigma shift for every size; None: each call takes the one that suits its size.

        Raises:
            UserError: for another name, or a shift that is not positive.
        """
        defaults = self.generation_defaults
        shift = defaults.flow_shift(defaults.height, defaults.width) if flow_shift is None else flow_shift
        self.scheduler = make_library_scheduler(name, shift)
        self._fitted_scheduler = self.scheduler if flow_shift is None else None

    def compile_denoiser(self) -> None:
        """Compile the denoiser's blocks for prediction; the first evaluations then take minutes, later ones less time.

        Compiled code serves all sizes. Load LoRA weights before.
        """
        compile_denoiser(self.transformer)

    def enable_vae_tiling(self, **sizes: int) -> None:
        """Let the autoencoder work on tiles, which needs less memory and differs slightly.

        Args:
            sizes: What `AutoencoderKLWan.enable_tiling` takes: tile and stride, in pixels.
        """
        self.vae.enable_tiling(**sizes)

    def disable_vae_tiling(self) -> None:
        """Let the autoencoder work on whole pictures again."""
        self.vae.disable_tiling()

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        max_sequence_length: int | None = None,
        callback_on_step_end: Any = None,
        **options: Any,
    ) -> Any:
        """Make videos as `WanPipeline` does, in its output formats; arguments left out come from the model folder.

        Args:
            prompt: One sentence or several; None with `prompt_embeds`.
            negative_prompt: What to steer away from; default: the model's own.
            height: Rows of pixels.
            width: Columns of pixels.
            num_frames: Length, 4k + 1.
            num_inference_steps: Solver steps.
            guidance_scale: Classifier-free guidance; up to 1 is off.
            num_videos_per_prompt: Videos made of each prompt, with seeds `seed`, `seed + 1`, ...
            generator: Source of the noise, instead of `seed`: one for all, or one per video.
            seed: Starting point of the noise; None: a new one.
            max_sequence_length: Tokens a prompt may have.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after every step; may return
                changed tensors or nothing.
            options: What else `WanPipeline` takes: `latents`, `prompt_embeds`, `negative_prompt_embeds`, `output_type`,
                `return_dict`, `attention_kwargs`, `callback_on_step_end_tensor_inputs`.

        Returns:
            `WanPipelineOutput` with `.frames`: with `output_type="np"`, the default, floats `b t h w 3` in [0, 1].

        Raises:
            UserError: for an empty prompt, a size or length the model cannot make, or a setting out of range.
        """
        settled = settle(
            self,
            prompt,
            negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            max_sequence_length=max_sequence_length,
            prompt_embeds=options.get("prompt_embeds"),
            negative_prompt_embeds=options.get("negative_prompt_embeds"),
        )
        self._fit_scheduler(settled["height"], settled["width"])
        callback = as_library_callback(callback_on_step_end)
        with reusing_conditions(self.transformer):
            return super().__call__(**settled, callback_on_step_end=callback, **options)

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "np",
        **pyramid_options: Any,
    ) -> Iterator[Any]:
        """Check the arguments now, then make videos; all frames come as one unit, in the formats of `M4VPipeline`.

        Args:
            prompt: One sentence or several.
            negative_prompt: What to steer away from; default: the model's own.
            height: Rows of pixels.
            width: Columns of pixels.
            num_frames: Length, 4k + 1.
            num_inference_steps: Solver steps.
            guidance_scale: Classifier-free guidance; up to 1 is off.
            num_videos_per_prompt: Videos made of each prompt, with seeds `seed`, `seed + 1`, ...
            generator: Source of the noise, instead of `seed`: one for all, or one per video.
            seed: Starting point of the noise; None: a new one.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, {"latents": ...})` after every step; may
                return changed latents, and stops the video by setting `pipeline._interrupt = True`.
            output_type: "np": uint8 arrays `b t h w 3`; "pt": tensors `b t 3 h w` in [0, 1]; "pil": lists of pictures;
                "latent": normalised latents `b c t h w`.
            pyramid_options: What `M4VPipeline.stream` takes beyond this; refused unless None.

        Returns:
            An iterator over one unit, or none if a callback stopped the video.

        Raises:
            UserError: as a call, and for options that this network has not.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}.")
        refuse_what_wan_has_not(pyramid_options, guidance_scale)
        settled = settle(
            self,
            prompt,
            negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
        )
        return self._stream(settled, callback_on_step_end, output_type)

    @torch.no_grad()
    def _stream(self, settled: dict[str, Any], callback: StepCallback | None, output_type: OutputType) -> Iterator[Any]:
        timesteps: list[float] = []

        def after_step(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> Any:
            if callback is None:
                return None
            if not timesteps:  # once, for reading a number of the device waits for it
                timesteps.extend(pipeline.scheduler.timesteps.tolist())
            return callback(pipeline, step, float(timesteps[step]), tensors)

        self._fit_scheduler(settled["height"], settled["width"])
        call = as_library_callback(after_step)
        with reusing_conditions(self.transformer):
            (latents,) = super().__call__(**settled, callback_on_step_end=call, output_type="latent", return_dict=False)
        if self.interrupt:
            return
        yield latents if output_type == "latent" else present(self.decode(latents), output_type)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """Turn normalised latents into pixels in [-1, 1]."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (config["latents_mean"], config["latents_std"])
        )
        latents = (latents.float() * deviation + mean).to(self._execution_device, self.vae.dtype)
        video: Tensor = self.vae.decode(latents, return_dict=False)[0]
        self.maybe_free_model_hooks()
        return video

    def _adopt_scheduler(self, is_stock: bool) -> None:
        """Keep a sampler that the folder's owner chose; one that repeats our defaults shall follow the size."""
        defaults, stored = self.generation_defaults, self.scheduler
        usual = [make_library_scheduler(defaults.scheduler, shift) for _, shift in defaults.flow_shifts]
        is_usual = any(same_library_scheduler(stored, scheduler) for scheduler in usual)
        if is_usual and not is_stock:
            self.use_scheduler(defaults.scheduler)
        elif is_stock and not is_usual:
            logger.warning(
                "The folder's sampler is %s; %s is recommended: use_scheduler(%r).",
                describe_library_scheduler(stored),
                " or ".join(describe_library_scheduler(scheduler) for scheduler in usual),
                defaults.scheduler,
            )

    def _fit_scheduler(self, height: int, width: int) -> None:
        """Give a sampler chosen by name the shift that suits the size; one that was passed in stays as it is."""
        if self._fitted_scheduler is None or self.scheduler is not self._fitted_scheduler:
            return
        name: SchedulerName = "euler" if "Euler" in type(self.scheduler).__name__ else "unipc"
        fitting = make_library_scheduler(name, self.generation_defaults.flow_shift(height, width))
        if not same_library_scheduler(fitting, self.scheduler):
            logger.info("Sampling with %s, for %dx%d pixels.", describe_library_scheduler(fitting), width, height)
        self.scheduler = self._fitted_scheduler = fitting


def _check_parts(
    transformer: Any, vae: Any, text_encoder: Any, transformer_2: Any, boundary_ratio: Any, expand_timesteps: bool
) -> None:
    for name, value in (
        ("transformer_2", transformer_2),
        ("boundary_ratio", boundary_ratio),
        ("expand_timesteps", expand_timesteps),
    ):
        if value:
            raise UserError(f"{name} is given, as in Wan2.2; this pipeline is for Wan2.1 text-to-video. Leave it out.")
    if transformer is None:
        return
    needs: dict[str, tuple[str, int]] = {}
    if vae is not None:
        needs["in_channels"] = ("the vae's z_dim", vae.config["z_dim"])
    if text_encoder is not None:
        needs["text_dim"] = ("the text encoder's d_model", text_encoder.config.d_model)
    for field, (partner, needed) in needs.items():
        found = transformer.config[field]
        if found != needed:
            raise UserError(
                f"The transformer's {field} is {found}, but {partner} is {needed}. Use parts of the same model."
            )
