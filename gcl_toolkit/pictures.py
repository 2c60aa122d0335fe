"""Pictures: encoded bytes -> RGB -> the square that an encoder reads, and a cache of these squares on disk.

JPEGs are decoded by simplejpeg where it is installed (the same pixels, twice as fast), resizing is torch's antialiased
one on uint8 (one grey level from Pillow's at most, but for about one value in a million; several times as fast).
"""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from gcl_toolkit.errors import DataError, UserError

MAX_PIXELS = 50_000_000
MAX_RATIO = 100
"""Of the sides: with the short one resized, the long one has to fit into memory too."""


def open_image(value: dict) -> Image.Image:
    """The decoded picture of an image value ({bytes, path}), RGB; its size as `check_size` has it."""
    return Image.fromarray(read(value))


def read(value: dict) -> np.ndarray:
    """The same as an array, H x W x 3, uint8."""
    data = value.get("bytes") or Path(value["path"]).read_bytes()
    if data[:2] == b"\xff\xd8" and _simplejpeg():
        try:
            height, width, colours, _ = _simplejpeg().decode_jpeg_header(data)
            check_size(width, height)
            if colours in ("YCbCr", "Gray", "RGB"):
                return _simplejpeg().decode_jpeg(data, "RGB")
        except DataError:
            raise
        except ValueError:  # torn, or odd: Pillow reads it, or says what is wrong
            pass
    with Image.open(io.BytesIO(data)) as image:
        check_size(*image.size)
        return np.asarray(image.convert("RGB"))


def check_size(width: int, height: int) -> None:
    """Raises DataError when a picture is too large, or too long, to be read."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(f"{width} x {height} pixels; a side at most {MAX_RATIO} times as long as the other is read")


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def fit(pixels: np.ndarray, size: int | tuple[int, int], crop: tuple[int, int] | None, mode: str) -> np.ndarray:
    """H x W x 3 -> 3 x h x w, uint8: the short side resized to `size` (or both, to a pair), then the centre `crop`ped.

    mode: "bicubic" or "bilinear". The sizes and the crop are torchvision's.
    """
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        short = min(height, width)
        size = (size * height // short, size * width // short)
    image_3xHxW = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
    if size != (height, width):
        image_3xHxW = interpolate(image_3xHxW[None], size, mode=mode, antialias=True)[0]
    if crop:
        top, left = (round((side - wanted) / 2) for side, wanted in zip(size, crop, strict=True))
        image_3xHxW = image_3xHxW[:, top : top + crop[0], left : left + crop[1]]
    return image_3xHxW.numpy()


class PixelCache:
    """Squares of N pictures in a file that is mapped, not read: 3 x S x S bytes each, and a byte that says it is there.

    The room is reserved when it is made, so that a full disk is told then and not in the middle of a training.
    """

    def __init__(self, folder: str | Path, key: str, count: int, size: int):
        path, self.count = Path(folder) / f"{key}.u8", count
        total = count * (3 * size * size + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if file.tell() < total:
                    os.posix_fallocate(file.fileno(), 0, total)
        except OSError as error:
            raise UserError(
                f"{path} of {total / 1e9:.1f} GB can't be made ({error.strerror}); leave cache out"
            ) from None
        whole = np.memmap(path, np.uint8, "r+", shape=(total,))
        self.there, self.squares = whole[:count], whole[count:].reshape(count, 3, size, size)

    def get(self, rows: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Copy the squares that are there; returns which of `rows` were, as bools."""
        known = self.there[rows] == 1
        into[known] = self.squares[rows[known]]
        return known

    def put(self, rows: np.ndarray, squares: Tensor | np.ndarray) -> None:
        self.squares[rows] = squares
        self.there[rows] = 1
