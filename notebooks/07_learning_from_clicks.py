# %% [markdown]
# # 7. Learning from clicks
#
# > **You will learn** why clicks are not scores, how to estimate which positions people look at, how to turn a click log into
# > scores, and when not to.
# >
# > **You need** notebooks 1 and 4, and the idea of a maximum-likelihood estimate.
# >
# > **Time** 35 minutes of reading; the cells run for a minute on a laptop's CPU.
#
# So far we had ranked lists with scores. A shop rarely has them. It has a **log**: what was shown, where, and what was clicked.
# People click what they like, but only if they look at it, and they look mostly at the top. So a log describes the shop's old
# ranker at least as much as its visitors.

# %%
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit import NDCG, Fields, GCLModel, evaluate, load
from gcl_toolkit.data.propensity import harvest
from gcl_toolkit.data.sources.clicks import agreement, read_clicks
from gcl_toolkit.data.sources.clicks.log import LogConfig, read_log
from gcl_toolkit.data.sources.clicks.simulate import Visitors, appeals, simulate
from gcl_toolkit.errors import DataError
from gcl_toolkit.measure.statistics import paired
from gcl_toolkit.training.train import train
from gcl_toolkit.views import figures

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))
QUERIES, VISITS = (200, [25, 100, 200]) if MODE == "tiny" else (400, [25, 50, 100, 200, 400])

# %% [markdown]
# ## A log with known truth
#
# To see what a method gets wrong we need to know the truth, so we simulate the log. Take the shop of notebook 4. Its own ranker is
# poor: only a fifth of its order depends on what visitors like. Otherwise it promotes products whose titles contain words that
# *it* prefers, as shops promote brands that pay. Every query is asked many times. From visit to visit the order changes a little,
# as real orders do (new stock, experiments, prices), and the first 20 products are shown. A visitor looks at position $k$ with
# probability $1 / k$, and clicks a product if she looks at it and likes it.

# %%
shop = load("shop", seed=SEED, products=1500, queries=QUERIES, per_query=60, size=8)
data = shop["in_domain"]
poor = Visitors(visits=VISITS[-1], ranker=0.8, taste=1.0, seed=SEED)
workplace = tempfile.TemporaryDirectory()  # deleted with the notebook
log_file = Path(workplace.name) / "log.parquet"
log = simulate(data, poor)
parquet.write_table(log, log_file)
print(f"{log.num_rows:,} rows")
log.to_pandas().head(6)

# %% [markdown]
# The usual score is the **click rate** of a product for a query: clicks divided by impressions.
#
# ## Predict before you run
#
# You sort the products of each query by click rate, and compare with what visitors really like. Then you wait until the log is
# ten times, a hundred times as long.
#
# **What happens to the order by click rate?**
#
# - (a) it becomes the true order: enough data beats any noise;
# - (b) it converges to a wrong order;
# - (c) it becomes the old ranker's order.
#
# Write your answer down.
#
# ## Looking and liking
#
# In the **position-based model** a click requires two things: a look at the position, with probability $\theta_k$, the
# position's **propensity**, and a liking of product $d$ for query $q$, with probability $\gamma_{qd}$:
#
# $$
# P(\text{click} \mid q, d, k) = \theta_k \, \gamma_{qd}.
# \tag{1}
# $$
#
# Only $\gamma$ is a score. Let $n_{qdk}$ count how often the product was shown at position $k$, and $c_{qdk}$ its
# clicks there. If we knew $\theta$, the best estimate of $\gamma$ would be clicks per *look*; and if we knew $\gamma$,
# that of $\theta$ would be clicks per *liking*:
#
# $$
# \gamma_{qd} = \frac{\sum_k c_{qdk}}{\sum_k n_{qdk} \, \theta_k},
# \qquad
# \theta_k = \frac{\sum_{q,d} c_{qdk}}{\sum_{q,d} n_{qdk} \, \gamma_{qd}}.
# \tag{2}
# $$
#
# We know neither. So start with $\theta = 1$ and alternate between the two estimates until they converge. Only the ratios
# between positions can be estimated, so $\theta_1$ is set to 1.


