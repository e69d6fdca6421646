"""Still images, GIFs and resizing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m4v.core.errors import UserError
from m4v.media.images import read_image, resize_cover, write_gif, write_png
from m4v.media.media_error import MediaError


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([255 * rows / height, 255 * columns / width, 128 + 0 * rows], axis=-1).astype(np.uint8)


def test_png_is_lossless(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 31, 3), dtype=np.uint8)
    write_png(tmp_path / "sub" / "image.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "sub" / "image.png"), image)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = gradient(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: show it turned a quarter clockwise
    Image.fromarray(image).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "phone.png"), np.rot90(image, k=-1))


def test_transparency_lies_over_white_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_damaged_images_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(MediaError, match=r"bad\.png"):
        read_image(tmp_path / "bad.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_images_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="cut"):
        read_image(path)


def test_missing_image_and_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        read_image(tmp_path / "absent.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        write_png(tmp_path / "file" / "image.png", gradient(4, 4))


def test_gif_keeps_frames_time_and_colours(tmp_path: Path) -> None:
    frames = np.stack([np.roll(gradient(32, 32), 2 * index, axis=1) for index in range(6)])
    write_gif(tmp_path / "clip.gif", frames, fps=8)
    with Image.open(tmp_path / "clip.gif") as image:
        assert image.n_frames == 6
        assert image.info["loop"] == 0
        for index in range(6):
            image.seek(index)
            assert image.info["duration"] == pytest.approx(125, abs=6)
            difference = np.array(image.convert("RGB")).astype(float) - frames[index]
            assert np.abs(difference).mean() < 6
    with pytest.raises(UserError, match="no frame"):
        write_gif(tmp_path / "none.gif", frames[:0], fps=8)


def test_still_parts_of_a_gif_do_not_flicker(tmp_path: Path) -> None:
    frames = np.stack([gradient(32, 32)] * 4)
    for index in range(4):
        frames[index, :8, 8 * index : 8 * index + 8] = (255, 0, 0)
    write_gif(tmp_path / "still.gif", frames, fps=8)
    with Image.open(tmp_path / "still.gif") as image:
        shown = []
        for index in range(4):
            image.seek(index)
            shown.append(np.array(image.convert("RGB")))
    for picture in shown[1:]:
        np.testing.assert_array_equal(picture[8:], shown[0][8:])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_resize_cover_always_gives_the_asked_size(source_h: int, source_w: int, height: int, width: int) -> None:
    assert resize_cover(gradient(source_h, source_w), height, width).shape == (height, width, 3)


def test_resize_cover_keeps_the_centre_and_the_aspect() -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 200  # the centre third
    np.testing.assert_array_equal(resize_cover(wide, 32, 32)[:, 2:-2], 200)
    disc = (np.hypot(*(np.mgrid[0:120, 0:200] - np.array([59.5, 99.5])[:, None, None])) < 40)[..., None]
    small = resize_cover(np.repeat(disc * np.uint8(255), 3, axis=2), 60, 60)[..., 0] > 127
    assert small.any(axis=0).sum() == pytest.approx(small.any(axis=1).sum(), abs=1)
    assert small.any(axis=0).sum() == pytest.approx(40, abs=2)


def test_resize_cover_never_returns_its_argument() -> None:
    image = gradient(8, 8)
    assert not np.shares_memory(resize_cover(image, 8, 8), image)


def test_sixteen_bits_keep_their_greys_and_unknown_ranges_are_refused(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert abs(read_image(tmp_path / "deep.png")[..., 0] * 257.0 - grey).max() <= 257
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(MediaError, match="32 bits"):
        read_image(tmp_path / "float.tiff")
