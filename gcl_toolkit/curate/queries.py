"""Queries from a language model: requested by category and intent, filtered, de-duplicated, evenly spread."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gcl_toolkit.curate.language import Language
from gcl_toolkit.curate.ledger import Bad
from gcl_toolkit.curate.settings import INTENTS, PER_REQUEST
from gcl_toolkit.data.ranked_data import normalise_text

MOST_WORDS, MOST_LETTERS = 8, 80
ROUNDS = 3
"""Extra rounds of requests for strata that are still short of queries."""


class Query(NamedTuple):
    text: str
    category: str = ""
    intent: str = ""


def make_queries(
    leaves: Sequence[str], count: int, seed: int, language: Language, tick: Callable[[], object]
) -> tuple[list[Query], dict[str, Any]]:
    """At most `count` queries, as evenly over leaves x intents as the model allows; and counts of all answers.

    With more strata than queries, `count` strata are drawn.
    """
    every = [(leaf, intent) for leaf in leaves for intent in INTENTS]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(every))[:count])
    strata: dict[tuple[str, str], list[str]] = {every[row]: [] for row in drawn}
    quota, known, counts = math.ceil(count / len(strata)), set[tuple[str, ...]](), Counter[str]()
    short = list(strata)
    for _ in range(math.ceil(quota / PER_REQUEST) - 1 + ROUNDS):
        answers = language.ask("queries", [_request(*s, quota, strata[s]) for s in short], tick)
        gained = []
        for stratum, answer in zip(short, answers, strict=True):
            texts = strata[stratum]
            before = len(texts)
            counts["unusable answers"] += answer is None
            for text in answer or ():
                fault = _fault(text) or ("asked twice" if _words(text) in known else "")
                counts[fault or "kept"] += 1
                if not fault:
                    known.add(_words(text))
                    texts.append(normalise_text(text))
            if before < len(texts) < quota:
                gained.append(stratum)
        short = gained
        if not short:
            break
    chosen = [Query(texts[turn], *s) for turn in range(quota) for s, texts in strata.items() if turn < len(texts)]
    chosen = chosen[:count]
    sizes = Counter((query.category, query.intent) for query in chosen)
    per_stratum = [sizes[stratum] for stratum in strata]
    spread = {"strata": len(strata), "queries per stratum": [min(per_stratum), max(per_stratum)]}
    return chosen, {**dict(sorted((+counts).items())), **spread, "chosen": len(chosen)}


def _request(category: str, intent: str, quota: int, known: list[str]) -> tuple[dict[str, Any], Callable]:
    count = min(PER_REQUEST, quota - len(known))
    data = {"category": category, "intent": INTENTS[intent], "count": count, "avoid": known[-50:]}
    return data, lambda answer: _checked(answer, count)


def _checked(answer: Any, count: int) -> list[str]:
    """The queries of a well-formed answer."""
    if not (isinstance(answer, dict) and set(answer) == {"queries"} and isinstance(answer["queries"], list)):
        raise Bad('the answer is not {"queries": [...]}')
    if not 1 <= len(answer["queries"]) <= 2 * count or not all(isinstance(text, str) for text in answer["queries"]):
        raise Bad(f"the answer is not a list of {count} texts")
    return answer["queries"]


def _fault(text: str) -> str:
    if not 2 <= len(text.strip()) <= MOST_LETTERS or len(text.split()) > MOST_WORDS:
        return "too short or long"
    unsafe = not text.isprintable() or re.search(r"[<>{}\\|\[\]]|https?:|www\.", text)
    return "not a search" if unsafe or not any(letter.isalpha() for letter in text) else ""


def _words(text: str) -> tuple[str, ...]:
    """Equal for the same words in another order, and for singular and plural in s."""
    words = re.findall(r"\w+", normalise_text(text))
    return tuple(sorted(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words))
