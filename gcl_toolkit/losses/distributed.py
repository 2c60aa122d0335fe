"""Losses of a batch that lies on many ranks, and of one whose activations don't fit into memory.

A rank embeds its own rows, gathers everybody's embeddings with their gradients, and computes its share of the loss: the
ranks' values *sum* to the loss of the whole batch in one process, and so do their gradients (`sum_gradients`). Without
torch.distributed there is one rank, and the same functions give the plain loss.

Gradient caching after Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from gcl_toolkit.losses.gcl import gcl_loss
from gcl_toolkit.losses.log_sum_exps import log_sum_exps
from gcl_toolkit.losses.matrix import ROWS, matrix_loss, shares
from gcl_toolkit.losses.tiled import (
    graded_part,
    listed,
    listed_shares,
    matrix_part,
    same_id_cells,
    softplus,
    tiled_gcl_loss,
    tiled_graded_loss,
    tiled_matrix_loss,
)

BUCKET = 1 << 25
"""Numbers a message of `sum_gradients`."""


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if ranks() > 1 else 0


def own_share(count: int) -> slice:
    """The rows of `count` that are this rank's; the shares differ by one row at most."""
    few, more = divmod(count, ranks())
    start = rank() * few + min(rank(), more)
    return slice(start, start + few + (rank() < more))


def gather(own: Tensor) -> Tensor:
    """n x ... of every rank -> N x ..., in the order of the ranks. Its gradient is the sum of all ranks' gradients."""
    return own if ranks() == 1 else _Gather.apply(own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own):
        counts = own.new_zeros(ranks(), dtype=torch.int64)
        counts[rank()] = len(own)
        dist.all_reduce(counts)
        sizes = counts.tolist()
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        start = sum(sizes[: rank()])
        ctx.rows = slice(start, start + len(own))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.rows]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all ranks, in place."""
    bucket: list[Tensor] = []
    gradients = [p.grad for p in parameters if p.grad is not None] if ranks() > 1 else []
    for i, gradient in enumerate(gradients):
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET or i + 1 == len(gradients):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view(g.shape))
            bucket = []


# -- losses ------------------------------------------------------------------------------------------------------------


def whole_batch(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """This rank's share of any `loss(left, right, ...)`: every rank computes it whole, on the gathered embeddings.

    The further arguments are those of the whole batch. Right for every loss; the local forms below divide the work.
    """

    def share(left: Tensor, right: Tensor, *arguments, **options) -> Tensor:
        return loss(gather(left), gather(right), *arguments, **options) / ranks()

    return share


def local_gcl_loss(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None = None,
    *,
    logit_scale: Tensor | float,
    query_ids: Tensor | None = None,
    product_ids: Tensor | None = None,
    not_negative: Tensor | None = None,
    normalise_weights: bool = True,
    tiled: bool = False,
) -> Tensor:
    """This rank's share of `gcl_loss`, from its n of the N pairs; weights and ids are of the n pairs.

    not_negative: 2 x K, cells of the whole N x N. tiled: never holds n x N.
    """
    weights_n = torch.ones_like(left[:, 0]) if weights is None else weights.to(left.dtype)
    weights_N = gather(weights_n)
    if normalise_weights:
        weights_n = weights_n / weights_N.mean().clamp(min=torch.finfo(left.dtype).tiny)
    masked = [same_id_cells(gather(ids)) for ids in (query_ids, product_ids) if ids is not None]
    masked += [] if not_negative is None else [not_negative]
    cells = torch.cat(masked, 1).to(left.device) if masked else None
    rows_n = _cross_entropy(left, gather(right), logit_scale, cells, tiled)
    columns_n = _cross_entropy(right, gather(left), logit_scale, cells if cells is None else cells.flip(0), tiled)
    return (weights_n * (rows_n + columns_n)).sum().to(weights_n.dtype) / (2 * len(weights_N))


def _cross_entropy(
    own: Tensor, others: Tensor, scale: Tensor | float, masked: Tensor | None = None, tiled: bool = False
) -> Tensor:
    """-log softmax of each own row at its own pair among all others, n; masked cells (2 x K) are no negatives."""
    mine = own_share(len(others))
    if mine.stop - mine.start != len(own):
        raise ValueError(f"rank {rank()} has {len(own)} of {len(others)} pairs; those of own_share are expected")
    pairs = torch.stack([torch.arange(len(own)), torch.arange(mine.start, mine.stop)]).to(own.device)
    cells = pairs[:, :0] if masked is None else _own_rows(masked, mine)[0]
    if tiled:
        row_n, _, own_n = log_sum_exps(own, others, scale, pairs, cells)
        return softplus(row_n - own_n)
    logits_nxN = scale * own @ others.T
    mask_nxN = torch.zeros_like(logits_nxN, dtype=torch.bool)
    mask_nxN[cells[0], cells[1]] = True
    mask_nxN[pairs[0], pairs[1]] = False
    return logits_nxN.masked_fill(mask_nxN, -torch.inf).logsumexp(1) - logits_nxN[pairs[0], pairs[1]]


def _own_rows(cells: Tensor, mine: slice) -> tuple[Tensor, Tensor]:
    """The cells in this rank's rows, counted from its first, and which of all they are."""
    kept = (cells[0] >= mine.start) & (cells[0] < mine.stop)
    return cells[:, kept] - torch.tensor([[mine.start], [0]], device=cells.device), kept


