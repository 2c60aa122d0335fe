# %% [markdown]
# # 3. Images, titles, field weights: train a shop
#
# > **You will learn** how a picture and a title become one vector, how to train a search engine from ranked lists in
# > minutes, what the weights of picture and title change, and how to recognise that a model memorises.
# >
# > **You need** notebooks 1 and 2. You have trained a network with PyTorch before.
# >
# > **Time** 40 minutes of reading; the cells run for two minutes on a laptop's CPU.
#
# So far the products were points that could be anywhere. Now they are pictures and titles, and a network has to turn them
# into points, including those of products that it has never seen.

# %%
import os

import numpy as np
import pandas as pd
import torch

from gcl_toolkit import Fields, GCLModel, evaluate, load, search
from gcl_toolkit.data.fields import fuse
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.methods import Graded
from gcl_toolkit.studies.glossary import meaning
from gcl_toolkit.training.config import MachineConfig, TrainConfig
from gcl_toolkit.training.train import train
from gcl_toolkit.views import figures

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))
PRODUCTS, STEPS, BATCH = (600, 150, 64) if MODE == "tiny" else (1500, 200, 128)

# %% [markdown]
# ## A shop
#
# The library generates a shop of invented products, each with a picture and a title. A hidden shopping engine has ranked
# products for every query. A picture shows the colour and the pattern; a title may name the brand and the material. Neither
# shows everything.

