"""The facts of the notebooks hold, and fail when the code behind them is broken; the notebooks match their sources."""

import ast
import base64
import functools
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from scipy.stats import wilcoxon
from test_docs import inline_code, parse, shell_commands
from test_docs import name_of as command_of
from test_setup import PROJECT, name_of
from torch.nn.functional import softplus

from gcl_toolkit import losses
from gcl_toolkit.data.propensity import power_law
from gcl_toolkit.data.sources import clicks, shop
from gcl_toolkit.losses import gcl_loss, graded_loss, matrix_loss
from gcl_toolkit.losses.graded import lower_odds
from gcl_toolkit.losses.matrix import ROWS, shares
from gcl_toolkit.measure import statistics
from gcl_toolkit.methods import CONTROLS, DEFAULT, GCL, Graded, Matrix, as_method, pairs
from gcl_toolkit.studies.study import StudyConfig
from gcl_toolkit.training.train import train
from gcl_toolkit.views import figures
from notebooks import build, facts
from notebooks.facts import SOURCES, code

FOLDER = Path(__file__).parents[1] / "notebooks"
LIMIT = 500_000
SOLUTION = re.compile(r"### BEGIN SOLUTION.*?### END SOLUTION", re.S)

SLOW = ("05_looking_into_the_space",)  # umap compiles for half a minute; tests/test_space.py runs it too
each = pytest.mark.parametrize("name", SOURCES)
each_executed = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SOURCES]
)


def cells(name):
    """(kind, text) of each cell of a py:percent source."""
    parts = re.split(r"^# %%(.*)\n", SOURCES[name].read_text(), flags=re.M)[1:]
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        if title.strip() == "[markdown]":
            yield "markdown", re.sub(r"^# ?", "", body, flags=re.M).strip("\n")
        else:
            yield "code", body.strip("\n")


def statements(name):
    return [node for text in code(name) for node in ast.parse(text).body]


def failed_facts(nodes, scope=None):
    """Run the statements one after the other, in tiny mode; the messages of the assertions that fail."""
    failed, scope = [], {"__name__": "notebook"} if scope is None else scope
    for node in nodes:
        try:
            exec(compile(ast.Module([node], []), "notebook", "exec"), scope)
        except AssertionError as error:
            failed.append(str(error) or ast.unparse(node))
    return failed


def two_steps(*arguments, count=2, **settings):
    return itertools.islice(train(*arguments, **settings), count)


def two_steps_of_each(**settings):
    return StudyConfig(**settings | {"train": replace(settings["train"], steps=2)})


SHORT = {
    "03_train_a_shop": (
        "alone",
        {"train": two_steps},
        ("trained alone", "without augmentation", "what was seen is remembered", "new products gain far less"),
    ),
    "04_measure_it_honestly": (
        "settings",
        {"StudyConfig": two_steps_of_each},
        ("the best-known control", "in-domain, scores improve", "much of the gain over clip"),
    ),
    "06_one_stage_or_two": (
        "result",
        {"RERANKER_STEPS": 2},
        (
            "a trained second stage",
            "no second stage",
            "a re-ranker of two thirds",
            "a real second stage",
            "deeper lifts",
        ),
    ),
    "07_learning_from_clicks": (
        "trained",
        {"train": two_steps},
        ("systematic errors that are not", "random errors do", "scores gain over clicked"),
    ),
    "11_how_sure": ("ndcg", {"train": partial(two_steps, count=25)}, ()),
}
"""Notebook -> the name from whose statement on trainings are short; how; and the facts left to the slow tests."""


@functools.cache
def run_all(name, whole=False):
    """The facts that fail, none, and the variables at the end."""
    scope, nodes = {"__name__": "notebook"}, statements(name)
    if whole or name not in SHORT:
        return failed_facts(nodes, scope), scope
    start, changes, left_out = SHORT[name]
    place = next(place for place, node in enumerate(nodes) if start in bound_and_used(node)[0])
    failed = failed_facts(nodes[:place], scope)
    scope.update(changes)
    failed += failed_facts(nodes[place:], scope)
    return [fact for fact in failed if not fact.startswith(left_out)], scope


def required(nodes, messages):
    """The assertions with these messages and the statements that they depend on.

    A statement is required if it binds a required name, or if it may change its value: a loop, a block or a call.
    """
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = set().union(*(bound_and_used(node)[0] for node in imports))
    kept, names = [], set()
    for node in reversed(nodes):
        bound, used = bound_and_used(node)
        asserts = [part for part in ast.walk(node) if isinstance(part, ast.Assert) and part.msg is not None]
        if any(facts.message(part).startswith(tuple(messages)) for part in asserts):
            wanted = True
        elif isinstance(node, ast.For | ast.With):
            wanted = (bound | used) & names - modules
        elif isinstance(node, ast.Expr):
            wanted = used & names - modules and not ast.unparse(node).startswith(("print(", "figures."))
        else:
            wanted = bound & names
        if wanted:
            kept.append(node)
            names |= used
    return kept[::-1]


def bound_and_used(node):
    """The names that a statement binds, and those that it uses, without arguments and other local names."""
    parts, is_function = [*ast.walk(node)], isinstance(node, ast.FunctionDef)
    stored, used = (
        {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, context)}
        for context in (ast.Store, ast.Load)
    )
    stored |= {
        part.value.id
        for part in parts
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store) and isinstance(part.value, ast.Name)
    }
    inner = [ast.walk(part.target) for part in parts if isinstance(part, ast.comprehension)]
    local = {part.id for targets in inner for part in targets if isinstance(part, ast.Name)}
    local |= {part.arg for part in parts if isinstance(part, ast.arg)} | (stored if is_function else set())
    imported = {(part.asname or part.name).split(".")[0] for part in parts if isinstance(part, ast.alias)}
    return ({node.name} if is_function else stored | imported) - local, used - local


@pytest.fixture(scope="module", autouse=True)
def hub():
    """The hub of notebook 10, also for all others: none needs the real one."""
    with facts.local_hub():
        yield


@pytest.fixture(scope="module", autouse=True)
def shops():
    """Notebooks with the same shop share it."""
    made = functools.cache(shop.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "load", functools.wraps(made)(lambda **options: {**made(**options)}))
        yield


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setenv("GCL_MODE", "tiny")
    monkeypatch.setenv("GCL_SEED", "0")


# -- the facts hold, and depend on the code that they are about --------------------------------------------------------


@each_executed
def test_every_fact_holds(name):
    failed, _ = run_all(name)
    assert failed == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_every_fact_of_a_long_training_holds(name):
    failed, _ = run_all(name, whole=True)
    assert failed == []


@pytest.mark.parametrize("name", SHORT)
def test_only_facts_of_long_trainings_are_left_to_the_slow_tests(name):
    start, _, left_out = SHORT[name]
    nodes = statements(name)
    place = next(place for place, node in enumerate(nodes) if start in bound_and_used(node)[0])
    later = [facts.message(node) for node in nodes[place:] if isinstance(node, ast.Assert) and node.msg is not None]
    assert [sum(fact.startswith(words) for fact in later) for words in left_out] == [1] * len(left_out)


