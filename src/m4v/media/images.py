"""Still images, animated GIFs and resizing on uint8 arrays, with Pillow."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from m4v.core.errors import UserError
from m4v.core.files import atomic_path
from m4v.media.media_error import MediaError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: Path | str, content: bytes | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image upright (EXIF orientation applied); transparency is laid over white.

    Args:
        path: The file.
        content: Its bytes, where they are in memory already; `path` then only names them.

    Raises:
        MediaError: if the file is missing, damaged or not an image.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise MediaError(path, "it is not an image that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports damage in all of these ways, depending on the format.
        raise MediaError(path, getattr(error, "strerror", None) or str(error)) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits, which Pillow would clip to white.

    Raises:
        ValueError: for whole numbers or fractions of 32 bits, whose white nobody knows.
    """
    if image.mode in ("I", "F"):
        raise ValueError("its grey values have 32 bits; save it with 8 or 16 bits per colour")
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))


def write_png(path: Path | str, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write an image, or a contact sheet, as PNG.

    Raises:
        UserError: if the place cannot be written.
    """
    with atomic_path(Path(path)) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", optimize=True)


def write_gif(path: Path | str, frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> None:
    """Write an endlessly looping GIF whose frames share one palette chosen from all of them.

    One palette without dithering keeps still surfaces still; a palette per frame makes them flicker.

    Args:
        path: Target file.
        frames: The video.
        fps: Frames per second, up to 50; the format counts hundredths of a second, so rates are rounded.

    Raises:
        UserError: if there is no frame or the place cannot be written.
    """
    if len(frames) == 0:
        raise UserError(f"There is no frame to write to {path}; expected at least one.")
    num_sampled = min(len(frames), 16)
    sampled = frames[np.linspace(0, len(frames) - 1, num_sampled).round().astype(int)]
    palette = Image.fromarray(np.concatenate(list(sampled))).quantize(256, method=Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_path(Path(path)) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=max(2, round(100 / fps)) * 10,
            loop=0,
            disposal=1,
        )


def cover_box(source_height: int, source_width: int, height: int, width: int) -> tuple[float, float, float, float]:
    """Largest centred part of an image with the aspect of `height` x `width`: left, top, right, bottom in pixels."""
    kept_height = min(source_height, source_width * height / width)
    kept_width = min(source_width, source_height * width / height)
    top, left = (source_height - kept_height) / 2, (source_width - kept_width) / 2
    return left, top, left + kept_width, top + kept_height


def resize_cover(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Scale an image until it just covers `height` x `width`, keep its centre, cut what overhangs.

    Antialiased when shrinking. The aspect ratio of what is kept never changes.
    """
    source_height, source_width = image.shape[:2]
    if (source_height, source_width) == (height, width):
        return image.copy()
    box = cover_box(source_height, source_width, height, width)
    left, top = box[:2]
    if (box[2] - left, box[3] - top) == (width, height) and left == int(left) and top == int(top):
        return image[int(top) : int(top) + height, int(left) : int(left) + width].copy()  # nothing to scale
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))
