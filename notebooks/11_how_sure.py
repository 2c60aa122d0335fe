# %% [markdown]
# # 11. How sure? Intervals, power, many comparisons
#
# > **You will learn** what a 95% interval promises and how to check it, why two models are compared query by query, which
# > gains your queries could not have shown, and what ten comparisons do to a p-value.
# >
# > **You need** notebook 4, mean and variance, and the idea of a 95% interval.
# >
# > **Time** 25 minutes of reading; the cells run for a minute on a laptop's CPU.
#
# Notebook 4 asked on which split, by which metric and over which control a gain was measured. Two questions are left: how
# certain is it, and out of how many comparisons? Take two models of notebook 4: `matrix`, and the control `graded-noscores`.

# %%
import math
import os
from statistics import NormalDist

import numpy as np
import pandas as pd

from gcl_toolkit import Fields, GCLModel, evaluate, load
from gcl_toolkit.measure.statistics import holm, interval, minimal_detectable_effect, paired
from gcl_toolkit.training.train import train
from gcl_toolkit.views import figures

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))  # change it for another shop and other draws
REPEATS = 500 if MODE == "tiny" else 3000
splits = load("shop", seed=SEED, products=1500, queries=400, per_query=60, size=8)


def ndcg(method):
    """NDCG@10 by query in each split, after training with a method on titles."""
    model = GCLModel("small", right=Fields(title=1.0), seed=SEED)
    for _ in train(model, splits["in_domain"], method, steps=100, batch=128, seed=SEED):
        pass
    return {name: evaluate(model, data)["NDCG@10"] for name, data in splits.items()}


with_scores, without = ndcg("matrix"), ndcg("graded-noscores")
a, b = with_scores["zero_shot"], without["zero_shot"]
pilot = (a - b).to_numpy()  # a difference for each query
print(paired(a, b))

# %% [markdown]
# ## Predict before you run
#
# The line above compares the models on 80 new queries. Notebook 4 has +.008 for the same two models and split: the mean of three shops
# and two trainings in each, test queries only. This is the first of these shops, one training, and all 80 queries. Both intervals
# contain 0, so the two do not contradict each other. Now suppose that the scores are truly worth .01 of NDCG@10. You repeat the
# comparison many times, each time with 80 other queries like these. **How often is the difference significant (p < .05)?**
#
# - (a) nearly always;
# - (b) about three times out of four;
# - (c) less than half of the time.
#
# Write your answer down.
#
# ## Question 4: how certain?
#
# With other queries the mean would be different. The **bootstrap** estimates by how much: draw as many queries from your own,
# with replacement, take the mean, and repeat. The middle 95% of these means are the plain *percentile* interval.


# %%
def percentile_interval(values, samples=1000, seed=0):
    """The middle 95 % of the means of resampled queries."""
    drawn = np.random.default_rng(seed).choice(values, (samples, len(values)))
    return np.quantile(drawn.mean(axis=1), [0.025, 0.975])


# %% [markdown]
# What does "95%" promise? If you repeated the measurement many times, with new queries each time, 95% of the intervals
# would contain the true mean. This share is called the **coverage**. It can be measured where the truth is known. Let users
# find their first good product at rank 1, 2, 3, ... with decreasing probability, so that the reciprocal rank has a known mean.
# You have 15 queries.

# %%
STOP, QUERIES = 0.35, 15  # the first good product is at rank r with chance .35 * .65 ** (r - 1)
ranks = np.arange(1, 200)
truth = (STOP * (1 - STOP) ** (ranks - 1) / ranks).sum()


def measure_again(number):
    """A new measurement: both intervals from the same 15 queries."""
    values = 1 / np.random.default_rng([SEED, number]).geometric(STOP, QUERIES)
    return interval(values, samples=1000), percentile_interval(values)


trials = [measure_again(number) for number in range(REPEATS)]
figures.coverage([bca for bca, _ in trials[:60]], truth, "reciprocal rank")

