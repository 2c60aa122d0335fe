"""A look (category, colour, pattern, size, background, jitter) -> SVG -> PNG bytes."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path
from typing import NamedTuple

from gcl_toolkit.sources.shop.art import TEMPLATES
from gcl_toolkit.sources.shop.words import BACKGROUNDS, COLOURS, PATTERNS

HUES = {
    "red": "#d93a3a",
    "orange": "#f08a2c",
    "yellow": "#f5c93b",
    "green": "#3c8f4e",
    "mint": "#a5dcc0",
    "teal": "#1e9a9c",
    "sky": "#7dbdec",
    "navy": "#2b3f78",
    "purple": "#8450b0",
    "pink": "#f19ab8",
    "brown": "#8a5a3b",
    "beige": "#dcc5a0",
    "grey": "#9aa1ab",
    "black": "#34363d",
    "white": "#f6f5f2",
}
"""Colour -> the body's fill before the product's own small jitter."""

SCALES = {"small": 0.66, "medium": 0.82, "large": 0.94}
"""Size -> the share of the picture that the template's canvas fills."""

_SCENES = {
    "white": ("#ffffff", "#f4f4f5", None),
    "grey": ("#e3e5e9", "#cfd3d9", None),
    "cream": ("#fbf4e4", "#f3e7cb", None),
    "blush": ("#fbe3e1", "#f6cfcd", None),
    "sky": ("#e0effb", "#c5def4", None),
    "mint": ("#e0f4e8", "#c6e8d4", None),
    "slate": ("#5d6675", "#474f5d", None),
    "table": ("#f6f1e9", "#ece2d3", "#c79a6b"),
}
"""Background -> colour above, colour below, colour of a table in front (or none)."""

_MATERIALS = {
    **{"wood": "#b98555", "metal": "#b9c0ca", "ink": "#30343e", "cream": "#fdf8ee", "gold": "#e3b04b"},
    **{"leaf": "#4c9a5f", "sprout": "#6fb974", "petal": "#e8788f", "coffee": "#5a3a2a", "glow": "#fff0b8"},
    "flame": "#ffab35",
}


class Look(NamedTuple):
    """What a picture shows. The jitter makes two products of the same attributes two pictures."""

    category: str
    colour: str
    pattern: str = "solid"
    size: str = "large"
    background: str = "white"
    hue: float = 0.0  # [-1, 1], as all that follow; 0 is the template as drawn
    light: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    x: float = 0.0
    y: float = 0.0


def to_png(look: Look, size: int, name: str = "p") -> bytes:
    """The picture of a look, size x size pixels."""
    import resvg_py

    return resvg_py.svg_to_bytes(svg_string=to_svg(look, name), width=size, height=size, skip_system_fonts=True)


def to_svg(look: Look, name: str = "p") -> str:
    """The SVG of a look; every id in it starts with `name`, so that many can stand in one page."""
    template, ink = TEMPLATES[look.category], inks(look)
    above, below, table = _SCENES[look.background]
    scale = SCALES[look.size] * (1 + 0.04 * look.scale)
    ground_x, ground_y, half = template.ground
    place = (
        f"translate({50 + 2.5 * look.x:.3f} {88 - 2 * look.y:.3f}) scale({scale:.4f}) "
        f"rotate({3.5 * look.turn:.3f}) translate(-50 -88)"
    )
    body = template.body
    parts = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><defs>',
        _gradient(f"{name}-wall", (0, 100), (0, above, 1), (1, below, 1)),
        _gradient(f"{name}-shade", (100, 25), (0.08, "#fff", 0.3), (0.45, "#fff", 0), (0.95, "#000", 0.24)),
        f'<radialGradient id="{name}-shadow">{_SHADOW}</radialGradient>',
        f"{_TILES[look.pattern].format(name=name, **ink)}</defs>",
        f'<rect width="100" height="100" fill="url(#{name}-wall)"/>',
        f'<rect y="76" width="100" height="24" fill="{table}"/><rect y="76" width="100" height="1.5" {_EDGE}/>'
        if table
        else "",
        f'<g transform="{place}">',
        f'<ellipse cx="{ground_x}" cy="{ground_y}" rx="{1.25 * half}" ry="5.5" fill="url(#{name}-shadow)"/>',
        template.back.format(**ink),
        f'<g fill="{ink["base"]}">{body}</g>',
        f'<g fill="url(#{name}-tile)">{body}</g>' if look.pattern != "solid" else "",
        f'<g fill="url(#{name}-shade)" stroke="{ink["deep"]}" stroke-opacity=".35" stroke-width=".9">{body}</g>',
        template.front.format(**ink),
        "</g></svg>",
    )
    return "".join(parts)


