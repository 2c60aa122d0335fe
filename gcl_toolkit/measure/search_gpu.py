"""Exact top-k of a matrix on a GPU: guess a cut for each query, list all rows above it, bound the scores of the others.

The cut is a score of a random sample's. One kernel multiplies in float16 and keeps one bit a score, one turns bits into
lists of rows, one scores those in float64. The bound says whether the k best of a list are the k best of all.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.linalg import vector_norm
from triton.tools.tensor_descriptor import TensorDescriptor

BLOCK = 128, 128, 64
"""Queries, rows and numbers that one step of a product reads."""
LAUNCH = {"num_warps": 4, "num_stages": 3}
CHUNK = 2**20
"""Rows whose bits are in memory at a time."""
SAMPLE, GROUPS = 2**17, 2**12


def fits(corpus_NxD: Tensor, k: int) -> bool:
    """Whether `best_keys` takes this corpus on its GPU, and is fast; other GPUs than Hopper were not tried."""
    (rows, dimension), is_hopper = corpus_NxD.shape, torch.cuda.get_device_capability(corpus_NxD.device)[0] == 9
    aligned = corpus_NxD.is_contiguous() and corpus_NxD.data_ptr() % 16 == 0 and dimension % 8 == 0
    known = corpus_NxD.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return is_hopper and aligned and known and 2 * SAMPLE <= rows < 2**31 and k * SAMPLE <= rows * GROUPS // 8


def best_keys(queries_QxD: Tensor, corpus_NxD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(Q x k keys, best first, as of `search._packed`, of listed rows; a bound of the scores of all other rows, Q).

    queries: float32. Scores are float64's, rounded to float32. The bound is infinite where the list was too short or
    a row isn't finite; where it is not below the k-th score, better rows may be missing.
    """
    exponent_Q1 = queries_QxD.abs().amax(1, keepdim=True).frexp().exponent.clamp(-126, 126)
    scaled_QxD = queries_QxD.ldexp(-exponent_Q1)
    half_QxD, largest = scaled_QxD.half(), _largest_norm(corpus_NxD)
    is_half = corpus_NxD.dtype == torch.float16
    shift = largest.new_zeros((), dtype=torch.int32) if is_half else largest.frexp().exponent.clamp(-126, 126)
    rank, room = _rank_and_room(k, len(corpus_NxD))
    cut_Q = _guessed_cut(half_QxD, corpus_NxD, shift, rank)
    count_Q, row_QxL = _listed(half_QxD, corpus_NxD, shift, cut_Q, room)
    keys_QxK = _keys(queries_QxD, corpus_NxD, count_Q, row_QxL).sort(1).values[:, :k]
    # with p and y for the halved q and x, and a for p.y as computed: |q.x - a| <= |q - p| |x| + |p| |x - y| + rounding
    dimension, largest = queries_QxD.shape[1], largest.double().ldexp(-shift)
    lost = 0.0 if is_half else 2.0**-11 + dimension**0.5 * 2.0**-25
    error_Q = vector_norm(scaled_QxD - half_QxD.float(), dim=1).double() * largest
    error_Q += vector_norm(half_QxD.float(), dim=1).double() * (largest * (dimension + 8) * 2.0**-22 + lost)
    bound_Q = (cut_Q.double() + 1.001 * error_Q).ldexp(exponent_Q1[:, 0]).ldexp(shift).float()
    return keys_QxK, bound_Q.masked_fill((count_Q > room) | ~bound_Q.isfinite(), math.inf)


def _halved(part_CxD: Tensor, shift: Tensor) -> Tensor:
    """In float16: as they are, or rows that 2^-shift makes shorter than 1."""
    return part_CxD if part_CxD.dtype == torch.float16 else part_CxD.float().ldexp(-shift).half()


def _rank_and_room(k: int, rows: int) -> tuple[int, int]:
    """The rank in the sample that almost surely is beyond the k best of all; and how many rows may beat that one."""
    mean = k * SAMPLE / rows
    rank = int(mean + 5 * mean**0.5 + 5)
    return rank, int(rank * rows / SAMPLE * (1 + 6 / rank**0.5)) // 64 * 64 + 64


def _guessed_cut(half_QxD: Tensor, corpus_NxD: Tensor, shift: Tensor, rank: int) -> Tensor:
    """About the score at this rank of a sample's: that of its groups' best, of which topk needs less time."""
    generator = torch.Generator(corpus_NxD.device).manual_seed(0)
    row_S = torch.randint(len(corpus_NxD), (SAMPLE,), generator=generator, device=corpus_NxD.device)
    best_QxG = (half_QxD @ _halved(corpus_NxD[row_S], shift).T).view(len(half_QxD), -1, GROUPS).amax(1)
    return best_QxG.topk(rank, sorted=False).values.amin(1).float().nan_to_num(nan=math.inf, posinf=math.inf)


