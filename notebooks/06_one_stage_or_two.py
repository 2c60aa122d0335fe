# %% [markdown]
# # 6. One stage or two?
#
# > **You will learn** what a second stage can gain at most, why a real one gains less, what it costs in milliseconds, and how
# > to compare one stage with two fairly.
# >
# > **You need** notebook 4.
# >
# > **Time** 35 minutes of reading; the cells run for two minutes on a laptop's CPU.
#
# Most search engines work in two stages. The first is fast and considers every product: BM25 compares words, or a model compares
# vectors of queries and products by their cosine. The second, the **re-ranker**, is slow: it reads the query and a product
# *together*. So it gets only the first stage's best few products, and re-orders them.
#
# A model trained on ranking scores is meant to find *and* order in one stage. Is a second stage still worth its time?

# %%
import os
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from gcl_toolkit import NDCG, Fields, TrainConfig, load
from gcl_toolkit.measure.baselines import BM25, texts
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.studies.rerank import OracleReranker, rerank
from gcl_toolkit.studies.stages import StagesConfig, stages
from gcl_toolkit.studies.study import StudyConfig, run_folder, study
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import load_model
from gcl_toolkit.views import figures

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))
RERANKER_STEPS, TIMED = (40, 20) if MODE == "tiny" else (100, 100)

# %% [markdown]
# ## Predict before you run
#
# There are three first stages: BM25; `clip`, vectors trained on relevant or not; and `graded`, vectors trained on ranking
# scores. Now imagine a **perfect** second stage. It knows the engine's list and orders any products without a mistake. It
# re-orders the ten best products of BM25.
#
# **Compare it with `graded` alone, without a second stage. Which has the higher NDCG@10?**
#
# - (a) BM25 with the perfect second stage: nothing beats perfect;
# - (b) `graded` alone;
# - (c) about the same.
#
# Write your answer down. Then guess at which depth of the perfect stage the answer changes.
#
# ## The first stages
#
# The shop is that of notebook 4, titles only. We test with training queries on products that were not in the training set
# (`novel_document`): the usual case of a shop whose products change.

# %%
READ = Fields(title=1.0)
world = World("shop", load("shop", seed=SEED, products=1500, queries=400, per_query=60, size=8))
data = world.splits["novel_document"]
workplace = tempfile.TemporaryDirectory()  # deleted with the notebook
settings = StudyConfig(
    methods=("bm25", "clip", "graded"),
    train=TrainConfig(steps=100, batch=128, seed=SEED),
    right=READ,
)
for _ in study([world], settings, workplace.name):
    pass
print(data)


# %%
def first_by_vectors(method):
    """The best 500 products (rows of the corpus) of each query."""
    model = load_model(run_folder(Path(workplace.name), "shop", method, 0))
    queries, products = model.embed(data.queries, "left"), model.embed(data.corpus, "right")
    return top_k(queries, products, 500)[1]


words = BM25(texts(data.corpus, READ))
first = {
    "bm25": words.top_k(texts(data.queries, Fields(query=1.0)), 500),
    "clip": first_by_vectors("clip"),
    "graded": first_by_vectors("graded"),
}


def ndcg(products_QxK):
    """NDCG@10 of a ranking, mean over the queries."""
    return measure_ranking(products_QxK, data, [NDCG @ 10])["NDCG@10"].mean()


alone = {name: ndcg(ranked) for name, ranked in first.items()}
print({name: f"{value:.3f}" for name, value in alone.items()})

# %% [markdown]
# ## The ceiling
#
# Let $d_1, d_2, \dots$ be the first stage's ranking and $g$ the true scores. The best that *any* second stage of depth
# $k$ can do is to sort the first $k$ by $g$ and leave the rest:
#
# $$
# \text{ceiling}(k) = \text{NDCG@10}\left( \text{sort}_g(d_1, \dots, d_k), \, d_{k+1}, \, d_{k+2}, \dots \right)
# \tag{1}
# $$
#
# A product that is not among the first $k$ of the first stage is lost to the second stage.


# %%
query_row, product_row, score = data.pairs
true_score = {(q, p): s for q, p, s in zip(query_row, product_row, score, strict=True)}


def perfect_order(ranked_K, query, depth):
    """The first `depth` products of one ranking by their true score, the rest unchanged."""
    gains = np.array([true_score.get((query, product), 0.0) for product in ranked_K[:depth]])
    best_first = np.argsort(-gains, kind="stable")
    return np.concatenate([ranked_K[:depth][best_first], ranked_K[depth:]])


mine = np.stack([perfect_order(row, q, 20) for q, row in enumerate(first["bm25"])])
library = rerank(first["bm25"], 20, OracleReranker(), data)
assert (mine == library).all(), "sorting the first k is the library's oracle"


