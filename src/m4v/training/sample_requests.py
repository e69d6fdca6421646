"""What a run samples while it trains: a JSON file with the field names of finetrainers and FastVideo (torch-free)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m4v.core.config_io import from_plain
from m4v.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One video to make; None leaves a number to the run's own settings.

    Attributes:
        caption: Prompt; empty for a video without one.
        image_path: First frame; relative to the JSON file.
        video_path: Video whose first frame is meant; relative to the JSON file.
        num_inference_steps: Solver steps per level.
        height: Rows of a frame.
        width: Columns of a frame.
        num_frames: Length.
        frame_rate: Frames per second of the written file.
        seed: Of the noise.
        from_data: Whether the first frame is that of the first training clip.
    """

    caption: str = ""
    image_path: str | None = None
    video_path: str | None = None
    num_inference_steps: int | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    seed: int = 0
    from_data: bool = False

    @property
    def has_image(self) -> bool:
        """Whether its first frame is given."""
        return self.from_data or self.image_path is not None or self.video_path is not None


def read_requests(path: Path) -> tuple[SampleRequest, ...]:
    """Read a list of requests, or an object whose `data` is one.

    Raises:
        UserError: if the file cannot be read or has an unknown field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read samples.file {path}: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"samples.file {path} is not valid JSON: {error}.") from error
    entries = content.get("data") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f'samples.file {path} must hold a list of objects such as {{"caption": "a red ball"}}.')
    requests = (from_plain(SampleRequest, entry, f"samples.file[{n}].") for n, entry in enumerate(entries))
    return tuple(_placed(request, path.parent) for request in requests)


def _placed(request: SampleRequest, folder: Path) -> SampleRequest:
    image, video = request.image_path, request.video_path
    return replace(
        request,
        image_path=None if image is None else str(folder / image),
        video_path=None if video is None else str(folder / video),
    )


def all_requests(prompts: Sequence[str], file: str | None, *, with_image: bool) -> tuple[SampleRequest, ...]:
    """Requests of the prompts and of a file, with one empty prompt and one given first frame always among them.

    Args:
        prompts: From the settings, or captions of the data.
        file: JSON file.
        with_image: Whether videos are made; a single picture cannot continue another.

    Raises:
        UserError: as `read_requests`.
    """
    requests = [SampleRequest(caption=prompt) for prompt in prompts]
    requests += read_requests(Path(file)) if file else []
    if not requests:
        return ()
    if not with_image:
        requests = [request for request in requests if not request.has_image]
    elif not any(request.has_image for request in requests):
        requests.append(SampleRequest(caption=requests[0].caption, from_data=True))
    if all(request.caption for request in requests):
        requests.append(SampleRequest())
    return tuple(requests)
