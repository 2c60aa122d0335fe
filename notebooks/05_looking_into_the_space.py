# %% [markdown]
# # 5. Looking into the space without being fooled
#
# > **You will learn** to test a map of embeddings before you believe it: against noise, against chance, and against the
# > space that it was made from. You will also learn why queries and pictures lie apart, and why that does no harm.
# >
# > **You need** notebook 1, and the idea of k-means clustering.
# >
# > **Time** 35 minutes of reading; the cells run for a minute on a laptop's CPU. Needs `pip install 'gcl-toolkit[map]'`.
#
# Embeddings have 128 dimensions, a screen has two. UMAP places points on a plane so that near neighbours stay near, as far as
# possible. The pictures are beautiful, and people see structure in them. Some of this structure is real.

# %%
import itertools
import os
import warnings

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from gcl_toolkit import Fields, GCLModel, load
from gcl_toolkit.data.pictures import read
from gcl_toolkit.training.train import train
from gcl_toolkit.views import figures
from gcl_toolkit.views.space import centred, kept

with warnings.catch_warnings(action="ignore"):  # about optional packages
    from umap import UMAP

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))
POINTS, PRODUCTS, STEPS = (400, 450, 100) if MODE == "tiny" else (600, 1200, 150)


def on_a_plane(vectors_NxD):
    """UMAP with its usual settings."""
    settings = {"n_neighbors": 15, "min_dist": 0.1, "metric": "cosine", "n_jobs": 1}
    with warnings.catch_warnings(action="ignore"):
        return UMAP(**settings, random_state=SEED).fit_transform(vectors_NxD)


# %% [markdown]
# ## Predict before you run
#
# Take points with random coordinates in 64 dimensions. They have no structure: all distances are about the same. Make a UMAP
# map of them, and let k-means divide the map into five clusters.
#
# The **silhouette** measures how good clusters are. For a point, let $a$ be the mean distance to its own cluster and $b$ the
# mean distance to the nearest other cluster; the silhouette is the mean over all points of
#
# $$
# \frac{b - a}{\max(a, b)}
# \tag{1}
# $$
#
# It is 1 for perfect clusters and 0 for none. **What will it be on the map of noise?**
#
# - (a) about 0: there are no clusters;
# - (b) about 0.1: a little, by chance;
# - (c) above 0.3: what many papers would call "clear structure".
#
# ## A map of noise

# %%
rng = np.random.default_rng(SEED)
noise = rng.normal(size=(POINTS, 64))
noise /= np.linalg.norm(noise, axis=1, keepdims=True)
noise_map = on_a_plane(noise)
square = rng.random((POINTS, 2))  # random points in a square: not a map of anything


def five_clusters(points):
    return KMeans(5, n_init=3, random_state=0).fit_predict(points)


labels = five_clusters(noise_map)
figures.clouds(
    {"a map of noise": (noise_map, labels), "random points": (square, five_clusters(square))}
)

# %% [markdown]
# *Each mark is a point; its colour and shape are the cluster that k-means assigned it to. Left, the map of noise; right, random
# points in a square. Both are divided like slices of a cake.*

# %%
silhouettes = {
    "on the map": silhouette_score(noise_map, labels),
    "the same clusters in the space": silhouette_score(noise, labels),
    "random points in a square": silhouette_score(square, five_clusters(square)),
}
print({name: f"{value:.2f}" for name, value in silhouettes.items()})
assert silhouettes["on the map"] > 0.3, "a map of noise shows clusters"
assert silhouettes["the same clusters in the space"] < 0.05, "in the space there are none"
assert silhouettes["random points in a square"] > 0.3, (
    "any points on a plane have clusters that good"
)

# %% [markdown]
# <details><summary>Your prediction: (a), (b) or (c)?</summary>
#
# (c). The last number explains it: if *any* set of points on a plane is divided into five pieces, the silhouette is about 0.35,
# because pieces of a plane are compact. The number describes the plane.
#
# </details>
#
# **Measure in the space what you claim about the space.**
#
# ## What a map keeps
#
# A better question is: of the $k$ nearest neighbours of a point in the space, how many are among its $k$ nearest on the map?
# With $\mathcal{N}_k(i)$ for the two sets of neighbours,
#
# $$
# \text{kept} = \frac{1}{N} \sum_{i=1}^{N} \frac{\left| \mathcal{N}_k^{\text{space}}(i) \cap \mathcal{N}_k^{\text{map}}(i) \right|}{k}
# \tag{2}
# $$


