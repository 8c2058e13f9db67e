"""Tests of src/data/pictures.py: every kind of picture becomes RGB, in the orientation of the data set; damage is noticed."""

from __future__ import annotations

import io
import os
from pathlib import Path

from src.data.pictures import decode, picture_size, read_picture

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth picture (height, width, 3) whose corners differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], axis=-1).astype(np.uint8)


def save_rotated(path: Path, orientation: int, picture: np.ndarray | None = None, **options) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient() if picture is None else picture).save(path, exif=exif, **options)


def close(a: np.ndarray, b: np.ndarray, by: float = 6) -> bool:
    return a.shape == b.shape and np.abs(a.astype(float) - b).mean() < by


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_sound_pictures_are_exact(tmp_path, name):
    Image.fromarray(gradient()).save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and (picture == gradient()).all()
    assert picture_size(tmp_path / name) == (40, 60)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    grey = gradient()[..., 0]
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        expected = np.stack([grey] * 3, axis=-1)
    else:
        image = Image.fromarray(gradient()).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(128)
        image.save(path, **({"quality": 95} if mode == "CMYK" else {}))
        expected = np.asarray(Image.open(path).convert("RGB"))
    assert close(read_picture(path), expected, 4)


def test_sixteen_bit_colour(tmp_path):
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), gradient()[..., ::-1].astype(np.uint16) * 257)
        assert close(read_picture(tmp_path / name), gradient(), 1.5)
        assert picture_size(tmp_path / name) == (40, 60)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    save_rotated(tmp_path / "a.jpg", orientation, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        stored = np.asarray(image)
        rotated = np.asarray(ImageOps.exif_transpose(image))
    assert close(read_picture(tmp_path / "a.jpg"), rotated)
    assert picture_size(tmp_path / "a.jpg") == rotated.shape[:2]
    assert close(read_picture(tmp_path / "a.jpg", (40, 60)), stored)
    if orientation > 4:
        assert close(read_picture(tmp_path / "a.jpg", (60, 40)), rotated)
    assert close(read_picture(tmp_path / "a.jpg", (100, 30)), rotated)  # the stated size is that of neither
    assert close(decode(tmp_path / "a.jpg", (40, 60), 2)[0], cv2.resize(stored, (30, 20), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_square_picture_is_rotated(tmp_path, orientation):
    square = gradient(48, 48)
    save_rotated(tmp_path / "a.jpg", orientation, square, quality=95)
    turned = np.rot90(square, {1: 0, 3: 2, 6: 3}[orientation])
    assert close(read_picture(tmp_path / "a.jpg", (48, 48)), turned)


def test_reduced_decoding(tmp_path):
    picture = gradient(61, 83)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "a.png")
    for factor in (1, 2, 4, 8):
        reduced, found = decode(tmp_path / "a.jpg", (61, 83), factor)
        assert found == factor and reduced.shape[:2] == (-(-61 // factor), -(-83 // factor))
        whole = reduced[: 61 // factor, : 83 // factor]
        blocks = picture[: whole.shape[0] * factor, : whole.shape[1] * factor]
        means = blocks.reshape(whole.shape[0], factor, whole.shape[1], factor, 3).mean(axis=(1, 3))
        assert close(whole, means, 3)  # pixel i covers the pixels i * factor to (i + 1) * factor
    assert decode(tmp_path / "a.png", (61, 83), 4)[1] == 1 and decode(tmp_path / "a.jpg", (61, 99), 4)[1] == 1


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif"])
def test_damaged_files(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    content = io.BytesIO()
    Image.fromarray(gradient()).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()))
    for part in (b"", b"nothing of the kind", content.getvalue()[: len(content.getvalue()) // 2]):
        path.write_bytes(part)
        with pytest.raises(ValueError):
            read_picture(path)
    with pytest.raises(OSError):
        read_picture(tmp_path / "none.jpg")


def test_what_is_no_file_or_too_large(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="it is a named pipe, not a regular file"):
        read_picture(tmp_path / "pipe.jpg")
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    pixels = gradient().shape[0] * gradient().shape[1]
    with pytest.raises(ValueError, match=f"more than max_pixels={pixels - 1}"):
        read_picture(tmp_path / "a.png", max_pixels=pixels - 1)
    for limit in (pixels, 0):
        assert read_picture(tmp_path / "a.png", max_pixels=limit).shape == gradient().shape