# %%
def ceiling(ranked, depth):
    """Equation (1), mean over the queries."""
    return ndcg(rerank(ranked, depth, OracleReranker(), data))


DEPTHS = [10, 20, 50, 100, 200, 500]
ceilings = {
    name: [ceiling(ranked, depth) for depth in DEPTHS] for name, ranked in first.items()
}
one_stage = {"graded alone": (DEPTHS, [alone["graded"]] * len(DEPTHS))}
figures.lines(
    {name: (DEPTHS, values) for name, values in ceilings.items()} | one_stage,
    "depth: products that a perfect second stage re-orders",
    "NDCG@10",
).update_xaxes(type="log", tickvals=DEPTHS)

# %% [markdown]
# *Each line is a first stage with a perfect second stage. The flat line is `graded` without a second stage. A perfect stage over
# BM25's first ten stays far below it; it needs between 20 and 50 products to exceed it.*

# %%
print(pd.DataFrame(ceilings, index=DEPTHS).round(3))
assert all((np.diff(values) >= -1e-9).all() for values in ceilings.values()), (
    "looking deeper never lowers a ceiling"
)
assert ceilings["bm25"][0] < alone["graded"], (
    "a perfect second stage over BM25's first ten stays below one good stage"
)
assert ceilings["graded"][1] - ceilings["bm25"][1] > 0.1, (
    "the better first stage has the higher ceiling"
)

# %% [markdown]
# <details><summary>Your prediction: (a), (b) or (c)?</summary>
#
# (b). In this shop and in 20 others, a perfect order of BM25's first ten reaches .40 to .47, and `graded` alone .62 to .68. The
# answer changes between depth 20 and 50.
#
# </details>
#
# A first stage is not only a filter. If you want two stages, still train the first one well.
#
# Compare `clip` with `graded`, too. In five shops `graded` has the higher ceiling up to depth 200, but its lead shrinks: .04 to
# .06 at depth 10, .01 or less at 100, and none at 500, where `clip` can be ahead (here by .001). A ceiling asks only *whether* a
# good product is among the first $k$. The order, which `graded` has learnt too, a perfect second stage does again. Probably, `graded`
# pushes products with low scores away from their query, so that a few end up very far down: it has 99.3 to 99.8% of
# the listed products among its first 500, `clip` 99.8 to 99.9%. **Choose a first stage by its ceiling at your depth, not by its
# own NDCG@10.**
#
# ## A real second stage
#
# A real second stage does not know the scores. The library's small re-ranker is trained on the same pairs as the first stages,
# with their scores. It has layers that see query and product together, so it can learn what a cosine cannot. What depends on
# the product alone is computed in advance, both for the re-ranker and for the vectors. `stages` trains it, puts it behind each
# first stage at several depths, and measures quality and time.
#
# The numbers above are means over all 320 queries of the split, dev and test. **Those of `stages` are of the test queries only**, about
# half of them, so `graded` alone has another value here. The dev queries choose the systems that its last paragraph names.

# %%
result = stages(
    workplace.name,
    [world],
    StagesConfig(
        split="novel_document",
        depths=(10, 50, 500),
        steps=RERANKER_STEPS,
        timed=TIMED,
    ),
)
systems = pd.DataFrame(result.systems, index=[str(system) for system in result.systems])


def with_depths(series):
    """Write the depth beside each mark of a figure's series."""
    depths = [text.partition("@ ")[2] for text in series.text]
    places = ["top center", "top left", "bottom left", "bottom right"]
    series.update(mode="lines+markers+text", texttemplate=depths, textposition=places)


figures.quality_against_latency(
    [system for system in result.systems if system.first != "clip"], result.metric
).for_each_trace(with_depths, {"mode": "lines+markers"}).update_xaxes(type="linear")

# %% [markdown]
# *Large marks: a first stage alone. Small marks, joined to it: with the trained re-ranker over the first 10, 50 and 500
# products. Dotted: the ceiling at the same depths. Better is up, cheaper is left. The distance from a line to its ceiling is
# what the re-ranker does not know.*

