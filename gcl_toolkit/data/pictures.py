"""Pictures: encoded bytes -> upright RGB -> the crop that an encoder reads, and a cache of these crops on disk.

JPEGs are decoded by simplejpeg where it is installed (the same pixels in half the time). Resizing is torch's
antialiased one on uint8: several times as fast as Pillow's, and at most one grey level away from it.
"""

import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gcl_toolkit.errors import DataError, UserError

MAX_PIXELS = 50_000_000
MAX_RATIO = 100
"""The longest side allowed, as a multiple of the shortest: the resized picture must fit into memory too."""


def open_image(value: dict) -> Image.Image:
    """The decoded picture of an image value ({bytes, path}); see `read`."""
    return Image.fromarray(read(value))


def read(value: dict) -> np.ndarray:
    """The decoded picture of an image value ({bytes, path}): H x W x 3, uint8, RGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit and float grey levels are scaled to 8 bits.
    Raises DataError for pictures that are too large, OSError or ValueError for ones that can't be decoded.
    """
    data = value.get("bytes") or Path(value["path"]).read_bytes()
    if data[:2] == b"\xff\xd8" and _simplejpeg() and not _is_turned(data):
        try:
            height, width, colours, _ = _simplejpeg().decode_jpeg_header(data)
            check_size(width, height)
            if colours in ("YCbCr", "Gray", "RGB"):
                return _simplejpeg().decode_jpeg(data, "RGB")
        except DataError:
            raise
        except ValueError:  # corrupt or unusual: Pillow reads it or says what is wrong
            pass
    with Image.open(io.BytesIO(data)) as image:
        check_size(*image.size)
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def _is_turned(jpeg: bytes) -> bool:
    return b"Exif\0" in jpeg[: 1 << 16] and Image.open(io.BytesIO(jpeg)).getexif().get(0x0112, 1) != 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255
        grey = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        top = grey.max(initial=0)
        is_fraction, is_deep = image.mode == "F" and top <= 1, image.mode.startswith("I;16") or top > 255
        scale = 255.0 if is_fraction else 255 / max(top, 65535) if is_deep else 1.0
        image = Image.fromarray((grey * scale).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def check_size(width: int, height: int) -> None:
    """Raise DataError for a picture that is too large, or too long for its width, to be read."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(f"{width} x {height} pixels; one side may be at most {MAX_RATIO} times the other")


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def fit(pixels: np.ndarray, size: int | tuple[int, int], crop: tuple[int, int] | None, mode: str) -> np.ndarray:
    """H x W x 3 -> 3 x h x w, uint8: resize the short side to `size` (or both sides to a pair), then crop the centre.

    mode: "bicubic" or "bilinear". Sizes and crop are torchvision's.
    """
    import torch
    from torch.nn.functional import interpolate

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
    """Crops of N pictures in a memory-mapped file: 3 x H x W bytes each, and a byte that says whether it is filled.

    The file has its final size from the start, so that a full disk is reported before the training and not during it.
    """

    def __init__(self, folder: str | Path, key: str, count: int, size: tuple[int, int]):
        path, total = Path(folder) / f"{key}.u8", count * (3 * size[0] * size[1] + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if file.tell() < total:
                    os.posix_fallocate(file.fileno(), 0, total)
        except OSError as error:
            raise UserError(
                f"can't reserve {total / 1e9:.1f} GB for {path} ({error.strerror}); free some space, choose another "
                "folder or leave cache out"
            ) from None
        mapped = np.memmap(path, np.uint8, "r+", shape=(total,))
        self.filled, self.crops = mapped[:count], mapped[count:].reshape(count, 3, *size)

    def get(self, rows: np.ndarray, into: np.ndarray) -> np.ndarray:
        """Copy the crops that are filled; returns which of `rows` were, as bools."""
        known = self.filled[rows] == 1
        into[known] = self.crops[rows[known]]
        return known

    def put(self, rows: np.ndarray, crops: np.ndarray) -> None:
        self.crops[rows] = crops
        self.filled[rows] = 1
