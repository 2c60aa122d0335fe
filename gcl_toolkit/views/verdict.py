"""The verdict on some systems as one HTML file, in the form of the reports. No torch, no plotly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.measure import unjudged
from gcl_toolkit.measure.statistics import holm
from gcl_toolkit.measure.terms import GLOSSARY
from gcl_toolkit.measure.verdict import Lists, Verdict
from gcl_toolkit.views.page import write_page

SHOWN = 10
"""Queries with the largest losses, and with the largest wins; products of each."""
TERMS = ("unjudged@10", "bounds", "condensed list", "bpref", "interval", "p", "Holm", "slice", "score sum", "other")


def write_verdict(
    path: str | Path,
    data: RankedData,
    lists: Lists,
    verdicts: Sequence[Verdict],
    groups: Sequence[Sequence[str]],
    command: str,
    corrected: Sequence[Verdict] = (),
) -> Path:
    """Write the page; groups: of systems that can't be separated (`measure.verdict.tied`); corrected: the verdicts by a
    language model's grades (`measure.verdict.corrected`)."""
    first = verdicts[0]
    metric = str(first.metric)
    terms = (metric, *TERMS, "corrected") if corrected else (metric, *TERMS)
    several = f"{len(verdicts)} systems against {first.b}"
    return write_page(
        path,
        "verdict.html",
        title=several if len(verdicts) > 1 else f"Is {first.a} better than {first.b}?",
        verdicts=verdicts,
        holm=holm([found.difference.p_value for found in verdicts]).tolist(),
        groups=groups,
        corrected=corrected,
        corrected_means=GLOSSARY["corrected"],
        metric=metric,
        queries=_queries(data, lists, first),
        glossary={name: GLOSSARY[name] for name in terms if name in GLOSSARY},
        facts={
            "command": command,
            "queries": len(lists.query_ids),
            "products": data.corpus.num_rows,
            "judgements": len(lists.qrel_grade),
            "notes": data.card.get("notes", []),
        },
    )


def _queries(data: RankedData, lists: Lists, found: Verdict) -> dict[str, list[dict[str, Any]]]:
    """The queries with the largest losses and wins of a verdict, each with the first products of both systems."""
    a, b = (lists.measured(lists.of(name), found.metric).to_numpy() for name in (found.a, found.b))
    order = np.argsort(a - b, kind="stable")
    grades = {name: unjudged.grades(lists.qrels, lists.of(name)[:, :SHOWN]) for name in (found.a, found.b)}
    title = next((name for name in ("title", "name") if name in data.corpus.column_names), "product_id")
    texts = data.queries["query"].to_pylist() if "query" in data.query_fields else lists.query_ids

    def shown(row: int) -> dict[str, Any]:
        sides = {}
        for name, grades_QxK in grades.items():
            items = [item for item in lists.of(name)[row, :SHOWN].tolist() if item >= 0]
            titles = [data.corpus[title][item].as_py() or data.corpus["product_id"][item].as_py() for item in items]
            sides[name] = list(zip(titles, grades_QxK[row].tolist(), strict=False))
        return {"text": texts[row] or lists.query_ids[row], "a": a[row], "b": b[row], "sides": sides}

    losses = [row for row in order[:SHOWN] if a[row] < b[row]]
    wins = [row for row in order[::-1][:SHOWN] if a[row] > b[row]]
    return {"losses": [shown(row) for row in losses], "wins": [shown(row) for row in wins]}