# %%
def harvest_from_scratch(cells, rounds=600):
    """Alternate the two parts of (2). A cell c is a query, a product and a position, with its
    impressions and clicks."""
    place_C, theta_K = cells.position_C - 1, np.ones(cells.position_C.max())
    clicks_K = np.bincount(place_C, cells.clicked_C)
    clicks_P = np.bincount(cells.pair_C, cells.clicked_C)
    for _ in range(rounds):
        looks_P = np.bincount(cells.pair_C, cells.shown_C * theta_K[place_C])
        gamma_P = clicks_P / looks_P
        theta_K = clicks_K / np.bincount(place_C, cells.shown_C * gamma_P[cells.pair_C])
        theta_K /= theta_K[0]
    return theta_K


cells = read_log(log_file, None, LogConfig()).cells
harvested = harvest(cells)
mine = harvest_from_scratch(cells)
print(f"largest difference from the library: {np.abs(mine - harvested.value_K).max():.0e}")
assert np.abs(mine - harvested.value_K).max() < 1e-3, "(2) converges to the library's estimate"

# %% [markdown]
# It works because the order was not always the same. A product that was at position 2 on Monday and at 7 on Tuesday is liked
# equally on both days; if it was clicked three times as often on Monday, position 2 was looked at three times as often.
#
# A tempting short cut is the mean click rate of each position. Try it with a good ranker, where the products on top are also
# liked more.

# %%
good = replace(poor, ranker=0.4, visits=VISITS[-1] // 2)
good_log = simulate(data, good)
parquet.write_table(good_log, log_file)
good_clicks = read_clicks(log_file)
rate_K = good_log.to_pandas().groupby("position")["clicks"].mean().to_numpy()
short_cut_K = rate_K / rate_K[0]
theta_K, positions = good_clicks.propensities.value_K, np.arange(1, 21)
figures.lines(
    {
        "true looks": (positions, 1 / positions),
        "click rate of the position": (positions, short_cut_K),
        "harvested": (positions, theta_K),
    },
    "position",
    "relative to position 1",
).update_yaxes(type="log", tickvals=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]).update_xaxes(
    type="log", tickvals=[1, 2, 5, 10, 20]
)

# %% [markdown]
# *Both axes are logarithmic, so 1 / position is a straight line. The click rate falls much faster: it mixes looking with
# liking. The harvested propensities are close to the truth.*

# %%
low_K, high_K = good_clicks.propensities.low_K, good_clicks.propensities.high_K
covered = ((low_K <= 1 / positions) & (1 / positions <= high_K))[1:].mean()
print(f"position 10: looks 0.100, click rate {short_cut_K[9]:.3f}, harvested {theta_K[9]:.3f}")
print(f"the 95 % intervals contain the truth at {covered:.0%} of the positions")
assert short_cut_K[9] < 0.075, "the click rate of a position mixes looking with liking"
assert abs(theta_K[9] - 0.1) < 0.03, "harvested propensities are near the truth"
assert covered > 0.6, "their intervals contain the truth"

# %% [markdown]
# ## From clicks to scores
#
# `read_clicks` does all of this: it removes bots and repeated looks within a visit, harvests $\theta$, and computes clicks per
# look. Where a product has few looks, it shrinks the estimate towards what is usual for the query. The score is the result as a
# percentage of that of the query's best product. (It is not the rank: ranks are equally spaced even where a few clicks cannot
# separate two products, and models trained on ranks were worse.)
#
# How well do both orders agree with the truth, and does a longer log help? We measure Kendall's tau (notebook 1). We need not
# wait for an infinitely long log: in it every product has exactly as many clicks as (1) predicts.

# %%
liked = pd.DataFrame(
    {
        "query": np.array(data.queries["query"].to_pylist(), object)[data.pairs.query],
        "product_id": data.product_ids[data.pairs.product],
        "score": data.pairs.score,
        "gamma": appeals(data, poor),
    }
)


def read_back(visitors):
    """The scored pairs of a new log."""
    parquet.write_table(simulate(data, visitors), log_file)
    return read_clicks(log_file).table


