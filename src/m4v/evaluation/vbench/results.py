"""Reading what VBench writes: JSON files by dimension, loose or in the zip of a submission."""

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.evaluation.vbench.dimensions import DIMENSIONS

_RESULT_SUFFIX = "_eval_results.json"
_LARGEST_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class DimensionResult:
    """One dimension's entry.

    Attributes:
        raw: Aggregate, 0 to 1.
        num_videos: Videos it was computed from; None where the file does not list them.
        file: Where it was read.
    """

    raw: float
    num_videos: int | None
    file: str


def read_results(path: Path | str) -> dict[str, DimensionResult]:
    """Read all dimensions from a result JSON, a folder of them, or a submission zip.

    Raises:
        UserError: if nothing can be read, a dimension occurs twice with different scores, or an entry is not of the
            form VBench writes (`{"dimension": [aggregate, [videos]]}`).
    """
    found: dict[str, DimensionResult] = {}
    for name, content in _files(Path(path)):
        for key, value in _parse(name, content).items():
            dimension = key.strip().replace(" ", "_")
            if dimension not in DIMENSIONS:
                raise UserError(
                    f"{name} has a dimension {key!r} that VBench's text-to-video suite does not have. Expected "
                    f"{', '.join(DIMENSIONS)}; results of VBench-I2V, VBench-Long or VBench-2.0 cannot be mixed in."
                )
            entry = _entry(name, dimension, value)
            earlier = found.get(dimension)
            if earlier is not None and earlier.raw != entry.raw:
                raise UserError(
                    f"{dimension} is {earlier.raw} in {earlier.file} and {entry.raw} in {name}; keep the file of one "
                    "run only."
                )
            found[dimension] = entry
    if not found:
        raise UserError(f"{path} holds no VBench results; expected files *{_RESULT_SUFFIX} or a zip of them.")
    return found


def _files(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.json") if file.name.endswith(_RESULT_SUFFIX))
        files = files or sorted(file for file in path.glob("*.json") if not file.name.endswith("_full_info.json"))
        for file in files:
            yield str(file), _read_text(file)
    elif not path.is_file():
        raise UserError(f"{path} does not exist; give VBench's result JSON, the folder of them, or the zip.")
    elif zipfile.is_zipfile(path):
        yield from _zipped(path)
    else:
        yield str(path), _read_text(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}. Expected a JSON file of VBench.") from error


def _zipped(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".json") or info.filename.endswith("_full_info.json"):
                    continue
                if info.file_size > _LARGEST_BYTES:
                    raise UserError(f"{info.filename} in {path} unpacks to {info.file_size} bytes; that is no result.")
                yield f"{path}:{info.filename}", archive.read(info).decode("utf-8")
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a readable zip: {error}. Download it again.") from error


def _parse(name: str, content: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not valid JSON ({error}); was it cut off? Write it again.") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{name} holds a {type(parsed).__name__}; expected an object with dimensions as keys.")
    return parsed


def _entry(name: str, dimension: str, value: Any) -> DimensionResult:
    videos = value[1] if isinstance(value, list) and len(value) > 1 else None
    aggregate = value[0] if isinstance(value, list) and value else value
    if isinstance(aggregate, bool) or not isinstance(aggregate, (int, float)) or not math.isfinite(aggregate):
        raise UserError(
            f"{dimension} in {name} is {aggregate!r}; expected [aggregate, [videos]] with a finite number first. NaN "
            "means that the dimension failed: run it again."
        )
    if isinstance(videos, list) and not videos:
        raise UserError(f"{dimension} in {name} was computed from no videos; check their names and run it again.")
    return DimensionResult(
        raw=float(aggregate), num_videos=len(videos) if isinstance(videos, list) else None, file=name
    )
