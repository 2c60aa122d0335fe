# %% [markdown]
# # 7. Learning from clicks
#
# > **You will learn** why clicks are not scores, how to find out which positions people look at, how to turn a log of
# > clicks into scores, and when not to.
# >
# > **You need** notebooks 1 and 4, and the idea of a maximum-likelihood estimate.
# >
# > **Time** 35 minutes of reading; the cells run for a minute on a laptop's CPU.
#
# So far somebody gave us a ranked list with scores. A shop seldom has one. It has a **log**: what was shown, where, and
# what was clicked. People click what they like, but only what they look at, and they look at what is on top. So a log
# tells of the shop's old ranker at least as much as of its visitors.

# %%
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit import NDCG, Fields, GCLModel, evaluate, figures, load
from gcl_toolkit.errors import DataError
from gcl_toolkit.propensity import harvest
from gcl_toolkit.sources.clicks import agreement, read_clicks
from gcl_toolkit.sources.clicks.log import LogConfig, read_log
from gcl_toolkit.sources.clicks.simulate import Visitors, appeals, simulate
from gcl_toolkit.statistics import paired
from gcl_toolkit.train import TrainConfig, train

MODE = os.environ.get("GCL_MODE", "full")  # tiny: for tests; full: for you
SEED = int(os.environ.get("GCL_SEED", 0))
QUERIES, VISITS = (200, [25, 100, 200]) if MODE == "tiny" else (400, [25, 50, 100, 200, 400])

# %% [markdown]
# ## A log of which the truth is known
#
# To see what a method gets wrong we need the truth beside it, so we make the log. Take the shop of notebook 4. Its own
# ranker is poor: what visitors like counts for a fifth. For the rest it pushes products whose titles have words that *it*
# likes, as shops push brands that pay. Every query is asked many times. From visit to visit the order changes a little,
# as orders do (new stock, experiments, prices), and the first 20 products are shown. A visitor looks at position $k$
# with probability $1 / k$, and clicks what she looks at and likes.

# %%
shop = load("shop", seed=SEED, products=1500, queries=QUERIES, per_query=60, size=8)
data = shop["in_domain"]
poor = Visitors(visits=VISITS[-1], ranker=0.8, taste=1.0, seed=SEED)
workplace = tempfile.TemporaryDirectory()  # goes away with the notebook
log_file = Path(workplace.name) / "log.parquet"
log = simulate(data, poor)
parquet.write_table(log, log_file)
print(f"{log.num_rows:,} rows")
log.to_pandas().head(6)

# %% [markdown]
# The usual way to a score is the **click rate** of a query's product: clicks divided by impressions.
#
# ## Predict before you run
#
# You sort the products of each query by click rate, and compare with what visitors really like. Then you wait, and the
# log becomes ten times, a hundred times as long.
#
# **What becomes of the order by click rate?**
#
# - (a) it becomes the true one: enough data beats any noise;
# - (b) it comes to rest at a wrong one;
# - (c) it becomes the old ranker's.
#
# Write your answer down.
#
# ## Looking and liking
#
# The **position-based model** says that a click takes two things: a look at the position, with probability $\theta_k$,
# the position's **propensity**, and a liking of product $d$ for query $q$, with probability $\gamma_{qd}$:
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
# We know neither. So begin with $\theta = 1$, and apply the one and the other in turn until nothing moves. Only the
# ratios between positions can be known, so $\theta_1$ is set to 1.


# %%
def harvest_from_scratch(cells, rounds=600):
    """Equation (2) in turn. A cell c is a query, a product and a position, with what was shown and clicked there."""
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
found = harvest(cells)
mine = harvest_from_scratch(cells)
print(f"largest difference to the library: {np.abs(mine - found.value_K).max():.0e}")
assert np.abs(mine - found.value_K).max() < 1e-3, "the turns of (2) end where the library does"

# %% [markdown]
# Why does it work at all? Because the order was not always the same. A product that stood at 2 on Monday and at 7 on
# Tuesday is liked alike on both days; if it was clicked three times as often on Monday, position 2 was looked at three
# times as often.
#
# A tempting short cut is the mean click rate of each position. Try it where the ranker is good: there the products on
# top are also liked more.

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
        "looks, in truth": (positions, 1 / positions),
        "click rate of the position": (positions, short_cut_K),
        "harvested": (positions, theta_K),
    },
    "position",
    "relative to position 1",
).update_yaxes(type="log", tickvals=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]).update_xaxes(
    type="log", tickvals=[1, 2, 5, 10, 20]
)

# %% [markdown]
# *Both axes are logarithmic, so 1 / position is a straight line. The click rate falls much faster: it mixes looking
# with liking. The harvested propensities lie on the truth.*

