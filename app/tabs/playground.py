"""Playground: the effect of a score on the loss, on six real pairs."""

from __future__ import annotations

import numpy as np

from gcl_toolkit.app import playground
from gcl_toolkit.app.draw import figure, grid, number, picture, safe, view
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State

FORMULA = (
    '<p class="formula">S<sub>ij</sub> = cos(q<sub>i</sub>, d<sub>j</sub>) / τ</p>'
    '<p class="formula">loss = <span class="fraction"><span>1</span><span>2N</span></span> Σ<sub>i</sub> '
    "<b>w<sub>i</sub></b> · [ −log softmax(S<sub>i,·</sub>)<sub>i</sub> − log softmax(S<sub>·,i</sub>)<sub>i</sub> ]"
    ' &nbsp; <span class="note">w = 1: CLIP; w from the score: GCL</span></p>'
    '<p class="formula">∂loss/∂S<sub>ij</sub> = [ w<sub>i</sub> (softmax(S<sub>i,·</sub>)<sub>j</sub> − δ<sub>ij</sub>)'
    " + w<sub>j</sub> (softmax(S<sub>·,j</sub>)<sub>i</sub> − δ<sub>ij</sub>) ] / 2N</p>"
)


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.views.figures import weight_curves

    batch = playground.batch(service, state)
    names = [f"q{row + 1}" for row in range(len(batch.items))], [f"d{row + 1}" for row in range(len(batch.items))]
    largest = max(float(np.abs(batch.clip).max()), float(np.abs(batch.gcl).max()))
    matrices = (
        _matrix("Cosines", batch.cosines, names, float(np.abs(batch.cosines).max()), 2)
        + _matrix("Gradient of CLIP", batch.clip, names, largest, 3)
        + _matrix(f"Gradient of GCL, {state.weighting}", batch.gcl, names, largest, 3)
    )
    note = (
        "By position (score = 101 − position): the weight, and the cosine gap to position 1 at which the two balance."
    )
    return view(
        f"{_shown_instead(batch, state)}{FORMULA}{_gap(batch, state)}{_table(service, batch)}"
        f'<p class="note">A negative gradient (blue) pulls the pair together, a positive one (red) pushes it apart.</p>'
        f'<div class="matrices">{matrices}</div>'
        f'<h3>Score → weight</h3><p class="note">{note}{_grades()}</p>'
        f"{figure(weight_curves(playground.curves(), state.temperature))}",
    )


def _shown_instead(batch: playground.Batch, state: State) -> str:
    """What the page shows in place of a typed text or of a system without vectors."""
    notes = []
    if batch.queries[0] != state.query:
        notes.append(f"No scores are known for “{state.query}”; these are the pairs of “{batch.queries[0]}”.")
    if batch.model != state.a:
        notes.append(f"{state.a} has no vectors; these are the cosines of {batch.model}.")
    return "".join(f'<p class="message" role="status">{safe(note)}</p>' for note in notes)


def _gap(batch: playground.Batch, state: State) -> str:
    """The cosine gap at which the weights of the first two pairs balance, and the gap they have."""
    first, second = batch.weights[:2]
    if min(first, second) <= 0:
        return (
            '<p class="sentence">A weight of 0 does not leave the pair out: nothing pulls its query and product '
            "together, but both stay in the batch, and the other pairs push them away as negatives.</p>"
        )
    gap = playground.gap(first, second, state.temperature)
    same = "Both belong to one query: " if batch.queries[0] == batch.queries[1] else "For a single query, "
    return (
        f'<p class="sentence">{same}scores of {batch.scores[0]:g} and {batch.scores[1]:g} balance at a cosine gap of '
        f"τ·log(w<sub>1</sub>/w<sub>2</sub>) = {state.temperature:g}·log({first / second:.3g}) = "
        f"<b>{number(gap, 4)}</b>; the model has {number(batch.cosines[0, 0] - batch.cosines[1, 1], 4)}.</p>"
    )


def _table(service: Service, batch: playground.Batch) -> str:
    heads = ("", "Query", "Product", "", "Score", "Weight", "Cosine", "Loss, CLIP", "Loss, GCL")
    rows = "".join(
        f"<tr><td>{row + 1}</td><td>{safe(batch.queries[row])}</td><td>{picture(service, item)}</td>"
        f"<td>{safe(service.product(item, 0, 0.0).title)}</td><td>{batch.scores[row]:g}</td>"
        f"<td><b>{number(batch.weights[row])}</b></td><td>{number(batch.cosines[row, row])}</td>"
        f"<td>{number(batch.clip_losses[row])}</td><td>{number(batch.gcl_losses[row])}</td></tr>"
        for row, item in enumerate(batch.items)
    )
    sums = f"<td>{number(batch.clip_losses.sum())}</td><td>{number(batch.gcl_losses.sum())}</td>"
    total = f'<tr><td colspan="7">Sum</td>{sums}</tr>'
    return grid("Pairs", heads, [rows, total], "pairs")


def _matrix(title: str, cells_NxN: np.ndarray, names: tuple[list[str], list[str]], largest: float, digits: int) -> str:
    """Red for positive values, blue for negative ones, stronger for larger values."""
    head = "".join(f"<th>{name}</th>" for name in names[1])
    rows = "".join(
        f"<tr><th>{name}</th>" + "".join(_cell(value, value / max(largest, 1e-12), digits) for value in line) + "</tr>"
        for name, line in zip(names[0], cells_NxN.tolist(), strict=True)
    )
    table = f'<table class="matrix"><tr><th></th>{head}</tr>{rows}</table>'
    return f"<figure><figcaption>{safe(title)}</figcaption>{table}</figure>"


def _cell(value: float, share: float, digits: int) -> str:
    return (
        f'<td class="{"minus" if value < 0 else "plus"}" style="--share:{abs(share):.3f}">{number(value, digits)}</td>'
    )


def _grades() -> str:
    weights = ", ".join(f"{weight:g}" for weight in playground.to_weights([3.0, 2.0, 1.0], "grades"))
    return (
        f" “grades” gives the grades 3, 2, 1 the weights {weights}; “sharp” is “grades” for grades, else “reciprocal”."
    )