# %% [markdown]
# *Each mark is the mean of 15 queries with its interval; the dashed line is the truth. About 3 of 60 miss it (triangles), and
# nothing about them looks unusual. You would not notice.*

# %%
bca_holds = np.mean([bca.low <= truth <= bca.high for bca, _ in trials])
plain_holds = np.mean([low <= truth <= high for _, (low, high) in trials])
print(f"coverage in {REPEATS} measurements: percentiles {plain_holds:.1%}, BCa {bca_holds:.1%}")
assert abs(bca_holds - 0.95) < 0.035, "95 % of BCa intervals contain the truth"
assert bca_holds - plain_holds > 0.01, "plain percentiles promise too much"

# %% [markdown]
# The library's `interval` is BCa (bias-corrected and accelerated): it draws one query fewer, since means of resamples vary a little
# too little, and shifts the percentiles where the values are skewed. With hundreds of queries both intervals agree.
#
# **Compare on the same queries.** Hard queries are hard for both models. The variance of the difference of two scores is
#
# $$
# \sigma_{a - b}^2 = \sigma_a^2 + \sigma_b^2 - 2 \, \text{cov}(a, b).
# \tag{1}
# $$
#
# With the same queries the covariance is positive, and the interval of the *paired* difference is narrower than two
# separate intervals suggest.

# %%
print("matrix          ", interval(a))
print("graded-noscores ", interval(b))
print("paired          ", interval(pilot))
separate = a.var() + b.var()
assert abs(pilot.var(ddof=1) - (separate - 2 * a.cov(b))) < 1e-9, "equation (1) holds"
assert pilot.std(ddof=1) < 0.6 * separate**0.5, "pairing narrows the interval"

# %% [markdown]
# ## Question 5: what could you not see?
#
# "No significant difference" may mean that there is none, or that you had too few queries. With the standard deviation
# $\sigma$ of the per-query differences in a pilot, the **minimal detectable effect** of $Q$ queries is
#
# $$
# \delta = \left( z_{1 - \alpha / 2} + z_{\text{power}} \right) \frac{\sigma}{\sqrt{Q}}
# \tag{2}
# $$
#
# with $z$ the quantiles of the normal distribution: 1.96 for a two-sided test at $\alpha = .05$, and .84 for a **power** of .8,
# that is, for detecting a true effect 4 times out of 5.


# %%
def detectable(differences, queries, power=0.8, level=0.05):
    """Equation (2) for a number of queries like those of the pilot."""
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return z * np.std(differences, ddof=1) / np.sqrt(queries)


delta = detectable(pilot, len(pilot))
print(
    f"{len(pilot)} zero-shot queries: effects below {delta:.3f} are detected less than 4 times out of 5"
)
assert abs(delta - minimal_detectable_effect(pilot)) < 1e-9, "equation (2) is the library's"

# %% [markdown]
# Is the formula right? Shift the pilot so that its true mean is exactly the effect, draw new sets of queries from it, and
# count how often a test detects it.


# %%
def detected(effect, queries):
    """How often a test with so many queries detects a true effect."""
    shifted = pilot - pilot.mean() + effect
    new = np.random.default_rng(SEED).choice(shifted, (2000, queries))
    z = new.mean(axis=1) / (new.std(axis=1, ddof=1) / np.sqrt(queries))
    return (np.abs(z) > 1.96).mean()


counts = [20, 40, 80, 160, 320, 640]
power = {
    effect: [detected(effect, queries) for queries in counts] for effect in (0.01, 0.02, 0.04)
}
figures.lines(
    {f"true effect {effect}": (counts, shares) for effect, shares in power.items()},
    "queries",
    "share of the tests with p < .05",
)

# %% [markdown]
# *Each line is a true effect. The same effect is missed or detected, depending on the number of queries.*

