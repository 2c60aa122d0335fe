# %% [markdown]
# # 8. Scale up
#
# > **You will learn** what a large batch costs in memory, three ways to train with one anyway, why adding up small batches is not
# > one of them, and how many GPUs share one loss.
# >
# > **You need** notebook 2 and the chain rule.
# >
# > **Time** 35 minutes of reading; the cells run for less than a minute on a laptop's CPU.
#
# In contrastive training the other rows of the batch are the wrong answers. A larger batch is a harder task, so everybody wants
# large batches, and everybody runs out of memory. The loss is a function of *all* pairs at once, so it cannot simply be cut into
# pieces. Or can it?

# %%
import os
import weakref
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.losses.fast.ranks import cached_backward
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss
from gcl_toolkit.views import figures

MODE = os.environ.get("GCL_MODE", "full")  # tiny: small, for tests
SEED = int(os.environ.get("GCL_SEED", 0))
SIZES = [128, 256, 512, 1024] + ([] if MODE == "tiny" else [2048])

# %% [markdown]
# ## Predict before you run
#
# Your memory holds 64 pairs and you want a batch of 512. A colleague does what works for every classifier: she runs eight
# batches of 64, adds up their gradients, and takes one step. This is called **gradient accumulation**.
#
# **How does her step compare with the step of one batch of 512?**
#
# - (a) it is the same: the gradient of a sum is the sum of the gradients;
# - (b) it has the same direction and a different length;
# - (c) it has a different direction, more and more so the longer she trains.
#
# Write your answer down.
#
# ## What a batch costs
#
# There are two costs. The **encoder** keeps its activations for the backward pass; they grow with the number $N$ of pairs. The
# **loss** compares every query with every product and keeps matrices of $N \times N$ numbers of 4 bytes. With $c$ such matrices
# and vectors of $D$ numbers it keeps about
#
# $$
# \text{bytes} \approx 4 c N^2 + 4 \cdot 2 N D.
# \tag{1}
# $$
#
# What autograd keeps can be counted, because it passes every tensor that it saves to a hook.


# %%
def unit_vectors(count, dimensions, seed=0):
    """Queries and products, N x D each."""
    generator = torch.Generator().manual_seed(1000 * SEED + seed)
    return normalize(torch.randn(2, count, dimensions, generator=generator), dim=-1)


def kept_bytes(loss, count, dimensions=64):
    """What autograd keeps from the forward pass of a loss, each storage once."""
    left, right = (side.requires_grad_() for side in unit_vectors(count, dimensions))
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(left, right, logit_scale=20.0)
    assert value.requires_grad
    return sum(kept.values())


# %%
in_tiles = partial(tiled_gcl_loss, keep_bytes=0)  # the library's loss for large batches
losses = {"dense": gcl_loss, "in tiles": in_tiles}
kept = {name: np.array([kept_bytes(loss, n) for n in SIZES]) for name, loss in losses.items()}
figures.lines(
    {name: (SIZES, values / 1e6) for name, values in kept.items()},
    "pairs in the batch",
    "megabytes kept",
).update_xaxes(type="log", tickvals=SIZES).update_yaxes(type="log")

# %% [markdown]
# *Memory kept for the backward pass; both axes are logarithmic. The line of the dense loss is twice as steep: twice the pairs,
# four times the memory. The other line is the same loss, computed in tiles.*

# %%
steeper = {name: values[-1] / values[-2] for name, values in kept.items()}
matrices = (kept["dense"][-1] - 4 * 2 * SIZES[-1] * 64) / (4 * SIZES[-1] ** 2)
for name, multiple in steeper.items():
    print(f"{name}: twice the pairs keep {multiple:.2f} times the memory")
print(f"c in (1), without the vectors: {matrices:.2f} matrices of N x N numbers")
assert steeper["dense"] > 3.3, "the memory of the dense loss grows with the square"
assert steeper["in tiles"] < 2.1, "in tiles it grows with the batch"

