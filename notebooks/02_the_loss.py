# %% [markdown]
# # 2. The loss, one gradient at a time
#
# > **You will learn** how the loss of GCL pulls and pushes each similarity, where the similarities converge, and which
# > gap between two products each score-to-weight function asks for.
# >
# > **You need** notebook 1, the softmax, and the chain rule.
# >
# > **Time** 35 minutes of reading; the cells run for less than a minute on a laptop's CPU.
#
# A loss is easy to write and easy to get wrong, and a wrong loss still falls during training. So this notebook takes the
# loss apart: you write its gradient by hand, compare it with PyTorch's, and predict what the model will learn *before*
# you train it.

# %%
import os

import numpy as np
import pandas as pd
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from gcl_toolkit.data.weighting import to_weights
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.views import figures

SEED = int(os.environ.get("GCL_SEED", 0))  # change it for other random starts

# %% [markdown]
# ## The loss
#
# A batch holds $N$ pairs of a query and a product, each with a weight $w_i$; the weights are divided by their mean. With
# the logit scale $s$, the similarity of query $i$ and product $j$ is $S_{ij} = s \, q_i \cdot d_j$, and
#
# $$
# \text{loss} = \frac{1}{2N} \sum_{i=1}^{N} w_i \left[ -\log P_{ii} - \log C_{ii} \right],
# \qquad P_{ij} = \frac{e^{S_{ij}}}{\sum_k e^{S_{ik}}}, \quad C_{ij} = \frac{e^{S_{ij}}}{\sum_k e^{S_{kj}}}.
# \tag{1}
# $$
#
# $P$ is the softmax along each row: among all products, which one belongs to this query? $C$ is the softmax along each
# column: among all queries, which one belongs to this product? With all $w_i = 1$ this is the loss of CLIP. We compare it
# with the code that most CLIP models are trained with:

# %%
generator = torch.Generator().manual_seed(SEED)
left, right = normalize(torch.randn(2, 4, 3, generator=generator, dtype=torch.float64), dim=-1)
scale = torch.tensor(5.0, dtype=torch.float64)
ours = gcl_loss(left, right, logit_scale=scale).item()
theirs = ClipLoss()(left, right, scale).item()
print(f"gcl_loss without weights {ours:.6f}, open_clip {theirs:.6f}")
assert abs(ours - theirs) < 1e-9, "w = 1 is the loss of open_clip"

# %% [markdown]
# ## Predict before you run
#
# Four pairs have the weights 1, 0.5, 0.2 and 0. The last pair has weight 0: its product was at the very end of the
# engine's list.
#
# **Does the loss still move the last product?**
#
# - (a) no: its weight is 0;
# - (b) yes, towards its query;
# - (c) yes, away from the queries.
#
# ## The gradient of a row, the gradient of a column
#
# The derivative of $-\log P_{ii}$ with respect to $S_{ij}$ is $P_{ij} - \delta_{ij}$, where $\delta_{ij}$ is 1 for
# $i = j$ and 0 elsewhere. The first half of the loss therefore has the gradient
#
# $$
# \frac{\partial \, \text{rows}}{\partial S_{ij}} = \frac{w_i \, (P_{ij} - \delta_{ij})}{2N}
# \tag{2}
# $$
#
# The second half, in which every *column* $j$ carries the weight of its own pair, has the gradient
#
# $$
# \frac{\partial \, \text{columns}}{\partial S_{ij}} = \frac{w_j \, (C_{ij} - \delta_{ij})}{2N}.
# \tag{3}
# $$
#
# Note the index: $w_i$ in the rows, $w_j$ in the columns. Swapping them is the most common mistake in such code.


# %%
def row_gradient(S_NxN, weight_N):
    """Equation (2)."""
    weight_N = weight_N / weight_N.mean()
    residual_NxN = S_NxN.softmax(dim=1) - torch.eye(len(S_NxN))
    return weight_N[:, None] * residual_NxN / (2 * len(S_NxN))


