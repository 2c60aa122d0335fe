"""What the names in a study mean: metrics, splits, methods and their groups."""

from __future__ import annotations

from gcl_toolkit.study import BASELINES, CONTROLS, RIVALS
from gcl_toolkit.summary import MACRO

METRIC = "NDCG@10"
"""The one told first."""
OURS = "gcl-matrix"
SPLIT_NAMES = {
    "in_domain": "in-domain",
    "novel_query": "novel query",
    "novel_document": "novel document",
    "zero_shot": "zero-shot",
    MACRO: "mean of splits",
}
SPLITS_MEAN = {
    "in_domain": "Training queries on training products: the very pairs that were trained on.",
    "novel_query": "Queries never seen in training, on training products.",
    "novel_document": "Training queries, on products never seen in training.",
    "zero_shot": "Queries and products both never seen in training.",
    MACRO: "The plain mean of the splits above.",
}
METRICS_MEAN = {
    "NDCG@10": "The scores of the first ten products, discounted by the logarithm of the rank, over the best possible.",
    "ERR": "Expected reciprocal rank on the raw scores, as GCL's own evaluation has it: with scores up to 100 it asks "
    "little more than how soon the single best product comes.",
    "ERR(4)": "Expected reciprocal rank with each query's scores rescaled to 0..4, the usual range.",
    "RBP(0.9)": "Rank-biased precision: the expected score per product for a reader who goes on with chance 0.9.",
    "AP": "Average precision: the share of listed products at the rank of each listed product, averaged.",
    "RR": "Reciprocal rank: one over the rank of the first listed product.",
}
METHODS_MEAN = {
    "random": "products in random order: the floor",
    "bm25": "words that query and text have in common (BM25), no training",
    "untrained": "the pretrained encoder as it came",
    "oracle": "the listed products in the order of their scores: the ceiling",
    "clip": "all pairs, w = 1; takes known positives for negatives, so a gain over it alone flatters",
    "clip-masked": "all pairs, w = 1; known positives are no negatives",
    "clip-top": "only the pairs with the best scores, w = 1; known positives are no negatives",
    "binary-matrix": "score matrix with w = 1 for every known pair, which compete with each other too",
    "masked-matrix": "score matrix with w = 1; known positives don't compete: all that gcl-matrix has but the scores",
    "top-matrix": "score matrix with w = 1 for the pairs with the best scores, the others left out",
    "gcl-linear": "one weighted pair a row; the weight is linear in the score",
    "gcl-reciprocal": "one weighted pair a row; the weight falls as 1 / position",
    "gcl-matrix": "score matrix: every known pair pulls, with its score as weight, against worse products only",
    "gcl-soft": "gcl-matrix with sharper weights instead, and equal or better products competing too",
    "siglip": "is this a known pair, yes or no: each cell of the score matrix alone",
    "bixse": "each cell of the score matrix alone, with its score as a probability",
    "rankclip": "score matrix with w = 1, plus the likelihood of the order of the scores",
    "kl": "score matrix with softmax(score / temperature) of each query and product as target",
    "cosent": "every pair of cells of a row or column in the order of their scores",
}
GROUPS = (
    ("Baselines: the ends of the scale", BASELINES),
    ("Controls: same encoder, steps and batch, without the scores as weights", CONTROLS),
    ("GCL as published", ("gcl-linear", "gcl-reciprocal")),
    ("Rivals, on the batches of the score matrix", RIVALS),
    ("Ours", (OURS, "gcl-soft")),
)
PAPER = {
    "in_domain": "+29.3 %",
    "novel_query": "+6 to +10 %",
    "novel_document": "+6 to +10 %",
    "zero_shot": "+6 to +10 %",
}
"""NDCG@10 of GCL over CLIP, as its paper reports it."""
