"""One small SVG template a category, on a canvas of 100 x 100; `draw.py` colours and renders them."""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """SVG elements of one category, from the back to the front.

    The body has the product's colour and is the clip path of its pattern, so its shapes carry no style. The other
    parts are formatted with the names of `draw.inks`: {base}, {dark}, {deep}, {light}, {wood}, {metal}, {ink}, {cream},
    {gold}, {leaf}.
    """

    body: str
    back: str = ""
    front: str = ""
    ground: tuple[float, float, float] = (50, 86, 30)
    """Contact shadow: centre x, centre y, half width."""


def _line(d: str, colour: str, width: float, more: str = "") -> str:
    return (
        f'<path d="{d}" fill="none" stroke="{{{colour}}}" stroke-width="{width}" stroke-linecap="round" '
        f'stroke-linejoin="round" {more}/>'
    )


def _fill(d: str, colour: str, more: str = "") -> str:
    return f'<path d="{d}" fill="{{{colour}}}" {more}/>'


def _body(*paths: str) -> str:
    return "".join(f'<path d="{d}"/>' for d in paths)


def _oval(x: float, y: float, rx: float, ry: float, colour: str, more: str = "") -> str:
    return f'<ellipse cx="{x}" cy="{y}" rx="{rx}" ry="{ry}" fill="{{{colour}}}" {more}/>'


def _disc(x: float, y: float, r: float) -> str:
    """A circle as path data."""
    return f"M{x - r} {y} a{r} {r} 0 1 0 {2 * r} 0 a{r} {r} 0 1 0 {-2 * r} 0 Z"


def _box(x: float, y: float, w: float, h: float, r: float = 0) -> str:
    """A rounded rectangle as path data."""
    arcs = (f"a{r} {r} 0 0 1 {dx} {dy}" for dx, dy in ((r, r), (-r, r), (-r, -r), (r, -r)))
    top, right, bottom, left = arcs
    return f"M{x + r} {y} h{w - 2 * r} {top} v{h - 2 * r} {right} h{-(w - 2 * r)} {bottom} v{-(h - 2 * r)} {left} Z"


_LENSES = (
    "M7 39 C19 35 36 35 46 39 C47 52 44 68 29 68 C14 68 8 55 7 39 Z "
    "M93 39 C81 35 64 35 54 39 C53 52 56 68 71 68 C86 68 92 55 93 39 Z"
)