def column_gradient(S_NxN, weight_N):
    """Equation (3)."""
    weight_N = weight_N / weight_N.mean()
    residual_NxN = S_NxN.softmax(dim=0) - torch.eye(len(S_NxN))
    return weight_N[None, :] * residual_NxN / (2 * len(S_NxN))


# %% [markdown]
# PyTorch's autograd computes the same gradient automatically. There is a trick to get the gradient with respect to $S$
# itself: `gcl_loss` multiplies its two inputs, and $S$ times the identity matrix is $S$. So we pass $S$ as the queries and
# the identity as the products.

# %%
eye = torch.eye(4, dtype=torch.float64)
weight_N = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
S_NxN = (scale * left @ right.T).requires_grad_()

gcl_loss(S_NxN, eye, weight_N, logit_scale=1.0).backward()
rows, columns = (f(S_NxN.detach(), weight_N) for f in (row_gradient, column_gradient))
by_hand = rows + columns
assert torch.allclose(by_hand, S_NxN.grad, rtol=0, atol=1e-9), (
    "rows carry w_i, columns carry w_j"
)
panels = {"rows (2)": rows, "columns (3)": columns, "their sum": by_hand}
figures.matrices({name: matrix.numpy() for name, matrix in panels.items()}, "query", "product")

# %% [markdown]
# *Each number is the derivative of the loss with respect to one similarity, rounded; 0 is less than .0005. Training moves
# against the gradient: cells below 0 (blue) are pulled together, cells above 0 (vermilion) are pushed apart. Look at the last
# column: nothing pulls product 3, and every query but its own pushes it away.*
#
# In the row part each row sums to 0: what the right product gains, the others lose. In the column part each column sums
# to 0.

# %%
assert rows.sum(dim=1).abs().max() < 1e-9
assert columns.sum(dim=0).abs().max() < 1e-9
library = S_NxN.grad
assert library[3, 3] > -1e-9, "a weight of 0 pulls nothing together"
assert (library[:3, 3] > 0).all(), "and yet its product is pushed away by the other queries"

# %% [markdown]
# <details><summary>The answer</summary>
#
# (c). In the rows of the other queries the last product is one of the wrong answers, and the weight of *those* rows is not 0.
# A weight of 0 does not remove a pair from the batch. It makes its product an ordinary negative.
#
# </details>
#
# ## From similarities to vectors
#
# The gradient reaches the vectors through the chain rule. Let $G$ be the sum of (2) and (3), $L$ the queries
# ($N \times D$, one per row) and $R$ the products. From $S = s L R^T$ it follows that
#
# $$
# \frac{\partial \, \text{loss}}{\partial L} = s \, G R, \qquad \frac{\partial \, \text{loss}}{\partial R} = s \, G^T L.
# \tag{4}
# $$
#
# A query moves along a mixture of products: towards its own, and away from those that it is confused with.

# %%
left, right = left.clone().requires_grad_(), right.clone().requires_grad_()
gcl_loss(left, right, weight_N, logit_scale=scale).backward()
with torch.no_grad():
    left_gradient, right_gradient = scale * by_hand @ right, scale * by_hand.T @ left
assert torch.allclose(left_gradient, left.grad, rtol=0, atol=1e-9), "gradient of the queries"
assert torch.allclose(right_gradient, right.grad, rtol=0, atol=1e-9), "gradient of the products"

