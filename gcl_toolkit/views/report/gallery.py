"""Products of a split as picture cards; the page holds each picture once, as a style rule."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from PIL import Image

from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.data.ranked_data import RankedData, is_image


class Gallery:
    """Make the cards first; `pictures` then has those that they use."""

    def __init__(self, data: RankedData):
        self.data = data
        fields = data.corpus_fields
        self.image = next((name for name in fields if is_image(data.corpus[name])), None)
        texts = [name for name in fields if not is_image(data.corpus[name])]
        self.title = "title" if "title" in texts else next(iter(texts), "product_id")
        self.pictures: dict[int, str | None] = {}
        """Row of the product -> data URI; None where there is no picture or it can't be read."""

    def text(self, query: str) -> str:
        """A query's text fields; its id where there is none."""
        row = int(pc.index(self.data.queries["query_id"], query).as_py())
        values = [self.data.queries[name][row].as_py() for name in self.data.query_fields]
        return " ".join(value for value in values if isinstance(value, str)) or query

    def cards(self, query: str, products: Sequence[str]) -> list[dict[str, Any]]:
        """Row, title and score of each product; grade: 0 to 4, the score's share of the query's best. Score and grade
        are None if the product is not listed for the query."""
        qrels = self.data.qrels.filter(pc.equal(self.data.qrels["query_id"], query))
        scores = dict(zip(qrels["product_id"].to_pylist(), qrels["score"].to_pylist(), strict=True))
        best, cards = max(scores.values(), default=0) or 1, []
        for product in products:
            row, score = pc.index(self.data.corpus["product_id"], product).as_py(), scores.get(product)
            grade = None if score is None else min(4, int(score / best * 5))
            title = str(self.data.corpus[self.title][row].as_py() or product)
            if row not in self.pictures:
                self.pictures[row] = data_uri(self.data.corpus[self.image][row].as_py() if self.image else None)
            cards.append({"row": row, "title": title, "score": score, "grade": grade})
        return cards


def data_uri(value: Mapping | None, side: int = 192, as_is: int = 24_000) -> str | None:
    """An image value ({bytes, path}) for a page: small PNG and JPEG bytes as they are, others as small JPEGs; None if
    there is none or it can't be read."""
    value = value or {}
    data = value.get("bytes") or b""
    kind = "png" if data[:8] == b"\x89PNG\r\n\x1a\n" else "jpeg" if data[:3] == b"\xff\xd8\xff" else None
    if kind is None or len(data) > as_is:
        try:
            image = open_image({"path": None, **value})
        except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
            return None
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82)
        kind, data = "jpeg", out.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
