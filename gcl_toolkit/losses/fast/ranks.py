"""A batch that is spread over many ranks, and one whose activations don't fit into memory.

A rank embeds its own rows, gathers everybody's embeddings with their gradients and computes its share of the loss: the
ranks' values *sum* to the loss of the whole batch in one process, and so do their gradients (`sum_gradients`). Without
torch.distributed there is one rank, and the same functions give the plain loss.

Gradient caching after Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

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


def whole_batch(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """This rank's share of any `loss(left, right, ...)`: every rank computes it whole, on the gathered embeddings.

    The further arguments are those of the whole batch. Right for every loss; the tiled forms divide the work.
    """

    def share(left: Tensor, right: Tensor, *arguments, **options) -> Tensor:
        return loss(gather(left), gather(right), *arguments, **options) / ranks()

    return share


# -- batches larger than memory ----------------------------------------------------------------------------------------


def cached_backward(
    loss: Callable[..., Tensor], *sides: Sequence[Callable[[], Tensor]], scale: Tensor | float = 1.0
) -> Tensor:
    """The value of loss(left, right) and the gradients of scale * loss, with the activations of one chunk at a time.

    sides: for the left and the right, functions that each embed a chunk of rows. The first chunk is embedded with its
    graph, the others without; the loss gives the gradients of the embeddings, and each of the others is embedded again,
    with the same random numbers (dropout), to carry them on to the parameters.
    """
    chunks = [chunk for side in sides for chunk in side]
    states, first, leaves = [], None, []
    for chunk in chunks:
        states.append(_random_state())
        with torch.set_grad_enabled(first is None):
            part = chunk()
        first = part if first is None else first
        leaves.append(part.detach().requires_grad_())
    rest = iter(leaves)
    value = loss(*(torch.cat(list(islice(rest, len(side)))) for side in sides))
    (scale * value).backward()
    for chunk, state, leaf in zip(chunks, states, leaves, strict=True):
        if first is None:
            _set_random_state(state)
        again, first = chunk() if first is None else first, None
        if again.requires_grad:
            again.backward(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return value.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
