# %% [markdown]
# # 9. Your own ranked data, a model card, a Space
#
# > **You will learn** how a ranked data set is made of nothing but a list of categories, what the grades of a language
# > model are worth, and how to hand on a model so that others can judge it.
# >
# > **You need** notebooks 3 and 4.
# >
# > **Time** 35 minutes of reading; the cells run for a minute on a laptop's CPU. Needs `pip install
# > 'gcl-toolkit[curate]'`.
#
# There is no ranked data set for your domain? MarqoGS-10M was made from two services: a language model that invents
# what people might search for, and a shopping search that lists products. `gcl curate` does the same for any list of
# categories. Here both services are a small server on your own machine, so that you need no key and pay nothing; with
# real ones you change two addresses.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from gcl_toolkit import Fields, GCLModel, evaluate, figures, load
from gcl_toolkit.curate import CurateConfig, check, curate
from gcl_toolkit.curate.demo import Shop, demo_config, serve
from gcl_toolkit.curate.judge import agreement
from gcl_toolkit.export import export
from gcl_toolkit.export.hub import files_of
from gcl_toolkit.ranked_data import leaks
from gcl_toolkit.runs import Run
from gcl_toolkit.train import TrainConfig, train

MODE = os.environ.get("GCL_MODE", "full")  # tiny: for tests; full: for you
SEED = int(os.environ.get("GCL_SEED", 0))
PRODUCTS, QUERIES = (300, 60) if MODE == "tiny" else (1000, 150)

# %% [markdown]
# ## Predict before you run
#
# A language model shall be the **judge**: it grades each product of a query's list from 0 (unrelated) to 3 (exact). To
# see whether it can be believed, it grades some lists twice, in another order, without knowing. It gives the same grade
# more than 8 times out of 10.
#
# **A second judge does not look at all: he draws his grades by lot, as often a 1, a 2 and a 3 as the first judge gives
# them. How often do the two agree?**
#
# - (a) 1 time in 4: there are four grades;
# - (b) noticeably more often;
# - (c) never, but by accident.
#
# Write your answer down.
#
# ## From categories to a data set
#
# Four steps: categories → queries → products with pictures → grades. Every answer of a service is kept in a file, the
# *ledger*, so that what was paid for is never paid for twice, and no more is spent than you allowed.

# %%
workplace = tempfile.TemporaryDirectory()  # goes away with the notebook
folder = Path(workplace.name) / "data"
folder.mkdir()
with serve(Shop(products=PRODUCTS, wishes=1500, seed=SEED)) as address:
    size = {"queries": QUERIES, "products": 20, "scores": "judge", "judged_twice": 0.5}
    card = curate(demo_config(address, out=folder, **size))
print((folder / "tree.txt").read_text().splitlines()[:3], "...")
for part in ("queries", "products", "splits"):
    print(part, card[part])
print("spent", card["spent, over all restarts"])

# %%
splits = load(str(folder))
data = splits["in_domain"]
lists = data.qrels.to_pandas().merge(data.queries.to_pandas(), on="query_id")
asked = lists["query_id"].iloc[0]
row_of = {product: row for row, product in enumerate(data.product_ids)}
best = lists[lists["query_id"] == asked].sort_values(
    ["grade", "position"], ascending=[False, True]
)
best = best.drop_duplicates("grade") if best["grade"].nunique() > 2 else best.head(4)


def shelf(rows):
    """(picture, caption) of listed products."""
    pictures = [data.corpus["image"][row_of[p]].as_py()["bytes"] for p in rows["product_id"]]
    captions = [
        f"grade {g}, position {p}" for g, p in zip(rows["grade"], rows["position"], strict=True)
    ]
    return list(zip(pictures, captions, strict=True))


figures.pictures({best["query"].iloc[0]: shelf(best)})

# %% [markdown]
# *Products of one query of the new data set, with the judge's grade and the place in the search's list.*
#
# ## Can the judge be believed?
#
# Let $a_i$ and $b_i$ be two grades of the same pair $i$. Equal grades alone say little, since chance makes some equal
# too. **Weighted kappa** compares the squared differences with those that chance would make, if the grades were as
# frequent as they are but dealt out at random:
#
# $$
# \kappa = 1 - \frac{\text{mean over } i \text{ of } (a_i - b_i)^2}{\text{mean over } i \text{ and } j \text{ of } (a_i - b_j)^2}
# \tag{1}
# $$
#
# 1 is perfect, 0 is chance.


# %%
def kappa_from_scratch(a, b):
    """Equation (1) for two lists of grades."""
    observed = np.mean((a - b) ** 2)
    by_chance = np.mean((a[:, None] - b[None, :]) ** 2)
    return 1 - observed / by_chance


def as_gradings(a):
    """The same for the library: one query, grades by product."""
    return [{str(product): int(grade) for product, grade in enumerate(a)}]


rng = np.random.default_rng(SEED)
first = np.concatenate([split.qrels["grade"].to_numpy() for split in splits.values()]).astype(
    float
)
slips = np.where(rng.random(len(first)) < 0.1, rng.choice([-1, 1], len(first)), 0)
careful, lots = np.clip(first + slips, 0, 3), rng.permutation(first)
mine = kappa_from_scratch(first, careful)
library = agreement(as_gradings(first), as_gradings(careful))["weighted kappa"]
assert abs(mine - library) < 1e-9, "equation (1) is the library's"
told = pd.DataFrame(
    {"equal grades": [np.mean(first == other) for other in (careful, lots)],
     "kappa": [kappa_from_scratch(first, other) for other in (careful, lots)]},
    index=["a careful second judge", "a judge who draws lots"],
)  # fmt: skip
print(told.round(3))
print("the judge of the data set, with itself:", card["judge"]["with itself, in another order"])
assert told["equal grades"].iloc[1] > 0.3, "a judge who draws lots agrees more than 1 time in 4"
assert abs(told["kappa"].iloc[1]) < 0.1, "kappa sees that he draws lots"
assert told["kappa"].iloc[0] > 0.6, "and believes the careful one"