def local_matrix_loss(
    queries: Tensor, documents: Tensor, weights: Tensor, *, logit_scale: Tensor | float, r: float = ROWS
) -> Tensor:
    """This rank's share of `matrix_loss`, from its n of the N queries and m of the M documents.

    weights (N x M) are those of the whole batch, in the order of the ranks.
    """

    def one_way(own: Tensor, others: Tensor, weights_NxM: Tensor) -> Tensor:
        share_nxM = shares(weights_NxM)[own_share(len(weights_NxM))]
        return (share_nxM * (logit_scale * own @ others.T).log_softmax(1)).sum()

    rows = one_way(queries, gather(documents), weights)
    return -(r * rows + (1 - r) * one_way(documents, gather(queries), weights.T))


def local_tiled_loss(
    queries: Tensor,
    documents: Tensor,
    weights: Tensor,
    *,
    logit_scale: Tensor | float,
    r: float = ROWS,
    graded: bool = False,
) -> Tensor:
    """`local_matrix_loss`, or with `graded` that of `graded_loss`, without n x M or N x m; weights may be sparse."""
    cells, weight_K = listed(weights.detach())

    def one_way(own: Tensor, others: Tensor, rows: int, cells: Tensor, part: Callable[..., Tensor]) -> Tensor:
        mine = own_share(rows)
        share_K = listed_shares(weight_K, cells[0], rows)
        at, kept = _own_rows(cells, mine)
        row_n, _, own_K = log_sum_exps(own, others, logit_scale, at)
        return part(own_K, row_n, at[0], share_K[kept], weight_K[kept])

    by_row = one_way(queries, gather(documents), weights.shape[0], cells, graded_part if graded else matrix_part)
    by_column = one_way(documents, gather(queries), weights.shape[1], cells.flip(0), matrix_part)
    return (r * by_row + (1 - r) * by_column).to(torch.promote_types(queries.dtype, torch.float32))


def local_form(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss as each rank computes its share; with one rank the loss itself."""
    if ranks() == 1:
        return loss
    divided: dict[Callable, Callable[..., Tensor]] = {
        gcl_loss: local_gcl_loss,
        matrix_loss: local_matrix_loss,
        tiled_gcl_loss: partial(local_gcl_loss, tiled=True),
        tiled_matrix_loss: local_tiled_loss,
        tiled_graded_loss: partial(local_tiled_loss, graded=True),
    }
    return divided.get(loss) or whole_batch(loss)


# -- batches larger than memory ----------------------------------------------------------------------------------------


def cached_backward(
    loss: Callable[..., Tensor], *sides: Sequence[Callable[[], Tensor]], scale: Tensor | float = 1.0
) -> Tensor:
    """The value of loss(left, right) and the gradients of scale * loss, with the activations of one chunk at a time.

    sides: for the left and the right, functions that each embed a chunk of rows. All chunks are embedded without a
    graph, the loss gives the gradients of the embeddings, and each chunk is embedded again, with the same random
    numbers (dropout), to carry them on to the parameters.
    """
    states, embedded = [], []
    for chunks in sides:
        parts = []
        for chunk in chunks:
            states.append(_random_state())
            with torch.no_grad():
                parts.append(chunk())
        embedded.append(parts)
    wholes = [torch.cat(parts).requires_grad_() for parts in embedded]
    value = loss(*wholes)
    (scale * value).backward()
    replay = iter(states)
    for chunks, parts, whole in zip(sides, embedded, wholes, strict=True):
        gradients = torch.zeros_like(whole) if whole.grad is None else whole.grad
        for chunk, gradient in zip(chunks, gradients.split([len(part) for part in parts]), strict=True):
            _set_random_state(next(replay))
            again = chunk()
            if again.requires_grad:
                again.backward(gradient)
    return value.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
