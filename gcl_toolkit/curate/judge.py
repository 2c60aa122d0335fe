"""A language model as judge of pairs, on the scale of prompts/judge.txt, and measures of how reliable it is."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gcl_toolkit.curate.language import Language
from gcl_toolkit.curate.ledger import Bad
from gcl_toolkit.curate.products import Product
from gcl_toolkit.curate.queries import Query
from gcl_toolkit.curate.settings import PER_REQUEST
from gcl_toolkit.data.ranked_data import hash64
from gcl_toolkit.measure.agreement import weighted_kappa
from gcl_toolkit.measure.statistics import interval

SCALE = {0: "unrelated", 1: "related", 2: "close", 3: "exact"}

Grades = dict[str, int]
Lists = Sequence[Sequence[Product]]


def judge(
    queries: Sequence[Query], lists: Lists, twice: float, seed: int, language: Language, tick: Callable[[], object]
) -> tuple[list[Grades], dict[str, Any]]:
    """Each query's grades by product_id, and statistics of them; pairs without a usable answer have no grade.

    A list is graded in random order, in parts of `PER_REQUEST`, each with a control: a product that shares no word with
    the query and is not among the results of any query of the same branch of the tree. An answer that grades the
    control 2 or more is refused, like one that doesn't grade every product: this detects a judge that obeys a title
    such as "all of these are a 3". A judge that obeys "this one is a 3" can't be detected.
    """
    again = [hash64(f"{seed}/{query.text}") / 2**64 < twice for query in queries]
    jobs = [(row, part, 0) for row, products in enumerate(lists) for part in range(0, len(products), PER_REQUEST)]
    jobs += [(row, part, 1) for row, part, _ in jobs if again[row]]
    shown, rounds = _shown(queries, lists, jobs, seed), ([Grades() for _ in lists], [Grades() for _ in lists])
    requests = [_request(queries[row].text, products) for (row, _, _), products in zip(jobs, shown, strict=True)]
    answers = language.ask("judge", requests, tick)
    for (row, _, round_), products, answer in zip(jobs, shown, answers, strict=True):
        graded = zip(products, answer or [None] * len(products), strict=True)
        rounds[round_][row] |= {p.product_id: grade for p, grade in graded if p.product_id and grade is not None}
    first, second = rounds
    counts = Counter(grade for grades in first for grade in grades.values())
    positions = [{p.product_id: -rank for rank, p in enumerate(products)} for products in lists]
    return first, {
        "scale": SCALE,
        "pairs judged": counts.total(),
        "lists without a usable answer": answers.count(None),
        "grades": {grade: counts[grade] for grade in SCALE},
        "with itself, in another order": agreement(first, second),
        "with the positions": tau(first, positions),
    }


def _shown(
    queries: Sequence[Query], lists: Lists, jobs: Sequence[tuple[int, int, int]], seed: int
) -> list[list[Product]]:
    """For each job (row, part, round), the products in the order in which they are shown; the control has no id."""
    pool = list({product.product_id: product for products in lists for product in products}.values())
    kin: dict[str, set[str]] = {}
    for query, products in zip(queries, lists, strict=True):
        kin.setdefault(_branch(query), set()).update(product.product_id for product in products)
    shown = []
    for row, part, round_ in jobs:
        query, products = queries[row], [*lists[row][part : part + PER_REQUEST]]
        rng = np.random.default_rng(hash64(f"{seed}/{query.text}/{part}/{round_}"))
        if control := _control(query.text, products, kin[_branch(query)], pool, rng):
            products.append(control._replace(product_id=""))
        shown.append([products[place] for place in rng.permutation(len(products))])
    return shown


def _request(query: str, products: Sequence[Product]) -> tuple[dict[str, Any], Callable]:
    titles = [{"id": number, "title": product.title} for number, product in enumerate(products, start=1)]
    is_control = [not product.product_id for product in products]
    return {"query": query, "products": titles}, lambda answer: _checked(answer, is_control)


def agreement(first: Sequence[Grades], second: Sequence[Grades]) -> dict[str, Any]:
    """Of two gradings of the same lists: quadratic-weighted kappa over all pairs, and the share of equal grades with
    its 95% interval over queries."""
    both = [np.array([(a[key], b[key]) for key in a if key in b]) for a, b in zip(first, second, strict=True)]
    both = [pairs for pairs in both if len(pairs)]
    if not both:
        return {"pairs": 0}
    a, b = np.concatenate(both).T
    equal = interval(np.array([np.mean(pairs[:, 0] == pairs[:, 1]) for pairs in both]))
    return {"pairs": len(a), "weighted kappa": weighted_kappa(a, b), "equal grades": str(equal)}


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
    """The grades of a well-formed answer, in the order of the list."""
    grades = answer.get("grades") if isinstance(answer, dict) and set(answer) == {"grades"} else None
    if not isinstance(grades, dict) or set(grades) != {str(k) for k in range(1, len(is_control) + 1)}:
        raise Bad('the answer is not {"grades": {...}} with one grade for every product')
    if not all(type(grade) is int and grade in SCALE for grade in grades.values()):
        raise Bad(f"a grade is none of {', '.join(map(str, SCALE))}")
    ordered = [grades[str(k)] for k in range(1, len(is_control) + 1)]
    if any(grade > 1 for grade, control in zip(ordered, is_control, strict=True) if control):
        raise Bad("an unrelated product was graded 2 or more")
    return ordered


def _branch(query: Query) -> str:
    """One step above the category in the tree; a query without a category is a branch of its own."""
    return query.category.rpartition(" > ")[0] or query.category or query.text


def _control(
    query: str, listed: Sequence[Product], kin: set[str], pool: Sequence[Product], rng: np.random.Generator
) -> Product | None:
    """Of 50 draws that aren't in `kin` and share no word with the query, the one that shares fewest with the list."""
    words, used = _words(query), set[str]().union(*(_words(product.title) for product in listed))
    draws = (pool[row] for row in rng.integers(len(pool), size=50))
    unrelated = (p for p in draws if p.product_id not in kin and p.title and not words & _words(p.title))
    return min(unrelated, key=lambda product: len(used & _words(product.title)), default=None)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower()))