# %% [markdown]
# ## Where it converges
#
# Training stops where the gradient is 0. Suppose that similarities could take any value, without an encoder and without
# geometry. Let the training set contain pair $(q, d)$ $n_{qd}$ times, query $q$ $n_q$ times and product $d$ $n_d$ times,
# and put the complete training set, $n$ pairs, into one batch. Query $q$ then meets product $d$ in $n_d$ columns, and (2)
# is 0 when the softmax assigns to each product its share of the weight:
#
# $$
# n_d \, e^{S_{qd}} \;\propto\; n_{qd} \, w_{qd} \quad\text{along each row}, \qquad
# n_q \, e^{S_{qd}} \;\propto\; n_{qd} \, w_{qd} \quad\text{along each column}.
# $$
#
# One matrix satisfies both:
#
# $$
# S_{qd} = \log w_{qd} + \underbrace{\log \frac{n_{qd} \, n}{n_q \, n_d}}_{\text{PMI}} + \text{constant}
# \tag{5}
# $$
#
# PMI, the *pointwise mutual information*, measures how much more often query and product occur together than by chance. So
# the logarithm of the weight is added to what the frequencies imply: a weight of 0.5 has the effect of seeing the pair half
# as often, while its product stays as common as before.
#
# We test it with three queries, four products, and invented frequencies and weights. The same trick as above passes free
# similarities to the library's loss: the "queries" are rows of a table `S_QxD`, the "products" are rows of the identity, and
# their product selects one cell of the table.

# %%
count_QxD = torch.tensor([[8, 4, 2, 1], [1, 6, 3, 2], [2, 1, 5, 4]])
weight_QxD = torch.tensor(
    [[1, 0.5, 0.2, 0.1], [0.1, 1, 0.3, 0.6], [0.4, 0.2, 1, 0.5]], dtype=torch.float64
)
query_N, product_N = count_QxD.nonzero().repeat_interleave(count_QxD.flatten(), dim=0).T


