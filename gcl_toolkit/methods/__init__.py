"""Methods: a way of training as a value, and the named ones.

    method = Graded(weighting="linear")
    control = method.without("scores")

A method owns its sampler, its loss in every form, its settings and one sentence about it. To add one, write a frozen
dataclass with the members of `Method` and put it into `METHODS` (CONTRIBUTING.md).
"""

from dataclasses import fields, replace
from typing import Any, get_type_hints

from gcl_toolkit.data.weighting import WEIGHTINGS, to_weights
from gcl_toolkit.errors import unknown
from gcl_toolkit.methods.known import KnownPairs
from gcl_toolkit.methods.matrix import Graded, Matrix
from gcl_toolkit.methods.method import Method, Sampler
from gcl_toolkit.methods.pairs import GCL
from gcl_toolkit.methods.rivals import KL, BiXSE, CoSENT, RankCLIP, SigLIP
from gcl_toolkit.methods.samplers import Batch
from gcl_toolkit.options import checked, join_options, split_options

DEFAULT = "graded"
METHODS: dict[str, Method] = {
    "gcl-linear": GCL(),
    "gcl-reciprocal": GCL(weighting="reciprocal"),
    "graded": Graded(),
    "matrix": Matrix(),
    "siglip": SigLIP(),
    "bixse": BiXSE(),
    "rankclip": RankCLIP(),
    "kl": KL(),
    "cosent": CoSENT(),
}
"""Name -> method; the controls below are derived from these."""
DERIVED = {
    "clip": ("gcl-linear", "scores"),
    "clip-masked": ("clip", "false negatives"),
    "clip-top": ("clip-masked", "all but the best scores"),
    "graded-noscores": ("graded", "scores"),
    "matrix-noscores": ("matrix", "scores"),
    "matrix-top": ("matrix-noscores", "all but the best scores"),
}
"""Control -> (the method it is derived from, what it lacks): it differs from that method in this one thing."""
for _name, (_origin, _what) in DERIVED.items():
    _method = METHODS[_origin]
    METHODS[_name] = _method.without(_what) if not _what.startswith("all but") else _method.only_top()
CONTROLS = tuple(DERIVED)
"""What a gain is measured against; over `clip` alone it flatters, since CLIP takes known positives for negatives."""
PAPER = ("gcl-linear", "gcl-reciprocal")
"""The paper's loss with our weights."""
RIVALS = ("siglip", "bixse", "rankclip", "kl", "cosent")

__all__ = [
    "CONTROLS", "DEFAULT", "DERIVED", "GCL", "KL", "METHODS", "PAPER", "RIVALS", "WEIGHTINGS", "Batch", "BiXSE",
    "CoSENT", "Graded", "KnownPairs", "Matrix", "Method", "RankCLIP", "Sampler", "SigLIP", "as_method", "name_of",
    "to_weights",
]  # fmt: skip


def as_method(method: Method | str) -> Method:
    """A method itself, or the one of a name, with settings after a colon: "graded:weighting=log,queries=1024"."""
    if not isinstance(method, str):
        return method
    name, options = split_options(method)
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    found: Any = METHODS[name]
    hints = get_type_hints(type(found))
    types = {field.name: hints[field.name] for field in fields(found)}
    return replace(found, **checked(options, types, f"method {name}"))


def name_of(method: Method | str) -> str:
    """The name of a registered method, else the spelling that `as_method` reads: "graded:weighting=log"."""
    method = as_method(method)
    best: tuple[str, dict[str, Any]] | None = None
    for name, registered in METHODS.items():
        if type(registered) is type(method):
            names = [field.name for field in fields(registered)]  # type: ignore[arg-type]
            differing = {key: getattr(method, key) for key in names if getattr(method, key) != getattr(registered, key)}
            if best is None or len(differing) < len(best[1]):
                best = name, differing
    return join_options(*best) if best else repr(method)
