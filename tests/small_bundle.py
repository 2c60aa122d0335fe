"""A small study and its bundle, with titles and queries that try to be code, and with missing fields."""

import pyarrow as pa
from conftest import png

from gcl_toolkit import RankedData, TrainConfig, four_way_split
from gcl_toolkit.data.ranked_data import IMAGE
from gcl_toolkit.studies.study import StudyConfig, study
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.views.bundle.writing import write_bundle

METHODS = ("clip", "graded")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "${alert(3)}",
    '{{constructor.constructor("alert(4)")()}}',
    "\"><svg onload='alert(5)'>",
    "`${alert(6)}`",
    "' onmouseover='alert(7)",
    '=HYPERLINK("//example.org";"mug")',
    "@SUM(1+1) mug",
    "+1 mug",
    "-1 mug",
    "&lt;b&gt; mug & cup",
)
NO_IMAGE, NO_TITLE = "p20", "p21"


def world(best: int = 0) -> World:
    """24 products (twelve with hostile titles), 20 queries (twelve hostile); `best` shifts all scores."""
    products, queries = range(24), range(20)
    titles = [HOSTILE[p] if p < len(HOSTILE) else f"mug {p}" for p in products]
    pairs = [(q, p) for q in queries for p in products if (3 * p + q) % 4]
    data = RankedData(
        pa.table(
            {
                "query_id": [f"q{q}" for q in queries],
                "query": [HOSTILE[q] if q < len(HOSTILE) else f"mug number {q}" for q in queries],
            }
        ),
        pa.table(
            {
                "product_id": [f"p{p}" for p in products],
                "title": [None if f"p{p}" == NO_TITLE else titles[p] for p in products],
                "image": pa.array(
                    [{"bytes": None if f"p{p}" == NO_IMAGE else png(9 * p, 70), "path": None} for p in products], IMAGE
                ),
            }
        ),
        pa.table(
            {
                "query_id": [f"q{q}" for q, _ in pairs],
                "product_id": [f"p{p}" for _, p in pairs],
                "score": [float((5 * p + 3 * q + best) % 30) for q, p in pairs],
            }
        ),
        "toy",
        {"made": "by a test"},
    )
    return World("toy", four_way_split(data, seed=1))


def make(folder):
    """A study of two methods in folder / "study", its bundle in folder / "bundle"."""
    config = StudyConfig(methods=METHODS, train=TrainConfig(steps=3, batch=4), evaluate_every=2)
    for _ in study([world()], config, folder / "study"):
        pass
    return write_bundle(folder / "study", world(), folder / "bundle")