# %%
at_delta, of_a_hundredth = detected(delta, len(pilot)), detected(0.01, len(pilot))
print(f"an effect of {delta:.3f} is detected in {at_delta:.0%} of the repetitions")
print(f"an effect of 0.010 is detected in {of_a_hundredth:.0%}")
assert abs(at_delta - 0.8) < 0.08, "an effect of this size is detected 4 times out of 5"
assert of_a_hundredth < 0.5, "80 queries mostly miss a gain of .01"

# %% [markdown]
# <details><summary>Your prediction: (a), (b) or (c)?</summary>
#
# (c), in this shop and in 20 others. Most of the time a true gain of .01 looks like no gain. "Not significant" with 80 queries
# excludes only larger effects.
#
# </details>
#
# So report $\delta$ beside every "no significant difference".
#
# ## Out of how many comparisons?
#
# If you compare your model in ten ways (splits, metrics, settings), one of them may be significant by chance. Holm's
# correction multiplies the smallest of $m$ p-values by $m$, the next by $m - 1$, and so on; where a corrected value would be
# smaller than the one before, it takes the one before; nothing exceeds 1.


# %%
def holm_from_scratch(p_values):
    """The corrected p-values, in the order given."""
    corrected, worst = np.empty(len(p_values)), 0.0
    for place, which in enumerate(np.argsort(p_values)):
        worst = max(worst, (len(p_values) - place) * p_values[which])
        corrected[which] = min(1.0, worst)
    return corrected


# ten comparisons without any true difference, repeated 3,000 times
luck = np.random.default_rng(SEED).random((3000, 10))
corrected = np.array([holm_from_scratch(family) for family in luck])
false_alarms = {"not corrected": luck, "corrected (Holm)": corrected}
rates = {name: (p.min(axis=1) < 0.05).mean() for name, p in false_alarms.items()}
print("at least one of ten is 'significant':", {name: f"{r:.0%}" for name, r in rates.items()})
assert np.abs(corrected[0] - holm(luck[0])).max() < 1e-9, "Holm is the library's"
assert rates["not corrected"] > 0.3, "one of ten comparisons is significant by luck"
assert rates["corrected (Holm)"] < 0.07, "Holm keeps the promise of 5 %"

# %%
tests = {split: paired(with_scores[split], without[split]) for split in splits}
table = pd.DataFrame(
    {split: {"gain": d.difference, "p": d.p_value} for split, d in tests.items()}
).T
table.assign(corrected=holm(table["p"])).round(4)

# %% [markdown]
# A gain can be significant before the correction and not after it.
#
# **Looking ten times is ten comparisons, too.** A colleague collects queries, tests after every twenty, and stops as soon as
# p < .05. Without any true difference:


# %%
def peek(looks, experiments, seed):
    """p-values without a true difference: experiments x looks; each look adds 20 queries, drawn
    as one sum."""
    sums = np.random.default_rng(seed).normal(size=(experiments, looks)).cumsum(axis=1)
    z = np.abs(sums) / np.sqrt(np.arange(1, looks + 1))
    return np.vectorize(math.erfc)(z / math.sqrt(2))


stopped = (peek(10, 5000, SEED).min(axis=1) < 0.05).mean()
print(f"ten looks find a 'significant' difference in {stopped:.0%} of the experiments")
assert stopped > 0.15, "who looks often finds something"

# %% [markdown]
# ## Exercises
#
# **1.** You expect a gain of 0.01 in NDCG@10 and want to detect it 4 times out of 5, in a two-sided test at .05 (the function takes `effect` and `power`; the level stays .05). **How many
# queries do you need?** Solve (2) for $Q$; the answer is a whole number.


# %%
def queries_needed(differences, effect, power):
    """The fewest queries like those of the pilot that detect a true effect with this power."""
    ### BEGIN SOLUTION
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)
    return math.ceil((z * np.std(differences, ddof=1) / effect) ** 2)
    ### END SOLUTION


# %%
for effect, strength in ((0.01, 0.8), (0.03, 0.8), (0.01, 0.95)):
    for known in (pilot, pilot[:20]):
        needed = queries_needed(known, effect, strength)
        assert needed in range(2, 10**6), "exercise: a whole number of queries"
        assert detectable(known, needed, strength) <= effect, "exercise: enough queries"
        assert detectable(known, needed - 1, strength) > effect, (
            "exercise: not more than needed"
        )