def inks(look: Look) -> dict[str, str]:
    """The named colours of a look: the body's shades, the pattern's ink and the materials that never change."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_rgb(HUES[look.colour]))
    hue = (hue + 0.012 * look.hue) % 1
    lightness = min(max(lightness + 0.025 * look.light, 0), 1)

    def shade(change: float) -> str:
        lit = lightness + change * ((1 - lightness) if change > 0 else lightness)
        return _hex(colorsys.hls_to_rgb(hue, lit, saturation * (1 - 0.5 * abs(change))))

    pattern = shade(-0.42) if lightness > 0.62 else shade(0.72)
    return {
        **_MATERIALS,
        **{"base": shade(0), "dark": shade(-0.2), "deep": shade(-0.42), "light": shade(0.35), "pattern": pattern},
    }


def _tile(width: int, height: int, inside: str) -> str:
    where = f'width="{width}" height="{height}" patternUnits="userSpaceOnUse"'
    return f'<pattern id="{{name}}-tile" {where}>{inside}</pattern>'


def _petals(x: float, y: float) -> str:
    around = ((0, -2.6), (2.5, -0.8), (1.5, 2.1), (-1.5, 2.1), (-2.5, -0.8))
    petals = "".join(f'<circle cx="{x + dx}" cy="{y + dy}" r="1.9"/>' for dx, dy in around)
    return f'<g fill="{{pattern}}">{petals}</g><circle cx="{x}" cy="{y}" r="1.5" fill="{{gold}}"/>'


_STAR = "l1.3 2.9 3.2 .3 -2.4 2.1 .7 3.1 -2.8 -1.6 -2.8 1.6 .7 -3.1 -2.4 -2.1 3.2 -.3 Z"

_TILES = {
    "solid": "",
    "striped": _tile(100, 12, '<rect width="100" height="5.5" fill="{pattern}"/>'),
    "dotted": _tile(12, 12, '<g fill="{pattern}"><circle cx="3" cy="3" r="2.5"/><circle cx="9" cy="9" r="2.5"/></g>'),
    "checked": _tile(
        12, 12, '<g fill="{pattern}" fill-opacity=".55"><rect width="6" height="12"/><rect width="12" height="6"/></g>'
    ),
    "zigzag": _tile(
        14, 12, '<path d="M-2 10.5 L0 8.5 L7 2 L14 8.5 L16 10.5" fill="none" stroke="{pattern}" stroke-width="3.4"/>'
    ),
    "floral": _tile(19, 19, _petals(5, 5) + _petals(14.5, 14.5)),
    "starry": _tile(17, 17, f'<g fill="{{pattern}}"><path d="M4.5 1 {_STAR}"/><path d="M13 9.5 {_STAR}"/></g>'),
    "two-tone": _tile(100, 100, '<path d="M56 0 H100 V100 H44 Z" fill="{pattern}"/>'),
}


_EDGE = 'fill="#000" fill-opacity=".15"'
_SHADOW = "".join(
    f'<stop offset="{at}" stop-color="#20242c" stop-opacity="{a}"/>' for at, a in ((0, 0.42), (0.55, 0.2), (1, 0))
)


def _gradient(name: str, end: tuple[int, int], *stops: tuple[float, str, float]) -> str:
    inside = "".join(f'<stop offset="{at}" stop-color="{colour}" stop-opacity="{a}"/>' for at, colour, a in stops)
    where = f'gradientUnits="userSpaceOnUse" x1="0" y1="0" x2="{end[0]}" y2="{end[1]}"'
    return f'<linearGradient id="{name}" {where}>{inside}</linearGradient>'


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def contact_sheet(path: str | Path, size: int = 256, columns: int = 6) -> None:
    """Every category in `columns` looks that go through the colours, patterns and backgrounds, as one PNG."""
    from PIL import Image

    colours, patterns = list(COLOURS), list(PATTERNS)
    sheet = Image.new("RGB", (columns * size, len(TEMPLATES) * size))
    for row, category in enumerate(TEMPLATES):
        for column in range(columns):
            n = row * columns + column
            look = Look(
                category,
                colours[(n * 4 + row) % len(colours)],
                patterns[(n + row) % len(patterns)],
                ("large", "large", "medium", "small")[n % 4],
                BACKGROUNDS[(n * 3 + row) % len(BACKGROUNDS)],
            )
            picture = Image.open(io.BytesIO(to_png(look, size)))
            sheet.paste(picture.convert("RGB"), (column * size, row * size))
    sheet.save(path)
