"""The error of the media room: a file that cannot be read as what it should be."""

from pathlib import Path

from m4v.core.errors import UserError


class MediaError(UserError):
    """A video or image file that cannot be used; the message names the file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"Cannot read {path}: {reason}.")
        self.path = Path(path)
        self.reason = reason
