"""`m4v generate`: sentences to mp4 files."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.checkpoints.bundled import default_bundled_model
from m4v.cli.console import progress, result, say
from m4v.cli.json_output import STANDARD_OUTPUT, require_json_target, write_json
from m4v.cli.opening import add_loras, open_pipeline
from m4v.cli.output_paths import VideoJob, plan_jobs, require_writable
from m4v.cli.verb import Action
from m4v.core.errors import UserError
from m4v.media.images import read_image, write_gif, write_png

if TYPE_CHECKING:
    import numpy as np

    from m4v.cli.opening import AnyPipeline

_MAX_FPS = 1000
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Make a video from a sentence.

    Attributes:
        prompt: The sentence. Leave it out with --prompts.
        prompts: A text file with one sentence per line; empty lines and lines that begin with # are skipped.
        model: Model folder, bundled name, or hub id owner/name. Default: the best bundled model.
        lora: A LoRA file, or a folder with one, such as lora/ of a run folder; with several, their changes add up.
        image: A picture to start from; it becomes the first frame.
        negative_prompt: What the video should not look like.
        frames: Length of the video. Default: what the model was trained for.
        height: Rows of pixels.
        width: Columns of pixels.
        fps: Frames per second of the file; changes its speed, not its frames.
        steps: Solver steps per pyramid level: one number, or one per level, coarsest first, as 20,10,10.
        guidance: How closely to follow the prompt: one number, or two for the first and the later frames, as 7,5. 1 is
            off.
        guidance_decay: Let guidance fall by this much per unit, down to the model's floor; or SLOPE,FLOOR as 0.5,2. 0
            is off.
        self_guidance: How strongly late frames are corrected by the model's own text-to-image ability. 0 is off.
        history_window: How many earlier units each new one looks back on. Default: all; for long videos about as many
            as in training.
        seed: Same seed and sentence, same video.
        num: Videos per sentence, with seeds SEED, SEED+1, ...
        device: Where to compute.
        dtype: Precision of the network; auto is bfloat16 on CUDA, float32 elsewhere.
        offload: What waits in main memory until the accelerator needs it: nothing, whole networks (needs less memory,
            about as fast), or single layers (needs least, slow).
        tiling: Encode and decode pictures in tiles, which needs less memory.
        compile: Compile the denoiser first, which takes minutes and pays for many or long videos.
        graphs: On CUDA, record and replay what short sequences need, which saves time and changes no result.
        out: An .mp4 file, or a folder. Default: outputs/SENTENCE-seedSEED.mp4.
        gif: Also write an animated GIF beside the video.
        contact_sheet: Also write a PNG with the frames side by side.
        json: Also write what was made as JSON, to a file or, with - or no value, to standard output.
    """

    prompt: Annotated[str | None, tyro.conf.Positional] = None
    prompts: Path | None = None
    model: str | None = None
    lora: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    image: Path | None = None
    negative_prompt: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    steps: str | None = None
    guidance: str | None = None
    guidance_decay: str | None = None
    self_guidance: float | None = None
    history_window: int | None = None
    seed: int = 0
    num: int = 1
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    offload: Literal["none", "model", "sequential"] = "none"
    tiling: bool = False
    compile: bool = False
    graphs: bool = True
    out: str | None = None
    gif: bool = False
    contact_sheet: bool = False
    json: str | None = None