# %%
quality = systems["mean"]
# NDCG@10 with its 95% interval, and the median time of a query in milliseconds (50th percentile)
print(systems[systems["second"] != "oracle"][["mean", "low", "high", "p50_ms"]].round(3))
print("\n" + textwrap.fill(result.finding, 96))
lift = quality["bm25 + re-ranker @ 50"] - quality["bm25"]
unknown = quality["graded + oracle @ 50"] - quality["graded + re-ranker @ 50"]
best = quality[systems["second"] == "re-ranker"].max() - quality["graded"]
tie = quality["bm25 + re-ranker @ 500"] - quality["graded"]
deeper = {
    name: quality[f"graded + {name} @ 500"] - quality[f"graded + {name} @ 10"]
    for name in ("oracle", "re-ranker")
}
assert lift > 0.05, "a trained second stage lifts a weak first stage"
assert best < 0.05, "no second stage gets far above one good stage"
assert abs(tie) < 0.06, "a re-ranker of two thirds of the shop needs no good first stage"
assert unknown > 0.15, "a real second stage is far from its ceiling"
assert deeper["re-ranker"] < deeper["oracle"] / 4, (
    "deeper lifts the ceiling, not the real curve"
)

# %% [markdown]
# Note four things:
#
# - Behind BM25 the re-ranker is worth its milliseconds, since BM25 only knows shared words: +.22 to +.26 at depth 50.
# - **BM25 with the re-ranker over 500 products ties `graded` alone**: from -.003 to +.012 in five shops, each interval contains
#   0, in less time. It is hardly a second stage any more: it scores two thirds of this small shop, so it is a first stage that
#   reads query and product together. In a shop of a million products the first 500 of BM25 are a small part, with a ceiling of
#   their own.
# - Behind `graded` it gains .00 to .02 in five shops, with most intervals containing 0. Both learnt from the same pairs; where the
#   vectors are uncertain, so is the re-ranker.
# - **Deeper is not better there.** From depth 10 to 500 the ceiling rises by a quarter of the scale, while the real curve hardly
#   moves. Every additional candidate is another chance to put a wrong product on top.
#
# So choose the depth like any other setting, on dev queries.
#
# ## What it costs
#
# The time of a query is that of the first stage, plus a fixed part for reading the query again, plus a part for each product
# that is re-ordered:
#
# $$
# t(k) = t_{\text{first}} + t_{\text{query}} + k \, t_{\text{product}}
# \tag{2}
# $$

# %%
chain = systems[(systems["first"] == "graded") & (systems["second"] == "re-ranker")]
per_product, fixed = np.polyfit(chain["depth"], chain["p50_ms"], 1)
ratio = chain["p50_ms"].iloc[-1] / systems.loc["graded", "p50_ms"]
print(f"fixed {fixed:.2f} ms, {1000 * per_product:.2f} microseconds a product")
print(f"at depth 500: {ratio:.1f} times the time of one stage")
assert ratio > 1.3, "a second stage costs time with every query"

# %% [markdown]
# These are processor milliseconds of one thread; `p50_ms` is the median over many queries. The systems are timed in turns, so that a busy
# moment of the machine affects all of them. Read the first term of `graded` with care: most of it is the fixed cost of a call of
# `embed`, which is made for batches. And the small re-ranker is unusually cheap. A cross-encoder with a transformer reads every
# pair from scratch and takes *milliseconds per product*: (2) is the same, but its last term is a thousand times larger.
#
# ## Exercises
#
# **1.** A query may take `budget` milliseconds. Let `fixed` be $t_{first} + t_{query}$. Solve (2) for the depth: **how many products can the second stage re-order?**


# %%
def deepest(budget, fixed, per_product):
    """The largest integer k >= 0 with fixed + k * per_product <= budget, 0 if there is none;
    all in milliseconds."""
    ### BEGIN SOLUTION
    return max(0, int((budget - fixed) / per_product))
    ### END SOLUTION


# %%
for budget, fixed, per_product in (
    (2.5, 1.125, 0.00390625),
    (10.0, 1.0, 0.0078125),
    (50.0, 1.0, 4.0),
    (49.0, 1.0, 4.0),
    (1.0, 1.0, 0.5),
    (0.5, 9.0, 4.0),
    (4.0, 1.0, 4.0),
):
    k = deepest(budget, fixed, per_product)
    print(f"{budget} ms, {fixed} fixed, {1000 * per_product:g} microseconds a product: {k}")
    assert k >= 0 and float(k).is_integer(), "exercise: an integer >= 0"  # noqa: PT018
    assert k == 0 or fixed + k * per_product <= budget, "exercise: within the budget"
    assert fixed + (k + 1) * per_product > budget, "exercise: the largest depth"

# %% [markdown]
# **2.** The figure says that BM25 needs a perfect second stage of 20 to 50 products to exceed `graded` alone. **Exactly how many
# does a first stage need** to reach a given NDCG@10? Use `ceiling`. It never falls as the depth grows, so you need not try every
# depth.