# %% [markdown]
# ## First way: never store the matrix
#
# Of a row of $S$ the loss needs one number, the logarithm of a sum of exponentials. A sum can be computed in parts. Divide the
# products into tiles $T_1, T_2, \dots$; then
#
# $$
# \log \sum_{j} e^{S_{ij}} = \log \sum_t e^{m_{it}}, \qquad m_{it} = \log \sum_{j \in T_t} e^{S_{ij}}.
# \tag{2}
# $$
#
# Each tile is computed, summed and discarded. For the gradient it is computed again: a little more time for much less memory.


# %%
def row_sums_in_tiles(left, right, logit_scale, tile=100):
    """Equation (2): the log-sum-exp of each row of S, N numbers."""
    total_N = torch.full((len(left),), -torch.inf, dtype=left.dtype)
    for part in right.split(tile):
        part_N = (logit_scale * left @ part.T).logsumexp(dim=1)
        total_N = torch.logaddexp(total_N, part_N)
    return total_N


left, right = unit_vectors(333, 16, seed=1).double()
uneven = torch.linspace(0.1, 1, 333, dtype=torch.float64)
at_once_N = (20.0 * left @ right.T).logsumexp(dim=1)
in_parts_N = row_sums_in_tiles(left, right, 20.0)
assert torch.allclose(at_once_N, in_parts_N, rtol=0, atol=1e-9), (
    "a sum can be computed in parts"
)


def value_and_gradients(loss):
    """The value and gradients of a loss of the two sides above."""
    sides = [side.clone().requires_grad_() for side in (left, right)]
    value = loss(*sides, uneven, logit_scale=20.0)
    value.backward()
    return torch.cat([value.detach()[None], *(side.grad.flatten() for side in sides)])


difference = value_and_gradients(gcl_loss) - value_and_gradients(tiled_gcl_loss)
print(f"dense and in tiles differ by {difference.abs().max():.0e} at most, gradients too")
assert difference.abs().max() < 1e-9, "in tiles it is the same loss, with the same gradients"

# %% [markdown]
# The library uses the tiled form automatically when a batch is large. A saved measurement: 16,384 pairs of 512 dimensions,
# forward and backward, take 7.7 s and 0.18 GB in tiles, 14.8 s and 4.27 GB with open_clip's loss (one thread of an Intel Xeon,
# `benchmarks/loss.py`).
#
# ## Second way: embed twice
#
# Now the encoder. Let $\theta$ be its parameters and $e_1, \dots, e_N$ its output vectors. By the chain rule
#
# $$
# \frac{\partial \, \text{loss}}{\partial \theta} = \sum_{i=1}^{N} \frac{\partial \, \text{loss}}{\partial e_i} \,
# \frac{\partial e_i}{\partial \theta}.
# \tag{3}
# $$
#
# The first factor needs the full batch, but only its *vectors*. The second needs the encoder's activations, but only of one row.
# So embed everything without keeping activations; compute the loss and the gradient of each vector; then embed again, one chunk
# at a time, and pass the stored gradients on. This is **gradient caching** (Gao et al. 2021). It costs a second forward pass, and
# it is exact.


# %%
def side_encoder():
    layers = torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16)
    return torch.nn.Sequential(*layers).double()


torch.manual_seed(SEED)
PAIRS = 512
encoders = side_encoder(), side_encoder()
inputs = torch.randn(PAIRS, 32).double()
partners = inputs @ torch.randn(32, 32).double() / 5 + 0.3 * torch.randn(PAIRS, 32).double()
weight_N = torch.rand(PAIRS).double() + 0.1


def embed(which, rows):
    return normalize(encoders[which]((inputs, partners)[which][rows]), dim=-1)


def loss_of(rows):
    """The loss of a batch of these rows."""
    return gcl_loss(embed(0, rows), embed(1, rows), weight_N[rows], logit_scale=10.0)


def gradient(backward):
    """The gradient of all parameters after calling `backward`, as one vector."""
    parameters = [p for encoder in encoders for p in encoder.parameters()]
    for parameter in parameters:
        parameter.grad = None
    backward()
    return torch.cat([p.grad.flatten() for p in parameters])


