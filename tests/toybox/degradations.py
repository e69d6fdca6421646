"""Ways in which generated clips differ from renders: blur, noise, compression, ragged edges, smooth reconstruction."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Frames = np.ndarray


def blurred(frames: Frames, radius: float) -> Frames:
    """Blur every frame with a Gaussian."""
    return np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(radius))) for f in frames])


def noisy(frames: Frames, deviation: float) -> Frames:
    """Add independent Gaussian noise to every value."""
    rng = np.random.default_rng(int(frames.sum()) % 2**32)
    return np.clip(frames + rng.normal(0.0, deviation, frames.shape), 0, 255).astype(np.uint8)


def compressed(frames: Frames, quality: int) -> Frames:
    """Pass every frame through JPEG."""
    results = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        results.append(np.asarray(Image.open(buffer).convert("RGB")))
    return np.stack(results)


def ragged(frames: Frames, reach: float) -> Frames:
    """Shift pixels by smooth random offsets of up to `reach` pixels, anew in every frame."""
    rng = np.random.default_rng(int(frames.sum()) % 2**32)
    height, width = frames.shape[1:3]
    rows, columns = np.mgrid[:height, :width]

    def offsets() -> np.ndarray:
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=float)
        return np.rint((fine / 127.5 - 1.0) * reach).astype(int)

    return np.stack(
        [
            frame[np.clip(rows + offsets(), 0, height - 1), np.clip(columns + offsets(), 0, width - 1)]
            for frame in frames
        ]
    )


def smoothed(frames: Frames, share: float) -> Frames:
    """Shrink every frame to `share` of its size and enlarge it again: fine detail is gone, edges are soft."""
    height, width = frames.shape[1:3]
    small = (round(width * share), round(height * share))
    return np.stack(
        [
            np.asarray(
                Image.fromarray(frame)
                .resize(small, Image.Resampling.LANCZOS)
                .resize((width, height), Image.Resampling.BICUBIC)
            )
            for frame in frames
        ]
    )


MILD: dict[str, Callable[[Frames], Frames]] = {
    "blurred": lambda frames: blurred(frames, 1.0),
    "noisy": lambda frames: noisy(frames, 10.0),
    "compressed": lambda frames: compressed(frames, 50),
    "ragged": lambda frames: ragged(frames, 1.6),
    "smoothed": lambda frames: smoothed(frames, 0.5),
    "blurred and noisy": lambda frames: noisy(blurred(frames, 0.8), 6.0),
}
