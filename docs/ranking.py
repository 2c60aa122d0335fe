"""Draws docs/images/ranking.png: the first products of a control and of the default for one query of a study.

    gcl compare --data shop --methods graded-noscores graded --out runs/readme
    python docs/ranking.py runs/readme

The query is the one at the 90th percentile of the gain among the zero-shot test queries.
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.studies.study import open_study, read_study

SIDE, GAP, LEFT, SHOWN, SCALE = 96, 10, 210, 8, 2
SHADES = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
"""Background of a score badge, from 0 to the query's best score."""


def main(folder: str, out: str = "docs/images/ranking.png") -> None:
    table, data = read_study(folder), open_study(folder).worlds[0].open().evaluated()["zero_shot"]
    rows = table[(table["split"] == "zero_shot") & (table["division"] == "test") & (table["seed"] == 0)]
    values = rows.pivot(index="query_id", columns="method", values="NDCG@10")
    gains = (values["graded"] - values["graded-noscores"]).sort_values()
    query = gains.index[int(0.9 * len(gains))]
    text = data.queries["query"][data.query_ids.tolist().index(query)].as_py()
    here = rows[rows["query_id"] == query].set_index("method")
    lines = [
        (name, label, here["NDCG@10"][name], list(here["top"][name])[:SHOWN])
        for name, label in (("graded-noscores", "the same, without scores"), ("graded", "trained on scores"))
    ]
    draw(data, query, text, lines).save(out, optimize=True)
    print(f"{out}: {text!r}, NDCG@10 {lines[0][2]:.2f} and {lines[1][2]:.2f}, {len(gains)} test queries")


def draw(data: RankedData, query: str, text: str, lines: list) -> Image.Image:
    scores = {
        product: score
        for asked, product, score in zip(
            *(data.qrels[n].to_pylist() for n in ("query_id", "product_id", "score")), strict=True
        )
        if asked == query
    }
    row_of = {product: row for row, product in enumerate(data.product_ids)}
    high = 44 + len(lines) * (SIDE + 46)
    canvas = Image.new("RGB", (SCALE * (LEFT + SHOWN * (SIDE + GAP) + GAP), SCALE * high), "white")
    pen = ImageDraw.Draw(canvas)
    write(pen, (14, 12), f"“{text}”", 19, "#111")
    for number, (name, label, value, products) in enumerate(lines):
        top = 44 + number * (SIDE + 46)
        write(pen, (14, top + 18), name, 19, "#111")
        write(pen, (14, top + 44), label, 14, "#555")
        write(pen, (14, top + 66), f"NDCG@10 {value:.2f}", 14, "#555")
        for rank, product in enumerate(products):
            left = LEFT + rank * (SIDE + GAP)
            picture = open_image(data.corpus["image"][row_of[product]].as_py()).resize((SCALE * SIDE,) * 2)
            canvas.paste(picture, (SCALE * left, SCALE * top))
            score = scores.get(product, 0)
            shade = SHADES[min(4, int(5 * score / max(scores.values())))] if score else "#ffffff"
            box = [SCALE * x for x in (left, top + SIDE + 4, left + SIDE, top + SIDE + 26)]
            pen.rectangle(box, fill=shade, outline="#bbb")
            badge = f"score {score:.0f}" if score else "not listed"
            write(pen, (left + 8, top + SIDE + 6), badge, 13, "white" if shade in SHADES[3:] else "#333")
    return canvas


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, colour: str) -> None:
    pen.text([SCALE * x for x in place], text, fill=colour, font=ImageFont.load_default(SCALE * size))


if __name__ == "__main__":
    main(*sys.argv[1:])