# %%
def cached_from_scratch(chunks):
    """Equation (3): the gradient of the full batch with the activations of one chunk at a time."""
    with torch.no_grad():
        vectors = [torch.cat([embed(side, rows) for rows in chunks]) for side in (0, 1)]
    vectors = [side.requires_grad_() for side in vectors]
    gcl_loss(*vectors, weight_N, logit_scale=10.0).backward()
    for side in (0, 1):
        gradients = vectors[side].grad.split([len(rows) for rows in chunks])
        for rows, gradient_of_vectors in zip(chunks, gradients, strict=True):
            embed(side, rows).backward(gradient_of_vectors)


def cached_by_library(chunks):
    sides = [[lambda side=s, rows=r: embed(side, rows) for r in chunks] for s in (0, 1)]
    cached_backward(lambda a, b: gcl_loss(a, b, weight_N, logit_scale=10.0), *sides)


everything, eight = torch.arange(PAIRS), torch.arange(PAIRS).chunk(8)
full = gradient(lambda: loss_of(everything).backward())
cached = gradient(lambda: cached_from_scratch(eight))
print(f"one batch of 512 and eight chunks of 64 differ by {(full - cached).abs().max():.0e}")
assert (full - cached).abs().max() < 1e-9, "gradient caching is exact"
assert (gradient(lambda: cached_by_library(eight)) - cached).abs().max() < 1e-9, (
    "the library does the same"
)

# %% [markdown]
# ## No way: add up small batches
#
# Now your colleague's eight batches of 64. In each of them a query is compared with 63 wrong products instead of 511. During a
# short training, compare her gradient with that of the full batch by the cosine of the angle between them.


# %%
def accumulate(chunks):
    """Add up the gradients of small batches."""
    for rows in chunks:
        (loss_of(rows) / len(chunks)).backward()


def cosine_with_full(backward):
    """The cosine of the angle between a way's gradient and that of the full batch."""
    full = gradient(lambda: loss_of(everything).backward())
    return torch.cosine_similarity(full, gradient(lambda: backward(eight)), dim=0).item()


WAYS = {"accumulated": accumulate, "cached": cached_from_scratch}
CHECKS, angles = [0, 25, 50, 100, 200, 300], []
optimizer = torch.optim.Adam([p for encoder in encoders for p in encoder.parameters()])
for step in range(CHECKS[-1] + 1):
    if step in CHECKS:
        angles.append({name: cosine_with_full(backward) for name, backward in WAYS.items()})
    optimizer.zero_grad()
    loss_of(torch.randperm(PAIRS)[:256]).backward()
    optimizer.step()
angles = pd.DataFrame(angles, index=CHECKS)
figures.lines(
    {name: (CHECKS, values.tolist()) for name, values in angles.items()},
    "training steps so far",
    "cosine with the full gradient",
)

# %% [markdown]
# *At the start the model knows nothing, and the gradient of eight small batches agrees with that of the large one. The more the
# model has learnt, the more they differ.*

# %%
print(angles.round(3))
assert angles["accumulated"].iloc[0] > 0.95, "at the start accumulation does no harm"
assert angles["accumulated"].iloc[-1] < 0.6, "later it points in another direction"
assert angles["cached"].min() > 1 - 1e-9, "caching never does"

# %% [markdown]
# <details><summary>The answer</summary>
#
# (c). Once the model separates the easy wrong answers, the hard ones are left to learn: the few products that are
# still confused with the right one. A batch of 512 contains them; with batches of 64, most of them are in another batch. For a
# classifier the loss is a sum over examples, and (a) is right. Here it is not.
#
# </details>
#
# ## Third way: many GPUs
#
# With $R$ GPUs, each embeds $N / R$ of the pairs. The vectors are small, so the GPUs exchange them. Then each GPU computes its own
# rows and columns of (1) in notebook 2, against all vectors, and the shares add up to the loss. No GPU ever holds more than
# $2 N^2 / R$ similarities.


# %%
def share_of(rank, ranks, left, right, weights, logit_scale):
    """The part of the loss that belongs to one GPU's rows and columns."""
    own = torch.arange(len(left)).chunk(ranks)[rank]
    rows = logit_scale * left[own] @ right.T
    columns = logit_scale * right[own] @ left.T
    positive = torch.arange(len(own)), own
    log_P, log_C = rows.log_softmax(dim=1)[positive], columns.log_softmax(dim=1)[positive]
    return -(weights[own] / weights.mean() * (log_P + log_C)).sum() / (2 * len(left))