logs = {visits: read_back(replace(poor, visits=visits)) for visits in VISITS}
tau = {
    "clicks per look": [agreement(table, liked, "relevance") for table in logs.values()],
    "click rate": [agreement(table, liked, "rate") for table in logs.values()],
}
shown = log.to_pandas().merge(liked[["query", "product_id", "gamma"]])
expected = shown.assign(rate=shown["gamma"] / shown["position"])
endless = expected.groupby(["query", "product_id"], as_index=False)["rate"].mean()
limit = agreement(endless.assign(score=0.0), liked, "rate")
figures.lines(
    {name: (VISITS, values) for name, values in tau.items()}
    | {"click rate, infinite log": (VISITS, [limit] * len(VISITS))},
    "visits of each query",
    "Kendall's tau with the true order",
).update_xaxes(type="log", tickvals=VISITS)

# %% [markdown]
# *Each mark is a log of that length. The click rate never exceeds the flat line, however long the log. Clicks per look have no
# such limit: with exact counts (2) recovers the truth.*

# %%
print(pd.DataFrame(tau, index=VISITS).round(3), f"\nclick rate, infinite log: {limit:.3f}")
assert limit < 0.8, "no log is long enough for click rates"
assert tau["clicks per look"][-1] > tau["click rate"][-1] + 0.03, (
    "clicks per look recover more of the true order"
)

# %% [markdown]
# <details><summary>Your prediction: (a), (b) or (c)?</summary>
#
# (b). The click rate of an endless log has a tau of .69 to .73 with the true order, in this shop and in 20 others.
#
# </details>
#
# Noise averages out with more data. **Bias stays**, and every click makes it look more certain.
#
# ## Train on it
#
# A better order of the training pairs need not give a better model. Training averages over many pairs, so errors in single pairs
# may cancel. Random errors of the ranker should cancel; systematic errors, as here, should not: a model can see the words that
# the ranker prefers.
#
# So take a second log of the same length from a ranker that is equally bad but errs at random. From each log train three models,
# titles only: on clicks per look, on click rates (also as percentages of the query's best), and on "clicked or not"
# (`matrix-noscores`, a control of notebook 4). Evaluate all of them on the *true* lists of test queries.


# %%
def training_set(table, score):
    """The training split with other pairs and scores."""
    id_of = dict(zip(data.queries["query"].to_pylist(), data.query_ids, strict=True))
    columns = {"query_id": table["query"].map(id_of), "product_id": table["product_id"]}
    pairs = {name: np.asarray(values) for name, values in (columns | {"score": score}).items()}
    return replace(data, qrels=pa.table(pairs))


def learn(pairs, method="graded"):
    """NDCG@10 of the test queries by split, after training on the pairs."""
    model = GCLModel("small", right=Fields(title=1.0), seed=SEED)
    for _ in train(model, pairs, method, steps=100, batch=128, seed=SEED):
        pass
    tables = {n: evaluate(model, s, [NDCG @ 10], division="test") for n, s in shop.items()}
    return {name: table["NDCG@10"] for name, table in tables.items()}


def learn_three(table):
    """The result of `learn` for three ways to score the same log."""
    best_rate = table.groupby("query")["rate"].transform("max")
    rates = training_set(table, (100 * table["rate"] / best_rate).clip(lower=1))
    clicked = table[table["interactions"] > 0]
    binary = training_set(clicked, np.full(len(clicked), 100.0))
    return {
        "clicks per look": learn(training_set(table, table["score"])),
        "click rate": learn(rates),
        "clicked or not": learn(binary, "matrix-noscores"),
    }


# %%
trained = {
    "systematic": learn_three(logs[VISITS[-1]]),
    "random": learn_three(read_back(replace(poor, taste=0.0))),
}
for error, by_score in trained.items():
    means = {
        name: {split: v.mean() for split, v in by.items()} for name, by in by_score.items()
    }
    print(f"the ranker's errors are {error}:\n{pd.DataFrame(means).round(3)}\n")

# %%
gains = {
    (control, error): {s: paired(by["clicks per look"][s], by[control][s]) for s in shop}
    for control in ("click rate", "clicked or not")
    for error, by in trained.items()
}
figures.scores(
    {
        f"over {control}; {error} errors": {
            s: (d.difference, d.low, d.high) for s, d in by.items()
        }
        for (control, error), by in gains.items()
    },
    "gain of clicks per look in NDCG@10, true lists",
)

# %% [markdown]
# *Each mark is a paired difference on test queries with its 95% interval. Model and steps are the same, the scores differ. The
# legend names the control and the errors of the ranker.*

