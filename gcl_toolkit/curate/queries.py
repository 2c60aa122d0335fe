"""Queries from a language model: asked for by category and intent, filtered, de-duplicated, evenly spread."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gcl_toolkit.curate.language import Language, prompt
from gcl_toolkit.curate.ledger import Bad, Ledger
from gcl_toolkit.curate.settings import INTENTS, PER_REQUEST
from gcl_toolkit.ranked_data import normalise_text

MOST_WORDS, MOST_LETTERS = 8, 80
ROUNDS = 3
"""How often a stratum that is short is asked again, beyond what its size needs."""


class Query(NamedTuple):
    text: str
    category: str = ""
    intent: str = ""


def make_queries(
    leaves: Sequence[str], count: int, seed: int, language: Language, ledger: Ledger, workers: int, tick: Callable
) -> tuple[list[Query], dict[str, Any]]:
    """At most `count` queries, as evenly over leaves x intents as the model allows; and what became of all answers.

    Where there are more strata than queries, so many are drawn.
    """
    every = [(leaf, intent) for leaf in leaves for intent in INTENTS]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(every))[:count])
    strata: dict[tuple[str, str], list[str]] = {every[at]: [] for at in drawn}
    quota, known, told = math.ceil(count / len(strata)), set[tuple[str, ...]](), Counter[str]()
    asked = prompt("queries")

    def ask(stratum: tuple[str, str]) -> list[str] | None:
        category, intent = stratum
        missing = min(PER_REQUEST, quota - len(strata[stratum]))
        data = {"category": category, "intent": INTENTS[intent], "count": missing, "avoid": strata[stratum][-50:]}
        body = language.ask(asked, data, lambda answer: _checked(answer, missing)).body
        return json.loads(body) if body else None

    short = list(strata)
    for _ in range(math.ceil(quota / PER_REQUEST) - 1 + ROUNDS):
        answers = ledger.each(ask, short, workers, tick)
        gained = []
        for stratum, answer in zip(short, answers, strict=True):
            if answer is None:
                told["unusable answers"] += 1
            before = len(strata[stratum])
            for text in answer or ():
                fault = _fault(text) or ("asked twice" if _words(text) in known else "")
                told[fault or "kept"] += 1
                if not fault:
                    known.add(_words(text))
                    strata[stratum].append(normalise_text(text))
            if before < len(strata[stratum]) < quota:
                gained.append(stratum)
        short = gained
        if not short:
            break
    chosen = [
        Query(texts[turn], *stratum) for turn in range(quota) for stratum, texts in strata.items() if turn < len(texts)
    ][:count]
    sizes = Counter((query.category, query.intent) for query in chosen)
    per_stratum = [sizes[stratum] for stratum in strata]
    spread = {"strata": len(strata), "queries per stratum": [min(per_stratum), max(per_stratum)]}
    return chosen, {**dict(sorted(told.items())), **spread, "chosen": len(chosen)}


def _checked(answer: Any, count: int) -> list[str]:
    """The queries of an answer of the agreed form; anything more or less is refused."""
    if not (isinstance(answer, dict) and set(answer) == {"queries"} and isinstance(answer["queries"], list)):
        raise Bad('the answer is not {"queries": [...]}')
    if not 1 <= len(answer["queries"]) <= 2 * count or not all(isinstance(text, str) for text in answer["queries"]):
        raise Bad(f"the answer is not a list of {count} texts")
    return answer["queries"]


def _fault(text: str) -> str:
    if not 2 <= len(text.strip()) <= MOST_LETTERS or len(text.split()) > MOST_WORDS:
        return "too short or long"
    if not text.isprintable() or re.search(r"[<>{}\\|\[\]]|https?:|www\.", text):
        return "not a search"
    return "" if any(letter.isalpha() for letter in text) else "not a search"


def _words(text: str) -> tuple[str, ...]:
    """The same for the same words in another order, and for singular and plural in s."""
    words = re.findall(r"\w+", normalise_text(text))
    return tuple(sorted(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words))
