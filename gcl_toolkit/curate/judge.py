"""A language model as judge of pairs, on the scale of prompts/judge.txt; and how far it may be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gcl_toolkit.curate.language import Language, prompt
from gcl_toolkit.curate.ledger import Bad, Ledger
from gcl_toolkit.curate.products import Product
from gcl_toolkit.curate.queries import Query
from gcl_toolkit.curate.settings import PER_REQUEST
from gcl_toolkit.ranked_data import hash64
from gcl_toolkit.statistics import interval

SCALE = {0: "unrelated", 1: "related", 2: "close", 3: "exact"}

Grades = dict[str, int]


def judge(
    queries: Sequence[Query],
    lists: Sequence[Sequence[Product]],
    twice: float,
    seed: int,
    language: Language,
    ledger: Ledger,
    workers: int,
    tick: Callable,
) -> tuple[list[Grades], dict[str, Any]]:
    """Each query's grades by product_id, and what is known of them; pairs without a usable answer have none.

    A list is graded in random order, in parts of `PER_REQUEST`, each with a control: a product that shares no word with
    the query and that no query of the same branch of the tree found. An answer that gives the control 2 or more is
    refused, as one is that isn't a whole grade for every product: so does a judge answer who obeys a title that says
    "all of these are a 3". One that obeys "this one is a 3" can't be told from an honest grade.
    """
    asked = prompt("judge")
    again = [hash64(f"{seed}/{query.text}") / 2**64 < twice for query in queries]
    jobs = [(row, part, 0) for row, products in enumerate(lists) for part in range(0, len(products), PER_REQUEST)]
    jobs += [(row, part, 1) for row, part, _ in jobs if again[row]]
    pool = list({product.product_id: product for products in lists for product in products}.values())
    kin: dict[str, set[str]] = {}
    for query, products in zip(queries, lists, strict=True):
        kin.setdefault(_branch(query), set()).update(product.product_id for product in products)

    def grade(job: tuple[int, int, int]) -> Grades | None:
        row, part, round_ = job
        query = queries[row]
        rng = np.random.default_rng(hash64(f"{seed}/{query.text}/{part}/{round_}"))
        shown: list[Product | None] = list(lists[row][part : part + PER_REQUEST])
        control = _control(query.text, kin[_branch(query)], pool, rng)
        if control:
            shown.append(None)
        shown = [shown[place] for place in rng.permutation(len(shown))]
        titles = [product.title if product else control.title if control else "" for product in shown]
        data = {"query": query.text, "products": [{"id": k, "title": text} for k, text in enumerate(titles, start=1)]}
        body = language.ask(asked, data, lambda answer: _checked(answer, [product is None for product in shown])).body
        if not body:
            return None
        return {product.product_id: g for product, g in zip(shown, json.loads(body), strict=True) if product}

    answers = ledger.each(grade, jobs, workers, tick)
    rounds: tuple[list[Grades], list[Grades]] = ([{} for _ in lists], [{} for _ in lists])
    for (row, _, round_), answer in zip(jobs, answers, strict=True):
        rounds[round_][row] |= answer or {}
    positions = [{p.product_id: -rank for rank, p in enumerate(products)} for products in lists]
    first, second = rounds
    return first, {
        "scale": SCALE,
        "pairs judged": sum(map(len, first)),
        "lists without a usable answer": sum(answer is None for answer in answers),
        "grades": {g: sum(list(grades.values()).count(g) for grades in first) for g in SCALE},
        "with itself, in another order": agreement(first, second),
        "with the positions": tau(first, positions),
    }


def agreement(first: Sequence[Grades], second: Sequence[Grades]) -> dict[str, Any]:
    """Of two gradings of the same lists: quadratic-weighted kappa over all pairs, and the share of equal grades with
    its 95% interval over queries."""
    both = [np.array([(a[key], b[key]) for key in a if key in b]) for a, b in zip(first, second, strict=True)]
    both = [pairs for pairs in both if len(pairs)]
    if not both:
        return {"pairs": 0}
    a, b = np.concatenate(both).T.astype(float)
    by_chance = np.mean((a[:, None] - b[None, :]) ** 2)
    equal = interval(np.array([np.mean(pairs[:, 0] == pairs[:, 1]) for pairs in both]))
    return {
        "pairs": len(a),
        "weighted kappa": float(1 - np.mean((a - b) ** 2) / by_chance) if by_chance else 1.0,
        "equal grades": str(equal),
    }


def tau(first: Sequence[Grades], second: Sequence[Grades]) -> float | None:
    """Mean over queries of Kendall's tau-b; None where no query has two different grades."""
    from scipy.stats import kendalltau

    taus = []
    for a, b in zip(first, second, strict=True):
        keys = [key for key in a if key in b]
        if len({a[key] for key in keys}) > 1:
            taus.append(kendalltau([a[key] for key in keys], [b[key] for key in keys]).statistic)
    return float(np.mean(taus)) if taus else None


def _checked(answer: Any, is_control: Sequence[bool]) -> list[int]:
    """The grades of an answer of the agreed form, in the order of the list."""
    if not (isinstance(answer, dict) and set(answer) == {"grades"} and isinstance(answer["grades"], dict)):
        raise Bad('the answer is not {"grades": {...}}')
    grades = answer["grades"]
    if set(grades) != {str(k) for k in range(1, len(is_control) + 1)}:
        raise Bad("the answer doesn't grade every product once")
    if not all(type(grade) is int and grade in SCALE for grade in grades.values()):
        raise Bad(f"a grade is none of {', '.join(map(str, SCALE))}")
    if any(grades[str(k)] > 1 for k, control in enumerate(is_control, start=1) if control):
        raise Bad("an unrelated product was graded 2 or more")
    return [grades[str(k)] for k in range(1, len(is_control) + 1)]


def _branch(query: Query) -> str:
    """Of the tree, one step above the category; a query without a category is a branch of its own."""
    return query.category.rpartition(" > ")[0] or query.category or query.text


def _control(query: str, kin: set[str], pool: Sequence[Product], rng: np.random.Generator) -> Product | None:
    """A product that isn't among the kin and shares no word with the query; None if none is met."""
    words = _words(query)
    for row in rng.integers(len(pool), size=50):
        if pool[row].product_id not in kin and pool[row].title and not words & _words(pool[row].title):
            return pool[row]
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower()))