print(f"for 0.01, four times out of five: {queries_needed(pilot, 0.01, 0.8):,} queries")

# %% [markdown]
# **2.** The p-values above are those of a **randomisation test**. If the two models are equally good, the difference on each query
# could as well have the other sign. So give each difference a random sign, take the mean, and repeat. The p-value is how often
# the mean is at least as far from 0 as the one that was measured, on either side. Write the test.


# %%
def randomisation_p(differences, repeats=10_000):
    """The two-sided p-value of the mean difference."""
    ### BEGIN SOLUTION
    signs = np.random.default_rng(0).choice([-1, 1], (repeats, len(differences)))
    means = (signs * differences).mean(axis=1)
    return np.mean(np.abs(means) >= np.abs(np.mean(differences)) - 1e-12)
    ### END SOLUTION


# %%
by_hand = {(1, 2, 3, 4, 5): 1 / 16, (2, -1, 1): 3 / 4, (-2, -4, -8, -16): 1 / 8, (0, 0): 1.0}
by_hand[1, 9, -2, -3, 2] = 3 / 4
for differences, p in [*by_hand.items(), (tuple(pilot), paired(a, b).p_value)]:
    answer = randomisation_p(np.array(differences, float))
    assert abs(answer - p) < 0.03, "exercise: a two-sided p-value"
print(f"zero-shot: yours {answer:.3f}, library {p:.3f}")

# %% [markdown]
# **3.** You want to look `looks` times at a growing experiment and stop at the first p below a level. **Which level makes a false
# alarm in 5% of the experiments?** Dividing .05 by the number of looks is too strict: the looks share queries, so they
# are not independent. Estimate it with `peek` and at least 10,000 experiments; the check allows false alarms in 4.2 to 5.8%.


# %%
def level_per_look(looks):
    """The level for each look; 5 % of the experiments without a true difference go below it."""
    ### BEGIN SOLUTION
    return np.quantile(peek(looks, 20_000, seed=1).min(axis=1), 0.05)
    ### END SOLUTION


# %%
for looks in (1, 3, 10, 25):
    level = level_per_look(looks)
    alarms = (peek(looks, 20_000, seed=2).min(axis=1) < level).mean()
    print(f"{looks} looks at {level:.4f}: false alarms in {alarms:.1%} of the experiments")
    assert abs(alarms - 0.05) < 0.008, "exercise: false alarms in 5 % of the experiments"

# %% [markdown]
# ## What can mislead you
#
# **An interval covers only what was resampled.** Resampled queries do not account for other training seeds, and neither
# queries nor seeds account for another shop. The library's `paired` also resamples seeds and worlds where a study has
# several, but two or three seeds cannot show how much seeds matter.
#
# **Significant is not large.** With 100,000 queries a gain of .001 is significant. Read the interval, not the p-value.
#
# **Overlapping intervals are not a test.** The intervals of two models can overlap although one is better on almost every
# query. Look at the paired difference.
#
# **A pilot can be lucky.** The standard deviation in (2) comes from the pilot's queries, too. If they are unusually alike, you plan
# too few.
#
# ## Recap
#
# - Coverage is what an interval promises, and it can be measured. With few queries, plain percentiles fall short of it.
# - On the same queries, the difference varies less than either score: (1).
# - Report which effects your queries could not have detected: (2).
# - Correct for the number of comparisons, and count each look at a growing experiment.
#
# ## Questions
#
# 1. You halve the spread of the per-query differences. By how much does the number of queries you need fall?
# 2. Twenty colleagues each try one idea and one finds p = .03. What is the corrected p-value?
# 3. Two models have the intervals [.60, .70] and [.63, .73]. Is the second one better?
# 4. A report says "no significant difference, 30 queries". Which number do you ask for?
