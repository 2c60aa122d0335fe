"""What the names in a study mean: methods, splits and metrics. Command line, report, app and notebooks read it here."""

from collections.abc import Iterable

from gcl_toolkit.errors import UserError
from gcl_toolkit.measure import terms
from gcl_toolkit.methods import CONTROLS, DEFAULT, DERIVED, PAPER, RIVALS, as_method
from gcl_toolkit.studies.results import MACRO
from gcl_toolkit.studies.study import BASELINES

METRIC = "NDCG@10"
"""The metric that is reported first."""
SPLIT_NAMES = {
    "in_domain": "in-domain",
    "novel_query": "novel query",
    "novel_document": "novel document",
    "zero_shot": "zero-shot",
    MACRO: "mean of splits",
}
METRICS = terms.METRICS
SPLITS = {**terms.SPLITS, MACRO: "The plain mean of the splits above."}
BASELINES_MEAN = {
    "random": "products in random order: the floor",
    "bm25": "words that query and product texts have in common (BM25); no training",
    "untrained": "the pretrained encoder, not fine-tuned",
    "oracle": "the listed products in the order of their scores: the ceiling",
}
WARNINGS = {"clip": "takes known positives for negatives, so a gain over it alone flatters"}
_ALL = "all relevant products of a query at once"
_EACH, _ONE = "each relevant product of a query is to rank above those", "one relevant product of a query at a time"
IN_WORDS = {
    "graded": f"trained on scores: {_EACH} with lower scores",
    "graded-noscores": f"trained without scores: {_EACH} that aren't relevant",
    "matrix": f"trained on scores: {_ALL}; those with higher scores count more",
    "matrix-noscores": f"trained without scores: {_ALL}; all count the same",
    "matrix-top": "trained on the best products of each query only, all of them at once",
    "gcl-linear": f"trained with the paper's loss: {_ONE}; those with higher scores count more",
    "gcl-reciprocal": f"trained with the paper's loss: {_ONE}; the nearer to the top of the list, the more it counts",
    "clip": f"trained like CLIP, without scores: {_ONE}; the others, relevant or not, are pushed away",
    "clip-masked": f"trained like CLIP, without scores: {_ONE}; other relevant ones aren't pushed away",
    "clip-top": "trained like CLIP on the best products of each query only; other relevant ones aren't pushed away",
}
"""Method -> what it learns from, for readers who don't know the losses."""
PAPER_GAINS = {
    "in_domain": "+29.3 %",
    "novel_query": "+6 to +10 %",
    "novel_document": "+6 to +10 %",
    "zero_shot": "+6 to +10 %",
}
"""NDCG@10 of GCL over CLIP, as the paper reports it."""


def meaning(method: str) -> str:
    """One sentence about a baseline or method, "" for a name that is not registered. Of a control it starts with what
    it is derived from: "graded - scores"."""
    if method in BASELINES_MEAN:
        return BASELINES_MEAN[method]
    try:
        about = as_method(method).about
    except UserError:
        return ""
    derived = f"{' - '.join(DERIVED[method])}: " if method in DERIVED else ""
    return "; ".join(filter(None, (derived + about, WARNINGS.get(method))))


def in_words(method: str) -> str:
    """As `meaning`, for readers who don't know the losses."""
    derived = f"{' - '.join(DERIVED[method])}: " if method in DERIVED else ""
    return derived + IN_WORDS[method] if method in IN_WORDS else meaning(method)


def groups(methods: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The methods under headings, in the order of a report; those of no group last."""
    names = list(methods)
    known = (
        ("Baselines: the ends of the scale", BASELINES),
        ("Controls: the same encoder, steps and batch; each lacks one thing", CONTROLS),
        ("The paper's loss, our weights", PAPER),
        ("Losses of others, on the batches of the score matrix", RIVALS),
        ("Ours", (DEFAULT, "matrix")),
    )
    grouped = [(title, [name for name in members if name in names]) for title, members in known]
    others = [name for name in names if not any(name in members for _, members in known)]
    return [(title, members) for title, members in (*grouped, ("Others", others)) if members]