# %%
over_rate, over_clicked = (
    gains[name, "systematic"] for name in ("click rate", "clicked or not")
)
random_errors = gains["click rate", "random"]
print(f"over click rates: {over_rate['in_domain']}")
print(f"  the same with random errors: {random_errors['in_domain']}")
print(f"over clicked or not: {over_clicked['in_domain']}")
assert over_rate["in_domain"].low > 0, "systematic errors that are not corrected are learnt"
assert over_rate["in_domain"].difference > random_errors["in_domain"].difference - 0.02, (
    "random errors do no more harm"
)
assert over_clicked["in_domain"].low > 0, "scores gain over clicked or not"

# %% [markdown]
# In-domain, click rates cost .04 to .06 in five shops of this size where the ranker's errors are systematic, and .01 to .02 where
# they are random: **in-domain, training forgives noise and learns bias.** (With half the queries and half the visits the two are
# .03 to .06 and -.02 to .01.) On new queries systematic errors cost more, too, in all five
# shops. On new products both kinds cost the same: with either kind of error click rates cost .01 to .02 (novel
# document) and .03 to .04 (zero-shot). In five larger shops with a worse ranker bias costs something on all four splits, and noise
# too, .02 on new queries (`docs/BENCHMARKS.md`). The scale of the scores matters as much: with *ranks*, debiased and raw scores gave
# about equally good models there.
#
# ## Exercises
#
# **1.** A product was shown several times at some positions. **Estimate its liking** by (2), from its own counts and known
# propensities.


# %%
def liking(shown_K, clicked_K, theta_K):
    """Gamma of one product. Impressions and clicks at each position; at least one impression;
    propensities > 0."""
    ### BEGIN SOLUTION
    return clicked_K.sum() / (shown_K * theta_K).sum()
    ### END SOLUTION


# %%
for shown, clicked, theta in (
    ([100, 100], [10, 6], [1, 1 / 3]),
    ([100, 100], [10, 6], [1, 1]),
    ([0, 50], [0, 1], [1, 0.2]),
    ([7, 0, 90], [0, 0, 9], [1, 0.5, 0.1]),
    ([40], [0], [1]),
):
    shown_K, clicked_K, theta_K = np.array(shown), np.array(clicked), np.array(theta)
    mine = liking(shown_K, clicked_K, theta_K)
    print(f"shown {shown}, clicked {clicked}: {np.round(mine, 3)}")
    assert np.shape(mine) == (), "exercise: one number for the product"
    predicted_K = shown_K * theta_K * mine  # as many clicks as there were
    assert np.allclose(predicted_K.sum(), sum(clicked), rtol=0, atol=1e-9), (
        "exercise: clicks per look"
    )

# %% [markdown]
# **2.** Suppose that the order *never* changes: every product of a query is always at the same position. Then the factors of (1)
# cannot be separated: for any other propensities there are other numbers in the place of the likings (some may exceed 1) that predict exactly the
# same clicks. **Find them.**


# %%
def other_likings(gamma_K, theta_K, other_theta_K):
    """Likings that give the same clicks with the other propensities; gamma_K: liking of the
    product at each position."""
    ### BEGIN SOLUTION
    return gamma_K * theta_K / other_theta_K
    ### END SOLUTION


# %%
looks = 1 / np.arange(1, 5)
for likings, true, other in (
    ([0.30, 0.25, 0.15, 0.08], looks, [1.0, 0.9, 0.8, 0.7]),
    ([0.30, 0.25, 0.15, 0.08], looks, looks**2),
    ([0.10, 0.00, 0.20, 0.10], [1.0, 0.9, 0.8, 0.7], looks),
    ([0.60, 0.60, 0.60, 0.60], [1.0, 0.9, 0.8, 0.7], looks),
    ([0.50], [1.0], [1.0]),
):
    likings, true, other = np.array(likings), np.array(true), np.array(other)
    invented = np.asarray(other_likings(likings, true, other))
    print(true.round(2), "and", likings, "or", other.round(2), "and", invented.round(3))
    assert invented.shape == likings.shape, "exercise: one liking for each position"
    assert np.allclose(other * invented, true * likings), (
        "exercise: the same clicks, another truth"
    )

# %% [markdown]
# Given such a log, the library reports the problem instead of guessing:

# %%
parquet.write_table(simulate(data, replace(poor, exploration=0.0, visits=25)), log_file)
try:
    harvest(read_log(log_file, None, LogConfig()).cells)
    refused = ""
