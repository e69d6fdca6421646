"""Make a folder of 20 short captioned videos of five kinds, as one finds on a computer; nothing is downloaded.

    python examples/make_footage.py my_videos              # 20 mp4 files, each with a .txt beside it
    python examples/make_footage.py my_videos --broken     # and two files that no program can read

Plots, terminals, turning cubes, cellular automata and pendulums, drawn large enough for a model of 64 x 64 pixels;
sizes and frame rates differ, one video has an odd size, one a changing frame rate.
"""

import argparse
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (220, 50, 40), "green": (60, 200, 80), "blue": (60, 110, 240), "yellow": (240, 210, 60)}
SIZES = ((640, 360, 30), (480, 480, 25), (320, 240, 12), (426, 240, 24))
SECONDS = 3.5
Colour = tuple[int, int, int]
Frames = Iterator[Image.Image]


def plot(colour: Colour, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A plot, filled to its floor, whose wave moves to the left."""
    x, (low, high) = np.linspace(0, 6, 200), rng.uniform(0.8, 1.6, 2)
    for time in times:
        picture = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(picture)
        wave = 0.5 - 0.17 * np.sin(low * (x + 2 * time)) - 0.08 * np.sin(2 * high * (x + 2 * time))
        curve = [(float(a), float(b)) for a, b in zip(x / 6 * width, wave * height, strict=True)]
        draw.polygon([(0, 0.92 * height), *curve, (width, 0.92 * height)], fill=colour)
        draw.line(curve, fill=(40, 40, 40), width=height // 30)
        draw.line([(0, 0.92 * height), (width, 0.92 * height)], fill=(40, 40, 40), width=height // 30)
        yield picture


def terminal(colour: Colour, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A terminal whose text scrolls up."""
    row, words = height // 6, ("make", "test", "build", "ok", "step", "loss", "done", "src")
    lines = [" ".join(rng.choice(words, rng.integers(1, 5))) for _ in range(20)]
    for time in times:
        picture = Image.new("RGB", (width, height), (15, 15, 20))
        for number, line in enumerate(lines):
            place = ((width - height) / 2 + 8, (number - 1.2 * time) * row)
            ImageDraw.Draw(picture).text(place, f"$ {line}", fill=colour, font_size=0.85 * row, stroke_width=row // 20)
        yield picture


def cube(colour: Colour, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A cube that spins before black, its faces shaded by where they look."""
    tilt = np.array([[1, 0, 0], [0, 0.9, -0.44], [0, 0.44, 0.9]])
    square = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    for angle in 1.6 * times + rng.uniform(0, 3):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        picture = Image.new("RGB", (width, height), "black")
        for axis in range(3):
            for side in (-1, 1):
                face = np.roll(square * (1, 1, side), axis, axis=1) @ turn @ tilt
                middle = face.mean(axis=0)
                if middle @ middle + 4 * middle[2] > 0:
                    continue  # looks away
                flat = face[:, :2] / (4 + face[:, 2:]) * height + (width / 2, height / 2)
                shade = 0.35 + 0.65 * -middle[2]
                fill = tuple(int(shade * part) for part in colour)
                ImageDraw.Draw(picture).polygon([tuple(point) for point in flat], fill, "black", height // 40)
        yield picture


def automaton(colour: Colour, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """Cells that live and die by the rules of the game of life."""
    cells, age = rng.random((10, 10 * width // height)) < 0.4, 0
    for time in times:
        while age < int(time * 2):
            shifts = ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)
            neighbours = sum(np.roll(cells, shift, (0, 1)).astype(int) for shift in shifts)
            cells, age = (neighbours == 3) | (cells & (neighbours == 2)), age + 1
        pixels = np.where(cells[..., None], np.uint8(colour), np.uint8(245))
        yield Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def pendulum(colour: Colour, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A pendulum that swings, by its equation of motion."""
    angle, speed, now, length = rng.uniform(0.5, 0.7), 0.0, 0.0, 0.65 * height
    for time in times:
        while now < time:
            speed, now = speed - 0.002 * 14 * np.sin(angle), now + 0.002
            angle += 0.002 * speed
        x, y, radius = width / 2 + length * np.sin(angle), 0.08 * height + length * np.cos(angle), height / 6
        picture = Image.new("RGB", (width, height), (225, 225, 235))
        draw = ImageDraw.Draw(picture)
        draw.line([width / 2, 0.08 * height, x, y], fill=(60, 60, 60), width=height // 25)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        yield picture


KINDS: dict[str, tuple[Callable[..., Frames], str]] = {
    "plot": (plot, "a {} plot moves to the left"),
    "terminal": (terminal, "a terminal with {} text scrolls up"),
    "cube": (cube, "a {} cube spins before black"),
    "automaton": (automaton, "{} cells of an automaton grow and shrink"),
    "pendulum": (pendulum, "a {} pendulum sways from left to right"),
}


def write(path: Path, frames: Frames, times: np.ndarray, width: int, height: int) -> None:
    """Encode with one time stamp per frame; H.264 takes odd sizes only without colour subsampling."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="Make 20 short captioned videos.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--broken", action="store_true", help="also write an empty and a damaged file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for place, (name, colour) in enumerate(COLOURS.items()):
        for number, (kind, (draw, caption)) in enumerate(KINDS.items()):
            width, height, fps = SIZES[(place + number) % len(SIZES)]
            times = np.arange(int(SECONDS * fps)) / fps
            if (kind, name) == ("cube", "red"):
                width, height = width + 1, height + 1
            if (kind, name) == ("pendulum", "blue"):  # frames come thicker and faster, as from a phone in the dark
                times = SECONDS * (times / SECONDS) ** 1.3
            path = arguments.folder / f"{kind}-{name}.mp4"
            rng = np.random.default_rng(10 * number + place)
            write(path, draw(colour, width, height, times, rng), times, width, height)
            path.with_suffix(".txt").write_text(caption.format(name) + "\n", encoding="utf-8")
    if arguments.broken:
        for name, content in (("empty", b""), ("damaged", (arguments.folder / "plot-red.mp4").read_bytes()[:3000])):
            (arguments.folder / f"{name}.mp4").write_bytes(content)
            (arguments.folder / f"{name}.txt").write_text("a red plot moves to the left\n", encoding="utf-8")


if __name__ == "__main__":
    main()