shares = [share_of(rank, 4, left, right, uneven, 20.0).item() for rank in range(4)]
print("shares of four GPUs:", np.round(shares, 4), "sum", round(sum(shares), 6))
assert abs(sum(shares) - gcl_loss(left, right, uneven, logit_scale=20.0).item()) < 1e-9, (
    "the shares of the GPUs add up to the loss"
)

# %% [markdown]
# The library does this automatically under `torchrun --nproc-per-node 8 -m gcl_toolkit.cli train ...`. Beware: GPUs that each
# compute the loss of their own pairs only, and then average gradients, make your colleague's mistake.
#
# Notebook 10 fine-tunes on some of the 3.9 million training pairs of MarqoGS, and plans minutes and gigabytes for all of them.
#
# ## Exercises
#
# **1.** You have `gigabytes` of memory for the loss, 1e9 bytes each, and it keeps `matrices` matrices of float32. **What is the
# largest batch for the dense loss?** Ignore the vectors: solve the first term of (1) for $N$.


# %%
def largest_batch(gigabytes, matrices):
    """The largest integer N whose matrices fit."""
    ### BEGIN SOLUTION
    return int((gigabytes * 1e9 / (4 * matrices)) ** 0.5)
    ### END SOLUTION


# %%
for gigabytes, matrices in ((8, 2), (32, 2), (0.004, 1), (1, 3), (1e-9, 1)):
    batch = largest_batch(gigabytes, matrices)
    print(f"{gigabytes:g} GB, matrices: {matrices}, pairs: {batch:,}")
    sizes = [4 * matrices * pairs**2 for pairs in (batch, batch + 1)]
    assert sizes[0] <= 1e9 * gigabytes < sizes[1], (
        "exercise: it fits, and one pair more does not"
    )
    assert batch % 1 == 0, "exercise: an integer"

# %% [markdown]
# **2.** The row half of the loss is $\frac{1}{2N} \sum_i w_i [\log \sum_j e^{S_{ij}} - S_{ii}]$, with the weights divided by their
# mean. **Write its gradient with respect to the queries**, as the tiled loss does: tile after tile, with no tensor larger than
# $N \times$ `tile` or $N \times D$, and without keeping the tiles. The sums come from `row_sums_in_tiles` above, so each tile of the softmax $P$ can be computed by
# itself. Then follow equation (2) of notebook 2, the derivative with respect to $S$, and its equation (4), $s\,G R$.


# %%
def query_gradient(left, right, weight_N, logit_scale, tile):
    """left, right: N x D. The gradient of the row half with respect to left, N x D."""
    ### BEGIN SOLUTION
    total_N = row_sums_in_tiles(left, right, logit_scale, tile)
    mixture_NxD = -right
    for part in right.split(tile):
        mixture_NxD = (
            mixture_NxD + (logit_scale * left @ part.T - total_N[:, None]).exp() @ part
        )
    return logit_scale * (weight_N / weight_N.sum())[:, None] * mixture_NxD / 2
    ### END SOLUTION