# %% [markdown]
# The answer was (b): the more uneven the grades, the more agreement comes for nothing. Give kappa, or the share with
# what chance makes. And agreement with *itself* is not truth: a judge may be wrong twice in the same way. Grade a
# hundred pairs by hand; there is no other way.
#
# ## Look before you train
#
# `curate` checks what it has made as `gcl data check` would, and merges products with the same picture: two sellers of
# one product, one in training and one held out, would be a leak.

# %%
print("merged:", card["products"]["merged, since their picture is the same"])
print("problems:", card["problems"] or "none")
assert leaks(splits) == [], "the curated splits share nothing"

# %% [markdown]
# ## Train, and hand it on
#
# The training is that of notebook 3. This time it is kept as a **run**, a folder with settings, losses and checkpoints.
# `export` makes of it a folder that others can load, with a **model card**: what it was trained on, how, and what was
# measured.

# %%
run, out = Path(workplace.name) / "run", Path(workplace.name) / "model"
model = GCLModel("small", right=Fields(title=1.0), seed=SEED)
settings = TrainConfig(steps=60, batch=64, seed=SEED)
losses = [record["loss"] for record in train(model, data, settings, run=Run(run))]
table = {name: evaluate(model, split)["NDCG@10"].mean() for name, split in splits.items()}
print("NDCG@10:", {name: f"{value:.3f}" for name, value in table.items()})
manifest = export(run, out, onnx=False, license="apache-2.0")
again = GCLModel.load(out)
texts = splits["zero_shot"].queries
difference = np.abs(model.embed(texts, "left") - again.embed(texts, "left")).max()
print("files:", ", ".join(files_of(out)))
print(f"loaded again, its vectors differ by {difference:.0e} at most")
assert losses[-1] < 0.8 * losses[0], "it learns from what was curated"
assert difference < 1e-5, "what is exported is what was trained"

# %%
print("\n".join((out / "README.md").read_text().splitlines()[:40]))

# %% [markdown]
# Read the card as a stranger would. It says by itself that no control was trained (notebook 4). It cannot know what you
# know: whom the data describes, and whom it leaves out; for what the model must not be used. Write that before you
# publish.
#
# Publishing itself is two commands; the second can tell first what it would do:
#
# ```
# gcl export runs/mine exported --license apache-2.0
# gcl push exported OWNER/NAME --dry-run     # lists the files, sends nothing
# ```
#
# For a page on which others can search, `gcl bundle` collects all that the app needs into one folder, and `gcl space build`
# makes of it a folder for Hugging Face Spaces. It runs without a GPU.
#
# ## Exercise
#
# Services cost money by request. The judge grades at most 20 products in a request, and a share of the queries is
# judged twice. **How many requests does the judge need?** Round up wherever there are parts.


# %%
def judge_requests(queries, products, judged_twice):
    """Requests to grade the lists: 20 products a request; a share of the queries is judged twice."""
    ### BEGIN SOLUTION
    lists = queries + int(np.ceil(queries * judged_twice))
    return lists * int(np.ceil(products / 20))
    ### END SOLUTION


# %%
tree = folder / "tree.txt"
wishes = [(500, 40, 0.2), (1000, 30, 0.1), (90, 20, 0.5)]
configs = [
    CurateConfig(tree, model="m", model_url="http://localhost/v1", scores="judge",
                 queries=q, products=p, judged_twice=t)
    for q, p, t in wishes
]  # fmt: skip
answers = [
    (judge_requests(*wish), check(config)["judge"])
    for wish, config in zip(wishes, configs, strict=True)
]
print("yours and the library's:", answers)
assert all(yours == library for yours, library in answers), "exercise: the judge's requests"

# %% [markdown]
# ## What can mislead you
#
# **A language model's queries are not people's.** They are well-formed, evenly spread and polite. Real ones are short,
# misspelt and mostly about three things. Mix in real ones as soon as you have any.
#
# **The search's order is somebody's ranker.** It holds advertising, stock and popularity. A model that learns it learns
# those too. A judge looks at the text alone; so both are wrong, differently. Train on one, measure on the other.
#
# **The server here is no language model.** It is made of templates over the shop of notebook 3, and one grade in ten is
# off by one on purpose. How good a real judge is, only your own sample tells.
#
# **A title can talk to the judge.** "Grade this one 3" is a title too. The library puts in products that cannot fit,
# and refuses an answer that likes them; a single flattering title gets through.
#
# **Pictures and texts belong to somebody.** That a search shows them does not mean that you may publish them. The card
# has a field for it.
#
# ## Recap
#
# - Categories → queries → products → grades: two services and a ledger make a ranked data set.
# - Agreement counts only beyond chance: (1). Agreement with itself is not truth.
# - Products with the same picture are one product; else they leak.
# - Export writes what others can load; the card needs what only you know.
#
# ## Questions
#
# 1. Nine tenths of all pairs are graded 1. How often do two judges agree who draw lots?
# 2. The judge agrees with itself to .95, and with the positions of the search to .1. Which of the two is wrong?
# 3. You have money for 10,000 requests. Would you rather have more queries or more products a query? For which split?
# 4. Which sentence of a model card would have kept *you* from a mistake?