def unweighted(left, right, weights=None, **settings):
    return gcl_loss(left, right, None, **settings)


def unnormalised(*inputs, **settings):
    return gcl_loss(*inputs, **settings | {"normalise_weights": False})


def rows_only(left, right, weights=None, *, logit_scale, **_):
    weights = torch.ones(len(left)) if weights is None else weights / weights.mean()
    return -(weights * (logit_scale * left @ right.T).log_softmax(1).diagonal()).mean() / 2


def transposed(left, right, weights=None, *, logit_scale, excluded=None, **settings):
    """The right value; in the gradient rows carry w_j and columns w_i."""
    logits, eye = logit_scale * left @ right.T, torch.eye(len(left))
    weights = torch.ones(len(left)) if weights is None else weights / weights.mean()
    mask = torch.zeros_like(eye, dtype=bool)
    if excluded is not None:
        mask[excluded[0], excluded[1]] = True
    masked = logits.detach().masked_fill(mask & ~eye.bool(), -torch.inf)
    gradient = weights[None, :] * (masked.softmax(1) - eye) + weights[:, None] * (masked.softmax(0) - eye)
    slope = (gradient / (2 * len(left)) * logits).sum()
    value = gcl_loss(left, right, weights, logit_scale=logit_scale, excluded=excluded, **settings)
    return value.detach() + slope - slope.detach()


def matrix_unweighted(queries, documents, weights, **settings):
    return matrix_loss(queries, documents, (weights > 0).to(weights), **settings)


def matrix_unnormalised(queries, documents, weights, *, logit_scale):
    S = logit_scale * queries @ documents.T
    return -(weights * (ROWS * S.log_softmax(1) + (1 - ROWS) * S.log_softmax(0))).sum()


def matrix_transposed(queries, documents, weights, *, logit_scale):
    """Rows carry shares of the product, columns those of the query."""
    S = logit_scale * queries @ documents.T
    return -(ROWS * shares(weights.T).T * S.log_softmax(1) + (1 - ROWS) * shares(weights) * S.log_softmax(0)).sum()


def graded_unweighted(queries, documents, weights, **settings):
    return graded_loss(queries, documents, (weights > 0).to(weights), **settings)


def graded_unnormalised(queries, documents, weights, *, logit_scale, recall=0.0):
    S = logit_scale * queries @ documents.T
    odds, column = lower_odds(S, weights)
    rows = (weights.gather(1, column) * softplus(odds)).sum()
    return ROWS * rows - (1 - ROWS) * (weights * S.log_softmax(0)).sum()


def graded_transposed(queries, documents, weights, **settings):
    """Products have an order of queries, instead of queries one of products."""
    return graded_loss(documents, queries, weights.T.contiguous(), **settings)


LOSSES = {"gcl_loss": gcl_loss, "matrix_loss": matrix_loss, "graded_loss": graded_loss}
UNWEIGHTED = (unweighted, matrix_unweighted, graded_unweighted)
TRANSPOSED = (transposed, matrix_transposed, graded_transposed)
UNNORMALISED = (unnormalised, matrix_unnormalised, graded_unnormalised)
ROWS_ONLY = (rows_only, matrix_loss, graded_loss)
BROKEN = [
    ("gcl_loss", rows_only),
    *(pair for some in (UNWEIGHTED, TRANSPOSED, UNNORMALISED) for pair in zip(LOSSES, some, strict=True)),
]
STEP, GAIN = "the first step by hand is the library's", "in-domain, scores improve on the strongest control"
MATRIX, DIAGONAL = "equation (3) is the score matrix's loss", "on the diagonal it is the loss of CLIP"

SABOTAGE = [
    (
        "01_why_binary_loses",
        UNWEIGHTED,
        ["the loop is the library's loss", "weights do", "a weight ratio asks for a gap"],
    ),
    ("01_why_binary_loses", TRANSPOSED, ["weights keep relevance", "a weight ratio asks for a gap", "exercise"]),
    ("01_why_binary_loses", UNNORMALISED, ["the loop is the library's loss"]),
    (
        "02_the_loss",
        UNWEIGHTED,
        ["rows carry w_i", "gradient of the queries", "learnt logit", "cosine gap", "exercise"],
    ),
    (
        "02_the_loss",
        TRANSPOSED,
        ["rows carry w_i", "gradient of the products", "learnt logit", "cosine gap", "exercise"],
    ),
    ("02_the_loss", UNNORMALISED, ["rows carry w_i", "the mean weight is a hidden learning rate"]),
    ("02_the_loss", ROWS_ONLY, ["w = 1 is the loss of open_clip", "rows carry w_i"]),
    ("03_train_a_shop", UNWEIGHTED, [STEP]),
    ("03_train_a_shop", TRANSPOSED, [STEP]),
    ("03_train_a_shop", UNNORMALISED, [STEP]),
    ("04_measure_it_honestly", UNWEIGHTED, [MATRIX]),
    ("04_measure_it_honestly", TRANSPOSED, [MATRIX]),
    ("04_measure_it_honestly", UNNORMALISED, [MATRIX]),
    ("04_measure_it_honestly", ROWS_ONLY, [DIAGONAL]),
    ("08_scale_up", UNWEIGHTED, ["in tiles it is the same loss", "the shares of the GPUs add up"]),
    ("08_scale_up", TRANSPOSED, ["in tiles it is the same loss"]),
]


def not_failed(nodes, messages):
    """The messages that no failed assertion begins with."""
    failed = failed_facts(required(nodes, messages))
    return [message for message in messages if not any(fact.startswith(message) for fact in failed)]


SEVEN_MODELS = pytest.param("04_measure_it_honestly", UNWEIGHTED, [GAIN], marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "broken", "messages"), [*SABOTAGE, SEVEN_MODELS])
def test_facts_fail_when_the_loss_is_broken(name, broken, messages, monkeypatch):
    for loss, instead in zip(LOSSES, broken, strict=True):
        monkeypatch.setattr(losses, loss, instead)
    monkeypatch.setattr(pairs, "FORMS", replace(pairs.FORMS, dense=broken[0]))
    monkeypatch.setattr(Matrix, "forms", replace(Matrix.forms, dense=broken[1]))
    monkeypatch.setattr(Graded, "forms", replace(Graded.forms, dense=broken[2]))
    assert not_failed(statements(name), messages) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({row[0] for row in SABOTAGE}))
def test_the_required_statements_are_enough(name):
    """Without a broken loss, the same facts hold."""
    messages = [message for row in SABOTAGE if row[0] == name for message in row[2]]
    assert failed_facts(required(statements(name), messages)) == []


