"""Lesson 1: what a score does to the loss. NumPy forms of the library's formulas, and the figures drawn from them."""

import numpy as np
from draw import circle, table

from gcl_toolkit.data.weighting import to_weights

START = np.array([0.3, 2.2, 0.9, 0.1, 1.3, -0.4, 2.6, 3.4, 2.0, 3.9])
"""Angles: two queries, then four products each."""


def log_softmax(logits, axis):
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def gcl_loss(left, right, weights, logit_scale):
    """The loss of N pairs: rows of left and right (N x D) are of length 1; the weights are divided by their mean."""
    logits = logit_scale * left @ right.T
    weights = weights / weights.mean()
    rows, columns = (-np.diag(log_softmax(logits, axis)) for axis in (1, 0))
    return float((weights * (rows + columns)).mean() / 2)


def gradient(logits, weights):
    """Derivative of the loss by each logit: [w_i (P_ij - [i=j]) + w_j (C_ij - [i=j])] / 2N."""
    weights, one = weights / weights.mean(), np.eye(len(weights))
    rows, columns = np.exp(log_softmax(logits, 1)) - one, np.exp(log_softmax(logits, 0)) - one
    return (weights[:, None] * rows + weights * columns) / (2 * len(weights))


def train(angles, weights, temperature, steps=600, frames=24):
    """Gradient descent on the angles of 2 queries and 8 products; returns the angles of some steps."""
    query = np.repeat([0, 1], 4)
    kept, velocity = [angles.copy()], np.zeros_like(angles)
    for step in range(1, steps + 1):
        left, right = angles[query], angles[2:]
        apart = left[:, None] - right[None, :]
        slope = -np.sin(apart) * gradient(np.cos(apart) / temperature, weights) / temperature
        moves = np.concatenate([np.bincount(query, slope.sum(1)), -slope.sum(0)])
        velocity = 0.9 * velocity - 0.02 * min(1.0, temperature / 0.05) * moves
        angles = angles + velocity
        if step % (steps // frames) == 0:
            kept.append(angles.copy())
    return np.array(kept)


def kendall(a, b):
    """Kendall's tau-b; NaN where all values of a or b are equal."""
    signs_a, signs_b = (np.sign(np.subtract.outer(x, x))[np.triu_indices(len(x), 1)] for x in (a, b))
    pairs = np.sqrt((signs_a**2).sum() * (signs_b**2).sum())
    return float((signs_a * signs_b).sum() / pairs) if pairs else float("nan")


def learnt_gap(first, second, temperature, steps=4000):
    """The gap between two products of a query when every similarity is free: one row of logits, trained.

    The row loss of a query with the weights of its two products as targets; a third product is a negative."""
    target = np.array([first, second, 0.0]) / (first + second)
    logits = np.zeros(3)
    for _ in range(steps):
        logits -= 0.5 * (np.exp(log_softmax(logits[None], 1))[0] - target)
    return float(temperature * (logits[0] - logits[1]))


# -- what the page shows -----------------------------------------------------------------------------------------------


def points(weighting, temperature, second, third, last):
    positions = np.array([1, second, third, last])
    scores = np.tile(101.0 - positions, 2)
    weights = to_weights(scores, weighting)
    frames = train(START, weights, temperature)
    cosines = np.cos(frames[-1, 0] - frames[-1, 2:6])
    tau = kendall(cosines.round(4), scores[:4])
    rows = [
        (f"{101 - p:g}", f"{p}", f"{w:.3f}", f"{c:.3f}")
        for p, w, c in zip(positions, weights / weights.mean(), cosines, strict=False)
    ]
    order = f"Kendall's tau {tau:.2f}</b> with the scores."
    if np.isnan(tau):
        order = "All four cosines are equal:</b> the order is lost."
    return (
        circle(frames, positions)
        + table(("score", "position", "weight", "cosine with its query"), rows)
        + f"<p><b>{order}</p>"
    )


def gap(weighting, temperature, first, second):
    scores = np.array([101.0 - first, 101.0 - second])
    one, two = to_weights(scores, weighting)
    rows = [
        ("weights", f"{one:.4f}, {two:.4f}"),
        ("gap that gradient descent finds", f"{learnt_gap(one, two, temperature):.4f}"),
        ("τ · log(w<sub>1</sub> / w<sub>2</sub>)", f"{temperature * np.log(one / two):.4f}"),
    ]
    return table(("two products of a query", ""), rows)
