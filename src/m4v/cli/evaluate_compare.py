"""`m4v evaluate compare`: one picture of what two models make of the same prompts, beside your own clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m4v.cli.console import progress, result, say
from m4v.cli.opening import open_pipeline
from m4v.cli.output_paths import require_writable
from m4v.core.errors import UserError

if TYPE_CHECKING:
    from m4v.data.clip import Clip
    from m4v.evaluation.comparison import Video

_BEFORE, _AFTER, _OWN = "before", "after", "your clip"


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Make the same videos with two models and lay them out as one picture.

    Attributes:
        before: Model folder, run folder, bundled name, or hub id owner/name.
        after: The other model, such as the run folder of a fine-tuning.
        data: Folder of captioned videos: some captions are the prompts, and their clips are shown too.
        prompts: A text file with one sentence per line, instead of --data.
        limit: Most prompts; they are taken evenly from all.
        seed: Seed of the noise, the same for both models.
        device: Where to compute.
        dtype: Precision of the network; auto is bfloat16 on CUDA, float32 elsewhere.
        out: The picture, a .png file.
    """

    before: Annotated[str, tyro.conf.Positional]
    after: Annotated[str, tyro.conf.Positional]
    data: Path | None = None
    prompts: Path | None = None
    limit: int = 6
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    out: Path = Path("before-after.png")


def compare(arguments: CompareArguments) -> None:
    """Make the picture.

    Raises:
        UserError: for input that cannot be used; nothing is written then.
    """
    if (arguments.data is None) == (arguments.prompts is None):
        raise UserError("Give --data DIR, a folder of captioned videos, or --prompts FILE with a sentence per line.")
    if arguments.limit < 1:
        raise UserError(f"--limit is {arguments.limit}; show at least 1 prompt.")
    if arguments.out.suffix.lower() != ".png":
        raise UserError(f"--out is {arguments.out}, but the picture is a .png file.")
    require_writable(arguments.out)
    lines = None if arguments.prompts is None else _lines(arguments.prompts)

    from m4v.evaluation.comparison import ComparedPrompt, comparison_sheet
    from m4v.media.images import write_png

    after = _open(arguments.after, arguments)
    clips = [] if arguments.data is None else _some_clips(arguments.data, after, arguments.limit)
    texts = [clip.captions[0] for clip in clips] if lines is None else _evenly(lines, arguments.limit)
    later = _videos(after, texts, arguments.seed, _AFTER)
    del after
    earlier = _videos(_open(arguments.before, arguments), texts, arguments.seed, _BEFORE)
    rows = []
    for number, text in enumerate(texts):
        own = {_OWN: clips[number].frames} if clips else {}
        rows.append(ComparedPrompt(text, {**own, _BEFORE: earlier[number], _AFTER: later[number]}))
    write_png(arguments.out, comparison_sheet(rows))
    result(str(arguments.out))


def _open(name: str, arguments: CompareArguments) -> Any:
    """Open a model; a run folder stands for what it exports."""
    export = Path(name) / "export"
    model = str(export) if export.is_dir() else name
    say(f"Opening {model} ...")
    return open_pipeline(model, arguments.device, arguments.dtype)


def _videos(pipeline: Any, prompts: "list[str]", seed: int, label: str) -> "list[Video | None]":
    from m4v.evaluation.comparison import make_videos

    with progress(label) as advance:
        return make_videos(pipeline, prompts, seed=seed, on_progress=advance)


def _some_clips(folder: Path, pipeline: Any, limit: int) -> "list[Clip]":
    """Read clips as training cuts them, spread evenly over a folder; those that cannot be read are passed over."""
    from m4v.core.shapes import VideoShape
    from m4v.data.folder_source import FolderSource
    from m4v.data.source import UnusableClip

    defaults = pipeline.generation_defaults
    shape = VideoShape(num_frames=defaults.num_frames, height=defaults.height, width=defaults.width)
    source = FolderSource(folder, shape=shape, fps=defaults.fps, time_compression=1, kind="video")
    clips: list[Clip] = []
    for index in range(len(source)):
        try:
            clips.append(source.clip(index))
        except UnusableClip as drop:
            say(f"Left out: {drop}")
    if not clips:
        raise UserError(f"{folder} holds no usable video; `m4v data check {folder}` says why.")
    return _evenly(clips, limit)


def _evenly(items: list[Any], limit: int) -> list[Any]:
    count = min(limit, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}.") from error
    if not any(lines):
        raise UserError(f"{path} holds no sentence; write one per line.")
    return [line for line in lines if line]
