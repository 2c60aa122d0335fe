"""For teachers: the answers of the lessons. The site has only their hashes (`write`, called by docs/build.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import better
import check
import metrics
import numpy as np
import score

SHORT: dict[str, tuple[Any, float | None]] = {
    "score-constant": ("same", None),
    "score-gap": (0.02 * log(4), 0.001),
    "metrics-ndcg": ((1 + 3 / np.log2(3) + 1) / (3 + 2 / np.log2(3) + 0.5), 0.001),
    "better-queries": (442, 1),
    "better-overlap": ("paired", None),
}
"""Exercise -> answer, and the step to which a number is rounded; None for a choice."""


def row_loss(logits, weights):
    rows = -np.diag(score.log_softmax(np.array(logits, float), 1))
    weights = np.array(weights, float) / np.mean(weights)
    return float((weights * rows).mean())


def ndcg(ranked, judged, cutoff):
    return metrics.ndcg(np.array(ranked, float), np.array(judged, float), cutoff)


def per_look(clicks, impressions, position, eta):
    return clicks / (impressions * better.propensities(position, eta)[-1]) if impressions else 0.0


FUNCTIONS: dict[str, tuple[Callable[..., float], list[list]]] = {
    "score-row": (
        row_loss,
        [
            [[[2.0, 1.0], [0.0, 1.0]], [1, 1]],
            [[[2.0, 1.0], [0.0, 1.0]], [3, 1]],
            [[[2.0, 1.0], [0.0, 1.0]], [30, 10]],
            [[[1.0, 0.5, 0.2], [0.3, 0.1, 0.9], [0.4, 0.8, 0.6]], [1, 0.5, 0.1]],
            [[[1000.0, 999.0], [-1000.0, 1.0]], [1, 2]],
        ],
    ),
    "metrics-function": (
        ndcg,
        [
            [[3, 2, 1], [3, 2, 1], 10],
            [[0, 3, 1], [3, 2, 1, 0], 10],
            [[1, 0, 2, 3], [3, 2, 1, 0], 2],
            [[2], [3, 3, 2], 10],
            [[0, 0], [0, 0], 10],
            [[1, 2], [2, 2, 2, 1], 3],
        ],
    ),
    "better-function": (
        per_look,
        [[50, 1000, 1, 1.0], [50, 1000, 4, 1.0], [30, 600, 3, 0.5], [5, 100, 10, 0.0], [0, 0, 2, 1.0], [7, 90, 2, 2.0]],
    ),
}
"""Exercise -> the function, and the inputs on which a student's is checked."""
STEP = 1e-4


def expected() -> dict[str, dict]:
    """What the site has: exercise -> hashes."""
    short = {name: {"hash": check.key(name, value, step), "step": step} for name, (value, step) in SHORT.items()}
    return short | {
        name: {
            "name": function.__name__,
            "inputs": inputs,
            "hashes": [check.key(name, function(*values), STEP) for values in inputs],
            "step": STEP,
        }
        for name, (function, inputs) in FUNCTIONS.items()
    }


def write(path: Path) -> None:
    path.write_text(json.dumps(expected(), indent=1))