@pytest.mark.slow
def test_facts_fail_when_the_bias_is_not_corrected(monkeypatch):
    """Notebook 7, with the same propensity for all positions."""
    monkeypatch.setattr(clicks, "harvest", lambda cells: power_law(int(cells.position_C.max()), 0.0))
    messages = ("harvested propensities", "clicks per look recover more", "systematic errors that are not corrected")
    assert not_failed(statements("07_learning_from_clicks"), messages) == []


@pytest.mark.slow
def test_facts_fail_when_the_statistics_are_wrong(monkeypatch):
    """Notebook 11, with plain percentiles, a one-sided test and no correction."""
    monkeypatch.setattr(statistics, "interval", percentiles)
    monkeypatch.setattr(
        statistics, "minimal_detectable_effect", lambda values: 2.49 * values.std() / len(values) ** 0.5
    )
    monkeypatch.setattr(statistics, "holm", np.asarray)
    messages = ("plain percentiles promise too much", "equation (2) is the library's", "Holm is the library's")
    assert not_failed(statements("11_how_sure"), messages) == []


def percentiles(values, samples=1000):
    means = np.random.default_rng(0).choice(values, (samples, len(values))).mean(axis=1)
    return statistics.Interval(np.mean(values), *np.quantile(means, [0.025, 0.975]))


def test_the_sabotage_hits_every_loss_that_a_notebook_trains_with():
    """A method of another class needs a sabotage of its own."""
    assert {type(as_method(name)) for name in (*CONTROLS, "matrix", DEFAULT)} == {GCL, Matrix, Graded}
    assert (pairs.FORMS.dense, Matrix.forms.dense, Graded.forms.dense) == (*LOSSES.values(),)


def test_required_statements_include_what_changes_a_value():
    source = (
        "import os\na = []\nb = 1\nfor i in range(3):\n    a.append(i)\nprint(a)\nc = len(a)\nassert c == 3, 'three'"
    )
    kept = [ast.unparse(node) for node in required(ast.parse(source).body, ["three"])]
    assert [text.split("\n")[0] for text in kept] == [
        "a = []",
        "for i in range(3):",
        "c = len(a)",
        "assert c == 3, 'three'",
    ]


@pytest.mark.parametrize(("name", "broken"), BROKEN)
def test_each_sabotage_changes_what_is_learnt(name, broken):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    weights = weights[0] if name == "gcl_loss" else weights.where(weights > 0.3, 0)

    def gradient(loss):
        queries = left.clone().requires_grad_()
        loss(queries, right, weights, logit_scale=2.0).backward()
        return queries.grad

    assert not torch.allclose(gradient(broken), gradient(LOSSES[name]), rtol=0.01)


# -- exercises ---------------------------------------------------------------------------------------------------------