def _listed(half_QxD: Tensor, corpus_NxD: Tensor, shift: Tensor, cut_Q: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """(how many scores beat the cut, Q; their rows, in any order, Q x room)."""
    count_Q, row_QxL = torch.zeros_like(cut_Q, dtype=torch.int32), cut_Q.new_empty(len(cut_Q), room, dtype=torch.int32)
    (block_q, block_c, block_d), dimension = BLOCK, half_QxD.shape[1]
    tiles_q, words = triton.cdiv(len(half_QxD), block_q), block_c // 32
    left = TensorDescriptor.from_tensor(half_QxD, [block_q, block_d])
    for start in range(0, len(corpus_NxD), CHUNK):
        part_CxD = _halved(corpus_NxD[start : start + CHUNK], shift)
        tiles = triton.cdiv(len(part_CxD), block_c)
        bits = cut_Q.new_empty(tiles * tiles_q * block_q * words, dtype=torch.int32)
        right = TensorDescriptor.from_tensor(part_CxD, [block_c, block_d])
        _bits_kernel[(tiles * tiles_q,)](left, right, cut_Q, bits, len(cut_Q), tiles_q, dimension, *BLOCK, **LAUNCH)
        _lists_kernel[(triton.cdiv(len(bits), 4096),)](
            bits, count_Q, row_QxL, len(cut_Q), tiles_q * block_q, start, len(corpus_NxD), room, len(bits), words, 1024
        )
    return count_Q, row_QxL


def _keys(queries_QxD: Tensor, corpus_NxD: Tensor, count_Q: Tensor, row_QxL: Tensor) -> Tensor:
    key_QxL, room = torch.empty_like(row_QxL, dtype=torch.long), row_QxL.shape[1]
    grid = triton.cdiv(room, 32), len(count_Q)
    _keys_kernel[grid](queries_QxD, corpus_NxD, count_Q, row_QxL, key_QxL, room, queries_QxD.shape[1], 32, 128)
    return key_QxL


def _largest_norm(corpus_NxD: Tensor) -> Tensor:
    """Of the rows; NaN or inf if one isn't finite or its norm is beyond float32's."""
    largest = torch.zeros((), dtype=torch.int32, device=corpus_NxD.device)
    rows, dimension = corpus_NxD.shape
    _norms_kernel[(triton.cdiv(rows, 16),)](corpus_NxD, largest, rows, dimension, 16, triton.next_power_of_2(dimension))
    return (largest.view(torch.float32) + 2.0**-100).sqrt()  # smaller squares may be lost


@triton.jit
def _bits_kernel(
    queries, corpus, cut, bits, query_count, tiles_q, width: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Whether a score is not at most the cut, a bit each, into bits[tile of rows, query, row // 32]."""
    tile_q, tile_c = tl.program_id(0) % tiles_q, tl.program_id(0) // tiles_q
    score_QxC = tl.zeros((BLOCK_Q, BLOCK_C), tl.float32)
    for d in range(0, width, BLOCK_D):
        score_QxC = tl.dot(queries.load([tile_q * BLOCK_Q, d]), corpus.load([tile_c * BLOCK_C, d]).T, score_QxC)
    q, word = tile_q * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_C // 32)
    cut_Q = tl.load(cut + q, q < query_count, float("inf"))
    is_above_QxC = ((score_QxC <= cut_Q[:, None]) == 0).to(tl.int32)
    bits_QxW = tl.sum(tl.reshape(is_above_QxC, (BLOCK_Q, BLOCK_C // 32, 32)) << tl.arange(0, 32)[None, None, :], 2)
    tl.store(bits + (tile_c * tiles_q * BLOCK_Q + q)[:, None] * (BLOCK_C // 32) + word[None, :], bits_QxW)


@triton.jit
def _lists_kernel(
    bits, counts, lists, queries, padded, start, rows, room, size, WORDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Append the rows of the bits that are set to their query's list; its count goes a little beyond its room."""
    for turn in range(4):
        at = (tl.program_id(0) * 4 + turn) * BLOCK + tl.arange(0, BLOCK)
        q = at // WORDS % padded
        word = tl.load(bits + at, (at < size) & (q < queries), 0)
        word = tl.where(tl.load(counts + q, word != 0, 0, cache_modifier=".cg") > room, 0, word)
        first = start + (at // WORDS // padded * WORDS + at % WORDS) * 32
        while tl.max((word != 0).to(tl.int32), 0) > 0:
            lowest = word & -word  # a power of 2, whose exponent float32 knows
            row = first + (lowest.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
            is_row = (word != 0) & (row < rows)
            to = tl.atomic_add(counts + q, tl.full((BLOCK,), 1, tl.int32), is_row, sem="relaxed")
            tl.store(lists + q.to(tl.int64) * room + to, row, is_row & (to < room))
            word = word ^ lowest


@triton.jit
def _keys_kernel(
    queries, corpus, counts, lists, keys, room, width: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Key of each listed row, see `search._packed`; the largest one beyond the list."""
    q = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    is_listed = place < tl.minimum(tl.load(counts + q), room)
    row = tl.load(lists + q * room + place, is_listed, 0).to(tl.int64)
    score = tl.zeros((BLOCK_L,), tl.float64)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        is_there = is_listed[:, None] & (d < width)[None, :]
        row_LxD = tl.load(corpus + row[:, None] * width + d[None, :], is_there, 0.0).to(tl.float64)
        score += tl.sum(row_LxD * tl.load(queries + q * width + d, d < width, 0.0).to(tl.float64)[None, :], 1)
    bits = (score.to(tl.float32) + 0.0).to(tl.int32, bitcast=True)
    ascending = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = tl.where(is_listed, ((-1 - ascending) << 32) | row, 0x7FFFFFFFFFFFFFFF)
    tl.store(keys + q * room + place, key, place < room)


@triton.jit
def _norms_kernel(corpus, largest, rows, width: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr):
    """The bits of the largest squared norm: they sort like the numbers, with NaN above all."""
    row, d = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_D)
    is_there = (row < rows)[:, None] & (d < width)[None, :]
    part_CxD = tl.load(corpus + row[:, None] * width + d[None, :], is_there, 0.0).to(tl.float32)
    bits_C = tl.sum(part_CxD * part_CxD, 1).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    tl.atomic_max(largest, tl.max(bits_C, 0), sem="relaxed")
