"""Products of a split as picture cards for a page; a picture stands in the page once, as a style rule."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import pyarrow.compute as pc
from PIL import Image

from gcl_toolkit.pictures import open_image
from gcl_toolkit.ranked_data import RankedData, is_image

LEGEND = (
    "<p class=legend>score, share of the query's best: "
    + "".join(f"<span class='badge g{grade}'>{20 * grade}–{20 * grade + 20} %</span>" for grade in range(5))
    + "<span class=badge>not listed</span></p>"
)


class Gallery:
    """Make the strips first; `style()` holds the pictures of those that were made."""

    def __init__(self, data: RankedData):
        self.data = data
        fields = data.corpus_fields
        self.image = next((name for name in fields if is_image(data.corpus[name])), None)
        texts = [name for name in fields if not is_image(data.corpus[name])]
        self.title = "title" if "title" in texts else next(iter(texts), "product_id")
        self.pictures: dict[str, tuple[str, str] | None] = {}

    def text(self, query: str) -> str:
        """A query's text fields; its id where there is none."""
        row = int(pc.index(self.data.queries["query_id"], query).as_py())
        values = [self.data.queries[name][row].as_py() for name in self.data.query_fields]
        return " ".join(value for value in values if isinstance(value, str)) or query

    def strip(self, who: str, note: str, query: str, products: Sequence[str]) -> str:
        """A row of products, each with its score for the query."""
        qrels = self.data.qrels.filter(pc.equal(self.data.qrels["query_id"], query))
        scores = dict(zip(qrels["product_id"].to_pylist(), qrels["score"].to_pylist(), strict=True))
        cards = "".join(self._card(product, scores) for product in products)
        return f"<div class=strip><div class=who>{escape(who)}<small>{escape(note)}</small></div>{cards}</div>"

    def style(self) -> str:
        rules = (f".{name}{{background-image:url({uri})}}" for name, uri in filter(None, self.pictures.values()))
        return f"<style>{''.join(rules)}</style>"

    def _card(self, product: str, scores: Mapping[str, float]) -> str:
        row = pc.index(self.data.corpus["product_id"], product).as_py()
        title = escape(str(self.data.corpus[self.title][row].as_py() or product), quote=True)
        inside, picture = f"<span class=words>{title}</span>", self._picture(product, row)
        if picture:
            inside = f'<span class="pic {picture[0]}" role=img aria-label="{title}"></span>'
        badge = "<span class=badge>not listed</span>"
        if product in scores:
            share = scores[product] / (max(scores.values()) or 1)
            badge = f'<span class="badge g{min(4, int(share * 5))}">{scores[product]:g}</span>'
        return f'<figure title="{title}">{inside}<figcaption>{badge}</figcaption></figure>'

    def _picture(self, product: str, row: int) -> tuple[str, str] | None:
        """Class and data URI; None where there is no picture or it can't be read."""
        if product not in self.pictures:
            value = self.data.corpus[self.image][row].as_py() if self.image else None
            uri = data_uri(value) if value else None
            self.pictures[product] = (f"i{len(self.pictures)}", uri) if uri else None
        return self.pictures[product]


def data_uri(value: Mapping, side: int = 192, as_is: int = 24_000) -> str | None:
    """An image value ({bytes, path}) for a page: small PNG and JPEG bytes as they are, others made small JPEGs; None
    for one that can't be read."""
    data = value.get("bytes") or b""
    kind = "png" if data[:8] == b"\x89PNG\r\n\x1a\n" else "jpeg" if data[:3] == b"\xff\xd8\xff" else None
    if kind is None or len(data) > as_is:
        if not data and not value.get("path"):
            return None
        try:
            image = open_image(dict(value))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82)
        kind, data = "jpeg", out.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