# %%
class Memory(TorchDispatchMode):
    """Notes the numbers of the largest tensor, and of all tensors that exist at once."""

    def __init__(self):
        super().__init__()
        self.largest, self.most, self.storages = 0, 0, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
            self.storages.append(weakref.ref(result.untyped_storage()))
            alive = {s.data_ptr(): s.nbytes() for ref in self.storages if (s := ref())}
            self.most = max(self.most, sum(alive.values()) // result.itemsize)
        return result


for count, tile, logit_scale in ((333, 100, 20.0), (333, 10, 20.0), (40, 7, 5.0), (5, 8, 1.0)):
    queries, products, own_weights = (x[:count].clone() for x in (left, right, uneven))
    with Memory() as memory_used:
        mine = query_gradient(queries, products, own_weights, logit_scale, tile)
    asked = queries.clone().requires_grad_()
    row_N = (logit_scale * asked @ products.T).log_softmax(dim=1).diagonal()
    (-(own_weights / own_weights.mean() * row_N).mean() / 2).backward()
    mine, one_tile = torch.as_tensor(mine), count * max(tile, 16)
    assert mine.shape == queries.shape, "exercise: a gradient for each number of the queries"
    assert (mine - asked.grad).abs().max() < 1e-9, "exercise: the gradient of the queries"
    assert memory_used.largest <= one_tile, "exercise: no tensor larger than a tile"
    assert memory_used.most <= 12 * one_tile, "exercise: one tile at a time"

# %% [markdown]
# **3.** In a small batch a query meets its own product and $M - 1$ of the full batch's $N - 1$ wrong ones, drawn at random.
# **Estimate the sum $\sum_j e^{S_{ij}}$ of its row in the full batch**, so that the estimate is right on average over all such
# small batches. Return its logarithm. Similarities can be as large as 1,000.


# %%
def log_sum_from_sample(S_M, full):
    """S_M: similarities of one query, its own product first, M >= 2; full: N, the size of the
    full batch."""
    ### BEGIN SOLUTION
    wrong = S_M[1:].logsumexp(dim=0) + np.log((full - 1) / (len(S_M) - 1))
    return torch.logaddexp(S_M[0], wrong)
    ### END SOLUTION


# %%
for parts, wrong, shift in ((8, 63, 0.0), (3, 1, 0.0), (1, 20, 0.0), (4, 5, 990.0)):
    S_N = shift + 5 * torch.randn(1 + parts * wrong, dtype=torch.float64)
    small = [torch.cat([S_N[:1], part]) for part in S_N[1:].split(wrong)]
    estimates = [
        torch.as_tensor(log_sum_from_sample(S_M, len(S_N)), dtype=torch.float64)
        for S_M in small
    ]
    assert {e.shape for e in estimates} == {()}, "exercise: one number"
    mean = torch.stack(estimates).logsumexp(dim=0) - np.log(parts)
    full_sum = S_N.logsumexp(dim=0)
    print(f"{parts} batches: log of the mean estimate {mean:.4f}, full batch {full_sum:.4f}")
    assert abs(mean - full_sum) < 1e-9, "exercise: right on average"

# %% [markdown]
# This does not repair accumulation. If an estimate is right on average, its logarithm is too small on average, and the hardest
# wrong product is still in only one of the small batches.
#
# ## What can mislead you
#
# **A larger batch is not always better.** A larger batch contains more wrong answers that are actually good ones, and with a
# fixed number of pairs there are fewer steps. Choose batch size and learning rate together, on dev queries.
#
# **Counted memory is not used memory.** The hook counts what is kept for the backward pass. Temporary results, the optimizer and
# the allocator's reserves come on top. Measure the peak on your machine.
#
# **"Effective batch size" in a paper** may mean accumulation, separate losses per GPU, or a true batch. The number is the same,
# the training is not. Ask.
#
# **Dropout can break caching.** The second embedding must use the same random numbers as the first, or the gradients belong to
# other vectors. The library stores the generator's state with each chunk. (Chunks still draw other numbers than a full batch
# would.)
#
# ## Recap
#
# - The dense loss keeps matrices of N x N numbers (1). In tiles (2) memory grows linearly with N, and value and gradients are the
#   same.
# - Gradient caching (3) gives the exact gradient of a large batch with the activations of a small one, at the cost of a second
#   forward pass.
# - Accumulation gives a different gradient, increasingly so during training.
# - Many GPUs exchange vectors, divide rows and columns, and add up their shares.
#
# ## Questions
#
# 1. Why is accumulation exact for a classifier with cross-entropy and not for a contrastive loss?
# 2. Which of the three ways needs more computing than the plain loss, and how much?
# 3. Eight GPUs, 32,768 pairs, vectors of 512 numbers in float32. How many bytes does each GPU receive? Compare with the
#    gradients of 151 million parameters.
# 4. The weights in (1) of notebook 2 are divided by their mean. Over which pairs must that mean be taken on eight GPUs?