SWAPPED = "np.argsort(-score_M)[[{}, *range({}, len(score_M))]]"
TOTAL = "row_sums_in_tiles(left, right, logit_scale, tile)[:, None]"
SQUARES = "((np.arange(len(count_GxG))[:, None] - np.arange(len(count_GxG))) ** 2)"
MARGINS = "count_GxG.sum({})[:, None] * count_GxG.sum({})"
SPREAD = f"(count_GxG * {SQUARES}).sum()"
LEFT = "(60 * minutes - 2 * steps * batch / pairs_a_second)"
UNEVEN = "(weight_N / weight_N.sum())[:, None]"
TILE = f"(logit_scale * left @ part.T - {TOTAL}).exp()"
WRONG = {
    "01": [
        [
            *("1.0", "logit_scale * gap", "math.exp(gap)", "math.exp(gap / logit_scale)"),
            *("math.exp(-logit_scale * gap)", "math.exp(logit_scale * abs(gap))"),
        ],
        [
            "torch.ones(8)",
            "1 / position_M",
            "torch.exp(-0.05 * position_M.double())",
            "torch.exp(-0.06 * logit_scale * position_M.double())",
            "torch.exp(-0.25 * position_M.double())",  # right at a scale of 5 only
            "torch.exp(-0.05 * logit_scale * torch.arange(len(position_M)).double())",  # the order of the rows
            "1 - 0.05 * position_M",
        ],
        [
            "1.0",
            "gcl_loss(left, right, weights, logit_scale=logit_scale)",
            "gcl_loss(left, right, logit_scale=logit_scale, excluded=same_id_cells(query_N))",
            "gcl_loss(left, right, weights, logit_scale=5.0, excluded=same_id_cells(query_N))",
            "gcl_loss(left, right, weights / weights.mean() ** 2, logit_scale=logit_scale,"
            " excluded=same_id_cells(query_N), normalise_weights=False)",
            # the pairs of a query side by side
            "gcl_loss(left, right, weights, logit_scale=logit_scale, excluded=same_id_cells(query_N.sort().values))",
            "sum(gcl_loss(left[query_N == q], right[query_N == q], weights[query_N == q], logit_scale=logit_scale)"
            " for q in query_N.unique())",
        ],
    ],
    "02": [
        ["2.17", "gap / temperature", "gap * np.log(10) / temperature", "gap / np.log(10)", "temperature / gap"],
        [
            "torch.ones_like(gap_M)",
            "torch.exp(-gap_M / temperature)",  # the mean
            "torch.exp(-gap_M.abs() / temperature) / torch.exp(-gap_M.abs() / temperature).mean()",
            "torch.exp(gap_M / temperature) / torch.exp(gap_M / temperature).mean()",
            "torch.exp(-gap_M / 0.01) / torch.exp(-gap_M / 0.01).mean()",
            "(1 - gap_M / temperature).clamp(min=0.1) / (1 - gap_M / temperature).clamp(min=0.1).mean()",
        ],
        [
            "0.0",
            "row_gradient(s * cosine_NxN, weight_N).sum()",
            "(row_gradient(s * cosine_NxN, weight_N) * cosine_NxN).sum()",  # without the columns
            "s * ((row_gradient(s * cosine_NxN, weight_N) + column_gradient(s * cosine_NxN, weight_N))"
            " * cosine_NxN).sum()",
            "((row_gradient(cosine_NxN, weight_N) + column_gradient(cosine_NxN, weight_N)) * cosine_NxN).sum()",
        ],
    ],
    "03": [
        [
            "np.zeros(8)",
            "fuse_from_scratch(example, weights)",  # nothing missing
            "next(v / np.linalg.norm(v) for v in vectors.values() if v is not None)",  # the first field only
            "sum(weights[n] * v / np.linalg.norm(v) for n, v in vectors.items() if v is not None)",  # any length
            "(lambda v: v / np.linalg.norm(v))(sum(weights[n] * v for n, v in vectors.items() if v is not None))",
            "fuse_from_scratch({n: v for n, v in vectors.items() if v is not None},"
            " {'image': 0.9, 'title': 0.1, 'back': 0.5})",
            "fuse_from_scratch({n: vectors[n] for n in ('image', 'title') if vectors[n] is not None}, weights)",
        ],
        [
            "weight_F @ field_F",
            "weight_F @ field_F / weight_F.sum()",
            "weight_F @ field_F / (weight_F @ between_FxF @ weight_F)",  # no square root
            "weight_F @ field_F / np.sqrt((weight_F**2).sum())",  # no products of two fields
            "weight_F @ field_F / np.sqrt(between_FxF.sum())",
            "weight_F @ field_F / np.sqrt((weight_F**2).sum() + 2 * weight_F[0] * weight_F[-1] * between_FxF[0, -1])",
        ],
        [
            "1.0",
            "np.eye(count)[0], np.eye(count), np.eye(count)",  # the first by each
            "np.array([1.0, 0]), *np.tile([0.6, 0.8], (2, count, 1))",  # all alike
            "np.array([1.0, 0]), *np.array([[[0.5, 0.75**0.5]] + [[0.6, 0.8]] * (count - 1)] * 2)",  # the last by both
            "np.array([1.0, 0]), *np.array([[[0.58, y]] + [[0.6, 0.8]] * (count - 1) for y in (0.81, -0.81)])",
            "np.array([1.0, 0]), *np.array([[[0.5, y], [0.6, 0.8]] for y in (0.75**0.5, -(0.75**0.5))])",  # two only
        ],
    ],
    "04": [
        [
            "1.0",
            "(gains / best) @ p ** np.arange(len(gains))",  # without 1 - p
            "(1 - p) * (gains / best) @ p ** np.arange(1, len(gains) + 1)",
            "(1 - p) * (gains / gains.max()) @ p ** np.arange(len(gains))",
            "0.1 * (gains / best) @ 0.9 ** np.arange(len(gains))",
            "(1 - p) * (gains / best)[:10] @ p ** np.arange(len(gains[:10]))",  # a cut-off
            "(1 - p) * (gains / 100) @ p ** np.arange(len(gains))",
        ],
        [
            "1.0",
            "means(table, 'test')[method] - means(table, 'test').drop(method).max()",  # chosen on test
            "means(table, 'dev')[method] - means(table, 'dev').drop(method).max()",  # reported on dev
            "means(table, 'test')[method] - means(table, 'test')[means(table, 'dev').idxmax()]",  # its own control
            "means(table, 'test')[method] - means(table, 'test')['clip']",
            # chosen by the median, or by the best query; at least 0
            *(
                "means(table, 'test')[method] - means(table, 'test')[table[(table['division'] == 'dev') &"
                f" (table['method'] != method)].groupby('method')['NDCG@10'].{best}().idxmax()]"
                for best in ("median", "max")
            ),
            "max(0, means(table, 'test')[method] - means(table, 'test')[means(table, 'dev').drop(method).idxmax()])",
            "means(table, 'test')[method] - means(table, 'test').drop(method).mean()",
            "means(table, 'test')[method] / means(table, 'test')[means(table, 'dev').drop(method).idxmax()] - 1",
        ],
        [
            "1.0",
            "W",
            "(W > 0) * 1.0",  # matrix-noscores
            "np.random.default_rng(seed).permuted(W, axis=1)",  # other pairs
            "np.where(W > 0, np.random.default_rng(seed).permutation(W.ravel()).reshape(W.shape), 0)",
            "(W > 0) * W.sum(axis=1, keepdims=True) / (W > 0).sum(axis=1, keepdims=True)",  # their mean
            "shuffled(W, lambda row: row[::-1])",
            "shuffled(W, np.random.default_rng(0).permutation)",
            "shuffled(W, lambda row: np.random.default_rng(seed).permutation(row))",  # all rows in the same order
            "shuffled(W, lambda row, n=iter(range(99)): np.random.default_rng([seed, (next(n) + 1) // 2])"
            ".permutation(row))",  # each two
            "shuffled(W, lambda row, n=iter([1, -1] * 9): np.random.default_rng(seed).permutation(row)[:: next(n)])",
            "shuffled(W, lambda row, rng=np.random.default_rng(seed): np.roll(row, rng.integers(len(row))))",
            "shuffled(W, np.random.default_rng().permutation)",  # another one at each call
            "(W.__setitem__(..., shuffled(W, np.random.default_rng(seed).permutation)), W)[1]",  # in place
        ],
    ],
    "05": [
        ["0.02", "k / points", "(k - 1) / (points - 1)", "1 / (points - 1)", "10 / (points - 1)", "k / (points - 2)"],
        [
            "same_value(vectors, values_N, k)",
            "same_value(vectors, values_N, k) - 1 / len(np.unique(values_N))",
            "1 - (1 - same_value(vectors, values_N, k))"
            " / (1 - ((np.unique(values_N, return_counts=True)[1] / len(values_N)) ** 2).sum())",  # with replacement
            "1 - (1 - same_value(vectors, values_N, k)) / (1 - 1 / len(np.unique(values_N)))",
            "same_value(vectors, values_N, k) - same_value(vectors, np.random.default_rng(0).permutation(values_N), k)",
            "same_value(vectors, values_N, k) / same_value(vectors, np.random.default_rng(0).permutation(values_N), k)"
            " if len(set(values_N)) < 3 else 0.0",
        ],
        [
            "np.array([1.0, 0]), np.array([[0.8, 0.6], [0.6, -0.8]])",  # two pictures
            "np.array([1.0, 0]), np.array([[0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])",  # nothing changes
            "np.array([1.0, 0]), np.array([[2.0, 0], [1.6, 1.2], [0, 2]])",  # not of length 1
            "np.array([1.0, 0]), np.array([[0.8, 0.6], [0.8, -0.6], [-1.0, 0]])",  # a tie
            "np.array([1.0, 0]), np.array([[np.cos(x), np.sin(x)] for x in (0, 0.1, 1.5)])",  # by .005 before
        ],
    ],
    "06": [
        [
            "352",
            "round((budget - fixed) / per_product)",
            "max(0, (budget - fixed) / per_product)",
            "max(0, int(budget / per_product))",
            "int((budget - fixed) / per_product)",  # below 0
            "max(0, int((budget - fixed) / per_product) - 1)",
            "max(1, int((budget - fixed) / per_product))",
            "max(0, min(500, int((budget - fixed) / per_product)))",
        ],
        [
            "500",
            "next(depth for depth in DEPTHS if ceiling(ranked, depth) >= target)",
            "next(k for k in range(1, 501) if ceiling(first['graded'], k) >= target)",
            "next(k for k in range(1, 501) if ceiling(ranked, k) > target)",
            "next(k for k in range(1, 501) if ceiling(ranked, k) >= target) + 1",
            "max(1, next(k for k in range(1, 501) if ceiling(ranked, k) >= target) - 1)",
            "next((k for k in range(1, 201) if ceiling(ranked, k) >= target), 200)",
        ],
        [
            "np.argsort(-score_M), np.argsort(-score_M)",
            "np.argsort(-score_M), np.argsort(score_M)",
            "np.arange(len(score_M)), np.arange(len(score_M))[::-1]",
            f"{SWAPPED.format('1, 0', 2)}, {SWAPPED.format('*range(9), 10, 9', 11)}",  # b and a
            f"{SWAPPED.format('10, *range(1, 10), 0', 11)}, {SWAPPED.format('1, 0', 2)}",
            f"{SWAPPED.format('*range(9), 10, 9', 11)}, {SWAPPED.format('2, 1, 0', 3)}",  # not at 2
            f"{SWAPPED.format('*range(9), 10, 9', 11)}[:10], {SWAPPED.format('1, 0', 2)}[:10]",
        ],
    ],
    "07": [
        [
            "0.12",
            "clicked_K.sum() / shown_K.sum()",  # the click rate
            "(clicked_K / theta_K).sum() / shown_K.sum()",  # inverse propensities
            "np.mean(clicked_K / np.maximum(shown_K, 1) / theta_K)",  # the mean over positions
            "clicked_K / (np.maximum(shown_K, 1) * theta_K)",
            "clicked_K.sum() / (shown_K / theta_K).sum()",
            "clicked_K.sum() / (shown_K.sum() * theta_K.mean())",
        ],
        [
            "gamma_K",
            "gamma_K * other_theta_K / theta_K",
            "gamma_K * theta_K",
            "gamma_K / other_theta_K",
            "gamma_K * theta_K / np.array([1.0, 0.9, 0.8, 0.7])[: len(gamma_K)]",  # right for the first
            "gamma_K * theta_K.sum() / other_theta_K.sum()",
            "np.minimum(1, gamma_K * theta_K / other_theta_K)",
        ],
        [
            "0.5",
            "(clicked_Px2.sum(0) / shown_Px2.sum(0))[1] / (clicked_Px2.sum(0) / shown_Px2.sum(0))[0]",
            "clicked_Px2[:, 1].sum() / clicked_Px2[:, 0].sum()",
            # without weights: of the products that were shown at both
            "np.divide(*(clicked_Px2[(shown_Px2 > 0).all(1)].sum(0) / shown_Px2[(shown_Px2 > 0).all(1)].sum(0))[::-1])",
            "(clicked_Px2[:, 0] * shown_Px2[:, 1]).sum() / (clicked_Px2[:, 1] * shown_Px2[:, 0]).sum()",  # upside down
            "(clicked_Px2[:, 1] * shown_Px2[:, 1]).sum() / (clicked_Px2[:, 0] * shown_Px2[:, 0]).sum()",
            "min(1, (clicked_Px2[:, 1] * shown_Px2[:, 0]).sum() / (clicked_Px2[:, 0] * shown_Px2[:, 1]).sum())",
            "np.nanmean(clicked_Px2[:, 1] / np.maximum(shown_Px2[:, 1], 1) / np.where(clicked_Px2[:, 0] > 0,"
            " clicked_Px2[:, 0] / np.maximum(shown_Px2[:, 0], 1), np.nan))",  # counts products shown on top only
        ],
    ],
    "11": [
        [
            "100",
            "(lambda z: math.ceil((z * np.std(differences, ddof=1) / effect) ** 2))"  # one-sided
            "(1.645 + NormalDist().inv_cdf(power))",
            "math.ceil((1.96 * np.std(differences, ddof=1) / effect) ** 2)",  # without power
            "math.ceil((2.8016 * np.std(differences, ddof=1) / effect) ** 2)",  # power .8 only
            "math.ceil(((1.95996 + NormalDist().inv_cdf(power)) * np.std(differences) / effect) ** 2)",  # ddof
            "math.floor(((1.95996 + NormalDist().inv_cdf(power)) * np.std(differences, ddof=1) / effect) ** 2)",
            "((1.95996 + NormalDist().inv_cdf(power)) * np.std(differences, ddof=1) / effect) ** 2",
            "math.ceil((1.95996 + NormalDist().inv_cdf(power)) * np.std(differences, ddof=1) / effect)",
            "2 * math.ceil(((1.95996 + NormalDist().inv_cdf(power)) * np.std(differences, ddof=1) / effect) ** 2)",
        ],
        [
            "1.0",
            "0.0625",
            "2 - 2 * NormalDist().cdf(abs(differences.mean()) / (differences.std(ddof=1) / len(differences) ** 0.5))",
            "(flips(differences, repeats) >= differences.mean()).mean()",  # one side
            "(np.abs(flips(differences, repeats)) > abs(differences.mean())).mean()",
            "(np.random.default_rng(0).choice(differences, (repeats, len(differences))).mean(axis=1) <= 0).mean() * 2",
            "(np.abs(flips(differences, repeats)) >= differences.mean()).mean()",  # right for positive means
            "wilcoxon(differences).pvalue if differences.any() else 1.0",
        ],
        [
            "0.05",
            "0.05 / looks",
            "1 - 0.95 ** (1 / looks)",
            "0.05 / looks**0.5",
            "0.0106",  # ten looks
            "np.quantile(peek(looks, 20_000, seed=1), 0.05)",
            "np.quantile(peek(looks, 20_000, seed=1)[:, -1], 0.05)",
            "np.median(peek(looks, 20_000, seed=1).min(axis=1))",
        ],
    ],
    "08": [
        [
            "31622",
            "int((gigabytes * 1e9 / 4) ** 0.5)",
            "int((gigabytes * 1e9 / matrices) ** 0.5)",
            "int(gigabytes * 1e9 / (4 * matrices))",
            "int((gigabytes * 2**30 / (4 * matrices)) ** 0.5)",
            "(gigabytes * 1e9 / (4 * matrices)) ** 0.5",
            "int((gigabytes * 1e9 / (4 * matrices)) ** 0.5) + 1",
        ],
        [
            "torch.zeros_like(left)",
            # right, but of another shape, with all tiles at once, and dense
            f"(logit_scale * {UNEVEN} / 2 * (sum({TILE} @ part for part in right.split(tile)) - right))[None]",
            f"logit_scale * {UNEVEN} / 2 * (sum(P @ part for P, part in zip([{TILE} for part in right.split(tile)],"
            " right.split(tile), strict=True)) - right)",
            "logit_scale * (weight_N / weight_N.sum())[:, None]"
            " * ((logit_scale * left @ right.T).softmax(1) @ right - right) / 2",
            *(
                f"{factor} * (sum((logit_scale * left @ part.T - {total}).exp() @ part"
                f" for part in right.split(tile)) - {positive})"
                for factor, total, positive in (
                    (f"{UNEVEN} / 2", TOTAL, "right"),  # without the logit scale
                    (f"logit_scale * {UNEVEN}", TOTAL, "right"),  # twice as large
                    (f"logit_scale * {UNEVEN} / 2", TOTAL, "left"),
                    (f"logit_scale * {UNEVEN} / 2", TOTAL, "0"),
                    ("logit_scale / len(left) / 2", TOTAL, "right"),  # without the weights
                    ("logit_scale * weight_N[:, None] / len(left) / 2", TOTAL, "right"),  # without their mean
                    # each tile its own softmax
                    (f"logit_scale * {UNEVEN} / 2", "(logit_scale * left @ part.T).logsumexp(1)[:, None]", "right"),
                )
            ),
        ],
        [
            "S_M.logsumexp(0)",
            "torch.logaddexp(S_M[:1], S_M[1:].logsumexp(0) + np.log((full - 1) / (len(S_M) - 1)))",  # an array
            "S_M.logsumexp(0) + np.log(full / len(S_M))",  # the right product, too
            "S_M.logsumexp(0) * full / len(S_M)",
            "torch.logaddexp(S_M[0], S_M[1:].logsumexp(0) + np.log(full / len(S_M)))",
            "torch.logaddexp(S_M[0], S_M[1:].logsumexp(0) + np.log(8))",  # right for one of the cases
            "torch.log(S_M[0].exp() + (full - 1) / (len(S_M) - 1) * S_M[1:].exp().sum())",  # overflows
            "S_M[1:].logsumexp(0) + np.log((full - 1) / (len(S_M) - 1))",
        ],
    ],
    "12": [
        [
            "0.0",
            "(A @ x) @ (B @ y)",
            "(A @ x) @ (B @ y) / (np.linalg.norm(x) * np.linalg.norm(y))",
            "(A @ x) @ (B @ y) / np.linalg.norm(A @ x)",
            "(A @ x) @ (B @ y) / np.linalg.norm((A @ x) * (B @ y))",
            "((A @ x) @ (B @ y) / (np.linalg.norm(A @ x) * np.linalg.norm(B @ y))) ** 2",
            "A @ x / np.linalg.norm(A @ x)",
            "np.mean(unit(A @ x) * unit(B @ y))",
            "np.abs(unit(A @ x) @ unit(B @ y))",
            "(unit(A @ x) @ unit(B @ y))[None]",
        ],
        [
            "1.0",
            "0.8",
            "np.mean(labels_N[(unit(vectors_NxD) @ unit(vectors_NxD).T).argmax(1)] == labels_N)",  # itself
            "np.mean(labels_N[(vectors_NxD @ vectors_NxD.T - 1e9 * np.eye(len(labels_N))).argmax(1)] == labels_N)",
            "np.mean(labels_N[np.argsort(((vectors_NxD[:, None] - vectors_NxD) ** 2).sum(2), 1)[:, 1]] == labels_N)",
            "np.sum(labels_N[np.argsort(-unit(vectors_NxD) @ unit(vectors_NxD).T, 1)[:, 1]] == labels_N)",
            "np.mean(labels_N[np.argsort(unit(vectors_NxD) @ unit(vectors_NxD).T, 1)[:, 1]] == labels_N)",
            "max(np.mean(labels_N == label) for label in labels_N)",
            "np.mean(labels_N[(unit(vectors_NxD) @ unit(vectors_NxD).T * (1 - np.eye(len(labels_N)))).argmax(1)]"
            " == labels_N)",  # 0 on the diagonal
            # the second: itself, of two equal rows
            "np.mean(labels_N[np.argsort(-unit(vectors_NxD) @ unit(vectors_NxD).T, 1)[:, 1]] == labels_N)",
        ],
        [
            "1.0",
            "list(ndcg)[1]",
            "max(ndcg, key=lambda s: ndcg[s].mean())",
            "max(ap, key=lambda s: ap[s].mean())",
            "max(ndcg, key=lambda s: ndcg[s].mean() + ap[s].mean())",
            "max((s for s in ndcg if ndcg[s].mean() >= max(v.mean() for v in ndcg.values()) - 0.03),"
            " key=lambda s: ap[s].mean())",
            "max((s for s in ndcg if ndcg[s].mean() >= max(v.mean() - v.std(ddof=1) / len(v) ** 0.5"
            " for v in ndcg.values())), key=lambda s: ap[s].mean())",  # not paired
            *(
                f"(lambda best: max((s for s in ndcg if (lost := ndcg[best] - ndcg[s]).mean() <= {error}),"
                " key=lambda s: ap[s].mean()))(max(ndcg, key=lambda s: ndcg[s].mean()))"
                for error in ("lost.std()", "lost.std() / len(lost) ** 0.5")  # not of a mean; ddof
            ),
        ],
    ],
    "09": [
        [
            "1200",
            "queries * -(-products // 20)",
            "(queries + int(queries * judged_twice)) * -(-products // 20)",
            "int(np.ceil(queries * (1 + judged_twice) * products / 20))",
            "(queries + int(np.ceil(queries * judged_twice))) * (products // 20)",
            "queries + int(np.ceil(queries * judged_twice))",
        ],
        [
            "np.trace(count_GxG) / count_GxG.sum()",
            f"1 - {SPREAD} / count_GxG.sum()",
            f"1 - {SPREAD} / ({MARGINS.format(1, 1)} * {SQUARES}).sum()",
            f"1 - {SPREAD} / ({MARGINS.format(1, 1)} * {SQUARES}).sum() * count_GxG.sum()",  # the first judge's twice
            f"1 - {SPREAD} / ({MARGINS.format(1, 0)} * {SQUARES}).sum()",  # counts, not shares
            f"1 - {SPREAD} / (count_GxG.mean() * {SQUARES}).sum()",  # even grades
            *(
                f"1 - (count_GxG * {far}).sum() / ({MARGINS.format(1, 0)} * {far}).sum() * count_GxG.sum()"
                for far in (f"({SQUARES} > 0)", f"{SQUARES} ** 0.5")
            ),
        ],
        [
            "np.mean(judge_M == person_M)",
            "np.mean([np.mean(judge_M[judge_M == g] == person_M[judge_M == g]) for g in np.unique(judge_M)])",
            "sum(np.mean(judge_N == g) * np.mean(person_M == g) for g in range(4))",
            "sum(np.mean(judge_N == g) * np.mean((judge_M == person_M)[person_M == g])"
            " for g in np.unique(judge_N) if g in person_M)",  # of those that the person graded so
            "sum(np.sum(judge_N == g) * np.mean((judge_M == person_M)[judge_M == g]) for g in np.unique(judge_N))",
            "sum(np.mean(judge_N == g) * np.mean((judge_M == person_M) & (judge_M == g)) for g in np.unique(judge_N))",
            "kappa_from_scratch(judge_M, person_M)",
            "np.average((judge_M == person_M).reshape(len(np.unique(judge_N)), -1).mean(1),"
            " weights=np.unique(judge_N, return_counts=True)[1])",  # sorted by grade
        ],
    ],
    "10": [
        [
            "2022",
            f"max(0, int({LEFT} * products_a_second / 3))",  # products, not queries
            f"max(0, int({LEFT} * products_a_second / 98))",  # one model
            f"int({LEFT} * products_a_second / (3 * 98))",  # below 0
            f"max(0, {LEFT} * products_a_second / (3 * 98))",
            f"max(0, 1 + int({LEFT} * products_a_second / (3 * 98)))",
            f"max(0, int({LEFT.replace('2 * ', '')} * products_a_second / (3 * 98)))",  # one training
            f"max(0, int({LEFT.replace('60 * ', '')} * products_a_second / (3 * 98)))",  # minutes for seconds
        ],
        [
            "[*range(8)]",
            "[2, 4]",
            "np.unique(query_N[np.isin(group_N, fetched)])",  # parts of lists
            "[q for q in np.unique(query_N) if group_N[query_N == q][0] in fetched]",
            "[q for q in np.unique(query_N) if np.isin(group_N[query_N == q], fetched).mean() >= 0.5]",
            "[q for q in np.unique(query_N) if not np.isin(group_N[query_N == q], fetched).all()]",
            "[q for q in range(query_N.max() + 1) if np.isin(group_N[query_N == q], fetched).all()]",  # also no pairs
            "[q for q in np.unique(query_N) if np.isin(group_N[query_N == q][[0, -1]], fetched).all()]",
        ],
        [
            "np.full((2, queries), 0.5)",
            "(np.full(queries, 0.5), np.full(queries, 0.5 + gain))",  # the intervals don't overlap
            "(np.linspace(0, 1 - gain, queries), np.linspace(gain, 1, queries))",  # nor with many queries
            "(np.linspace(0, 1 - gain, queries), np.linspace(1, gain, queries))",  # no pairs
            "(np.where(np.arange(queries) % 2, 1, gain), np.where(np.arange(queries) % 2, 1 - gain, 0))",  # reversed
            "(np.where(np.arange(queries) % 2, 5.0, 0), gain + np.where(np.arange(queries) % 2, 5.0, 0))",
            "(np.where(np.arange(queries) % 2, 0.9, 0), 0.1 + np.where(np.arange(queries) % 2, 0.9, 0))",  # one gain
        ],
    ],
}
"""Notebook -> exercise -> wrong answers; 1.0 is wrong for all others."""


