"""From the name a user gives to a model folder on this machine: folder, then bundled model, then hub (said aloud)."""

import logging
import re
from pathlib import Path
from typing import Any

from m4v.checkpoints.bundled import bundled_models, describe_bundled
from m4v.core.errors import UserError

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.md", "*.model")


def resolve_model(name: str | Path, **hub_options: Any) -> Path:
    """Find a model folder.

    Args:
        name: An existing folder, the name of a bundled model, or a hub id `owner/name`. Only the last one may use the
            network, after a warning in the log.
        hub_options: What `huggingface_hub.snapshot_download` takes, for example `revision` or `local_files_only`.

    Raises:
        UserError: if it is none of the three, or the hub does not answer.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"The model {name} is a file; give the model's folder.")
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)]
    if not _HUB_ID.match(str(name)) or str(name).startswith((".", "~")):
        raise UserError(
            f"There is no model {str(name)!r}: it is neither a folder nor a bundled model "
            f"(bundled: {describe_bundled()}). A hub model is written owner/name."
        )
    return _download(str(name), hub_options)


def _download(hub_id: str, hub_options: dict[str, Any]) -> Path:
    # Imported here because only this path may touch the network.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    logger.warning("There is no folder %s here: fetching the model of that name from the Hugging Face hub.", hub_id)
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(_WANTED_FILES), **hub_options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"There is no folder {hub_id}, and the hub did not give a model of that name ({reason}). Check the "
            f"spelling and the connection, or use a bundled model ({describe_bundled()})."
        ) from error
