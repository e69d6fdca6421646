"""Tells whether an mp4/mov file was cut short, which decoders often pass over in silence."""

import io
import struct
from pathlib import Path
from typing import BinaryIO


def missing_bytes(source: Path | bytes) -> int:
    """Count the bytes that an mp4/mov file's outermost boxes promise beyond the end of the file.

    An interrupted download or copy keeps its header (moov in front) and loses pictures at the end; decoding such a file
    simply stops early. Source: ISO/IEC 14496-12, Sec. 4.2 (box sizes).

    Args:
        source: A file, or its content.

    Returns:
        0 for a whole file, or for anything that does not begin like an mp4/mov file.
    """
    if isinstance(source, bytes):
        return _missing(io.BytesIO(source))
    with source.open("rb") as file:
        return _missing(file)


def _missing(file: BinaryIO) -> int:
    end = file.seek(0, io.SEEK_END)
    position = 0
    while position + 8 <= end:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8))
        if position == 0 and kind not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        if size == 1:  # a 64-bit size follows
            extended = file.read(8)
            if len(extended) < 8:
                return 8 - len(extended)
            size = struct.unpack(">Q", extended)[0]
        if size == 0:  # reaches to the end of the file, however long that is
            return 0
        if size < 8:
            return 0  # not a box: what follows the last one is none of ours
        position += size
    return max(0, position - end)