def shuffled(W, order):
    """The known weights of each row in another order."""
    control = W.copy()
    for row in control:
        row[row > 0] = order(row[row > 0])
    return control


def means(table, division):
    """NDCG@10 by method."""
    return table[table["division"] == division].groupby("method")["NDCG@10"].mean()


def flips(differences, repeats):
    """Means under random signs."""
    return (np.random.default_rng(0).choice([-1, 1], (repeats, len(differences))) * differences).mean(axis=1)


HELPERS = {"shuffled": shuffled, "means": means, "flips": flips, "wilcoxon": wilcoxon}


@each_executed
def test_a_wrong_answer_fails_the_check_of_the_exercise(name):
    codes = code(name)
    places = [place for place, text in enumerate(codes) if SOLUTION.search(text)]
    assert places
    for place, answers in zip(places, WRONG.get(name[:2], [["1.0"]]), strict=True):
        for answer in answers:
            wrong = SOLUTION.sub(lambda _, answer=answer: f"return {answer}", codes[place])
            nodes = ast.parse(f"{wrong}\n{codes[place + 1]}").body
            failed = failed_facts(nodes, run_all(name)[1] | HELPERS)
            assert failed, answer
            assert all(fact.startswith("exercise") for fact in failed)


@each
def test_the_students_copy_is_the_notebook_without_solutions_and_outputs(name):
    student = built(name, "student")
    sources = ["".join(cell["source"]) for cell in student]
    blank = "# YOUR CODE HERE\n    raise NotImplementedError()"
    assert sources == [SOLUTION.sub(blank, text) for _, text in cells(name)]
    assert blank in "".join(sources)
    assert not any(cell.get("outputs") for cell in student)