def minimise(loss, parameter):
    """Change the parameter in place until the loss is smallest."""
    settings = {"max_iter": 500, "tolerance_grad": 1e-9, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS([parameter], line_search_fn="strong_wolfe", **settings)

    def evaluate():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(evaluate)


def learn_table(weight_QxD):
    """The similarities (Q x D) at which the library's loss is smallest."""
    S_QxD = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    right = torch.eye(4, dtype=torch.float64)[product_N]
    weight_N = weight_QxD[query_N, product_N]
    minimise(lambda: gcl_loss(S_QxD[query_N], right, weight_N, logit_scale=1.0), S_QxD)
    return S_QxD.detach() - S_QxD.detach().mean()


# %%
def predict_table(weight_QxD):
    """Equation (5), with the constant chosen so that the mean is 0."""
    count = count_QxD.double()
    pmi = (count * count.sum() / (count.sum(dim=1, keepdim=True) * count.sum(dim=0))).log()
    return (weight_QxD.log() + pmi) - (weight_QxD.log() + pmi).mean()


tables = {
    name: (predict_table(w).flatten(), learn_table(w).flatten())
    for name, w in {"w = 1": torch.ones_like(weight_QxD), "weighted": weight_QxD}.items()
}
figures.agreement(
    {name: (a.tolist(), b.tolist()) for name, (a, b) in tables.items()},
    "predicted: log w + PMI",
    "learnt similarity",
)

# %% [markdown]
# *Each mark is a query with a product. All marks are on the dashed line: the loss learns what (5) predicts, with weights and
# without them.*

# %%
for name, (predicted, learnt) in tables.items():
    assert torch.allclose(predicted, learnt, rtol=0, atol=1e-4), (
        f"learnt logit = log w + PMI ({name})"
    )

# %% [markdown]
# ## What a score-to-weight function asks for
#
# Real similarities are cosines times the logit scale. The inverse of the scale is called the temperature,
# $\tau = 1 / s$; trained CLIP models have about $\tau = 0.01$. For two products that occur equally often, with this
# query and overall, the PMI cancels, and (5) becomes a statement about cosines:
#
# $$
# \cos(q, d_1) - \cos(q, d_2) = \tau \log \frac{w_1}{w_2}
# \tag{6}
# $$
#
# So choose a function by the gap that it asks for, not by the shape of its curve.

# %%
positions = np.arange(1, 21)
functions = ["linear", "sqrt", "log", "reciprocal", "exponential"]
weights = pd.DataFrame(
    {name: to_weights(101 - positions, name) for name in functions}, index=positions
)
figures.weight_curves(weights, temperature=0.01)

# %% [markdown]
# *Left, the weight of each position; right, the gap to position 1 that it asks for. The linear function hardly separates
# the first twenty positions; the reciprocal separates the first few most; the exponential asks for the same gap at every
# step.*
#
# Equation (6) also holds in a space of vectors, if it has enough dimensions. Here are ten products of one query in 16
# dimensions, trained with the library's loss at a temperature of 0.01:


# %%
def learn_gap(weight_M, temperature=0.01):
    """cos(q, d_1) - cos(q, d_M) of one query's M products, as learnt in 16 dimensions."""
    start = torch.randn(len(weight_M) + 1, 16, generator=torch.Generator().manual_seed(SEED))
    vectors = normalize(start[:1] + 0.3 * start, dim=-1).double().requires_grad_()

    def loss():
        unit = normalize(vectors, dim=-1)
        left = unit[:1].expand(len(weight_M), -1)
        return gcl_loss(left, unit[1:], weight_M, logit_scale=1 / temperature)

    minimise(loss, vectors)
    cosine_M = torch.cosine_similarity(vectors[:1], vectors[1:]).detach()
    return (cosine_M[0] - cosine_M[-1]).item()


# %%
gaps = pd.DataFrame({"asked": 0.01 * np.log(weights.loc[1] / weights.loc[10])})
gaps["learnt"] = [
    learn_gap(torch.tensor(weights[name].iloc[:10].tolist())) for name in functions
]
print("cosine gap between positions 1 and 10, temperature 0.01")
print(gaps.round(4))
assert (gaps["asked"] - gaps["learnt"]).abs().max() < 1e-4, (
    "cosine gap = temperature * log(w1 / w2)"
)

# %% [markdown]
# ## Exercises
#
# **1.** You want position 1 to be **0.05** nearer to the query than position 10, at a temperature of 0.01. None of the functions
# above asks for that. Take weights of the form $\text{position}^{-a}$ and find $a$ with (6).


# %%
def exponent(gap, temperature):
    """The a with which position ** -a asks for this gap between positions 1 and 10."""
    ### BEGIN SOLUTION
    return gap / (temperature * np.log(10))
    ### END SOLUTION


# %%
for gap, temperature in ((0.05, 0.01), (0.02, 0.01), (0.05, 0.02)):
    a = exponent(gap, temperature)
    own_weights = torch.arange(1, 11, dtype=torch.float64) ** -a
    own_gap = learn_gap(own_weights, temperature)
    print(f"asked {gap} at {temperature}: position ** -{a:.2f}, learnt gap {own_gap:.4f}")
    assert abs(own_gap - gap) < 1e-3, "exercise: the gap that was asked for"

# %% [markdown]
# **2.** Now choose the gaps freely: product $k$ should be `gap_M[k]` further from the query than product 0, or nearer if the gap is negative. **Which weights
# ask for that?** Give them a mean of 1.


# %%
def weights_for(gap_M, temperature):
    """M weights, of mean 1, for which cos(q, d_0) - cos(q, d_k) = gap_M[k]; gap_M[0] = 0."""
    ### BEGIN SOLUTION
    weight_M = torch.exp(-gap_M / temperature)
    return weight_M / weight_M.mean()
    ### END SOLUTION


# %%
for asked in ([0.0, 0.01, 0.02, 0.03], [0.0, 0.04, -0.01, 0.0], [0.0, 0.05]):
    for temperature in (0.01, 0.02):
        own_weights = weights_for(torch.tensor(asked, dtype=torch.float64), temperature)
        learnt = [learn_gap(own_weights[[0, k]], temperature) for k in range(1, len(asked))]
        print(f"asked {asked[1:]} at {temperature}: learnt {np.round(learnt, 4).tolist()}")
        assert np.allclose(learnt, asked[1:], rtol=0, atol=1e-3), "exercise: these gaps"
        assert abs(own_weights.mean().item() - 1) < 1e-9, "exercise: a mean of 1"

# %% [markdown]
# **3.** CLIP learns the logit scale $s$, too. **What is the derivative of the loss with respect to $s$?** Start from the
# gradient with respect to $S = s \, L R^T$, which you have: `row_gradient` and `column_gradient`.


# %%
def scale_gradient(cosine_NxN, weight_N, s):
    """The derivative of (1) with respect to the logit scale s; cosine_NxN: L R^T."""
    ### BEGIN SOLUTION
    S_NxN = s * cosine_NxN
    gradient_NxN = row_gradient(S_NxN, weight_N) + column_gradient(S_NxN, weight_N)
    return (gradient_NxN * cosine_NxN).sum()
    ### END SOLUTION


# %%
left, right = left.detach(), right.detach()
cosine_NxN = left @ right.T
cases = (weight_N, 5.0), (torch.ones_like(weight_N), 20.0), (weight_N.flip(0), 1.0)
for uneven, start in cases:
    s = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    gcl_loss(left, right, uneven, logit_scale=s).backward()
    mine = float(scale_gradient(cosine_NxN, uneven, start))
    print(f"s = {start:g}: yours {mine:.6f}, autograd {s.grad:.6f}")
    assert abs(mine - s.grad.item()) < 1e-9, "exercise: the derivative of the logit scale"

# %% [markdown]
# ## What can mislead you
#
# **A lower loss does not mean a better model.** For the products of one query, the row part of the loss has a minimum that
# depends on the weights alone: half the entropy of their shares. Sharper weights have a lower minimum for every model.
# Compare models by a ranking metric, never by losses with different weights.

# %%
shares = weights / weights.sum()
floors = -(shares * np.log(shares)).sum() / 2
print("minimum of the row part:", floors.round(3).to_dict())
assert floors["reciprocal"] < floors["linear"], (
    "sharper weights have a lower loss, by themselves"
)

# %% [markdown]
# **The mean of the weights is a hidden learning rate.** Without the division by the mean, the gradient is multiplied by it.
# Optimizers like Adam hide this, because they rescale gradients; plain gradient descent does not.

# %%
all_weights = torch.from_numpy(to_weights(101 - np.arange(1, 101), "reciprocal"))
S = torch.randn(100, 100, generator=torch.Generator().manual_seed(SEED + 1), requires_grad=True)
sizes = []
for divided in (True, False):
    loss = gcl_loss(S, torch.eye(100), all_weights, logit_scale=1.0, normalise_weights=divided)
    sizes.append(torch.autograd.grad(loss, S)[0].norm().item())
shrinks, mean = sizes[1] / sizes[0], all_weights.mean().item()
print(f"gradient without normalisation / with it: {shrinks:.4f}; mean weight: {mean:.4f}")
assert abs(shrinks - mean) < 1e-4, "the mean weight is a hidden learning rate"

# %% [markdown]
# **The model need not reach the gap that the loss asks for.** Equation (6) holds when similarities are free. An encoder has
# to place products that it has never seen, and each product has one place for all queries. And (6) holds only for products
# that are compared: if the other products of a query are left out of the sums (notebook 1), the loss asks for no gap.
#
# **Frequencies count as much as weights.** A product that is shown for every query has a low PMI everywhere. If your
# training pairs are a sample, the model also learns how they were sampled.
#
# ## Recap
#
# - The gradient with respect to $S_{ij}$ is $[w_i (P_{ij} - \delta_{ij}) + w_j (C_{ij} - \delta_{ij})] / 2N$.
# - A weight of 0 makes a pair's product an ordinary negative.
# - Free similarities converge to $\log w + \text{PMI}$; so a weight ratio asks for a cosine gap of
#   $\tau \log (w_1 / w_2)$.
# - With all weights 1 it is exactly the loss of CLIP.
#
# ## Questions
#
# 1. Swap $w_i$ and $w_j$ in (2) and (3). What do the other queries now do to the product of a heavy pair?
# 2. Two products of a query have the same weight, but one is shown for ten times as many queries. Which one ends up
#    nearer, and by how much?
# 3. Linear weights ask for a gap of 0.0009 between positions 1 and 10. What would you change to get 0.02: the function
#    or the temperature? What else does the temperature change?
# 4. Why do the gradients of a row sum to 0? What would it mean if they did not?
