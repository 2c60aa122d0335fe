"""What the app accepts: every number, text, name, picture and polygon from outside passes here. Raises UserError."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from gcl_toolkit.errors import UserError, unknown

MAX_QUERY = 200
"""Characters of a text."""
MAX_K = 100
"""Products a list."""
MAX_CHOICES = 1_000
"""Queries offered in the list of stored ones; more are found by typing."""
MAX_ROWS = 500
"""Queries shown in the table; the CSV has all."""
MAX_TERMS = 5
MAX_TERM_WEIGHT = 2.0
MAX_UPLOAD = 5_000_000
"""Bytes of a picture."""
MAX_SESSIONS = 300
"""Visitors whose state gradio keeps, .12 MB each; every call of a program is a new one. The oldest goes first."""
MAX_PIXELS = 20_000_000
"""Of a picture, before it is decoded."""
SIDE = 512
"""Pixels of the longest side of a kept picture."""
MAX_CORNERS = 64
"""Of a lasso."""
MAX_GRID = 60
"""Pictures of a selection; the CSV has all."""


def known(kind: str, name: Any, names: Iterable[str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, str(name)[:MAX_QUERY], names)
    return name


def one_line(text: Any, what: str = "query") -> str:
    """A text without its surplus white space."""
    line = " ".join(text.split()) if isinstance(text, str) else ""
    if not line:
        raise UserError(f"the {what} is empty; type some words or choose a stored query")
    return line


def short(line: str, what: str = "query") -> str:
    if len(line) > MAX_QUERY:
        raise UserError(f"the {what} has {len(line)} characters; at most {MAX_QUERY} are expected")
    return line


def number(what: str, value: Any, low: float, high: float) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not low <= found <= high:
        raise UserError(f"the {what} is {str(value)[:MAX_QUERY]!r}; a number from {low:g} to {high:g} is expected")
    return found


def whole(what: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise UserError(f"{what} is {str(value)[:MAX_QUERY]!r}; a whole number from 1 to {high} is expected")
    return value


def terms(said: Any) -> dict[str, float]:
    """term -> weight of "striped, red:0.8"; 0.5 where no weight is given."""
    found: dict[str, float] = {}
    for part in (said if isinstance(said, str) else "").split(","):
        if part.strip():
            term, _, weight = part.rpartition(":") if ":" in part else (part, "", "0.5")
            line = short(one_line(term, "term before the colon"), "term")
            found[line] = number(f"weight of {line!r}", weight, 0, MAX_TERM_WEIGHT)
    if len(found) > MAX_TERMS:
        raise UserError(f"{len(found)} terms are given; at most {MAX_TERMS} are expected")
    return found


def row(what: str, said: Any, rows: int) -> int | None:
    """A row number, None for nothing said."""
    text = "" if said is None or isinstance(said, bool) else str(said)
    if not text:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) < 12 and int(text) < rows):
        raise UserError(f"there is no {what} row {text[:MAX_QUERY]}; 0 to {rows - 1} are expected")
    return int(text)


def polygon(said: Any) -> tuple[str, np.ndarray] | None:
    """Whose map, "a" or "b", and the corners, C x 2, of "a:x,y;x,y;..."; None for nothing said."""
    if not isinstance(said, str) or not said:
        return None
    panel, _, rest = said[: MAX_CORNERS * 40].partition(":")
    known("map of the lasso", panel, ("a", "b"))
    corners = rest.split(";")
    if not 3 <= len(corners) <= MAX_CORNERS:
        raise UserError(f"the lasso has {len(corners)} corners; 3 to {MAX_CORNERS} are expected")
    pairs = [corner.split(",") for corner in corners]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("a corner of the lasso is no pair x,y of numbers")
    return panel, np.array([[number("corner of the lasso", value, -1e6, 1e6) for value in pair] for pair in pairs])


def picture(data: Any) -> bytes:
    """An uploaded picture as a small WebP. Format and size are read from its head, before anything is decoded."""
    if not isinstance(data, bytes) or not data:
        raise UserError("no picture came; choose a JPEG, PNG or WebP file")
    if len(data) > MAX_UPLOAD:
        raise UserError(f"the picture has {len(data):,} bytes; at most {MAX_UPLOAD:,} are expected")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read"
                )
            image.draft("RGB", (SIDE, SIDE))
            small = image.convert("RGB")
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # pillow's own limit, before ours
        raise UserError(f"the picture has far too many pixels; at most {MAX_PIXELS:,} are read") from None
    except Exception:  # whatever a decoder stumbles over
        raise UserError("the file can't be read as a picture; a JPEG, PNG or WebP file is expected") from None
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=90)
    return out.getvalue()
