"""What the app accepts: checks of every number, text, name, picture and polygon from users. Raises UserError."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from gcl_toolkit.errors import UserError, unknown

MAX_QUERY = 200
"""Characters in a text."""
MAX_K = 100
"""Products in a list."""
MAX_CHOICES = 1_000
"""Queries offered in the list; the others can be typed."""
MAX_ROWS = 500
"""Queries shown in the table; the CSV contains all."""
MAX_TERMS = 5
MAX_TERM_WEIGHT = 2.0
MAX_UPLOAD = 5_000_000
"""Bytes in a picture."""
MAX_SESSIONS = 300
"""Visitors whose state gradio keeps, 0.12 MB each; every API call is a new one. The oldest is dropped first."""
MAX_GRADE, MAX_QRELS = 10_000, 50_000_000
"""Bytes of a judgement, and of an imported file of judgements."""
MAX_RUNNING, MAX_WAITING = 4, 64
"""Answers that are computed at once, and requests that wait for one; others are refused."""
MAX_PIXELS = 20_000_000
"""Pixels in a picture, checked before it is decoded."""
SIDE = 512
"""Longest side of a kept picture, in pixels."""
MAX_CORNERS = 64
"""Corners of a lasso."""
MAX_GRID = 60
"""Pictures shown of a selection; the CSV contains all."""


def known(kind: str, name: Any, names: Iterable[str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, str(name)[:MAX_QUERY], names)
    return name


def one_line(text: Any, what: str = "query") -> str:
    """A text with single spaces between its words."""
    line = " ".join(text.split()) if isinstance(text, str) else ""
    if not line:
        raise UserError(f"the {what} is empty; type some words or choose a stored query")
    return line


def short(line: str, what: str = "query") -> str:
    if len(line) > MAX_QUERY:
        raise UserError(f"the {what} has {len(line)} characters; at most {MAX_QUERY} are allowed")
    return line


def number(what: str, value: Any, low: float, high: float) -> float:
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if isinstance(value, bool) or not low <= parsed <= high:
        raise UserError(f"the {what} is {str(value)[:MAX_QUERY]!r}; a number from {low:g} to {high:g} is expected")
    return parsed


def integer(what: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise UserError(f"{what} is {str(value)[:MAX_QUERY]!r}; an integer from 1 to {high} is expected")
    return value


def terms(text: Any) -> dict[str, float]:
    """term -> weight of "striped, red:0.8"; the default weight is 0.5."""
    weights: dict[str, float] = {}
    for part in (text if isinstance(text, str) else "").split(","):
        if part.strip():
            term, _, weight = part.rpartition(":") if ":" in part else (part, "", "0.5")
            line = short(one_line(term, "term before the colon"), "term")
            weights[line] = number(f"weight of {line!r}", weight, 0, MAX_TERM_WEIGHT)
    if len(weights) > MAX_TERMS:
        raise UserError(f"{len(weights)} terms are given; at most {MAX_TERMS} are allowed")
    return weights


def row(what: str, value: Any, rows: int) -> int | None:
    """A row number; None for an empty value."""
    text = "" if value is None or isinstance(value, bool) else str(value)
    if not text:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) < 12 and int(text) < rows):
        raise UserError(f"there is no {what} row {text[:MAX_QUERY]}; a number from 0 to {rows - 1} is expected")
    return int(text)


def polygon(text: Any) -> tuple[str, np.ndarray] | None:
    """The panel ("a" or "b") and the corners, C x 2, of "a:x,y;x,y;..."; None for an empty value."""
    if not isinstance(text, str) or not text:
        return None
    panel, _, rest = text[: MAX_CORNERS * 40].partition(":")
    known("map of the lasso", panel, ("a", "b"))
    corners = rest.split(";")
    if not 3 <= len(corners) <= MAX_CORNERS:
        raise UserError(f"the lasso has {len(corners)} corners; 3 to {MAX_CORNERS} are expected")
    pairs = [corner.split(",") for corner in corners]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("a corner of the lasso is not a pair x,y of numbers")
    return panel, np.array([[number("corner of the lasso", value, -1e6, 1e6) for value in pair] for pair in pairs])


def picture(data: Any) -> bytes:
    """An uploaded picture as a small WebP. Format and size are checked from its header, before it is decoded."""
    if not isinstance(data, bytes) or not data:
        raise UserError("no picture was sent; choose a JPEG, PNG or WebP file")
    if len(data) > MAX_UPLOAD:
        raise UserError(f"the picture has {len(data):,} bytes; at most {MAX_UPLOAD:,} are allowed")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"the picture has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are allowed"
                )
            image.draft("RGB", (SIDE, SIDE))
            small = image.convert("RGB")
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit
        raise UserError(f"the picture has far too many pixels; at most {MAX_PIXELS:,} are allowed") from None
    except Exception:  # decoders raise exceptions of many types
        raise UserError("the file can't be read as a picture; a JPEG, PNG or WebP file is expected") from None
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=90)
    return out.getvalue()
