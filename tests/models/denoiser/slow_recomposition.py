"""Fig. 2c built with lists and loops: a sequence of labels, one per scan position, that every plan must match."""

from dataclasses import dataclass

import torch
from torch import Tensor

from m4v.core.sequence_layout import SequenceLayout

# Start corner and what is walked first, from Appendix A.1.
WALKS = {
    "a": ("top", "left", "columns"),
    "b": ("top", "left", "rows"),
    "c": ("bottom", "left", "columns"),
    "d": ("bottom", "left", "rows"),
    "e": ("bottom", "right", "columns"),
    "f": ("bottom", "right", "rows"),
    "g": ("top", "right", "columns"),
    "h": ("top", "right", "rows"),
}


def walk(letter: str, height: int, width: int, continuous: bool = True) -> list[tuple[int, int]]:
    """Cells (row, column) in the order a finger would visit them."""
    vertical, horizontal, along = WALKS[letter]
    rows = list(range(height)) if vertical == "top" else list(range(height - 1, -1, -1))
    columns = list(range(width)) if horizontal == "left" else list(range(width - 1, -1, -1))
    cells = []
    outer, inner = (rows, columns) if along == "rows" else (columns, rows)
    for number, line in enumerate(outer):
        turned_back = continuous and number % 2 == 1
        for step in reversed(inner) if turned_back else inner:
            cells.append((line, step) if along == "rows" else (step, line))
    return cells


@dataclass(frozen=True)
class Row:
    """One scan position: where its content comes from."""

    kind: str  # "text", "video" or "register"
    number: int  # token number of its kind; level of a register
    is_real: bool = True


def scan_rows(
    layout: SequenceLayout, letter: str, text_length: int, both_ends: bool, registers: bool, continuous: bool
) -> tuple[list[Row], int]:
    """The re-composed sequence of one sample, and how many rows stand before the noisy frames."""
    real = [Row("text", token) for token in range(text_length)]
    padding = [Row("text", token, is_real=False) for token in range(text_length, layout.num_text_tokens)]
    sequence = padding + real
    first_token, prefix = 0, None
    for number, frame in enumerate(layout.frames):
        if number == len(layout.frames) - layout.num_noisy_frames:
            prefix = len(sequence)
        if registers:
            sequence.append(Row("register", frame.level))
        for row, column in walk(letter, frame.height, frame.width, continuous):
            sequence.append(Row("video", first_token + row * frame.width + column))
        first_token += frame.height * frame.width
    assert prefix is not None
    if both_ends:
        sequence += real + padding
    return sequence, prefix


def recompose_slowly(tokens: Tensor, registers: Tensor, sequences: list[list[Row]], num_text: int) -> Tensor:
    """Read every scan position's row, one at a time."""
    samples = []
    for sample, sequence in enumerate(sequences):
        rows = []
        for row in sequence:
            if row.kind == "register":
                rows.append(registers[row.number])
            else:
                rows.append(tokens[sample, row.number + (num_text if row.kind == "video" else 0)])
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def invert_slowly(scanned: Tensor, sequences: list[list[Row]], num_text: int, num_tokens: int) -> Tensor:
    """Add every scan position's row to the token it came from; registers go nowhere."""
    samples = []
    for sample, sequence in enumerate(sequences):
        rows = [scanned.new_zeros(scanned.shape[2]) for _ in range(num_tokens)]
        for position, row in enumerate(sequence):
            if row.kind != "register":
                token = row.number + (num_text if row.kind == "video" else 0)
                rows[token] = rows[token] + scanned[sample, position]
        samples.append(torch.stack(rows))
    return torch.stack(samples)
