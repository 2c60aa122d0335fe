"""What the page posts about judgements, and qrels as files. Raises UserError for what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.errors import DataError, UserError


def grade(service: Service, options: Mapping[str, str], body: bytes) -> str:
    """body: JSON with query_id, product_id, grade (0..4, null withdraws it), judge and note, or with undo and judge.
    Returns the judgement that now holds, as JSON; null if there was nothing to undo."""
    kept = _kept(service)
    try:
        given = json.loads(body)
        judge = given["judge"]
        if given.get("undo"):
            done = kept.undo(judge)
        else:
            pair = service.pair(given["query_id"], given["product_id"])
            done = service.grade(*pair, given["grade"], judge, given.get("note", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise error if isinstance(error, UserError) else UserError("this is not a judgement as JSON") from None
    return json.dumps(done and asdict(done))


def add(service: Service, options: Mapping[str, str], body: bytes) -> str:
    """body: a qrels file, TREC or CSV; the option judge is for lines without one. Returns how many were added."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise DataError("the file is not UTF-8 text; TREC lines or CSV are expected") from None
    return str(_kept(service).add_qrels(text, options.get("judge") or "imported"))


def judgements(service: Service, form: str) -> str:
    """The judgements made here: "trec", one grade a pair, or "csv", every judge's."""
    return _kept(service).qrels(form)


def qrels(service: Service, state: State) -> str:
    """All scores that the verdict uses for a split, the bundle's and those made here: TREC lines, or CSV where ids
    contain spaces."""
    span, pairs = service.bundle.queries_of(state.split), service.qrels
    queries, products = service.bundle.queries["query_id"].to_numpy(), service.bundle.items["product_id"].to_numpy()
    chosen = slice(*np.searchsorted(pairs.query, [span.start, span.stop]))
    query, item, score = (column[chosen] for column in pairs)
    table = pd.DataFrame({"query_id": queries[query], "product_id": products[item], "grade": score})
    if any(len(name.split()) != 1 for ids in (table["query_id"], table["product_id"]) for name in ids.unique()):
        return table.to_csv(index=False, lineterminator="\n")
    return "".join(f"{query} 0 {product} {score:g}\n" for query, product, score in table.itertuples(index=False))


def _kept(service: Service) -> Judgements:
    if service.judgements is None:
        raise UserError("this page keeps no judgements; they stay in the browser")
    return service.judgements