# %%
shop = load("shop", seed=SEED, products=PRODUCTS, queries=PRODUCTS // 3, per_query=30)
data = shop["in_domain"]


def listing(split, query_id, product_ids):
    """Position on the query's list, title and picture of some products."""
    known = split.qrels.to_pandas().query("query_id == @query_id").set_index("product_id")
    table = split.corpus.to_pandas().set_index("product_id").loc[list(product_ids)]
    positions = known["position"].reindex(table.index)
    table["position"] = [
        "not listed" if np.isnan(p) else f"position {p:.0f}" for p in positions
    ]
    table["picture"] = [image["bytes"] for image in table["image"]]
    return table[["position", "title", "picture"]]


def shelf(table):
    """(picture, caption) of each product, for a row of pictures."""
    return list(zip(table["picture"], table["position"], strict=True))


first = data.query_ids[0]
best = data.qrels["product_id"].to_numpy()[data.pairs.query == 0][:6]
figures.pictures({data.queries["query"][0].as_py(): shelf(listing(data, first, best))})

# %% [markdown]
# *The engine's best products for one query, among those in the training half of the shop. The position is the place in the
# engine's complete list.*
#
# ## Predict before you run
#
# You train one model that reads both fields with equal weights. First you search by titles only, and the results are good:
# queries are words, and so are titles. Then you search by pictures only, and the results are poor, not half as good.
#
# **What happens when you search by both, with equal weights?**
#
# - (a) it is worse than by titles only: half of the vector is useless;
# - (b) it is the same;
# - (c) it is better than by titles only.
#
# Write your answer down.
#
# ## One vector from two fields
#
# An **encoder** turns the picture into a vector $e_{\text{image}}$ and the title into $e_{\text{title}}$ in the same space. With
# field weights $w_f$ the product's vector is
#
# $$
# d = \frac{v}{\lVert v \rVert}, \qquad v = \sum_f w_f \frac{e_f}{\lVert e_f \rVert}.
# \tag{1}
# $$
#
# Each field's vector is divided by its length first, so that a network cannot give a field more weight by making its vector
# longer. A product without a picture simply has one term fewer.


# %%
def fuse_from_scratch(vectors, weights):
    """Equation (1) for one product. vectors, weights: by field name."""
    total = 0.0
    for name, vector in vectors.items():
        total = total + weights[name] * vector / np.linalg.norm(vector)
    return total / np.linalg.norm(total)


rng = np.random.default_rng(SEED)
example = {"image": rng.normal(size=8), "title": 5 * rng.normal(size=8)}
weights = {"image": 0.9, "title": 0.1}
present = dict.fromkeys(weights, torch.tensor([True]))
tensors = {name: torch.from_numpy(vector)[None] for name, vector in example.items()}
library = fuse(tensors, present, weights)[0].numpy()
assert np.abs(fuse_from_scratch(example, weights) - library).max() < 1e-9, (
    "equation (1) is the library's"
)

# %% [markdown]
# ## One step by hand
#
# The library's default method is called `graded`. Its loss is ours; it changes two things in the paper's loss of notebook 1.
#
# **A query distributes one vote.** A step takes $M$ products with *all* the queries that list them. $W_{qd} > 0$ is the weight of
# a known pair, here its score / 100; it is 0 if the product is not on the query's list. A query's vote is divided among its
# products in proportion to the weights: product $d$ gets the share $W_{qd} / \sum_k W_{qk}$.
#
# **A known pair competes only with products that are *worse* for the query.** In notebook 1 two good products push each other
# down, and only the size of the weights keeps their order. Here a better product never has to make room for a worse one, so the
# loss itself contains the order, and weights with small differences are enough. With the similarities $S$ of notebook 2,
# the loss of one query is
#
# $$
# \text{row}_q = -\sum_d \frac{W_{qd}}{\sum_k W_{qk}} \log B_{qd},
# \qquad
# B_{qd} = \frac{e^{S_{qd}}}{e^{S_{qd}} + \sum_{k: \, W_{qk} < W_{qd}} e^{S_{qk}}}.
# \tag{2}
# $$


# %%
def row_loss(S_M, W_M):
    """Equation (2). S_M, W_M: similarities and weights of one query, a number per product."""
    worse_MxM = W_M[None, :] < W_M[:, None]  # [d, k]: k is worse than d
    others_M = (S_M.exp() * worse_MxM).sum(dim=1)
    log_B_M = S_M - (S_M.exp() + others_M).log()
    return -(W_M / W_M.sum() * log_B_M).sum()


# %% [markdown]
# The products vote in the same way, each among its queries, with the softmax $C$ along columns of notebook 2. The loss of a step is
#
# $$
# \text{loss} = \frac{2}{3} \, \text{mean}_q \, \text{row}_q + \frac{1}{3} \, \text{mean}_d \, \text{column}_d,
# \qquad
# \text{column}_d = -\sum_q \frac{W_{qd}}{\sum_k W_{kd}} \log C_{qd}.
# \tag{3}
# $$
#
# Rows count twice as much as columns, since a search goes from the query to the products. The mean of the rows is over the
# queries that list a product of the step; the others take part as wrong answers in the columns. Before the library takes
# 200 steps, compute the loss of the first step yourself (with a model without dropout, see below).


# %%
def loss_by_hand(S, W):
    """Equation (3). S, W: queries x products."""
    rows = [row_loss(S_M, W_M) for S_M, W_M in zip(S, W, strict=True) if W_M.sum() > 0]
    column_M = -(W / W.sum(dim=0) * S.log_softmax(dim=0)).sum(dim=0)
    return 2 / 3 * torch.stack(rows).mean() + 1 / 3 * column_M.mean()


BOTH = Fields(image=0.5, title=0.5)
model = GCLModel(right=BOTH, seed=SEED, dropout=0)
method = Graded()  # the default, as a value
print("graded:", meaning("graded"))
still = TrainConfig(steps=1, batch=32, learning_rate=1e-12, augment=False, seed=SEED)
scale = model.logit_scale.item()
machine = MachineConfig(precision="float32")
first_record = next(train(model, data, method, still, machine=machine))

batch = method.sampler(data, still.batch, SEED)(0)  # its weights are W
left = torch.from_numpy(model.embed(data.queries, "left")[batch.queries])
right = torch.from_numpy(model.embed(data.corpus, "right")[batch.products])
mine = loss_by_hand(scale * left @ right.T, batch.weights).item()
print(f"by hand {mine:.5f}, library {first_record['loss']:.5f}")
assert abs(mine - first_record["loss"]) < 1e-3, "the first step by hand is the library's"

# %% [markdown]
# ## Train
#
# `train` is a generator: it yields a record after each step.


# %%
def learn(fields=BOTH, augment=True):
    """A trained model and the records of its steps."""
    model = GCLModel(right=fields, seed=SEED)
    settings = TrainConfig(steps=STEPS, batch=BATCH, augment=augment, seed=SEED)
    return model, pd.DataFrame(train(model, data, "graded", settings))


untrained = model
model, records = learn()
figures.curves({"graded": records})

# %% [markdown]
# *Left, the loss, averaged over groups of consecutive steps; right, the logit scale, which the model learns too: the more
# certain the model, the larger the scale. The loss does not fall to 0: its minimum depends on the weights (notebook 2).*


# %%
def ndcg_by_split(model):
    """NDCG@10 of the four splits, over all their queries."""
    return {name: evaluate(model, split)["NDCG@10"].mean() for name, split in shop.items()}


scores = ndcg_by_split(model)
new = shop["zero_shot"]  # queries and products that were not trained on
before, after = (evaluate(m, new)["NDCG@10"] for m in (untrained, model))
print("NDCG@10:", {name: f"{value:.3f}" for name, value in scores.items()})
print(f"zero-shot before training: {before.mean():.3f}")
fallen = records["loss"].tail(10).mean() / records["loss"].head(10).mean()
assert fallen < 0.95, "the loss falls"
assert after.mean() > 1.2 * before.mean(), "it finds products that it has never seen"

# %% [markdown]
# NDCG@10 is not 0 before training: equal words have equal vectors, even random ones.
#
# ## Search
#
# What does a rise of NDCG@10 look like? Of the new queries, take the one whose NDCG@10 rises by the *median* amount.

# %%
typical = (after - before).sort_values().index[len(before) // 2]
wish = dict(zip(new.query_ids, new.queries["query"].to_pylist(), strict=True))[typical]


def found(model):
    """The six products nearest to the query, best first."""
    _, (product_ids,) = search(model, [wish], new.corpus, k=6)
    return listing(new, typical, product_ids)


results = {f"{wish}: before training": found(untrained), f"{wish}: after": found(model)}
pd.concat(results)[["position", "title"]]

# %%
figures.pictures({name: shelf(table) for name, table in results.items()})

# %% [markdown]
# *The six products nearest to the query, by picture and title together, before and after training. The position is the place in
# the engine's complete list. The model has seen neither the query nor the products.*
#
# Before training only equal words count, so a product of another kind ranks high if its title shares a word with the query: in the
# saved copy, a beige T-shirt is fourth for a clock. After training most are of the kind that was asked for. In the saved copy all six
# are clocks, but their colours are wrong.
#
# ## Picture or title?
#
# To try other field weights, you need not encode the corpus again. Let $a = q \cdot e_{\text{image}}$, $b = q \cdot e_{\text{title}}$ and
# $c = e_{\text{image}} \cdot e_{\text{title}}$, where all vectors have length 1. With the weight $w$ for the image and $1 - w$ for the title,
#
# $$
# q \cdot d(w) = \frac{w a + (1 - w) b}{\sqrt{w^2 + (1 - w)^2 + 2 w (1 - w) c}}.
# \tag{4}
# $$
#
# Three numbers per pair, computed once, give the similarity for every $w$.


# %%
def embed_field(corpus, **field):
    """The corpus with one field only."""
    both, model.right = model.right, Fields(**field)
    vectors = model.embed(corpus, "right")
    model.right = both
    return vectors


def similarities(split, w):
    """Equation (4): queries x products of a split, at image weight w."""
    a, b, c = parts[split]
    return (w * a + (1 - w) * b) / np.sqrt(w**2 + (1 - w) ** 2 + 2 * w * (1 - w) * c)


parts = {}
for split in shop:
    queries = model.embed(shop[split].queries, "left")
    images = embed_field(shop[split].corpus, image=1.0)
    titles = embed_field(shop[split].corpus, title=1.0)
    parts[split] = queries @ images.T, queries @ titles.T, (images * titles).sum(axis=1)

again = model.embed(data.queries, "left") @ embed_field(data.corpus, image=0.8, title=0.2).T
error = np.abs(similarities("in_domain", 0.8) - again).max()
print(f"largest difference from encoding again, w = 0.8: {error:.0e}")
assert error < 1e-4, "equation (4) needs no second encoding"


# %%
def ndcg_at(split, w, division):
    """NDCG@10 of a split's dev or test queries at image weight w."""
    asked = np.isin(shop[split].query_ids, shop[split].only(division).query_ids)
    ranking = np.argsort(-similarities(split, w)[asked], axis=1)[:, :10]
    table = measure_ranking(ranking, shop[split].only(division))
    return table["NDCG@10"].mean()


sweep = np.linspace(0, 1, 11)
curves = {split: [ndcg_at(split, w, "dev") for w in sweep] for split in shop}
figures.lines(
    {split: (sweep, values) for split, values in curves.items()},
    "weight of the image (the title has the rest)",
    "NDCG@10",
)

# %% [markdown]
# *Each line is a split, measured on dev queries; nothing was trained or encoded again. At the left end the search uses titles
# only, at the right end pictures only.*

# %%
mean = np.mean(list(curves.values()), axis=0)
chosen = sweep[mean.argmax()]
test = {w: np.mean([ndcg_at(split, w, "test") for split in shop]) for w in (0.0, chosen, 1.0)}
print(f"chosen on dev: image weight {chosen:.1f}")
print(
    "test, mean of the splits:", {f"w = {w:.1f}": f"{value:.3f}" for w, value in test.items()}
)
assert 0 < chosen < 1, "neither field is best alone"
assert test[1.0] < test[0.0] / 2, "pictures alone find little"
assert test[chosen] > test[0.0], "and yet they improve on the titles"

# %% [markdown]
# <details><summary>Your prediction: (a), (b) or (c)?</summary>
#
# (c), in this shop and in nine others: alone, the pictures are not half as good as the titles, and they still improve on them.
#
# </details>
#
# Why? In a sum, the pictures need to learn only what the titles do not mention, such as a colour. Such a correction is of little use
# alone. If that is the reason, and not that pictures are hard to learn from, then a model that is trained on pictures *alone*, for
# as many steps, is better by pictures.

# %%
alone, _ = learn(fields=Fields(image=1.0))
only = np.mean(
    [evaluate(alone, split.only("test"))["NDCG@10"].mean() for split in shop.values()]
)
print(f"by pictures only: trained with the titles {test[1.0]:.3f}, trained alone {only:.3f}")
assert only > 1.4 * test[1.0], "trained alone, the pictures learn more"

# %% [markdown]
# **A field can be useless alone and useful in combination**, so do not judge it alone. A field weight is a setting like any
# other: choose it on dev, report it on test.
#
# ## Does it learn or memorise?
#
# During training, the library shifts, flips and brightens the pictures a little and drops a tenth of the words, at random in each
# step. This is called **augmentation**. The network also sets a tenth of its activations to zero, at random in each step:
# **dropout**. Both make memorising harder. Train again without augmentation.

# %%
plain_model, plain_records = learn(augment=False)
both = pd.DataFrame({"augmented": scores, "not augmented": ndcg_by_split(plain_model)})
both["gain"] = both["not augmented"] - both["augmented"]
print(both.round(3))
loss_at_end = [table["loss"].tail(10).mean() for table in (plain_records, records)]
falls, gain_new = (
    1 - loss_at_end[0] / loss_at_end[1],
    both.loc[["novel_document", "zero_shot"], "gain"].mean(),
)
print(f"\nwithout augmentation the training loss is {falls:.0%} lower;")
print(f"its gain in NDCG@10 on products that it has not seen: {gain_new:+.3f}")
assert falls > 0.05, "without augmentation the training loss is lower"
assert both.loc["in_domain", "gain"] > 0, "what was seen is remembered better"
assert gain_new < falls / 2, "new products gain far less than the loss promises"

# %% [markdown]
# Without augmentation each picture looks the same in every epoch, so the model can memorise it. By the training loss that is a
# better model, and also by the in-domain split. Splits that hold out products, queries or both can show otherwise.
#
# ## Exercises
#
# **1.** Real shops have products without pictures and products without titles. Write (1) for one product in which **missing
# fields are `None`**. At least one field is there.


# %%
def fuse_present(vectors, weights):
    """Equation (1) over the fields that are not None; an array of length 1."""
    ### BEGIN SOLUTION
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    return fuse_from_scratch(given, weights)
    ### END SOLUTION


# %%
three = example | {"back": rng.normal(size=8)}  # a second picture
tensors = {name: torch.from_numpy(vector.copy())[None] for name, vector in three.items()}
for share, *missing in ((0.9, "back"), (0.9, "image", "back"), (0.9, "title"), (0.2,)):
    weights = {"image": share, "title": 1 - share, "back": 0.5}
    answer = np.asarray(fuse_present(three | dict.fromkeys(missing), weights))
    present = {name: torch.tensor([name not in missing]) for name in three}
    expected = fuse(tensors, present, weights)[0].numpy()
    assert answer.shape == (8,), "exercise: a vector of the same size"
    assert np.abs(answer - expected).max() < 1e-9, "exercise: missing fields are left out"

# %% [markdown]
# **2.** Some shops have more fields: a description, a second picture. **Write (4) for any number of fields**, from the query's
# cosine with each field and the cosines of the fields with each other.


# %%
def similarity(field_F, between_FxF, weight_F):
    """q . d for F fields. field_F: q . e_f; between_FxF: e_f . e_g, with 1 on the diagonal. The
    weights need not sum to 1."""
    ### BEGIN SOLUTION
    return weight_F @ field_F / np.sqrt(weight_F @ between_FxF @ weight_F)
    ### END SOLUTION


# %%
for count in (1, 2, 3, 5):
    query, *fields = (v / np.linalg.norm(v) for v in rng.normal(size=(count + 1, 4)))
    shares = rng.uniform(0.2, 2, count)
    by_name = dict(enumerate(fields)), dict(enumerate(shares))
    expected = query @ fuse_from_scratch(*by_name)
    answer = similarity(np.array(fields) @ query, np.array(fields) @ np.array(fields).T, shares)
    assert np.shape(answer) == (), "exercise: one number"
    assert abs(answer - expected) < 1e-9, "exercise: (4) for any number of fields"

# %% [markdown]
# **3.** How useless can a field be? Construct a query and `count` products of which **product 0 is the last by pictures only and
# the last by titles only, and the first by both with equal weights**. Each of the three times, its cosine is at least .05 below or
# above those of all others. Look at the denominator of (4), for $c$ close to -1, but not -1.


# %%
def useless_alone(count):
    """A query (D), the pictures and the titles (count x D) of its products; D is your choice."""
    ### BEGIN SOLUTION
    query, up = np.array([1.0, 0.0]), 0.75**0.5
    pictures, titles = np.tile([0.6, 0.8], (2, count, 1))  # both fields alike: cosine .6
    pictures[0], titles[0] = [0.5, up], [0.5, -up]  # cosine .5 each; their sum is the query
    return query, pictures, titles
    ### END SOLUTION


# %%
def by_weight(query, pictures, titles, w):
    """Cosines of the query with the products at image weight w."""
    both = ({"image": i, "title": t} for i, t in zip(pictures, titles, strict=True))
    products = [fuse_from_scratch(fields, {"image": w, "title": 1 - w}) for fields in both]
    return np.array(products) @ query / np.linalg.norm(query)


for count in (2, 3, 20):
    answer = useless_alone(count)
    assert np.iterable(answer), "exercise: a query, pictures and titles"
    assert len(answer) == 3, "exercise: three arrays"
    query, pictures, titles = map(np.asarray, answer)
    assert pictures.shape == titles.shape == (count, len(query)), "exercise: count x D"
    for name, w in (("pictures", 1.0), ("titles", 0.0)):
        first, *others = by_weight(query, pictures, titles, w)
        assert first + 0.05 < min(others) + 1e-9, f"exercise: the last by ({name})"
    first, *others = by_weight(query, pictures, titles, 0.5)
    print(f"{count} products, by both: {first:.2f}, the best of the others {max(others):.2f}")
    assert first - 0.05 > max(others) - 1e-9, "exercise: the first by both"

# %% [markdown]
# ## What can mislead you
#
# **The best field weight belongs to the model.** A model that is trained on pictures only is far better by pictures only. A sweep
# shows how to use *this* model. To know what another training would give, you have to train.
#
# **Good-looking rows prove nothing.** The median is one query. Look at rows to find faults, and at NDCG over all queries to judge.
#
# **Missing is not empty.** An empty title that is encoded like any other text gets a vector too, the same for all, and pulls
# all such products together. The library leaves it out.
#
# ## Recap
#
# - A product's vector is the weighted sum of its fields' unit vectors, normalised to length 1: (1).
# - The score matrix uses every known pair of a step; in `graded`, a pair competes with worse products only: (2) and (3).
# - With (4) the field weights can be swept without encoding again; choose them on dev.
# - Fields that are trained as a sum complement each other: one can be of little use alone and improve the other.
# - Memorising shows on the splits that hold products out. The training loss rewards it.
#
# ## Questions
#
# 1. Why are the fields normalised to length 1 *before* they are added? What could a model do otherwise?
# 2. In (4), what happens for $c = 1$? And for $c = -1$, $w = 1/2$?
# 3. The trained weights are .5 and .5, and .7 for the image is best on dev. What might that mean for the titles?
# 4. Your training loss is half of your colleague's. Which two numbers do you compare before you celebrate?
