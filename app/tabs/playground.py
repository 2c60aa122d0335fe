"""Playground: what a score does to the loss, on six real pairs."""

from __future__ import annotations

import numpy as np

from app import playground
from app.draw import figure, number, picture, safe, view
from app.service import Service
from app.state import State

FORMULA = (
    '<p class="formula">S<sub>ij</sub> = cos(q<sub>i</sub>, d<sub>j</sub>) / τ</p>'
    '<p class="formula">loss = <span class="fraction"><span>1</span><span>2N</span></span> Σ<sub>i</sub> '
    "<b>w<sub>i</sub></b> · [ −log softmax(S<sub>i,·</sub>)<sub>i</sub> − log softmax(S<sub>·,i</sub>)<sub>i</sub> ]"
    ' &nbsp; <span class="note">w = 1: CLIP; w from the score: GCL</span></p>'
    '<p class="formula">∂loss/∂S<sub>ij</sub> = [ w<sub>i</sub> (softmax(S<sub>i,·</sub>)<sub>j</sub> − δ<sub>ij</sub>)'
    " + w<sub>j</sub> (softmax(S<sub>·,j</sub>)<sub>i</sub> − δ<sub>ij</sub>) ] / 2N</p>"
)


def draw(service: Service, state: State) -> str:
    from gcl_toolkit.figures import weight_curves

    made = playground.batch(service, state)
    names = [f"q{row + 1}" for row in range(len(made.items))], [f"d{row + 1}" for row in range(len(made.items))]
    largest = max(float(np.abs(made.clip).max()), float(np.abs(made.gcl).max()))
    matrices = (
        _matrix("Cosines", made.cosines, names, float(np.abs(made.cosines).max()), 2)
        + _matrix("Gradient of CLIP", made.clip, names, largest, 3)
        + _matrix(f"Gradient of GCL, {state.weighting}", made.gcl, names, largest, 3)
    )
    told = "By position (score = 101 − position): the weight, and the cosine gap to position 1 that it asks for."
    return view(
        state,
        f"{FORMULA}{_asked(made, state)}{_table(service, made)}"
        f'<p class="note">A negative gradient (blue) pulls the pair together, a positive one (red) pushes it apart.</p>'
        f'<div class="matrices">{matrices}</div>'
        f'<h3>Score → weight</h3><p class="note">{told}{_grades()}</p>'
        f"{figure(weight_curves(playground.curves(), state.temperature))}",
    )


def _asked(made: playground.Batch, state: State) -> str:
    """What the first pair's weight asks for beside the second's, in numbers."""
    first, second = made.weights[:2]
    if min(first, second) <= 0:
        return '<p class="sentence">A weight of 0 asks for nothing: the pair is left out.</p>'
    gap = playground.gap(first, second, state.temperature)
    same = "The two belong to one query, so " if made.queries[0] == made.queries[1] else "For one query "
    return (
        f'<p class="sentence">{same}a score of {made.scores[0]:g} beside {made.scores[1]:g} asks for a cosine gap of '
        f"τ·log(w<sub>1</sub>/w<sub>2</sub>) = {state.temperature:g}·log({first / second:.3g}) = "
        f"<b>{number(gap, 4)}</b>; it is {number(made.cosines[0, 0] - made.cosines[1, 1], 4)}.</p>"
    )


def _table(service: Service, made: playground.Batch) -> str:
    heads = ("", "Query", "Product", "", "Score", "Weight", "Cosine", "Loss, CLIP", "Loss, GCL")
    rows = "".join(
        f"<tr><td>{row + 1}</td><td>{safe(made.queries[row])}</td><td>{picture(service, item)}</td>"
        f"<td>{safe(service.product(item, 0, 0.0).title)}</td><td>{made.scores[row]:g}</td>"
        f"<td><b>{number(made.weights[row])}</b></td><td>{number(made.cosines[row, row])}</td>"
        f"<td>{number(made.clip_losses[row])}</td><td>{number(made.gcl_losses[row])}</td></tr>"
        for row, item in enumerate(made.items)
    )
    sums = f"<td>{number(made.clip_losses.sum())}</td><td>{number(made.gcl_losses.sum())}</td>"
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<div class="wide"><table class="queries pairs"><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}<tr><td colspan="7">Sum</td>{sums}</tr></tbody></table></div>'
    )


def _matrix(title: str, cells_NxN: np.ndarray, names: tuple[list[str], list[str]], largest: float, digits: int) -> str:
    """Red above 0, blue below, stronger for larger numbers."""
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
    weights = playground.to_weights([3.0, 2.0, 1.0], "graded")
    told = ", ".join(f"{weight:g}" for weight in weights)
    return f" “graded” gives grades 3, 2, 1 the weights {told}; “sharp” is graded for grades, reciprocal for positions."
