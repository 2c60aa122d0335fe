"""A look (category, colour, pattern, size, background, jitter) -> SVG -> PNG bytes.

`scene.svg` is the whole picture, `art/<category>.svg` the three parts of a product: its back, its body and its front.
The body is filled with the product's colour and is the clip path of its pattern, so its shapes carry no style.
"""

import colorsys
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from huggingface_hub import cached_assets_path
from pyarrow import feather

from gcl_toolkit.data.sources.shop.words import FACETS, WORDS


class Look(NamedTuple):
    """What a picture shows. The jitter distinguishes the pictures of products with the same attributes."""

    category: str
    colour: str
    pattern: str = "solid"
    size: str = "large"
    background: str = "white"
    hue: float = 0.0  # this and the following lie within [-1, 1]; 0 is the template as drawn
    light: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    x: float = 0.0
    y: float = 0.0


def to_png(look: Look, size: int) -> bytes:
    """The picture of a look, size x size pixels."""
    return to_pngs([look], size)[0]


def to_pngs(looks: Sequence[Look], size: int, part: int = 500) -> list[bytes]:
    """The pictures of looks, size x size pixels. More than one `part` of them are drawn by processes, one a core, and
    kept in huggingface_hub's cache, if it can be written to."""
    from gcl_toolkit.data.sources.shop import render

    svgs = [to_svg(look) for look in looks]
    if len(svgs) <= part:
        return render.pngs(svgs, size)

    def drawn(start: int) -> list[bytes]:
        task = pickle.dumps((svgs[start : start + part], size))
        command = [sys.executable, "-P", render.__file__]
        return pickle.loads(subprocess.run(command, input=task, stdout=subprocess.PIPE, check=True).stdout)

    def draw() -> list[bytes]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [png for pngs in pool.map(drawn, range(0, len(svgs), part)) for png in pngs]

    made = repr((size, version("resvg-py"), svgs)).encode()
    return _kept(f"{hashlib.sha256(made).hexdigest()}.arrow", draw)


def _kept(name: str, draw: Callable[[], list[bytes]]) -> list[bytes]:
    """What was drawn under this name before, or is now."""
    with suppress(OSError, ValueError):  # none yet, or a broken file
        return feather.read_table(cached_assets_path("gcl_toolkit", "shop") / name)["png"].to_pylist()
    pngs = draw()
    with suppress(OSError, ValueError):
        path = cached_assets_path("gcl_toolkit", "shop") / name
        beside = path.with_name(f"{name}.{os.getpid()}")
        feather.write_feather(pa.table({"png": pngs}), beside)
        beside.replace(path)
    return pngs


def to_svg(look: Look, name: str = "p") -> str:
    """The SVG of a look; every id in it starts with `name`, so that one page can hold many."""
    colours, scene = inks(look), WORDS["backgrounds"][look.background]
    back, body, front = (part.format(name=name, **colours) for part in _parts(look.category))
    tile = WORDS["patterns"][look.pattern].get("tile", "").format(name=name, **colours)
    scale = WORDS["sizes"][look.size]["scale"] * (1 + 0.04 * look.scale)
    return _svg("scene.svg").format(
        name=name,
        above=scene["above"],
        below=scene["below"],
        table=scene.get("table", ""),
        tile=tile,
        place=f"translate({50 + 2.5 * look.x:.3f} {88 - 2 * look.y:.3f}) scale({scale:.4f}) "
        f"rotate({3.5 * look.turn:.3f}) translate(-50 -88)",
        back=back,
        base=colours["base"],
        body=body,
        patterned=f'<g fill="url(#{name}-tile)">{body}</g>' if tile else "",
        deep=colours["deep"],
        front=front,
    )


def inks(look: Look) -> dict[str, str]:
    """The named colours of a look: shades of the body, the colour of its pattern, and those of `inks` in words.toml."""
    fill = WORDS["colours"][look.colour]["fill"]
    hue, lightness, saturation = colorsys.rgb_to_hls(*(int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    hue = (hue + 0.012 * look.hue) % 1
    lightness = min(max(lightness + 0.025 * look.light, 0), 1)

    def shade(change: float) -> str:
        lit = lightness + change * ((1 - lightness) if change > 0 else lightness)
        rgb = colorsys.hls_to_rgb(hue, lit, saturation * (1 - 0.5 * abs(change)))
        return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)

    shades = {"base": 0, "dark": -0.2, "deep": -0.42, "light": 0.35, "pattern": -0.42 if lightness > 0.62 else 0.72}
    return WORDS["inks"] | {ink: shade(change) for ink, change in shades.items()}


def contact_sheet(path: str | Path, size: int = 256, columns: int = 6) -> None:
    """Every category in `columns` looks that cycle through the colours, patterns and backgrounds, as one PNG."""
    from PIL import Image

    colours, patterns, backgrounds = (list(FACETS[facet]) for facet in ("colour", "pattern", "background"))
    sheet = Image.new("RGB", (columns * size, len(FACETS["category"]) * size))
    for row, category in enumerate(FACETS["category"]):
        for column in range(columns):
            n = row * columns + column
            look = Look(
                category,
                colours[(n * 4 + row) % len(colours)],
                patterns[(n + row) % len(patterns)],
                ("large", "large", "medium", "small")[n % 4],
                backgrounds[(n * 3 + row) % len(backgrounds)],
            )
            picture = Image.open(io.BytesIO(to_png(look, size)))
            sheet.paste(picture.convert("RGB"), (column * size, row * size))
    sheet.save(path)


@cache
def _svg(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


@cache
def _parts(category: str) -> tuple[str, str, str]:
    """The back, the body and the front of a category."""
    back, body, front = re.findall(r'<g id="\w+">(.*?)</g>', _svg(f"art/{category.replace(' ', '-')}.svg"), re.DOTALL)
    return back, body, front