# %%
def kept_from_scratch(space_NxD, map_Nx2, k=10):
    """Equation (2); neighbours in the space by cosine, on the map by distance."""
    shared = []
    for i in range(len(space_NxD)):
        cosine_N = space_NxD @ space_NxD[i]
        square_N = ((map_Nx2 - map_Nx2[i]) ** 2).sum(axis=1)
        cosine_N[i], square_N[i] = -np.inf, np.inf  # a point is not its own neighbour
        in_space, on_map = np.argsort(-cosine_N)[:k], np.argsort(square_N)[:k]
        shared.append(len(set(in_space) & set(on_map)) / k)
    return np.mean(shared)


def kept_by_library(space_NxD, map_Nx2):
    rows = np.arange(len(space_NxD))
    return kept(space_NxD, map_Nx2, rows, space_NxD, map_Nx2, own=True)


mine, library = kept_from_scratch(noise, noise_map), kept_by_library(noise, noise_map)
print(f"noise: from scratch {mine:.3f}, library {library:.3f}")
assert abs(mine - library) < 0.005, "equation (2) is the library's (except for ties)"

# %% [markdown]
# Now something with structure: the pictures of a shop, embedded by a model that was trained to find them by query.

# %%
shop = load("shop", seed=SEED, products=PRODUCTS, queries=PRODUCTS // 3, per_query=30)
data = shop["in_domain"]


def learn(steps, learning_rate=None):
    """The queries and the pictures in the space of a model that was trained on them."""
    model = GCLModel("small", right=Fields(image=1.0), seed=SEED)
    settings = {"steps": steps, "batch": 96, "learning_rate": learning_rate, "seed": SEED}
    for _ in train(model, data, "graded", **settings):
        pass
    return model.embed(data.queries, "left"), model.embed(data.corpus, "right")


queries, pictures = learn(STEPS)
picture_map = on_a_plane(pictures)

# %%
chance = kept_by_library(pictures, rng.random((len(pictures), 2)))  # a map of random places
shares = {
    "pictures, trained": kept_by_library(pictures, picture_map),
    "noise": kept_by_library(noise, noise_map),
    "random places": chance,
}
print({name: f"{value:.2f}" for name, value in shares.items()})
assert shares["pictures, trained"] > 5 * chance, "the map keeps far more than chance"
assert shares["pictures, trained"] < 0.95, "and loses some neighbours"

# %% [markdown]
# This map keeps nearly two thirds of the neighbours. So it is meaningful; but when two points are close on it, you do not know
# whether they are close in the space. Even the map of noise keeps more than chance, since UMAP tries to keep neighbours
# whether or not they mean anything. Report the share beside every map that you show. The library's app does.
#
# Does the map show structure that we know to exist? Colour it by category. The model never saw categories, only queries; most
# of them name one.

# %%
categories = np.array(data.corpus["category"].to_pylist())
common = pd.Series(categories).value_counts().index[:5]


def rank_of(names):
    """0 to 4 for the five most common categories, -1 for all others."""
    return np.array([common.get_loc(name) if name in common else -1 for name in names])


figures.clouds(
    {
        "five categories": (picture_map, rank_of(categories)),
        "the same, shuffled": (picture_map, rank_of(rng.permutation(categories))),
    },
    names=list(common),
)

# %% [markdown]
# *Each mark is a picture on the same map; five categories have a colour and shape, the others are grey dots. Left, the true
# categories: some lie together, but the island on the right (it may be elsewhere for you) holds all five. Right, the categories shuffled. If you cannot tell
# the two panels apart, the map shows nothing about categories.*
#
# What is the island on the right, if not a category? Its pictures are those with a dark background. Both are guesses from a map:
# measure them **in the space**, and compare with shuffled values.


# %%
def same_value(vectors, values_N, k=10):
    """The share of the k nearest neighbours (by cosine) that have the value of the point."""
    cosine_NxN = vectors @ vectors.T
    np.fill_diagonal(cosine_NxN, -np.inf)
    near_NxK = np.argsort(-cosine_NxN, axis=1)[:, :k]
    return (values_N[near_NxK] == values_N[:, None]).mean()


corners = [read(image)[0, 0].mean() for image in data.corpus["image"].to_pylist()]
attributes = {
    "category": categories,
    "background": np.where(np.array(corners) < 150, "dark", "light"),
}
same = {name: same_value(pictures, values) for name, values in attributes.items()}
shuffled = {
    name: same_value(pictures, rng.permutation(values)) for name, values in attributes.items()
}
print("neighbours that share it:")
print(pd.DataFrame({"true": same, "shuffled": shuffled}).round(2))
assert same["category"] > 1.5 * shuffled["category"], "neighbours share their category"
assert same["background"] > shuffled["background"] + 0.1, "neighbours share their background"

# %% [markdown]
# Both guesses hold in the space. The map raised the question; it did not answer it. Note the last number: most backgrounds are
# light, so even shuffled neighbours usually share theirs. A share means nothing without the share that chance gives.
#
# ## Two islands: the modality gap
#
# Now put queries and pictures on one map.

# %%
joint_map = on_a_plane(np.concatenate([queries, pictures]))
centred_map = on_a_plane(np.concatenate([centred(queries), centred(pictures)]))
side = np.array([0] * len(queries) + [1] * len(pictures))
figures.clouds(
    {"not centred": (joint_map, side), "each side centred": (centred_map, side)},
    names=["queries", "pictures"],
)

# %% [markdown]
# *Each mark is a query (circle) or a picture (diamond). Left, hardly any query has a picture beside it. Right, the mean of each
# side was subtracted first.*
#
# Is the model broken? Look at the space.


# %%
def apart(queries, pictures):
    """The distance between the means of the two sides."""
    return np.linalg.norm(queries.mean(axis=0) - pictures.mean(axis=0))


before = learn(1, learning_rate=1e-9)  # untrained: the step changes nothing
direction = queries.mean(axis=0) - pictures.mean(axis=0)
middle = (queries.mean(axis=0) + pictures.mean(axis=0)) / 2
right_side = np.concatenate(
    [(queries - middle) @ direction > 0, (pictures - middle) @ direction < 0]
)
to_queries = queries @ queries.T - 2 * np.eye(len(queries))
to_pictures = queries @ pictures.T
own_kind = (to_queries.max(axis=1) > to_pictures.max(axis=1)).mean()
print(
    f"distance of the two means {apart(queries, pictures):.2f}, untrained {apart(*before):.2f}"
)
print(f"points on the right side of one separating plane: {right_side.mean():.1%}")
print(f"queries whose nearest neighbour is another query: {own_kind:.0%}")
assert right_side.mean() > 0.95, "queries and pictures lie in two cones"
assert apart(queries, pictures) > 0.4 * apart(*before), "training does not close the gap"
assert own_kind > 0.8, "a query is nearer to other queries than to any picture"


# %% [markdown]
# Two networks, one for words and one for pictures, start with their outputs in two narrow cones. This is called the **modality
# gap**. The loss only compares a query with *pictures*, and a picture with *queries*. Let $\mu$ be any vector, for example the
# mean of the pictures:
#
# $$
# q \cdot (d - \mu) = q \cdot d - q \cdot \mu
# \tag{3}
# $$
#
# Shifting all pictures by $\mu$ changes all scores of a query by the same number. No ranking changes, so the loss has no reason to
# close the gap. It shrinks in training all the same, here to .6 of the distance and in 20 smaller shops to .55 to .9, but
# one plane still has 99% of the points on their right side.

# %%
moved = queries @ (pictures - pictures.mean(axis=0)).T - queries @ pictures.T
print(
    f"change of a query's scores: the same for all pictures within {np.ptp(moved, axis=1).max():.0e}"
)
assert np.ptp(moved, axis=1).max() < 1e-5, "moving one side changes no ranking"


# %%
def picture_neighbours(points, k=10):
    """The share of pictures among the k points nearest to each query on a map."""
    square_QxN = ((points[: len(queries), None] - points[None]) ** 2).sum(axis=-1)
    square_QxN[np.arange(len(queries)), np.arange(len(queries))] = np.inf
    return side[np.argsort(square_QxN, axis=1)[:, :k]].mean()


mixed = picture_neighbours(joint_map), picture_neighbours(centred_map)
print(f"pictures among the 10 points around a query: {mixed[0]:.2f}; centred {mixed[1]:.2f}")
assert mixed[0] < 0.2, "on a joint map the sides are islands"
assert mixed[1] > mixed[0] + 0.01, "centred, they mix"

# %% [markdown]
# So for a joint map, centre each side first (`space.centred`; the app's map does). For *search*, leave the vectors unchanged:
# `centred` also normalises them to length 1 again, and that changes rankings.
#
# ## Exercises
#
# **1.** A colleague's map keeps 2% of the neighbours: `kept` = .02 with 10 neighbours and 500 points. **What do points in random
# places keep**, on average, for any number of points and neighbours?


# %%
def by_chance(points, k):
    """The average of (2) for `points` points in random places; a point isn't its own neighbour;
    1 <= k < points."""
    ### BEGIN SOLUTION
    return k / (points - 1)
    ### END SOLUTION


# %%
for points, k in ((6, 2), (12, 10), (5, 4), (16, 4), (500, 1)):
    true = set(range(k))  # a random map chooses any k of the others
    chosen = itertools.combinations(range(points - 1), k)
    average = np.mean([len(true & set(near)) for near in chosen]) / k
    assert np.allclose(by_chance(points, k), average, rtol=0, atol=1e-9), (
        "exercise: what chance keeps"
    )
print("right")

# %% [markdown]
# **2.** Is the background, shared by nearly all neighbours, more visible to the model than the category? Shuffled, it is shared
# by most, too. Put attributes on one scale: 1 where all neighbours share the value, and 0 for the share that shuffled values have
# *on average over all shuffles*. Do not shuffle: this average depends on **how often each value occurs**, and on nothing else.


# %%
def above_chance(vectors, values_N, k=10):
    """(share - chance) / (1 - chance); share: that of `same_value`, chance: its average over
    all shuffles of the values."""
    ### BEGIN SOLUTION
    count_C = np.unique(values_N, return_counts=True)[1]
    chance = (count_C * (count_C - 1)).sum() / (len(values_N) * (len(values_N) - 1))
    return (same_value(vectors, values_N, k) - chance) / (1 - chance)
    ### END SOLUTION


# %%
for letters, k in (("aabbbb", 2), ("aaabbb", 2), ("abcdee", 1), ("abcdef", 2), ("aaaab", 3)):
    few, values = rng.normal(size=(len(letters), 3)), np.array(list(letters))
    every = [same_value(few, np.array(order), k) for order in itertools.permutations(letters)]
    share = 1 - (1 - same_value(few, values, k)) / (1 - np.mean(every))
    assert np.allclose(above_chance(few, values, k), share, rtol=0, atol=1e-9), (
        "exercise: above chance"
    )
print({name: f"{above_chance(pictures, v):.2f}" for name, v in attributes.items()})

# %% [markdown]
# **3.** By (3), subtracting one vector from all pictures changes no ranking. `centred` subtracts their mean *and normalises to length
# 1*. **Find a query and three pictures for which `centred(pictures)` puts another picture first.** (With two pictures this cannot
# happen.) Two dimensions are enough: draw the pictures on a circle, and mark their mean.


# %%
def counterexample():
    """A query (D) and three pictures (3 x D), all of length 1; before and after, the first
    leads by more than 0.05."""
    ### BEGIN SOLUTION
    return np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    ### END SOLUTION


# %%
query, three = (np.asarray(part, float) for part in counterexample())
assert three.shape == (3, *query.shape), "exercise: a query and three pictures"
lengths = np.linalg.norm(np.vstack([query, three]), axis=1)
assert np.abs(lengths - 1).max() < 1e-6, "exercise: all of length 1"
scores = {"before": three @ query, "centred": centred(three) @ query}
print({name: values.round(2).tolist() for name, values in scores.items()})
leads = [np.diff(np.sort(values))[-1] for values in scores.values()]
assert min(leads) > 0.05, "exercise: the first leads by more than 0.05"
assert scores["before"].argmax() != scores["centred"].argmax(), "exercise: another is first"

# %% [markdown]
# ## What can mislead you
#
# **Distances between islands mean little.** UMAP considers near neighbours only. The distance between two groups on the map, and
# their size, mean almost nothing. Another seed arranges them differently.
#
# **Settings create structure.** Fewer neighbours and a smaller `min_dist` give tighter clumps from the same data, even from noise.
# If a finding needs a particular setting, it is due to the setting.
#
# **Colours are convincing.** Colours that are computed from the map (by k-means) always look right. Colours from outside
# (categories) can be shuffled; do it. And the colour that you chose need not be what separates the islands.
#
# **A gap is not a fault, and closing it is not a merit.** Models with a smaller modality gap are not better because of it. Measure
# rankings.
#
# **A map has two dimensions of many.** PCA keeps far distances and loses near ones; UMAP does the reverse. Neither is the space
# itself.
#
# ## Recap
#
# - Any points on a plane can be divided into clusters with a silhouette of about .35, even a map of noise. Measure in the space.
# - A map keeps a share (2) of the neighbours. Report it, with the share that chance would keep.
# - Queries and pictures lie in two cones. By (3) the gap affects no ranking. Centre each side for a joint map only.
# - A map is a place to find questions. The answers are in the space.
#
# ## Questions
#
# 1. A paper shows a map with six islands and silhouette .41, computed on the map. Which two numbers do you ask for?
# 2. Why can `centred` never change the order of two pictures, if there are no others?
# 3. The app's map keeps 40% of the 10 nearest neighbours of 6,000 products. How many times chance is that?
# 4. What would you see on the map if a model had learnt only the background colour of the pictures?
