"""Make a folder of 20 short captioned videos of five kinds, as one finds on a computer; nothing is downloaded.

    python examples/make_footage.py my_videos              # 20 mp4 files, each with a .txt beside it
    python examples/make_footage.py my_videos --broken     # and two files that no program can read

Plots, terminals, turning wireframes, cellular automata and pendulums; sizes and frame rates differ, one video has an
odd size, one a changing frame rate.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

matplotlib.use("agg")
import matplotlib.pyplot as plt

COLOURS = {"red": (220, 50, 40), "green": (60, 200, 80), "blue": (60, 110, 240), "yellow": (240, 210, 60)}
SIZES = ((640, 360, 30), (480, 480, 25), (320, 240, 12), (426, 240, 24))
SECONDS = 3.5
Frames = Iterator[Image.Image]


def plot(colour: str, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A line plot whose wave moves to the left."""
    x, (low, high) = np.linspace(0, 6, 200), rng.uniform(0.8, 1.6, 2)
    for time in times:
        figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
        axes = figure.add_subplot(ylim=(-2, 2), xlim=(0, 6))
        axes.plot(x, np.sin(low * (x + 2 * time)) + 0.5 * np.sin(3 * high * (x + 2 * time)), color=colour, linewidth=4)
        axes.grid(True)
        figure.savefig(buffer := io.BytesIO(), format="png")
        plt.close(figure)
        yield Image.open(buffer).convert("RGB")


def terminal(colour: str, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A terminal whose text scrolls up."""
    row, words = height // 10, ("make", "test", "build", "ok", "step", "loss", "0.173", "done", "warning", "src")
    lines = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(60)]
    for time in times:
        picture = Image.new("RGB", (width, height), (15, 15, 20))
        draw, offset = ImageDraw.Draw(picture), time * 2.5 * row
        for number, line in enumerate(lines):
            draw.text((8, number * row - offset), f"$ {line}", fill=COLOURS[colour], font_size=int(0.8 * row))
        yield picture


def wireframe(colour: str, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A wireframe cube that spins before black."""
    corners = np.array([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)]) * 2.0 - 1
    edges = [(i, j) for i in range(8) for j in range(i) if (i ^ j).bit_count() == 1]
    for angle in 1.6 * times + rng.uniform(0, 3):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        tilt = np.array([[1, 0, 0], [0, 0.9, -0.44], [0, 0.44, 0.9]])
        space = corners @ turn @ tilt
        flat = space[:, :2] / (4 + space[:, 2:]) * 1.15 * height + (width / 2, height / 2)
        picture = Image.new("RGB", (width, height), "black")
        for i, j in edges:
            ImageDraw.Draw(picture).line([*flat[i], *flat[j]], fill=COLOURS[colour], width=max(2, height // 50))
        yield picture


def automaton(colour: str, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """Cells that live and die by the rules of the game of life."""
    cells, age = rng.random((18, 18 * width // height)) < 0.3, 0
    for time in times:
        while age < int(time * 6):
            shifts = ((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)
            neighbours = sum(np.roll(cells, shift, (0, 1)).astype(int) for shift in shifts)
            cells, age = (neighbours == 3) | (cells & (neighbours == 2)), age + 1
        pixels = np.where(cells[..., None], np.uint8(COLOURS[colour]), np.uint8(245))
        yield Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def pendulum(colour: str, width: int, height: int, times: np.ndarray, rng: np.random.Generator) -> Frames:
    """A pendulum that swings, by its equation of motion."""
    angle, speed, now, length = rng.uniform(0.8, 1.2), 0.0, 0.0, 0.7 * height
    for time in times:
        while now < time:
            speed, now = speed - 0.002 * 14 * np.sin(angle), now + 0.002
            angle += 0.002 * speed
        x, y = width / 2 + length * np.sin(angle), 0.08 * height + length * np.cos(angle)
        picture = Image.new("RGB", (width, height), (225, 225, 235))
        draw, radius = ImageDraw.Draw(picture), height / 9
        draw.line([width / 2, 0.08 * height, x, y], fill=(60, 60, 60), width=max(2, height // 60))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=COLOURS[colour])
        yield picture


KINDS: dict[str, tuple[Callable[..., Frames], str]] = {
    "plot": (plot, "a {} plot moves to the left"),
    "terminal": (terminal, "a terminal with {} text scrolls up"),
    "wireframe": (wireframe, "a {} wireframe cube spins"),
    "automaton": (automaton, "{} cells of a cellular automaton grow and shrink"),
    "pendulum": (pendulum, "a {} pendulum sways from left to right"),
}


def write(path: Path, frames: Frames, times: np.ndarray, width: int, height: int) -> None:
    """Encode with one time stamp per frame; H.264 takes odd sizes only without colour subsampling."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1000, 40))
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
    for number, (kind, (draw, caption)) in enumerate(KINDS.items()):
        for place, colour in enumerate(COLOURS):
            width, height, fps = SIZES[(place + number) % len(SIZES)]
            times = np.arange(int(SECONDS * fps)) / fps
            if (kind, colour) == ("wireframe", "red"):
                width, height = width + 1, height + 1
            if (kind, colour) == ("pendulum", "blue"):
                times = (
                    SECONDS * (times / SECONDS) ** 1.3
                )  # frames come thicker and faster, as from a phone in the dark
            path = arguments.folder / f"{kind}-{colour}.mp4"
            rng = np.random.default_rng(10 * number + place)
            write(path, draw(colour, width, height, times, rng), times, width, height)
            path.with_suffix(".txt").write_text(caption.format(colour) + "\n", encoding="utf-8")
    if arguments.broken:
        for name, content in (("empty", b""), ("damaged", (arguments.folder / "plot-red.mp4").read_bytes()[:3000])):
            (arguments.folder / f"{name}.mp4").write_bytes(content)
            (arguments.folder / f"{name}.txt").write_text("a red plot moves to the left\n", encoding="utf-8")


if __name__ == "__main__":
    main()