except DataError as error:
    refused = str(error)
print(refused)
assert "can't be compared" in refused, "without changes of order the library does not guess"

# %% [markdown]
# **3.** Now the order changes, and you want only the ratio $\theta_k / \theta_1$ of two positions, from one formula, without
# alternating. The ratio of the two click rates is wrong: at position 1 there are *other* products. **Give each
# product the same weight at position 1 as at position $k$**, though it was shown there more or less often, and leave out products
# that were shown at only one of them. If the clicks are exactly those that (1) predicts, the result must be exact.


# %%
def look_ratio(shown_Px2, clicked_Px2):
    """theta_k / theta_1. Impressions and clicks of P products of a query at position 1 and at position k; some products have
    no impressions at one of the two, some have no clicks."""
    ### BEGIN SOLUTION
    (top_P, deep_P), (top_clicks_P, deep_clicks_P) = shown_Px2.T, clicked_Px2.T
    return (deep_clicks_P * top_P).sum() / (top_clicks_P * deep_P).sum()
    ### END SOLUTION


# %%
rng = np.random.default_rng(SEED)
for ratio in (0.5, 0.1, 1.5):
    gamma_P = np.append(rng.random(30), 0.0)
    top_P = rng.binomial(200, 0.1 + 0.8 * gamma_P)  # what is liked is shown on top more often
    shown = np.stack([top_P, 200 - top_P], axis=1)
    shown[:5, 0], shown[5:10, 1] = 0, 0
    clicked = shown * gamma_P[:, None] * [0.5, 0.5 * ratio]
    rates_2 = clicked.sum(axis=0) / shown.sum(axis=0)
    mine = look_ratio(shown, clicked)
    print(f"true {ratio}: click rates {rates_2[1] / rates_2[0]:.3f}, yours {np.round(mine, 3)}")
    assert np.allclose(mine, ratio, rtol=0, atol=1e-9), "exercise: the ratio of looks"

# %% [markdown]
# ## What can mislead you
#
# **Removing bias costs certainty.** A click at position 20 counts as much as 20 clicks at position 1, so one lucky click far
# down can lift a product to the top. Look at the left end of the curves: while the log is short, the biased order is better.
# The library shrinks estimates that are based on few looks. That helps, but it does not replace more data.

# %%
few = {name: values[0] for name, values in tau.items()}
print({f"{name}, {VISITS[0]} visits": f"{value:.3f}" for name, value in few.items()})
assert few["click rate"] > few["clicks per look"], "on a short log the biased order is better"

# %% [markdown]
# **Bias can be right.** If the old ranker is good, the products on top *are* liked more, and the click rate contains that
# knowledge. The correction is for rankers that are worse than your data.
#
# **Training on your own clicks is circular.** The model's favourites are shown on top, are clicked, and become the next model's
# truth. Clicks per look break the circle only if other products are shown from time to time.
#
# **People do not read as the model assumes.** Real visitors stop when they are satisfied, look at pictures before texts, and see
# six products in a row. Equation (1) is a first approximation. If the harvested curve has a jump, look for the page break.
#
# **A click is not a purchase.** Cheap, odd and shocking things are clicked. If the log contains carts and purchases, give them
# more weight (`LogConfig`).
#
# **A product that was never shown has no score.** It counts as not relevant, whatever it is. No correction of looks changes that.
#
# ## Recap
#
# - A click needs a look and a liking: (1). The click rate mixes them.
# - Products that were shown at several positions separate the two: (2).
# - More data removes noise and leaves bias.
# - In-domain, training averages out most random errors and learns systematic ones. Elsewhere, measure it.
# - If the order never changes, propensities cannot be estimated. With little data, the correction costs more than it gains.
# - Evaluate on held-out truth, not on clicks.
#
# ## Questions
#
# 1. A product has 10 clicks of 100 impressions at position 1, another one 6 of 100 at position 3. Which one is liked
#    more, if visitors look at 1 / k? And if they look at each of the first three positions equally often?
# 2. Why can only ratios of propensities be known?
# 3. You may show one query in twenty in random order. What do you gain, and what does it cost the shop?
# 4. The harvested $\theta_2$ is larger than $\theta_1$. Name two reasons that have nothing to do with a mistake in the
#    code.