# %%
def needed_depth(ranked, target):
    """The smallest k from 1 to 500 with ceiling(ranked, k) >= target; ceiling(ranked, 500)
    reaches it."""
    ### BEGIN SOLUTION
    low, high = 1, 500
    while low < high:
        middle = (low + high) // 2
        if ceiling(ranked, middle) >= target:
            high = middle
        else:
            low = middle + 1
    return low
    ### END SOLUTION


# %%
for name, target in (
    ("bm25", alone["graded"]),
    ("bm25", ceilings["bm25"][0]),
    ("bm25", ceilings["bm25"][-1]),
    ("clip", 0.9),
    ("graded", 0.9),
    ("graded", 0.0),
):
    k = needed_depth(first[name], target)
    print(f"{name} reaches {target:.3f} at depth {k}")
    assert k in range(1, 501), "exercise: a depth from 1 to 500"
    assert ceiling(first[name], int(k)) >= target, "exercise: deep enough"
    assert k == 1 or ceiling(first[name], int(k) - 1) < target, (
        "exercise: not deeper than needed"
    )

# %% [markdown]
# **3.** You know two first stages by their NDCG@10, and plan to add a very good second stage. **Show that the one with the higher
# NDCG@10 can be the wrong choice.** There are eleven products or more. Give two rankings: `a` is better alone, but with a perfect second
# stage `b` is better, *at every depth from 2 to 10*.


# %%
def two_first_stages(score_M):
    """Rankings a and b of the M products (row numbers, best first); score_M: their scores, all different, with the largest
    step between the two best."""
    ### BEGIN SOLUTION
    a, b = np.argsort(-score_M), np.argsort(-score_M)
    a[[9, 10]] = a[[10, 9]]  # a small mistake that no depth up to 10 can repair
    b[[0, 1]] = b[[1, 0]]  # a large one that every depth from 2 repairs
    return a, b
    ### END SOLUTION


# %%
def dcg(ranked_M, score_M, depth=1):
    """DCG@10, with a perfect order of the first `depth`."""
    gains = score_M[ranked_M]
    gains[:depth] = -np.sort(-gains[:depth])
    return (gains[:10] / np.log2(np.arange(2, 12))).sum()


rng = np.random.default_rng(SEED)
close = np.append(np.linspace(0, 0.1, 14), 0.2)  # 15 products, only the best stands out
for scores in (np.arange(1.0, 13), 2.0 ** np.arange(11), np.arange(1.0, 14) ** 2, close):
    score_M = rng.permutation(scores)
    both = [np.asarray(ranked) for ranked in two_first_stages(score_M.copy())]
    for ranked in both:
        assert sorted(ranked.tolist()) == list(range(len(scores))), (
            "exercise: every product once"
        )
    a, b = ([dcg(ranked, score_M, depth) for depth in range(1, 11)] for ranked in both)
    assert a[0] > b[0] + 1e-9, "exercise: a is better alone"
    assert np.subtract(b, a)[1:].min() > 1e-9, "exercise: b is better behind a second stage"
print("right")

# %% [markdown]
# ## What can mislead you
#
# **An oracle is not a system.** A ceiling is what is possible with perfect knowledge of the answers. Published "upper bounds" of
# re-ranking are often far above anything that can be trained.
#
# **A weak first stage flatters.** "Re-ranking gives +50%" is true over BM25, because that first stage is weak. Report the gain
# over the best single stage that you could have used.
#
# **This re-ranker is small and was trained briefly.** A large pretrained one knows more about language than any model here and
# may well beat one stage on your data. The way to find out stays the same: the same training pairs, the same queries, the
# ceiling beside it, and milliseconds on the axis.
#
# **Milliseconds depend on the machine.** On a GPU, in batches, or with a corpus of ten million, the first term of (2) changes,
# and the winner may change too. Measure on the machine that serves; trust ratios more than digits.
#
# **Was it trained on the first stage's mistakes?** A re-ranker that is trained on known pairs and random others has never seen
# the near misses of your first stage. Training on them is the usual next step.
#
# ## Recap
#
# - A second stage can only order what the first stage returns: (1) is the ceiling.
# - One well-trained stage can beat a perfect second stage behind a weak first.
# - A real second stage is far below its ceiling. Behind a good first stage, more depth does not bring it closer.
# - Compare at equal milliseconds: (2). Choose the depth on dev queries.
#
# ## Questions
#
# 1. A first stage finds 60% of the good products among its first 100. What does that say about the ceiling at depth 100?
# 2. Why can the real curve fall as the depth grows, while the ceiling cannot?
# 3. Your re-ranker is perfect on training queries and useless on new ones. Which split would have shown it?
# 4. The corpus grows from 750 to 7.5 million products. Which terms of (2) change?
