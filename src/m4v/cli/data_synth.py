"""`m4v data synth`: synthetic training videos from any diffusers text-to-video pipeline, resumable."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m4v.cli.console import progress, result, say
from m4v.cli.verb import Action
from m4v.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class SynthArguments:
    """Make captioned videos with a text-to-video pipeline; repeat it to go on. Under torchrun, ranks share the work.

    Attributes:
        prompts: One sentence per line, or a .jsonl with {"prompt", "tags"} per line.
        pipeline: Pipeline folder of diffusers or of ours, or a bundled name; a hub id with --hub.
        out: Folder of videos and metadata.jsonl.
        num: Videos per sentence.
        seed: Each video's seed follows from this, its sentence and its number.
        frames: Frames of a video; default: the pipeline's.
        height: Rows of pixels; default: the pipeline's.
        width: Columns of pixels; default: the pipeline's.
        steps: Solver steps; default: the pipeline's.
        guidance: Guidance scale; default: the pipeline's.
        fps: Frames per second to write; default: the model's own, else 16.
        device: Where to compute.
        dtype: Precision of the networks; auto is bfloat16 on CUDA, float32 elsewhere.
        hub: Allow a hub id, which downloads the pipeline.
    """

    prompts: Path
    pipeline: str
    out: Path
    num: int = 1
    seed: int = 0
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    fps: float | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    hub: bool = False


def run(arguments: SynthArguments) -> None:
    """Make the videos of this rank.

    Raises:
        UserError: for prompts, a pipeline or a folder that cannot be used.
    """
    if arguments.num < 1:
        raise UserError(f"--num is {arguments.num}; make at least 1 video per sentence.")
    if arguments.fps is not None and not 0 < arguments.fps <= 1000:
        raise UserError(f"--fps is {arguments.fps}; expected a number above 0 and up to 1000.")
    from m4v.data.synthesis import merge_rows, plan_videos, read_prompts, synthesize

    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    prompts = read_prompts(arguments.prompts)
    videos = plan_videos(prompts, arguments.num, arguments.seed)
    folder = _find(arguments)
    share = f", rank {rank} of {num_ranks}" if num_ranks > 1 else ""
    say(f"Making {len(videos)} videos ({len(prompts)} prompts x {arguments.num}) with {folder}{share} ...")
    pipeline = _open(folder, arguments)
    defaults = getattr(pipeline, "generation_defaults", None)
    fps = arguments.fps or getattr(defaults, "fps", None) or 16.0
    options = _options(arguments)
    facts = {
        "model": arguments.pipeline,
        "model_class": type(pipeline).__name__,
        "revision": _revision(folder),
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "size": [arguments.frames, arguments.height, arguments.width],
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    with progress("making") as advance:
        num_made = synthesize(
            arguments.out,
            videos,
            _generator(pipeline, options),
            fps=fps,
            facts=facts,
            rank=rank,
            num_ranks=num_ranks,
            on_progress=advance,
        )
    num_rows = merge_rows(arguments.out, videos)
    say(f"Made {num_made} videos; the folder holds {num_rows}.")
    result(str(arguments.out))


def _find(arguments: SynthArguments) -> Path:
    from m4v.checkpoints.bundled import bundled_models, describe_bundled
    from m4v.checkpoints.resolve import resolve_model

    is_local = Path(arguments.pipeline).is_dir() or arguments.pipeline in bundled_models()
    if not is_local and not arguments.hub:
        raise UserError(
            f"--pipeline is {arguments.pipeline!r}, which is neither a folder nor a bundled model "
            f"({describe_bundled()}). Name a folder, or add --hub to download a hub model of that name."
        )
    folder = resolve_model(arguments.pipeline)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} has no model_index.json; expected a pipeline folder as diffusers writes it.")
    return folder


def _open(folder: Path, arguments: SynthArguments) -> Any:
    """Open our own pipelines as `m4v generate` does, any other with diffusers; safetensors only."""
    from m4v.checkpoints.model_folder import read_model_index

    name = str(read_model_index(folder).get("_class_name"))
    device = arguments.device
    if device in ("auto", "cuda") and "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if name in ("M4VPipeline", "WanM4VPipeline"):
        from m4v.cli.opening import open_pipeline

        return open_pipeline(str(folder), device, arguments.dtype)
    from diffusers import DiffusionPipeline

    from m4v.cli.devices import pick_dtype, use_all_cores
    from m4v.core.devices import choose_device

    use_all_cores()
    target = choose_device(device)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder),
            dtype=pick_dtype(arguments.dtype, target),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).to(target)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"diffusers cannot open {folder} ({name}): {lines[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _options(arguments: SynthArguments) -> dict[str, Any]:
    options = {
        "num_frames": arguments.frames,
        "height": arguments.height,
        "width": arguments.width,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
    }
    return {name: value for name, value in options.items() if value is not None}


def _generator(pipeline: Any, options: dict[str, Any]) -> "Callable[[str, int], np.ndarray]":
    def generate(prompt: str, seed: int) -> "np.ndarray":
        import numpy as np
        import torch

        # On the CPU, so that a seed gives the same noise on every device.
        generator = torch.Generator("cpu").manual_seed(seed)
        try:
            output = pipeline(prompt=prompt, generator=generator, output_type="np", **options)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "The device ran out of memory. Use fewer frames, a smaller size, or --device cpu."
            ) from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{type(pipeline).__name__} refuses {options or 'its defaults'}: {error}") from error
        frames = getattr(output, "frames", None)
        if frames is None:
            raise UserError(f"{type(pipeline).__name__} gives no frames; expected a text-to-video pipeline.")
        video = np.asarray(frames[0])
        if video.dtype != np.uint8:
            video = (video.clip(0, 1) * 255).round().astype(np.uint8)
        if video.ndim != 4 or video.shape[-1] != 3:
            raise UserError(f"{type(pipeline).__name__} gave an array {video.shape}; expected frames of t, h, w, 3.")
        return video

    return generate


def _revision(folder: Path) -> str:
    """Identify weights by name, size and content of their first and last MiB: files may be of many GB."""
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            if size > 2**20:
                file.seek(max(2**20, size - 2**20))
                digest.update(file.read())
    return digest.hexdigest()


ACTION = Action(SynthArguments, run)