TEMPLATES = {
    "mug": Template(
        back=_line("M64 42 h7 a12 12 0 0 1 0 26 h-7", "dark", 7),
        body=_body("M20 30 H66 V72 a11 11 0 0 1 -11 11 H31 a11 11 0 0 1 -11 -11 Z"),
        front=_oval(43, 30, 23, 5.5, "light") + _oval(43, 30.6, 20, 4, "coffee"),
        ground=(44, 84, 28),
    ),
    "teapot": Template(
        back=_line("M70 70 C84 68 80 50 91 44", "dark", 7.5) + _line("M30 50 C6 42 6 76 28 73", "dark", 5.5),
        body=_body("M29 44 C18 56 20 83 36 83 H64 C80 83 82 56 71 44 Z"),
        front=_fill("M30 45 C33 31 67 31 70 45 Z", "light") + _oval(50, 31, 4.5, 4.5, "dark"),
        ground=(50, 84, 28),
    ),
    "bottle": Template(
        back=_line("M58 18 C72 12 72 30 61 30", "dark", 3.5),
        body=_body("M34 40 C34 32 41 31 41 25 H59 C59 31 66 32 66 40 V80 a6 6 0 0 1 -6 6 H40 a6 6 0 0 1 -6 -6 Z"),
        front=_fill(_box(40, 12, 20, 13, 3), "ink") + _fill(_box(41, 24, 18, 3), "metal"),
        ground=(50, 86, 20),
    ),
    "plate": Template(
        back=_line("M9 28 V42 M13 28 V42 M17 28 V42 M9 42 a4 4 0 0 0 8 0 M13 46 V76", "metal", 2.4)
        + _line("M88 76 V28 C93 34 94 46 88 52", "metal", 3.2),
        body=_body(_disc(50, 52, 30)),
        front=_line(_disc(50, 52, 19), "deep", 1.2, 'opacity=".45"') + _line(_disc(50, 52, 29), "light", 1.5),
        ground=(50, 83, 30),
    ),
    "t-shirt": Template(
        body=_body("M36 18 C42 27 58 27 64 18 L82 26 L92 46 L79 53 L74 46 V84 H26 V46 L21 53 L8 46 L18 26 Z"),
        front=_line("M36 18 C42 28.5 58 28.5 64 18", "dark", 3.4) + _line("M74 46 V56 M26 46 V56", "deep", 1.2),
        ground=(50, 89, 28),
    ),
    "dress": Template(
        body=_body(
            "M36 11 H41 C43 23 57 23 59 11 H64 L65 29 L60 45 C66 60 74 72 80 84 C66 91 34 91 20 84 C26 72 34 60 40 45"
            " L35 29 Z"
        ),
        front=_fill("M39.4 42 H60.6 L61 48 H39 Z", "deep")
        + _line("M45 52 L38 84 M55 52 L62 84", "deep", 1, 'opacity=".5"'),
        ground=(50, 90, 28),
    ),
    "sweater": Template(
        back=_fill("M38 12 H62 L65 24 H35 Z", "deep"),
        body=_body(
            "M37 18 C43 25 57 25 63 18 L76 24 C86 40 90 58 92 76 L80 79 L74 50 V80 H26 V50 L20 79 L8 76"
            " C10 58 14 40 24 24 Z"
        ),
        front=_line("M37.5 17 C43 25 57 25 62.5 17", "dark", 5)
        + _fill(_box(25, 78, 50, 7, 2), "dark")
        + _line("M9 76 L20 78.5 M91 76 L80 78.5", "dark", 6)
        + _line("M26 46 V60 M74 46 V60", "deep", 1.2),
        ground=(50, 88, 30),
    ),
    "scarf": Template(
        back=_line("M55 83 v6 M60 83 v6 M65 83 v6 M70 83 v6 M34 74 v6 M39 74 v6 M44 74 v6", "dark", 2.2),
        body=_body(
            "M24 27 C22 8 78 8 76 27 C78 47 22 47 24 27 Z", "M52 36 H71 L74 84 H53 Z", "M32 34 H50 L48 75 H31 Z"
        ),
        front=_oval(50, 21, 17, 6.5, "deep")
        + _line("M52 40 V82", "deep", 1.2)
        + _line("M28 34 C40 44 60 44 72 34", "deep", 1.2),
        ground=(54, 90, 24),
    ),
    "socks": Template(
        back=_fill("M48 12 H68 V50 L80 62 C88 72 80 84 68 79 L50 64 Z", "dark"),
        body=_body("M26 16 H48 V54 L62 66 C72 76 62 89 49 84 L32 73 C26 69 26 64 26 58 Z"),
        front=_fill(_box(25, 14, 24, 9, 2), "light")
        + _fill(_box(48, 10, 21, 8, 2), "light")
        + _fill("M62 66 C72 76 62 89 49 84 C54 80 56 71 62 66 Z", "light")
        + _fill("M26 58 C34 58 38 64 37 76 C28 72 26 66 26 58 Z", "light"),
        ground=(52, 87, 30),
    ),
    "cap": Template(
        body=_body("M14 62 C10 22 72 16 76 60 Z"),
        front=_fill("M40 61 C56 50 86 52 95 70 C80 66 56 68 40 64 Z", "dark")
        + _oval(43, 28.5, 3, 2.2, "dark")
        + _line("M43 30 C34 38 32 50 32 62 M43 30 C54 38 58 48 59 56", "deep", 1.1)
        + _fill("M14 60 C30 64 44 63 60 56 L58 60 C44 67 30 68 14 64 Z", "dark"),
        ground=(52, 70, 38),
    ),
    "sneakers": Template(
        body=_body(
            "M12 44 C18 40 24 48 34 44 L42 33 C45 30 50 33 51 38 C57 50 66 54 80 57 C91 60 93 66 92 73 H11"
            " C8 62 8 52 12 44 Z"
        ),
        front=_fill("M77 56.5 C91 60 93 66 92 73 H73 C70 66 72 60 77 56.5 Z", "light")
        + _fill("M8 71 H93 C95 79 91 83 86 83 H15 C9 83 7 78 8 71 Z", "cream")
        + _line("M45 44 L55 38 M49 49 L60 43 M54 54 L66 47", "cream", 2.6)
        + _line("M9 76.5 H93", "dark", 1.6),
        ground=(50, 84, 42),
    ),
    "boots": Template(
        body=_body("M30 16 H59 V48 C62 57 86 56 88 75 H29 C27 60 33 40 30 16 Z"),
        front=_fill("M28 74 H89 V81 H60 L58 86 H29 Z", "ink")
        + _fill(_box(28, 13, 33, 8, 3), "light")
        + _line("M46 28 L58 25 M46 35 L58 32 M46 42 L58 39 M48 49 L60 47", "cream", 2.2),
        ground=(56, 85, 34),
    ),
    "backpack": Template(
        back=_line("M29 34 C14 42 16 70 24 80 M71 34 C86 42 84 70 76 80", "deep", 5.5)
        + _line("M42 17 C42 7 58 7 58 17", "deep", 4),
        body=_body("M27 38 C27 8 73 8 73 38 V78 a7 7 0 0 1 -7 7 H34 a7 7 0 0 1 -7 -7 Z"),
        front=_fill(_box(34, 55, 32, 24, 5), "dark")
        + _line("M37 62 H63", "light", 1.8)
        + _line("M28 46 H72", "deep", 1.4)
        + _fill(_box(46.5, 60, 7, 6, 1.5), "gold"),
        ground=(50, 86, 28),
    ),
    "handbag": Template(
        back=_line("M33 42 C33 10 67 10 67 42", "deep", 4.5),
        body=_body("M21 38 H79 L87 77 a7 7 0 0 1 -7 8 H20 a7 7 0 0 1 -7 -8 Z"),
        front=_fill("M21 38 H79 L82 54 C66 63 34 63 18 54 Z", "dark") + _fill(_box(44, 55, 12, 9, 2.5), "gold"),
        ground=(50, 86, 38),
    ),
    "suitcase": Template(
        back=_line("M39 26 V9 H61 V26", "metal", 4) + _fill(_disc(35, 85, 4.5) + _disc(65, 85, 4.5), "ink"),
        body=_body(_box(25, 22, 50, 61, 8)),
        front=_line("M37 24 V81 M50 24 V81 M63 24 V81", "deep", 1.4, 'opacity=".6"')
        + _fill(_box(41, 19, 18, 5, 2.5), "deep")
        + _line(
            "M27 34 V30 a6 6 0 0 1 6 -6 M73 34 V30 a6 6 0 0 0 -6 -6 M27 71 v4 a6 6 0 0 0 6 6 M73 71 v4 a6 6 0 0 1 -6 6",
            "light",
            2.6,
        ),
        ground=(50, 89, 26),
    ),
    "chair": Template(
        back=_line("M28 62 L23 88 M72 62 L77 88 M34 62 L33 82 M66 62 L67 82", "wood", 4)
        + _line("M34 44 V58 M66 44 V58", "wood", 4),
        body=_body(_box(27, 12, 46, 36, 8), "M26 54 H74 L79 61 a4 4 0 0 1 -3 6 H24 a4 4 0 0 1 -3 -6 Z"),
        front=_line("M21.5 64 H78.5", "deep", 1.4, 'opacity=".6"'),
        ground=(50, 87, 30),
    ),
    "sofa": Template(
        back=_line("M18 74 L15 83 M82 74 L85 83", "wood", 4),
        body=_body(_box(15, 28, 70, 36, 9), _box(7, 44, 16, 32, 7), _box(77, 44, 16, 32, 7), _box(18, 56, 64, 20, 3)),
        front=_line("M23 57 H77 M50 30 V74 M23 70 H77", "deep", 1.4, 'opacity=".7"')
        + _line("M23 74 V51 a7 7 0 0 0 -7 -7 M77 74 V51 a7 7 0 0 1 7 -7", "deep", 1.4, 'opacity=".7"'),
        ground=(50, 83, 44),
    ),
    "lamp": Template(
        back=_fill(_box(47, 44, 6, 38), "wood") + _oval(50, 83, 19, 4.5, "wood") + _oval(50, 49, 31, 4.5, "glow"),
        body=_body("M35 12 H65 L82 49 C66 53 34 53 18 49 Z"),
        front=_line("M18.6 48.5 C34 52.5 66 52.5 81.4 48.5", "dark", 2.2) + _line("M35 12 H65", "dark", 2.2),
        ground=(50, 86, 24),
    ),
    "cushion": Template(
        body=_body("M13 20 C38 27 62 27 87 20 C81 40 81 62 87 82 C62 76 38 76 13 82 C19 62 19 40 13 20 Z"),
        front=_line("M13 20 C38 27 62 27 87 20 C81 40 81 62 87 82 C62 76 38 76 13 82 C19 62 19 40 13 20 Z", "dark", 2.4)
        + _line("M20 28 C26 31 28 34 30 38 M80 28 C74 31 72 34 70 38", "deep", 1.2, 'opacity=".5"'),
        ground=(50, 82, 38),
    ),
    "rug": Template(
        back=_line(
            " ".join(f"M{x} 35 v-4.5" for x in range(21, 81, 6)) + " ".join(f" M{x} 79 v6" for x in range(6, 96, 7)),
            "cream",
            2.4,
        ),
        body=_body("M19 34 H81 L96 80 H4 Z"),
        front=_line("M23.5 38.5 H76.5 L88.5 75 H11.5 Z", "light", 2),
        ground=(50, 82, 46),
    ),
    "clock": Template(
        back=_line("M30 76 L24 86 M70 76 L76 86", "ink", 4.5)
        + _oval(28, 22, 9, 7, "dark", 'transform="rotate(-38 28 22)"')
        + _oval(72, 22, 9, 7, "dark", 'transform="rotate(38 72 22)"'),
        body=_body(_disc(50, 51, 34)),
        front=_oval(50, 51, 21, 21, "cream")
        + _line("M50 33 V36 M50 66 V69 M32 51 H35 M65 51 H68", "ink", 2)
        + _line("M50 51 V39 M50 51 L59 56", "ink", 2.8)
        + _oval(50, 51, 2, 2, "gold"),
        ground=(50, 87, 30),
    ),
    "vase": Template(
        back=_line("M50 40 V14 M50 40 C46 30 40 24 34 20 M50 40 C54 30 60 26 67 22", "leaf", 2)
        + _oval(50, 12, 6, 6, "gold")
        + _oval(33, 19, 5.5, 5.5, "petal")
        + _oval(68, 21, 5.5, 5.5, "petal")
        + _oval(50, 12, 2.2, 2.2, "coffee")
        + _oval(33, 19, 2, 2, "cream")
        + _oval(68, 21, 2, 2, "cream"),
        body=_body("M41 38 H59 C57 48 77 52 75 68 C73 82 64 86 50 86 C36 86 27 82 25 68 C23 52 43 48 41 38 Z"),
        front=_oval(50, 38, 10, 2.8, "dark"),
        ground=(50, 86, 24),
    ),
    "plant pot": Template(
        back=_fill("M49 54 C30 50 22 36 24 18 C40 22 50 36 50 54 Z", "leaf")
        + _fill("M51 54 C70 50 78 36 76 18 C60 22 50 36 50 54 Z", "leaf")
        + _fill("M50 54 C40 40 42 20 50 8 C58 20 60 40 50 54 Z", "sprout")
        + _line("M50 52 V18", "leaf", 1.2),
        body=_body("M28 56 H72 L67 82 a5 5 0 0 1 -5 4 H38 a5 5 0 0 1 -5 -4 Z", _box(24, 49, 52, 10, 3)),
        front=_line("M28 59.3 H72", "deep", 1.4, 'opacity=".7"'),
        ground=(50, 86, 22),
    ),
    "candle": Template(
        back=_fill("M50 8 C59 19 58 28 50 29 C42 28 41 19 50 8 Z", "flame")
        + _oval(50, 24, 2.6, 4, "glow")
        + _line("M50 28 V37", "ink", 2),
        body=_body("M27 38 H73 V78 a7 7 0 0 1 -7 7 H34 a7 7 0 0 1 -7 -7 Z"),
        front=_oval(50, 38, 23, 5, "light")
        + _oval(50, 38.5, 19, 3.5, "cream")
        + _line("M50 29 V38", "ink", 1.8)
        + _fill(_box(38, 54, 24, 16, 2), "cream")
        + _line("M42 60 H58 M45 65 H55", "ink", 1.4),
        ground=(50, 86, 26),
    ),
    "headphones": Template(
        back=_fill(_box(24, 52, 12, 28, 6), "ink") + _fill(_box(64, 52, 12, 28, 6), "ink"),
        body=_body(
            "M13 56 C6 4 94 4 87 56 L78 58 C82 18 18 18 22 58 Z", _box(10, 48, 22, 36, 10), _box(68, 48, 22, 36, 10)
        ),
        front=_line("M32 54 V78 M68 54 V78", "deep", 2),
        ground=(50, 86, 38),
    ),
    "guitar": Template(
        back=_fill(_box(46.5, 12, 7, 44), "wood") + _fill("M44 2 H56 L54.5 15 H45.5 Z", "ink"),
        body=_body("M50 42 C66 36 71 49 66 57 C80 66 74 90 50 90 C26 90 20 66 34 57 C29 49 34 36 50 42 Z"),
        front=_fill(_box(46.5, 36, 7, 22), "wood")
        + _oval(50, 61, 7.5, 7.5, "ink")
        + _fill(_box(41, 76, 18, 4, 1.5), "ink")
        + _line("M48.5 8 V77 M51.5 8 V77", "cream", 0.7),
        ground=(50, 90, 26),
    ),
    "notebook": Template(
        back=_fill(_box(27, 16, 52, 71, 4), "cream") + _line("M78 20 V84", "metal", 1.2),
        body=_body(_box(22, 13, 54, 72, 5)),
        front=_fill(_box(22, 13, 9, 72, 4), "deep")
        + _line("M68 13.5 V84.5", "dark", 3)
        + _fill(_box(37, 27, 25, 14, 2), "cream")
        + _line("M41 32 H58 M41 36.5 H53", "ink", 1.4),
        ground=(50, 87, 30),
    ),
    "watch": Template(
        body=_body(
            "M36 8 a4 4 0 0 1 4 -4 H60 a4 4 0 0 1 4 4 L67 36 H33 Z",
            "M33 64 H67 L64 92 a4 4 0 0 1 -4 4 H40 a4 4 0 0 1 -4 -4 Z",
        ),
        front=_fill(_box(72, 46, 6, 8, 2), "metal")
        + _oval(50, 50, 24, 24, "metal")
        + _oval(50, 50, 19.5, 19.5, "cream")
        + _line("M50 34 V37 M50 63 V66 M34 50 H37 M63 50 H66", "ink", 1.8)
        + _line("M50 50 V39 M50 50 L58 54", "ink", 2.4),
        ground=(50, 95, 18),
    ),
    "sunglasses": Template(
        back=_line("M8 40 C4 36 8 28 15 26 M92 40 C96 36 92 28 85 26", "deep", 4),
        body=_body(_LENSES),
        front=_line(_LENSES, "deep", 4.6)
        + _line("M46 42 C48 39.5 52 39.5 54 42", "deep", 4.6)
        + _line("M17 45 L26 59 M64 45 L73 59", "cream", 2.4, 'opacity=".55"'),
        ground=(50, 72, 40),
    ),
    "umbrella": Template(
        back=_line("M50 10 V80 a8 8 0 0 0 16 0 v-3", "wood", 4.2),
        body=_body(
            "M7 52 C10 6 90 6 93 52 C86 45 76 45 71.5 52 C66 45 55 45 50 52 C45 45 34 45 28.5 52 C24 45 14 45 7 52 Z"
        ),
        front=_line(
            "M50 17.5 C38 24 30 38 28.5 52 M50 17.5 C62 24 70 38 71.5 52 M50 17.5 V52", "deep", 1.3, 'opacity=".7"'
        )
        + _line("M50 11 V17", "wood", 3),
        ground=(54, 89, 22),
    ),
}