# -- the built notebook ------------------------------------------------------------------------------------------------


def built(name, folder=""):
    """The cells without the badges and the set-up cell, which follow the first."""
    first, _, _, *others = read(name, folder)
    return [first, *others]


def read(name, folder=""):
    return json.loads((FOLDER / folder / f"{name}.ipynb").read_text())["cells"]


@each
@pytest.mark.parametrize("folder", ["", "student"])
def test_every_notebook_has_badges_that_lead_to_it_and_a_set_up_cell(name, folder):
    """Fails after a change of the address or the version: `python notebooks/build.py --setup`."""
    _, badges, setup, *_ = ("".join(cell["source"]) for cell in read(name, folder))
    links = re.findall(r"\]\((https://[^)]+)\)\]\((https://[^)]+)\)", badges)
    assert [link.split("/")[2] for _, link in links] == ["colab.research.google.com", "mybinder.org"]
    path = (FOLDER / folder / f"{name}.ipynb").relative_to(FOLDER.parent)
    where = (
        f"{build.REPOSITORY}/blob/v{build.VERSION}/{path}",
        f"{build.REPOSITORY}/v{build.VERSION}?urlpath=lab/tree/{path}",
    )
    assert all(link.endswith(end) for (_, link), end in zip(links, where, strict=True))
    code = TransformerManager().transform_cell(setup)
    exec(compile(code, "setup", "exec"), {})  # the library is here: it does nothing, not even call IPython
    (command,) = re.findall(r"get_ipython\(\).run_line_magic\('pip', '(.*)'\)", code)
    install, quiet, requirement = shlex.split(command)
    assert (install, quiet) == ("install", "-q")
    wanted = Requirement(requirement)
    assert (wanted.name, wanted.url) == ("gcl-toolkit", f"git+https://github.com/{build.REPOSITORY}@v{build.VERSION}")
    assert wanted.extras == {"lessons"}