# %%
low_K, high_K = good_clicks.propensities.low_K, good_clicks.propensities.high_K
held = ((low_K <= 1 / positions) & (1 / positions <= high_K))[1:].mean()
print(f"position 10: looks 0.100, click rate {short_cut_K[9]:.3f}, harvested {theta_K[9]:.3f}")
print(f"the 95 % intervals hold the truth at {held:.0%} of the positions")
assert short_cut_K[9] < 0.075, "the click rate of a position mixes looking with liking"
assert abs(theta_K[9] - 0.1) < 0.03, "harvested propensities are near the truth"
assert held > 0.6, "their intervals hold the truth"

# %% [markdown]
# ## From clicks to scores
#
# `read_clicks` does it all: it leaves bots out and repeated looks of one visit, harvests $\theta$, and takes clicks per
# look. Where a product had few looks it does not believe them: it shrinks them towards what is usual for the query. The
# score is the result as a percentage of that of the query's best product. (Not its rank: ranks lie equally far apart,
# also where a few clicks cannot tell two products apart, and the models trained on them were worse.)
#
# How well do both orders agree with the truth, and does a longer log help? Kendall's tau of notebook 1 tells. And for a
# log without end we need not wait: there every product has exactly as many clicks as (1) expects.

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
    | {"click rate, log without end": (VISITS, [limit] * len(VISITS))},
    "visits of each query",
    "Kendall's tau with the true order",
).update_xaxes(type="log", tickvals=VISITS)

# %% [markdown]
# *Each mark is a log of that length. The click rate never gets beyond the flat line, however long the log. Clicks per
# look have no such line: with exact counts (2) gives back the truth.*

# %%
print(pd.DataFrame(tau, index=VISITS).round(3), f"\nclick rate without end: {limit:.3f}")
assert limit < 0.8, "no log is long enough for click rates"
assert tau["clicks per look"][-1] > tau["click rate"][-1] + 0.03, (
    "clicks per look find more of the true order"
)

# %% [markdown]
# The answer was (b). Noise goes away with more data. **Bias stays**, and becomes more certain with every click.
#
# ## Train on it
#
# A better order of the training pairs need not give a better model. Training averages over many pairs, and what is wrong
# with single ones may cancel. It cancels if the ranker's errors are luck. It does not if they have a system, as here: a
# model can see the words that the ranker likes.
#
# So take a second log, equally long, of a ranker that is as bad but errs at random. From each log train three models,
# titles only: on clicks per look, on click rates (also as percentages of the query's best), and on "clicked or not" (the
# strongest binary control of notebook 4). Judge all by the *true* lists of test queries.


# %%
def training_set(table, score):
    """The training split with other pairs and scores."""
    id_of = dict(zip(data.queries["query"].to_pylist(), data.query_ids, strict=True))
    columns = {"query_id": table["query"].map(id_of), "product_id": table["product_id"]}
    pairs = {name: np.asarray(values) for name, values in (columns | {"score": score}).items()}
    return replace(data, qrels=pa.table(pairs))


def learn(pairs, **settings):
    """NDCG@10 of test queries, by split, after training on the pairs."""
    model = GCLModel("small", right=Fields(title=1.0), seed=SEED)
    config = TrainConfig(steps=100, batch=128, seed=SEED, **settings)
    for _ in train(model, pairs, config):
        pass
    tables = {n: evaluate(model, s, [NDCG @ 10], division="test") for n, s in shop.items()}
    return {name: table["NDCG@10"] for name, table in tables.items()}


def learn_three(table):
    """For each way to read a log, what `learn` says."""
    best_rate = table.groupby("query")["rate"].transform("max")
    rates = training_set(table, (100 * table["rate"] / best_rate).clip(lower=1))
    clicked = table[table["interactions"] > 0]
    binary = training_set(clicked, np.full(len(clicked), 100.0))
    return {
        "clicks per look": learn(training_set(table, table["score"])),
        "click rate": learn(rates),
        "clicked or not": learn(binary, loss="matrix", weighting="constant"),
    }


# %%
trained = {
    "a taste": learn_three(logs[VISITS[-1]]),
    "luck": learn_three(read_back(replace(poor, taste=0.0))),
}
for error, by_way in trained.items():
    means = {way: {split: v.mean() for split, v in by.items()} for way, by in by_way.items()}
    print(f"the ranker's error is {error}:\n{pd.DataFrame(means).round(3)}\n")

# %%
gains = {
    (control, error): {s: paired(ways["clicks per look"][s], ways[control][s]) for s in shop}
    for control in ("click rate", "clicked or not")
    for error, ways in trained.items()
}
figures.scores(
    {
        f"{control}; {error}": {s: (d.difference, d.low, d.high) for s, d in by.items()}
        for (control, error), by in gains.items()
    },
    "gain of clicks per look in NDCG@10, true lists",
)

