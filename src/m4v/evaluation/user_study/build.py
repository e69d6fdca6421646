"""Writes a study as a folder of static files that opens from disk or any web server, without a network."""

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.data.folder_listing import list_folder
from m4v.evaluation.user_study.study import Study

PAGE, KEY = "index.html", "key.json"
_PLACE = "/*STUDY*/null"


def find_videos(folders: Mapping[str, Path]) -> tuple[tuple[str, ...], dict[str, dict[str, Path]]]:
    """Pair the videos of several methods by their captions.

    Returns:
        Prompts in the order of the first method, and by method the video of each prompt.

    Raises:
        UserError: if a method lacks a prompt of another, has two videos for one, or a folder cannot be used.
    """
    found: dict[str, dict[str, Path]] = {}
    for method, folder in folders.items():
        videos: dict[str, Path] = {}
        for entry in list_folder(folder).entries:
            if entry.is_image:
                continue
            if entry.captions[0] in videos:
                raise UserError(f"{folder} has two videos of {entry.captions[0]!r}; a study shows one per method.")
            videos[entry.captions[0]] = entry.path
        found[method] = videos
    prompts = tuple(next(iter(found.values()), {}))
    for method, videos in found.items():
        missing = [prompt for prompt in prompts if prompt not in videos]
        extra = [prompt for prompt in videos if prompt not in prompts]
        if missing or extra:
            raise UserError(
                f"{method} lacks {len(missing)} prompts of the first method and has {len(extra)} others, for example "
                f"{(missing or extra)[0]!r}. Every method needs one video per prompt, with the prompt as its caption."
            )
    return prompts, found


def build(study: Study, videos: Mapping[str, Mapping[str, Path]], out: Path, title: str) -> Path:
    """Write `out/` (page and blind videos, for raters) and `out-key/key.json` (for the analysis).

    Args:
        study: What is asked.
        videos: By method, the video of each prompt.
        out: Folder for raters.
        title: Heading of the page.

    Returns:
        The key's path.

    Raises:
        UserError: if a place cannot be written.
    """
    shown: list[dict[str, Any]] = []
    with atomic_path(out) as temporary:
        (temporary / "media").mkdir(parents=True)
        for number, question in enumerate(study.questions):
            names = [study.file_name(number, place) for place in range(len(question.methods))]
            for name, method in zip(names, question.methods, strict=True):
                # Contents without the name, times and rights of the original, which could tell the method.
                shutil.copyfile(videos[study.methods[method]][question.prompt], temporary / "media" / name)
            shown.append({"prompt": question.prompt, "videos": [f"media/{name}" for name in names]})
        public = {"study": study.identity, "mode": study.mode, "title": title, "criteria": study.criteria}
        data = json.dumps({**public, "questions": shown}).replace("</", "<\\/")
        template = files("m4v.evaluation.user_study").joinpath("page.html").read_text(encoding="utf-8")
        (temporary / PAGE).write_text(template.replace(_PLACE, data), encoding="utf-8")
    key = out.with_name(f"{out.name}-key") / KEY
    with atomic_path(key) as temporary:
        temporary.write_text(json.dumps(study.key(), indent=2) + "\n", encoding="utf-8")
    return key
