"""Exact top-k by embeddings: chunk by chunk of the corpus, on CPU or GPU, in bounded memory.

A chunk only yields what beats the k-th best so far. Where the machine multiplies in bfloat16, that product proposes
candidates and float32 scores them; an error bound makes sure that the k best are among the candidates. A corpus in the
memory of a GPU is searched by search_gpu.py first, and this way only for queries for which that can't prove its result.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.linalg import vector_norm

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.machine import fast_bfloat16
from gcl_toolkit.models.model import GCLModel

Matrix = np.ndarray | Tensor
MAX_TIES = 4096
"""Rows beyond k that are ranked where the score at rank k is tied."""


def search(model: GCLModel, queries: Sequence[str], corpus: pa.Table, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(cosines, product ids), each queries x k, best first, of texts against a corpus table.

    For a model whose left side is one text field. A k larger than the corpus gives the whole corpus.
    """
    if len(model.left) != 1:
        raise UserError(f"search takes texts, but the model's queries have {model.left}; use model.embed and top_k")
    table = pa.table({next(iter(model.left)): list(queries)})
    scores, rows = top_k(model.embed(table, "left"), model.embed(corpus, "right"), k, device=model.device)
    return scores, corpus["product_id"].to_numpy()[rows]


def top_k(
    queries_QxD: Matrix,
    corpus_NxD: Matrix,
    k: int,
    *,
    chunk: int | None = None,
    device: str | torch.device | None = None,
    bfloat16: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(inner products as float32, row numbers), each Q x min(k, N), best first: exact.

    Equal scores are in row order. Scores too close for float32 are compared in float64, so that the ranking doesn't
    depend on chunk, device or the other queries (with more than `MAX_TIES` such rows at rank k, only those count).
    Arrays or tensors of any float type; float16 and memory-mapped ones are read chunk by chunk. chunk: rows at a time.
    device: where to compute, by default where the corpus is. bfloat16: propose in it, by default where that is faster.
    Raises UserError for shapes that don't fit, DataError for a NaN or an infinity, naming its row.
    """
    _check_shapes(queries_QxD, corpus_NxD, k)
    corpus_at = corpus_NxD.device if isinstance(corpus_NxD, Tensor) else "cpu"
    device = torch.device(corpus_at if device is None else device)
    queries = _rows(queries_QxD, 0, len(queries_QxD), device)
    if not (finite_Q := queries.isfinite().all(1)).all():
        raise DataError(f"query row {int(finite_Q.int().argmin())} holds a NaN or an infinity; embed it again")
    k = min(k, len(corpus_NxD))
    shape, pinned = (len(queries), k), device.type == "cuda" and len(queries) * k <= 2**25  # for fast copies
    scores_QxK, rows_QxK = (torch.empty(shape, dtype=kind, pin_memory=pinned) for kind in (torch.float32, torch.long))
    todo_Q, wide = torch.arange(len(queries) if k else 0), min(k + k // 100 + 4, len(corpus_NxD))
    with _full_precision():
        if len(todo_Q) and chunk is bfloat16 is None and isinstance(corpus_NxD, Tensor) and corpus_NxD.is_cuda:
            todo_Q = _unproved(queries, corpus_NxD.detach(), scores_QxK, rows_QxK)
        while len(todo_Q):
            block = max(min(1024, 2**20 // wide), 1) * (1 if device.type == "cpu" else 4)
            tied = []
            for part_B in todo_Q.split(block):
                scores_BxW, rows_BxW, is_tied_B = _ranked(queries[part_B], corpus_NxD, k, wide, chunk, bfloat16)
                scores_QxK[part_B], rows_QxK[part_B] = scores_BxW[:, :k].cpu(), rows_BxW[:, :k].cpu()
                tied.append(part_B[is_tied_B.cpu()])
            todo_Q = torch.cat(tied) if wide < min(len(corpus_NxD), k + MAX_TIES) else todo_Q[:0]
            wide = min(len(corpus_NxD), 4 * wide, k + MAX_TIES)
    return scores_QxK.numpy(), rows_QxK.numpy()


def _unproved(queries_QxD: Tensor, corpus_NxD: Tensor, scores_QxK: Tensor, rows_QxK: Tensor) -> Tensor:
    """Fill in the results that search_gpu.py finds and proves; the numbers of all other queries."""
    everything, k = torch.arange(len(queries_QxD)), scores_QxK.shape[1]
    try:
        from gcl_toolkit.measure.search_gpu import best_keys, fits
    except ImportError:  # no Triton, or an old one
        return everything
    if corpus_NxD.device != queries_QxD.device or not fits(corpus_NxD, k):
        return everything
    is_left = []
    with torch.cuda.device(corpus_NxD.device):
        for queries_BxD, *to in zip(*(x.split(4096) for x in (queries_QxD, scores_QxK, rows_QxK)), strict=True):
            keys_BxK, bound_B = best_keys(queries_BxD, corpus_NxD, k)
            scores_BxK, rows_BxK = _unpacked(keys_BxK)
            to[0].copy_(scores_BxK, non_blocking=True)
            to[1].copy_(rows_BxK, non_blocking=True)
            is_left.append(~(scores_BxK[:, -1] > bound_B))
    return everything[torch.cat(is_left).cpu()]  # waits for the copies too


def _ranked(
    queries_QxD: Tensor, corpus_NxD: Matrix, k: int, wide: int, chunk: int | None, bfloat16: bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and rows of the best `wide`, near ties decided in float64; and whether there may be more near rank k."""
    at = queries_QxD.device if queries_QxD.is_cuda else torch.device("cpu")  # where there is float64
    scores_QxW, rows_QxW = (x.to(at) for x in _unpacked(_best_keys(queries_QxD, corpus_NxD, wide, chunk, bfloat16)))
    queries_QxD = queries_QxD.to(at)
    norm = vector_norm(_rows(corpus_NxD, 0, 1024, at), dim=1).max()
    size_Q1 = norm * vector_norm(queries_QxD, dim=1, keepdim=True)
    # twice the error to expect of float32 sums of D products, whose partial sums are about as large as sum or addends
    near_QxW = (len(queries_QxD[0]) ** 0.5 * scores_QxW.abs() + size_Q1) * 2**-22 + 1e-38
    is_near_QxV = scores_QxW[:, :-1] - scores_QxW[:, 1:] <= near_QxW[:, 1:]
    edge = is_near_QxV.new_zeros(len(scores_QxW), 1)
    query_P, place_P = (torch.cat([edge, is_near_QxV], 1) | torch.cat([is_near_QxV, edge], 1)).nonzero(as_tuple=True)
    row_P = rows_QxW[query_P, place_P]
    size = 2**16 if at.type == "cuda" else 2**9  # what the cache holds
    for query_B, place_B, row_B in zip(*(x.split(size) for x in (query_P, place_P, row_P)), strict=True):
        rows_BxD = _rows(corpus_NxD, row_B, None, at).double()
        scores_QxW[query_B, place_B] = (queries_QxD[query_B].double() * rows_BxD).sum(1).float()
    order_QxW = _packed(scores_QxW, rows_QxW).argsort(1)
    is_tied_Q = scores_QxW[:, k - 1] - scores_QxW[:, -1] <= near_QxW[:, k - 1]
    return scores_QxW.gather(1, order_QxW), rows_QxW.gather(1, order_QxW), is_tied_Q


def _best_keys(queries_QxD: Tensor, corpus_NxD: Matrix, k: int, chunk: int | None, bfloat16: bool | None) -> Tensor:
    """Q x k keys, see `_packed`, best first."""
    device, (queries, dimension) = queries_QxD.device, queries_QxD.shape
    if bfloat16 is None:
        pays = queries >= 256 and dimension >= 64 and len(corpus_NxD) >= 256 * max(k, 256)
        bfloat16 = pays and (device.type == "cuda" or fast_bfloat16())
    if device.type == "cuda":
        chunk = chunk or max(2**21 // max(queries, dimension), 1) * 128  # odd widths are slow
    elif bfloat16:
        chunk = chunk or max(2**21 // dimension, 1)  # so that rows and scores stay in the cache
    else:
        chunk = chunk or min(max(2**14 // queries * 128, 2**13), 2**16)  # odd widths are slow here too
    first = max(chunk, 16 * k)  # so that of later chunks at most every 16th row beats the k-th best
    best, proposals = _Best(queries, k, first, device), None
    for start in (0, *range(first, len(corpus_NxD), chunk)):
        part_CxD = _rows(corpus_NxD, start, start + chunk if start else first, device)
        scored = proposals.score(part_CxD, best.cut_Q) if proposals else None
        if scored is None:
            scores_QxC = _product(queries_QxD, part_CxD)
            if start == 0:
                best.cut_Q = _just_below_kth(scores_QxC, k)
            begin_Q1, cell_P = _above(scores_QxC, best.cut_Q)
            scored = begin_Q1, _places(begin_Q1, cell_P, len(part_CxD)), scores_QxC.take(cell_P)
            proposals = _Proposals(queries_QxD, part_CxD) if bfloat16 and start == 0 else None
        best.add(*scored, start)
    return best.sorted()


# -- the k best so far -------------------------------------------------------------------------------------------------


class _Best:
    """Keys of each query's k best so far, unordered, with newer ones; and the score that a new one has to beat."""

    def __init__(self, queries: int, k: int, chunk: int, device: torch.device):
        self.k, self.slack = k, max(k // 4, 32)
        self.keys_QxW = torch.empty(queries, k + self.slack + chunk, dtype=torch.long, device=device)
        self.fill_Q = torch.zeros(queries, dtype=torch.long, device=device)
        self.cut_Q = torch.full((queries,), -torch.inf, device=device)

    def add(self, begin_Q1: Tensor, place_P: Tensor, score_P: Tensor, start: int) -> None:
        """Add the scores of rows start + place; begin[q] .. begin[q + 1] are those of query q."""
        if not (finite_P := score_P.isfinite()).all():
            bad = int(finite_P.int().argmin())
            raise DataError(
                f"corpus row {start + int(place_P[bad])}: an inner product with it is {float(score_P[bad])}; "
                "embeddings must be finite, with norms below 1e18"
            )
        queries, width = self.keys_QxW.shape
        counts_Q = begin_Q1.diff()
        shift_Q = torch.arange(queries, device=place_P.device) * width + self.fill_Q - begin_Q1[:-1]
        cell_P = torch.arange(len(place_P), device=place_P.device) + shift_Q.repeat_interleave(counts_Q)
        self.keys_QxW.view(-1)[cell_P] = _packed(score_P, place_P + start)
        self.fill_Q += counts_Q
        if int(self.fill_Q.max()) > self.k + self.slack:
            self._compact()

    def _compact(self) -> None:
        """Keep the k best in the first k columns; where a query has k, the k-th is the last of them."""
        used = max(self.k, int(self.fill_Q.max()))
        keys_QxU = self.keys_QxW[:, :used]
        empty_QxU = torch.arange(used, device=keys_QxU.device) >= self.fill_Q[:, None]
        keys_QxU.masked_fill_(empty_QxU, torch.iinfo(torch.long).max)
        if keys_QxU.is_cuda:
            keys_QxU[:, : self.k] = keys_QxU.topk(self.k, largest=False).values
        else:
            keys_QxU.numpy().partition(self.k - 1, axis=1)
        self.fill_Q.clamp_(max=self.k)
        self.cut_Q = torch.where(self.fill_Q == self.k, _unpacked(keys_QxU[:, self.k - 1])[0], self.cut_Q)

    def sorted(self) -> Tensor:
        self._compact()
        return self.keys_QxW[:, : self.k].sort(dim=1).values


def _packed(scores: Tensor, rows: Tensor) -> Tensor:
    """int64 keys that ascend by descending score, then by ascending row (< 2^32)."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (~ascending.long() << 32) | rows


def _unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    ascending = (~(keys >> 32)).int()
    return (ascending ^ ((ascending >> 31) & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF


# -- proposals in bfloat16 ---------------------------------------------------------------------------------------------


class _Proposals:
    """Selects rows of a chunk that may beat the cut, by a bfloat16 product, and scores them in float32.

    A centre c is subtracted from the rows: it shifts all scores of a query by q.c and makes the rounded numbers
    smaller. With y = x - c, p and b the bfloat16 of q and y, a = p.b as computed, Y the largest |y| of the chunk:
    |q.y - a| <= |q - p| Y + |p| Y / 2^8 + |a| / 2^8 + float32's own rounding, where 2^-8 is bfloat16's.
    """

    def __init__(self, queries_QxD: Tensor, sample_CxD: Tensor):
        self.queries_QxD, self.centre_D = queries_QxD, sample_CxD.mean(0)
        self.rounded_QxD = queries_QxD.bfloat16()
        self.norm_Q = vector_norm(queries_QxD, dim=1)
        self.shift_Q = queries_QxD @ self.centre_D
        self.lost_Q = vector_norm(queries_QxD - self.rounded_QxD.float(), dim=1) + self.norm_Q * 1.01 / 2**8

    def score(self, part_CxD: Tensor, cut_Q: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """(begin, place, score) of all that beat the cut and some that don't; None if float32 is faster."""
        centred_CxD = part_CxD - self.centre_D
        largest = vector_norm(centred_CxD, dim=1).max()
        least_Q = cut_Q - self.shift_Q - self._error(largest)
        least_Q = (least_Q - least_Q.abs() / 2**6.9).bfloat16()  # |a| / 2^8, and as much for rounding the cut itself
        proposed_QxC = self.rounded_QxD @ centred_CxD.bfloat16().T
        begin_Q1, cell_P = _above(proposed_QxC, least_Q)
        if len(cell_P) > proposed_QxC.numel() // 8:
            return None
        place_P = _places(begin_Q1, cell_P, len(part_CxD))
        return begin_Q1, place_P, _scores_at(self.queries_QxD, part_CxD, begin_Q1, place_P)

    def _error(self, largest: Tensor) -> Tensor:
        dimension = len(self.centre_D)
        rounding_Q = 4 * (dimension + 8) / 2**24 * self.norm_Q * (largest + vector_norm(self.centre_D))
        underflow_Q = 4 * dimension / 2**126 * (1 + self.norm_Q + largest)  # hardware may flush subnormals to 0
        return 1.001 * (self.lost_Q * largest + rounding_Q) + underflow_Q


def _scores_at(queries_QxD: Tensor, part_CxD: Tensor, begin_Q1: Tensor, place_P: Tensor) -> Tensor:
    """The inner products of each query q with the rows place[begin[q]] .. place[begin[q + 1]]."""
    shape, zeros_P = (len(queries_QxD), len(part_CxD)), part_CxD.new_zeros(len(place_P))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse tensors are "in beta" and "unchecked"
        wanted = torch.sparse_csr_tensor(begin_Q1, place_P, zeros_P, shape)
        return torch.sparse.sampled_addmm(wanted, queries_QxD, part_CxD.T, beta=0.0).values()


def _product(queries_QxD: Tensor, part_CxD: Tensor) -> Tensor:
    """Q x C; for one query in one thread by numpy, which reads the rows as fast as memory gives them."""
    if len(queries_QxD) > 1 or queries_QxD.device.type != "cpu" or torch.get_num_threads() > 1:
        return queries_QxD @ part_CxD.T
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.vecdot(part_CxD.numpy(), queries_QxD.numpy())[None])


def _above(scores_QxC: Tensor, cut_Q: Tensor) -> tuple[Tensor, Tensor]:
    """The cells (query * C + place) with scores above the cut or NaN, and where each query's begin (Q + 1)."""
    if scores_QxC.dtype == torch.bfloat16 and not scores_QxC.is_cuda:  # numpy has no bfloat16
        if (cut_Q >= 0).all():
            scores_QxC, cut_Q = scores_QxC.view(torch.int16), cut_Q.view(torch.int16)  # bits sort like the numbers
        else:
            scores_QxC, cut_Q = scores_QxC.float(), cut_Q.float()
    if scores_QxC.is_cuda:
        cell_P = (~(scores_QxC <= cut_Q[:, None])).flatten().nonzero()[:, 0]
    else:  # numpy is several times faster here
        cell_P = torch.from_numpy(np.flatnonzero(~(scores_QxC.numpy() <= cut_Q.numpy()[:, None])))
    queries, chunk = scores_QxC.shape
    return torch.searchsorted(cell_P, torch.arange(queries + 1, device=cell_P.device) * chunk), cell_P


def _places(begin_Q1: Tensor, cell_P: Tensor, chunk: int) -> Tensor:
    query_Q = torch.arange(len(begin_Q1) - 1, device=cell_P.device)
    return cell_P - (query_Q * chunk).repeat_interleave(begin_Q1.diff())


def _just_below_kth(scores_QxC: Tensor, k: int) -> Tensor:
    """The next number below each query's k-th largest score; -inf where there are fewer."""
    if scores_QxC.shape[1] < k:
        return scores_QxC.new_full((len(scores_QxC),), -torch.inf)
    if scores_QxC.is_cuda:
        kth_Q = scores_QxC.topk(k, sorted=False).values.amin(1)
    else:
        kth_Q = torch.from_numpy(np.partition(scores_QxC.numpy(), -k, axis=1)[:, -k])
    return kth_Q.nextafter(kth_Q.new_tensor(-torch.inf))


def _rows(matrix: Matrix, start: int | Tensor, stop: int | None, device: torch.device) -> Tensor:
    """Rows start..stop, or those of an index, as float32 on the device; read-only memory, as a file's, is copied."""
    part = matrix[start:stop] if isinstance(start, int) else matrix[start.to(getattr(matrix, "device", "cpu"))]
    if not isinstance(part, Tensor):
        part = np.asarray(part, None if part.dtype in (np.float16, np.float32) else np.float32)
        part = torch.from_numpy(np.require(part, requirements=["C", "W"]))
    return part.detach().to(device, torch.float32)


def _check_shapes(queries: Matrix, corpus: Matrix, k: int) -> None:
    if len(queries.shape) != 2 or len(corpus.shape) != 2 or queries.shape[1] != corpus.shape[1]:
        raise UserError(
            f"queries {tuple(queries.shape)} and corpus {tuple(corpus.shape)}: two matrices with rows of equal length "
            "are expected; embed both with one model"
        )
    if k < 1:
        raise UserError(f"k is {k}; it must be at least 1")


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 in float32 and sums of bfloat16 products in float32, whatever the process has set."""
    matmul, precision = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    reduced = matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        matmul.allow_bf16_reduced_precision_reduction = reduced