# %% [markdown]
# *Each mark is a paired difference on test queries with its 95 % interval: the same model and steps, other scores; over
# what, and what the ranker's error was.*

# %%
over_rate, over_clicked = gains["click rate", "a taste"], gains["clicked or not", "a taste"]
with_luck = gains["click rate", "luck"]
print(f"over click rates: {over_rate['in_domain']}")
print(f"  the same where the error is luck: {with_luck['in_domain']}")
print(f"over clicked or not: {over_clicked['in_domain']}")
assert over_rate["in_domain"].low > 0, "a taste that goes uncorrected is learnt"
assert over_rate["in_domain"].difference > with_luck["in_domain"].difference - 0.02, (
    "errors that are luck do no more harm"
)
assert over_clicked["in_domain"].low > 0, "scores bring more than clicked or not"

# %% [markdown]
# On queries and products that were trained on, click rates cost little where the ranker's error is luck, and much where it
# has a system: **training forgives noise and learns bias.** (So it was in 19 of 20 shops in tiny mode; in one, both cost alike.)
# Elsewhere one shop has too few test queries to say so; five
# shops do (`docs/BENCHMARKS.md`). How scores are written matters as much: as *ranks*, debiased and raw scores trained about
# equally good models there.
#
# ## Exercise
#
# Suppose that the order is *never* changed: every product of a query always stands at the same position. Then (1)
# cannot be taken apart: for any other propensities there are likings that predict the very same clicks. **Find them.**


# %%
def other_likings(gamma_K, theta_K, other_theta_K):
    """Likings which, with the other propensities, give the same clicks; gamma_K: of the product at each position."""
    ### BEGIN SOLUTION
    return gamma_K * theta_K / other_theta_K
    ### END SOLUTION


# %%
likings, flat = np.array([0.30, 0.25, 0.15, 0.08]), np.array([1.0, 0.9, 0.8, 0.7])
looks = 1 / np.arange(1, 5)
invented = other_likings(likings, looks, flat)
print("1 / k and", likings, "or", flat, "and", np.round(invented, 3))
assert np.allclose(flat * invented, looks * likings), "exercise: the same clicks, another truth"

# %% [markdown]
# Give the library such a log, and it says so instead of guessing:

# %%
parquet.write_table(simulate(data, replace(poor, exploration=0.0, visits=25)), log_file)
try:
    harvest(read_log(log_file, None, LogConfig()).cells)
    refused = ""
except DataError as error:
    refused = str(error)
print(refused)
assert "can't be compared" in refused, "without movement the library does not guess"

# %% [markdown]
# ## What can mislead you
#
# **Taking bias out costs certainty.** A click at position 20 counts as much as 20 clicks at position 1, so one lucky
# click far down can carry a product to the top. Look at the left end of the curves: while the log is short, the biased
# order is the better one. The library shrinks what few looks say, and that helps, but it is no second log.

# %%
few = {name: values[0] for name, values in tau.items()}
print({f"{name}, {VISITS[0]} visits": f"{value:.3f}" for name, value in few.items()})
assert few["click rate"] > few["clicks per look"], "on a short log the biased order is better"

# %% [markdown]
# **Bias can be right.** If the old ranker is good, then what stood on top *is* liked more, and the click rate carries
# that knowledge along. The correction is for rankers that are worse than your data.
#
# **Training on your own clicks goes in circles.** The model's favourites are shown on top, are clicked, and become the
# next model's truth. Clicks per look break the circle only as far as something else was shown now and then.
#
# **People do not read as the model says.** Real visitors stop when they are content, look at pictures before texts, and
# see six products in a row. Equation (1) is a first approximation. If the harvested curve has a jump, look for the page
# break.
#
# **A click is not a purchase.** Cheap, odd and shocking things are clicked. Where the log knows of carts and purchases,
# count them for more (`LogConfig`).
#
# **What was never shown has no score.** It counts as not relevant, whatever it is. No correction of looks finds it.
#
# ## Recap
#
# - A click needs a look and a liking: (1). The click rate mixes them.
# - Products that stood at several positions tell the two apart: (2).
# - More data takes noise away and leaves bias.
# - Training averages out errors that are luck, and learns those that have a system.
# - Without movement in the order there is nothing to find. With few data, the correction costs more than it brings.
# - Judge by held-out truth, not by clicks.
#
# ## Questions
#
# 1. A product has 10 clicks of 100 impressions at position 1, another one 6 of 100 at position 3. Which one is liked
#    more, if visitors look at 1 / k? And if they look at the first three positions alike?
# 2. Why can only ratios of propensities be known?
# 3. You may show one query in twenty in random order. What do you win, and what does it cost the shop?
# 4. The harvested $\theta_2$ is larger than $\theta_1$. Name two reasons that have nothing to do with a mistake in the
#    code.