def run(arguments: GenerateArguments) -> None:
    """Make all videos that the arguments ask for; started by torchrun, with all its processes together.

    Raises:
        UserError: for input that cannot be used; nothing is written then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _generate(arguments)
    else:
        _generate_together(arguments)


def _generate_together(arguments: GenerateArguments) -> None:
    """Split every video's sequences over the processes that torchrun started; the first one speaks and writes."""
    from m4v.core.devices import choose_device
    from m4v.pipelines.context_parallel import ProcessPlace, joined, share_denoiser

    if arguments.compile:
        raise UserError("--compile cannot be combined with several processes; leave it out, or run without torchrun.")
    place = ProcessPlace.from_environment()
    with joined(place, choose_device(arguments.device).type), contextlib.ExitStack() as silence:
        if not place.is_main:
            nowhere = silence.enter_context(Path(os.devnull).open("w"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        _generate(arguments, prepare=share_denoiser, writes=place.is_main)


def _generate(
    arguments: GenerateArguments, prepare: "Callable[[AnyPipeline], None] | None" = None, writes: bool = True
) -> None:
    start = time.monotonic()
    options = _options(arguments)
    if arguments.compile and arguments.offload == "sequential":
        raise UserError(
            "--compile and --offload sequential are both given, but compiled blocks cannot be loaded layer by layer. "
            "Leave one of them out, or use --offload model."
        )
    if arguments.num < 1:
        raise UserError(f"--num is {arguments.num}; make at least 1 video.")
    if arguments.fps is not None and not 0 < arguments.fps <= _MAX_FPS:
        raise UserError(f"--fps is {arguments.fps}; expected a number above 0 and up to {_MAX_FPS}.")
    if not 0 <= arguments.seed <= _MAX_SEED - arguments.num:
        raise UserError(f"--seed is {arguments.seed}; expected a whole number from 0 to {_MAX_SEED - arguments.num}.")
    jobs = plan_jobs(_prompts(arguments), arguments.seed, arguments.num, arguments.out)
    if writes:
        for path in (file for job in jobs for file in _files(arguments, job)):
            require_writable(path)
        require_json_target(arguments.json)
    if arguments.image is not None:
        options["image"] = read_image(arguments.image)
    model = arguments.model or default_bundled_model()

    say(f"Opening {model} ...")
    pipeline = open_pipeline(
        model, arguments.device, arguments.dtype, offload=arguments.offload, tiling=arguments.tiling
    )
    add_loras(pipeline, arguments.lora)
    if hasattr(pipeline, "use_cuda_graphs"):  # Wan's sequences are too long to need them
        pipeline.use_cuda_graphs = arguments.graphs
    if prepare is not None:
        prepare(pipeline)
    if arguments.compile:
        pipeline.compile_denoiser()
    _announce(pipeline, model, arguments, jobs)
    fps = arguments.fps or pipeline.generation_defaults.fps
    made = [_make(pipeline, arguments, job, options, fps, writes) for job in jobs]
    if not writes:
        return
    _conclude(pipeline, model, arguments, made, fps, time.monotonic() - start)
    if arguments.json != STANDARD_OUTPUT:
        for video in made:
            result(video["path"])


def _options(arguments: GenerateArguments) -> dict[str, Any]:
    """What the flags ask of the pipeline; flags left out are not passed on."""
    steps = _numbers("--steps", arguments.steps, int)
    guidance = _numbers("--guidance", arguments.guidance, float)
    if guidance is not None and len(guidance) > 2:
        raise UserError(f"--guidance is {arguments.guidance}; give one number, or two: first and later frames.")
    options = {
        "negative_prompt": arguments.negative_prompt,
        "height": arguments.height,
        "width": arguments.width,
        "num_frames": arguments.frames,
        "num_inference_steps": steps[0] if steps is not None and len(steps) == 1 else steps,
        "guidance_scale": guidance[0] if guidance else None,
        "video_guidance_scale": guidance[1] if guidance and len(guidance) == 2 else None,
        "guidance_decay": _decay(arguments.guidance_decay),
        "self_guidance_scale": arguments.self_guidance,
        "history_window": arguments.history_window,
    }
    return {name: value for name, value in options.items() if value is not None}


def _decay(text: str | None) -> Any:
    numbers = _numbers("--guidance-decay", text, float)
    if numbers is None or len(numbers) == 1:
        return None if numbers is None else numbers[0]
    if len(numbers) > 2:
        raise UserError(f"--guidance-decay is {text}; give the loss per unit, or that and the floor, as 0.5,2.")
    from m4v.flow.guidance import LinearDecay

    return LinearDecay(slope=numbers[0], minimum=numbers[1])


def _conclude(
    pipeline: "AnyPipeline",
    model: str,
    arguments: GenerateArguments,
    made: list[dict[str, Any]],
    fps: float,
    seconds: float,
) -> None:
    """Say, and write for programs, what it took."""
    from m4v.core.memory import peak_memory_bytes

    device, dtype = pipeline._execution_device, str(pipeline.dtype).removeprefix("torch.")
    peak = peak_memory_bytes(device)
    say(f"Done in {seconds:.1f} s. Peak memory: {peak / 2**30:.2f} GiB ({device.type}).")
    if arguments.json is not None:
        report = {"model": model, "device": str(device), "dtype": dtype, "fps": fps, "peak_memory_bytes": peak}
        write_json(arguments.json, {**report, "videos": made})


def _announce(pipeline: "AnyPipeline", model: str, arguments: GenerateArguments, jobs: list[VideoJob]) -> None:
    defaults = pipeline.generation_defaults
    frames = arguments.frames or defaults.num_frames
    width, height = arguments.width or defaults.width, arguments.height or defaults.height
    what = f"video of {frames} frames, {width}x{height} pixels"
    count = f"1 {what}" if len(jobs) == 1 else f"{len(jobs)} videos, each {what.replace('video of ', '')}"
    start = f" from {arguments.image}" if arguments.image else ""
    dtype = str(pipeline.dtype).removeprefix("torch.")
    offload = "" if arguments.offload == "none" else f", offload {arguments.offload}"
    say(f"Making {count},{start} with {model} on {pipeline._execution_device} ({dtype}{offload}).")


def _make(
    pipeline: "AnyPipeline",
    arguments: GenerateArguments,
    job: VideoJob,
    options: dict[str, Any],
    fps: float,
    writes: bool,
) -> dict[str, Any]:
    import numpy as np
    import torch

    start = time.monotonic()

    def after_step(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        advance(step + 1, pipe.num_timesteps)

    try:
        with progress(job.path.stem) as advance:
            units = pipeline.stream(
                job.prompt, seed=job.seed, callback_on_step_end=after_step, decode_last=True, **options
            )
            frames = np.concatenate(list(units), axis=1)[0]
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The {pipeline._execution_device.type} device ran out of memory. Use --offload model, --tiling, a smaller "
            "size, fewer frames, or --device cpu."
        ) from error
    files = _write(arguments, job, frames, fps) if writes else {}
    return {"prompt": job.prompt, "seed": job.seed, **files, "seconds": round(time.monotonic() - start, 2)}


def _write(arguments: GenerateArguments, job: VideoJob, frames: "np.ndarray", fps: float) -> dict[str, str]:
    from m4v.media.video import write_video

    files = {"path": str(job.path)}
    write_video(job.path, frames, fps)
    if arguments.gif:
        files["gif"] = str(job.path.with_suffix(".gif"))
        write_gif(job.path.with_suffix(".gif"), frames, fps)
    if arguments.contact_sheet:
        from m4v.toybox.contact_sheet import contact_sheet

        files["contact_sheet"] = str(job.path.with_suffix(".png"))
        sheet = contact_sheet([frames], columns=1, frames_per_video=min(8, len(frames)))
        write_png(job.path.with_suffix(".png"), sheet)
    return files


def _files(arguments: GenerateArguments, job: VideoJob) -> list[Path]:
    suffixes = [".mp4", *([".gif"] if arguments.gif else []), *([".png"] if arguments.contact_sheet else [])]
    return [job.path if suffix == ".mp4" else job.path.with_suffix(suffix) for suffix in suffixes]


def _prompts(arguments: GenerateArguments) -> list[str]:
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError("Give a sentence, or --prompts FILE with one per line (not both).")
    if arguments.prompts is None:
        assert arguments.prompt is not None
        if not arguments.prompt.strip():
            raise UserError("The prompt is empty; describe what the video should show.")
        return [arguments.prompt]
    try:
        lines = arguments.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"Cannot read {arguments.prompts}: {reason}.") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not prompts:
        raise UserError(f"{arguments.prompts} holds no sentence; write one per line.")
    return prompts


def _numbers(flag: str, text: str | None, kind: type) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{flag} is {text!r}; expected one or more {what}, separated by commas.") from error


VERB = Action(GenerateArguments, run)