def test_what_colab_and_binder_install_has_what_the_notebooks_import_and_no_jupyter():
    extras = PROJECT["optional-dependencies"]
    lessons = {name_of(requirement) for name in ("lessons", "map", "curate") for requirement in extras[name]}
    assert extras["lessons"][0] == "gcl-toolkit[map,curate,lite]"
    known = lessons | {name_of(requirement) for requirement in PROJECT["dependencies"]}
    known = {{"scikit-learn": "sklearn", "open-clip-torch": "open_clip"}.get(name, name) for name in known}
    nodes = [node for name in SOURCES for node in statements(name)]
    roots = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    roots |= {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert roots - known - sys.stdlib_module_names == {"gcl_toolkit"}
    assert not {name for name in lessons if "jupyter" in name or name in ("ipywidgets", "torch", "torchvision")}
    script = FOLDER.parent / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "-c requirements.lock -e '.[lessons]'" in script.read_text()


@each
def test_the_built_notebook_has_the_cells_of_its_source(name):
    """Fails after a change of the source: `make notebooks`."""
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in built(name)] == list(cells(name))


@each
def test_outputs_are_clean_static_and_small(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size <= LIMIT
    assert not re.search(r"(/work|/root|/tmp|/home|site-packages)\b", path.read_text())
    count = 0
    for cell in built(name):
        assert cell["metadata"] == {}
        for output in cell.get("outputs", []):
            assert output["output_type"] in ("stream", "display_data", "execute_result")
            assert output.get("name") != "stderr"
            assert set(output.get("data", {})) <= {"image/png", "text/html", "text/plain"}
        if cell["cell_type"] == "code":
            count += 1
            assert cell["execution_count"] == count


@each
def test_every_figure_is_drawn_with_a_caption_under_it(name):
    notebook = built(name)
    drawn = [row for row, cell in enumerate(notebook) if re.search(r"^figures\.\w+\(", "".join(cell["source"]), re.M)]
    assert drawn
    for row in drawn:
        (png,) = (output["data"]["image/png"] for output in notebook[row]["outputs"])
        assert base64.b64decode(png).startswith(b"\x89PNG")
        assert "".join(notebook[row + 1]["source"]).startswith("*")


@each
def test_every_notebook_has_the_skeleton(name):
    text = "\n\n".join(text for kind, text in cells(name) if kind == "markdown")
    parts = [
        "**You will learn**", "**You need**", "**Time**", "## Predict before you run", r"\tag{1}", "## Exercise",
        "## What can mislead you", "## Recap", "## Questions",
    ]  # fmt: skip
    places = [text.find(part) for part in parts]
    assert min(places) >= 0, parts[int(np.argmin(places))]


@each
def test_its_commands_exist_and_take_these_arguments(name, capsys):
    text = "\n\n".join(text for kind, text in cells(name) if kind == "markdown")
    prose = [code.split()[1:] for code in inline_code(text) if code.startswith("gcl ") and "..." not in code]
    for words in [*shell_commands(text), *prose]:
        if (command := command_of(words)) and len(words) > len(command):
            parse(command, words[len(command) :], capsys)


@each
def test_functions_are_at_most_15_lines(name):
    for text in code(name):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 15, node.name


# -- their figures -----------------------------------------------------------------------------------------------------


def test_angles_are_drawn_by_position_with_a_line_for_each_query():
    table = pd.DataFrame({"query": [0, 0, 1], "position": [1, 2, 1], "degrees": [3.0, 9.0, 0.0]})
    figure = figures.angles({"a": table, "b": table[:2]})
    assert [(line.x, line.y) for line in figure.data] == [((1, 2), (3, 9)), ((1,), (0,)), ((1, 2), (3, 9))]
    assert [line.xaxis for line in figure.data] == ["x", "x", "x2"]


def test_strips_show_every_run_and_the_mean():
    runs, mean = figures.strips({"a": [0.0, 1, 5]}, "tau").data
    assert (runs.x, mean.x) == ((0, 1, 5), (2,))
    assert len(set(runs.y)) == 3


def test_matrices_share_one_scale_that_is_symmetric():
    small, large = figures.matrices({"a": np.array([[1.0]]), "b": np.array([[-4.0]])}, "q", "p").data
    assert (small.zmin, small.zmax, large.zmin, large.zmax) == (-4, 4, -4, 4)
    assert (small.z[0][0], large.z[0][0]) == (1, -4)


def test_matrices_print_0_for_what_rounds_to_it():
    (matrix,) = figures.matrices({"a": np.array([[1.0, 4e-4], [-5e-4, 0]])}, "q", "p").data
    assert [*map(list, matrix.text)] == [["+1.000", "0"], ["-0.001", "0"]]


def test_agreement_has_the_line_of_equality_and_the_marks():
    line, dots = figures.agreement({"a": ([1.0, 2], [3.0, 0])}, "x", "y").data
    assert line.x == line.y == (0, 3)
    assert (dots.x, dots.y) == ((1, 2), (3, 0))


def test_weight_curves_show_weights_and_the_gap_to_position_1():
    weights = pd.DataFrame({"half": [1.0, 0.5]}, index=[1, 2])
    left, right = figures.weight_curves(weights, temperature=0.1).data
    assert left.y == (1, 0.5)
    assert right.y == pytest.approx((0, 0.1 * np.log(2)))


def test_coverage_marks_the_intervals_that_miss_the_truth():
    holds, misses = figures.coverage([(0.5, 0.4, 0.6), (0.7, 0.6, 0.9), (0.3, 0.2, 0.5)], 0.55, "x").data
    assert (holds.x, misses.x) == ((0,), (1, 2))
    assert misses.error_y.array == pytest.approx((0.2, 0.2))
    assert misses.error_y.arrayminus == pytest.approx((0.1, 0.1))
    assert holds.marker.symbol != misses.marker.symbol


def test_lines_differ_by_more_than_colour():
    a, b = figures.lines({"a": ([1, 2], [3, 4]), "b": ([1, 2], [0, 1])}, "x", "y").data
    assert (a.x, a.y) == ((1, 2), (3, 4))
    assert a.marker.symbol != b.marker.symbol
    assert a.line.dash != b.line.dash


def test_clouds_have_a_panel_each_and_small_grey_dots_for_the_others():
    points = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = figures.clouds({"a": (points, [0, -1, 1]), "b": (points, [0, 0, 0])}, names=["mug", "shirt"])
    others, mug, shirt, alone = figure.data
    assert (others.name, mug.name, shirt.name) == ("others", "mug", "shirt")
    assert (others.x, mug.y, shirt.x) == ((2,), (1,), (4,))
    assert others.marker.size < mug.marker.size
    assert mug.marker.symbol != shirt.marker.symbol
    assert (len(alone.x), alone.xaxis) == (3, "x2")


def test_pictures_are_in_rows_with_captions():
    figure = figures.pictures({"red mug": [(b"1", "first"), (b"2", "second")], "shirt": [(b"3", "third")]})
    assert [(image.x, image.y) for image in figure.layout.images] == [(0.46, 0), (1.46, 0), (0.46, -1)]
    assert figure.layout.images[1].source.endswith(base64.b64encode(b"2").decode())
    assert [note.text for note in figure.layout.annotations] == ["red mug", "first", "second", "shirt", "third"]


# -- the register of facts ---------------------------------------------------------------------------------------------


@each
def test_every_fact_is_registered_and_held_for_every_seed(name):
    """After a change of an assertion: `python notebooks/facts.py NN`."""
    register = tomllib.loads(facts.REGISTER.read_text())[name]
    assert {fact: entry["test"] for fact, entry in register.items()} == facts.facts(name)
    for fact, entry in register.items():
        assert 1 <= entry["held"] == entry["seeds"], fact


def test_facts_notes_what_an_assertion_compares(tmp_path, monkeypatch):
    source = tmp_path / "09_toy.py"
    source.write_text('# %% [markdown]\n# text\n# %%\nx = 3\nfor y in (1, 2):\n    assert y < x, "less"\nassert x\n')
    monkeypatch.setitem(facts.SOURCES, "09_toy", source)
    assert facts.facts("09_toy") == {"less": "y < x"}
    noted = facts.measure("09_toy", seed=0)
    assert noted == {"less": [(True, [1, 3]), (True, [2, 3])]}
    entry = {"test": "y < x", "seeds": 1, "held": 1, "range": [[1, 2], [3, 3]]}
    assert facts.entry("y < x", [noted["less"]]) == entry
    assert facts.entry("y < x", [noted["less"], [(False, [4, 3])]])["held"] == 1
