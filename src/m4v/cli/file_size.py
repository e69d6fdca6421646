"""File sizes as people write them."""

from m4v.core.errors import UserError

_UNITS = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Read a file size such as `5GB`, `800MB` or `2GiB`, in bytes.

    Raises:
        UserError: if it is not a positive number with such a unit.
    """
    word = text.strip().upper()
    unit = next((unit for unit in sorted(_UNITS, key=len, reverse=True) if word.endswith(unit)), None)
    try:
        size = round(float(word.removesuffix(unit or "")) * _UNITS[unit or ""])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UserError(f"The file size {text!r} cannot be read; write a number with KB, MB or GB, as 5GB.")
    return size
