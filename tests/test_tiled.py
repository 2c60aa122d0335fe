"""The tiled losses against the dense ones and the loops, in float32 where the softmax is saturated, and mutated."""

import sys
import types
from pathlib import Path

import pytest
import references
import torch
from test_losses import numeric, value_and_gradients
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from gcl_toolkit import losses
from gcl_toolkit.losses import (
    gcl_loss,
    graded_loss,
    log_sum_exps,
    matrix_loss,
    sized,
    tiled,
    tiled_gcl_loss,
    tiled_graded_loss,
    tiled_matrix_loss,
)

N, M, D, TILE = 11, 7, 5, (4, 3)
KEEP = {"nothing kept": 0, "some tiles kept": 300, "all kept": 1 << 20}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 4 x 3, worked on 2 rows at a time: none of the sizes here is a multiple."""
    monkeypatch.setattr(log_sum_exps, "PART", 6)
    monkeypatch.setattr(log_sum_exps, "tiles_of", lambda *given: log_sum_exps.Tiles(*given, TILE))


def unit(rows, seed, dimension=D, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def inputs(rows, columns, scale):
    return (
        unit(rows, 0).requires_grad_(),
        unit(columns, 1).requires_grad_(),
        torch.tensor(scale).double().requires_grad_(),
    )


def pair_weights():
    weights = torch.rand(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 2
    weights[3] = 0
    return weights.requires_grad_()


def sparse_weights():
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(N, M, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(N, M, generator=generator) < 0.4)
    weights[2], weights[:, 4] = 0, 0
    return weights


QUERY_IDS, PRODUCT_IDS = (
    torch.tensor([0, 1, 0, 2, 3, 3, 3, 4, 5, 6, 0]),
    torch.tensor([0, 1, 2, 3, 1, 4, 5, 9, 8, 8, 0]),
)
KNOWN = torch.tensor([[0, 5, 5, 10], [1, 2, 2, 10]])  # one twice, one on the diagonal


def known_mask():
    mask = torch.zeros(N, N, dtype=torch.bool)
    mask[KNOWN[0], KNOWN[1]] = True
    return mask


# -- the same value and gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("scale", [3.0, 100.0, 3000.0])  # at 3000 rows are done alone
@pytest.mark.parametrize("masked", ["", "ids", "ids and cells", "bools"])
def test_tiled_is_dense_for_pairs(masked, scale, keep):
    masks = {"query_ids": QUERY_IDS, "product_ids": PRODUCT_IDS} if masked.startswith("ids") else {}
    masks |= (
        {"not_negative": KNOWN} if "cells" in masked else {"not_negative": known_mask()} if masked == "bools" else {}
    )
    given = *inputs(N, N, scale), pair_weights()
    dense = value_and_gradients(lambda a, b, s, w: gcl_loss(a, b, w, logit_scale=s, **masks), *given)
    found = value_and_gradients(
        lambda a, b, s, w: tiled_gcl_loss(a, b, w, logit_scale=s, keep_bytes=keep, **masks), *given
    )
    assert found == pytest.approx(dense, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("scale", [3.0, 100.0, 3000.0])
@pytest.mark.parametrize(
    ("dense", "tiled", "of_weights"),
    [
        (matrix_loss, tiled_matrix_loss, False),
        (matrix_loss, tiled_matrix_loss, True),
        (graded_loss, tiled_graded_loss, False),
    ],
)
def test_tiled_is_dense_for_the_score_matrix(dense, tiled, of_weights, scale, keep):
    given, weights = inputs(N, M, scale), sparse_weights().requires_grad_(of_weights)
    given = (*given, weights) if of_weights else given
    expected = value_and_gradients(lambda a, b, s, *_: dense(a, b, weights, logit_scale=s), *given)
    found = value_and_gradients(lambda a, b, s, *_: tiled(a, b, weights, logit_scale=s, keep_bytes=keep), *given)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    if not of_weights:
        zeros = torch.sparse_coo_tensor([[0], [3]], [0.0], (N, M), dtype=torch.float64, check_invariants=True)
        sparse = tiled(given[0], given[1], weights.to_sparse() + zeros, logit_scale=given[2])
        assert sparse.item() == pytest.approx(expected[0].item(), rel=1e-12)


def test_tiled_graded_with_grades_that_are_equal_and_rows_that_are_known_throughout():
    given, weights = inputs(N, M, 20.0), (sparse_weights() * 4).ceil() / 4
    weights[3] = 1
    expected = value_and_gradients(lambda a, b, s: graded_loss(a, b, weights, logit_scale=s), *given)
    found = value_and_gradients(lambda a, b, s: tiled_graded_loss(a, b, weights, logit_scale=s), *given)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_tiled_is_the_loop():
    left, right, _ = inputs(N, N, 3.0)
    weights = pair_weights().detach()
    found = value_and_gradients(
        lambda a, b: tiled_gcl_loss(a, b, weights, logit_scale=3.0, query_ids=QUERY_IDS, product_ids=PRODUCT_IDS),
        left,
        right,
    )
    apart = (QUERY_IDS[:, None] != QUERY_IDS) & (PRODUCT_IDS[:, None] != PRODUCT_IDS)
    expected = numeric(
        lambda a, b: references.gcl_loss(a, b, weights.tolist(), 3.0, lambda i, j: apart[i, j]), left, right
    )
    assert found == pytest.approx(expected, abs=1e-8)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-10)
    queries, documents, _ = inputs(N, M, 3.0)
    expected = references.matrix_loss(queries.tolist(), documents.tolist(), sparse_weights().tolist(), 3.0)
    found = tiled_matrix_loss(queries, documents, sparse_weights(), logit_scale=3.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_gradcheck():
    def pairs(a, b, s, w):
        return tiled_gcl_loss(a, b, w, logit_scale=s, query_ids=QUERY_IDS, not_negative=KNOWN)

    def matrix(a, b, s, w):
        return tiled_matrix_loss(a, b, w, logit_scale=s)

    assert torch.autograd.gradcheck(pairs, (*inputs(N, N, 4.0), pair_weights()), fast_mode=True)
    weights = (sparse_weights() + 0.01).requires_grad_()  # a row that gets its first weight is a leap
    assert torch.autograd.gradcheck(matrix, (*inputs(N, M, 4.0), weights), fast_mode=True)


def test_log_sum_exps_stand_alone():
    """Rectangular, three outputs with gradients of their own, a row with nothing left, a cell listed twice."""
    given = inputs(N, M, 100.0)
    cells = torch.tensor([[0, 10, 5, *[2] * M], [1, 6, 5, *range(M)]])

    def plain(a, b, s):
        logits = s * a @ b.T
        left_out = torch.zeros(N, M, dtype=torch.bool)
        left_out[cells[0], cells[1]] = True
        rest = logits.masked_fill(left_out, -torch.inf)
        return rest.logsumexp(1), rest.logsumexp(0), logits[cells[0], cells[1]]

    def weighted(rows, columns, own):
        return sum((part[part > -torch.inf] * (1 + i)).cos().sum() for i, part in enumerate((rows, columns, own)))

    expected = value_and_gradients(lambda *x: weighted(*plain(*x)), *given)
    found = value_and_gradients(
        lambda *x: weighted(*log_sum_exps.log_sum_exps(*x, cells, torch.tensor([[0], [1]]))), *given
    )
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert log_sum_exps.log_sum_exps(*given, cells)[0][2] == -torch.inf


def test_zero_weights_give_zero_and_one_pair_is_no_contrast():
    left, right, _ = inputs(N, N, 3.0)
    found = value_and_gradients(lambda a, b: tiled_gcl_loss(a, b, torch.zeros(N), logit_scale=3.0), left, right)
    assert found == pytest.approx(torch.zeros(1 + 2 * N * D), abs=0)
    nothing = torch.zeros(N, N)
    found = value_and_gradients(lambda a, b: tiled_matrix_loss(a, b, nothing, logit_scale=3.0), left, right)
    assert found == pytest.approx(torch.zeros(1 + 2 * N * D), abs=0)
    found = value_and_gradients(lambda a, b: tiled_gcl_loss(a, b, logit_scale=3.0), left[:1], right[:1])
    assert found == pytest.approx(torch.zeros(1 + 2 * D), abs=0)


def test_nan_comes_through():
    left, right, scale = inputs(N, N, 3.0)
    assert tiled_gcl_loss(left * torch.nan, right, logit_scale=scale).isnan()


def test_autocast_does_not_touch_it():
    given = (*inputs(N, N, 3000.0), pair_weights())
    loss = lambda a, b, s, w: tiled_gcl_loss(a.float(), b.float(), w, logit_scale=s)  # noqa: E731
    plain = value_and_gradients(loss, *given)
    with torch.autocast("cpu", torch.bfloat16):
        assert value_and_gradients(loss, *given) == pytest.approx(plain, abs=0)


def test_no_tensor_is_as_large_as_the_matrix(monkeypatch):
    monkeypatch.setattr(log_sum_exps, "PART", 1024)
    monkeypatch.setattr(log_sum_exps, "tiles_of", lambda *given: log_sum_exps.Tiles(*given, (32, 32)))

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.numbers = max(self.numbers, tensor.numel())
            return out

    rows, ids = 200, torch.arange(200) // 2
    left, right = (unit(rows, seed).requires_grad_() for seed in (0, 1))
    with Largest() as largest:
        tiled_gcl_loss(left, right, logit_scale=20.0, query_ids=ids, keep_bytes=0).backward()
    assert rows * D <= largest.numbers <= 32 * 32


# -- float32 -----------------------------------------------------------------------------------------------------------


def saturated(cosine, rows=512, dimension=512):
    """float32 pairs with that cosine; at scale 100 and .35 the softmax of a pair is 1 - 1e-7."""
    left, noise = unit(rows, 0, dimension), unit(rows, 1, dimension)
    return left.float(), normalize(cosine * left + (1 - cosine**2) ** 0.5 * noise, dim=-1).float()


def exact(left, right, scale):
    """In float64, without 1 - p: log(1 + sum of the others over own)."""
    logits = scale * left @ right.T
    others = logits.masked_fill(torch.eye(len(left), dtype=torch.bool), -torch.inf) - logits.diagonal()[:, None]
    by_column = logits.T.masked_fill(torch.eye(len(left), dtype=torch.bool), -torch.inf) - logits.diagonal()[:, None]
    return (others.exp().sum(1).log1p() + by_column.exp().sum(1).log1p()).mean() / 2


@pytest.mark.parametrize(("cosine", "dense_is_off_by"), [(0.3, 2e-4), (0.35, 1e-2), (0.5, 0.5)])
def test_float32_gradients_hold_where_the_softmax_is_saturated(cosine, dense_is_off_by, monkeypatch):
    monkeypatch.undo()
    sides = saturated(cosine)

    def gradients(loss, dtype):
        given = *(side.to(dtype).requires_grad_() for side in sides), torch.tensor(100.0, dtype=dtype)
        value = loss(*given)
        return [value.detach().double(), *(x.double() for x in torch.autograd.grad(value, given[:2]))]

    def off(found, expected):
        return [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]

    expected = gradients(exact, torch.float64)
    found = gradients(lambda a, b, s: tiled_gcl_loss(a, b, logit_scale=s), torch.float32)
    dense = gradients(lambda a, b, s: gcl_loss(a, b, logit_scale=s), torch.float32)
    assert max(off(found, expected)) < 1e-5
    assert min(off(dense, expected)[1:]) > dense_is_off_by


@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_float32_is_float64_also_where_rows_are_done_alone(scale):
    left, right = unit(N, 0), unit(N, 1)

    def at(dtype):
        given = left.to(dtype).requires_grad_(), right.to(dtype).requires_grad_()
        return value_and_gradients(lambda a, b: tiled_gcl_loss(a, b, logit_scale=scale), *given)

    assert at(torch.float32) == pytest.approx(at(torch.float64), rel=1e-4, abs=1e-6 * scale)


# -- mutants -----------------------------------------------------------------------------------------------------------

MUTANTS = {
    "positives among the others": ("log_sum_exps", ".view(-1).index_fill_(0, self.sorted.place[tile.cells], 0)", ""),
    "masks ignored": ("tiled", "ignored = torch.cat(masked, 1) if masked else None", "ignored = None"),
    "same rows masked on one side only": ("tiled", "cells[:, row_K != column_K]", "cells[:, row_K < column_K]"),
    "unweighted": ("tiled", "(weights * loss_N)", "loss_N"),
    "weights not normalised": ("tiled", "if normalise_weights", "if not normalise_weights"),
    "rows only": ("tiled", "softplus(row_N - own_N) + softplus(column_N - own_N)", "2 * softplus(row_N - own_N)"),
    "half forgotten": ("tiled", "torch.float32)) / 2", "torch.float32))"),
    "left detached": ("tiled", "log_sum_exps(left, right, ", "log_sum_exps(left.detach() + 0 * left, right, "),
    "transposed": ("log_sum_exps", "gradient_RxC.T, self.left[tile.rows]", "gradient_RxC.T, self.right[tile.rows]"),
    "factors of other rows": ("log_sum_exps", "a_R[part, None] + b_C", "a_R[part, None].roll(1, 0) + b_C"),
    "scale without gradient": ("log_sum_exps", ".sum() * largest\n", ".sum() * largest * 0\n"),
    "scale forgotten in the gradient": ("log_sum_exps", "mul_(scale * largest)", "mul_(largest)"),
    "gradient of the cells in the wrong order": ("log_sum_exps", "by_cell_K[self.sorted.order]", "by_cell_K"),
    "edge tiles misplaced": ("log_sum_exps", "width_K = (shape[1] - column_K // columns * columns).clamp(max=columns)",
                             "width_K = columns"),
    "the rows of another part": ("log_sum_exps", "sums_N[tile.rows][part] +=", "sums_N[tile.rows][:1] +="),
    "last tile lost": ("log_sum_exps", "in range(0, self.shape[1], self.size[1])",
                       "in range(0, self.shape[1] - 2, self.size[1])"),
    "a kept tile of a neighbour": ("log_sum_exps", "kept[number] if", "kept[number // 2] if"),
    "small sums not done again": ("log_sum_exps", "found_R[rows] = ", "_ = "),
    "gradients of rows done again lost": ("log_sum_exps", "by_left[rows_R] += ", "_ = "),
    "shift forgotten": ("log_sum_exps", "torch.exp(self.shift - found_R)", "torch.exp(-found_R)"),
    "shares of the other side": ("tiled", "listed_shares(weight_K, cells[1], len(column_M))",
                                 "listed_shares(weight_K, cells[0], len(row_N))"),
    "grades in no order": ("tiled", "order_K = grade_K.argsort()", "order_K = torch.arange(len(grade_K))"),
    "groups without weight counted": ("tiled", "(total_N > 0).sum()", "(total_N >= 0).sum()"),
    "a softmax over the positives' rest only": ("tiled", "index_add(0, group_K, exp_K * ~is_top_K)", "clone()"),
    "the top alone": ("tiled", "torch.where(is_top_K, 0.0, top_exp_G[group_K] - exp_K)", "0.0"),
}  # fmt: skip


def mutated(which):
    """tiled.py over log_sum_exps.py, one line of one of them changed."""
    module, old, new = MUTANTS.get(which, ("", "", ""))
    made = {}
    for name in ("log_sum_exps", "tiled"):
        source = (Path(losses.__file__).parent / f"{name}.py").read_text()
        assert name != module or source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        made[name] = types.ModuleType(f"mutated_{name}")
        sys.modules[made[name].__name__] = made[name]
        source = source.replace("gcl_toolkit.losses.log_sum_exps", "mutated_log_sum_exps")
        exec(source.replace(old, new) if name == module else source, vars(made[name]))
    made["log_sum_exps"].PART = 6
    made["log_sum_exps"].tiles_of = lambda *given: made["log_sum_exps"].Tiles(*given, TILE)
    return made["tiled"]


def all_forms(pair_form, matrix_form, graded_form, scale, **kept):
    """Value and gradients of the losses in one row."""
    masks = {"query_ids": QUERY_IDS, "product_ids": PRODUCT_IDS, "not_negative": KNOWN}

    def pairs(a, b, s, w):
        return pair_form(a, b, w, logit_scale=s, **masks, **kept)

    def matrix(a, b, s):
        return matrix_form(a, b, sparse_weights(), logit_scale=s, **kept)

    def graded(a, b, s):
        return graded_form(a, b, sparse_weights(), logit_scale=s, **kept)

    matrices = [(form, inputs(N, M, scale)) for form in (matrix, graded)]
    given = [(pairs, (*inputs(N, N, scale), pair_weights())), *matrices]
    return torch.cat([value_and_gradients(form, *x) for form, x in given])


def deviation(module):
    """The largest difference from the dense losses, in value and gradients."""
    largest = 0.0
    for scale, keep in ((3.0, 0), (3.0, 1 << 20), (3000.0, 300)):
        expected = all_forms(gcl_loss, matrix_loss, graded_loss, scale)
        tiled_forms = module.tiled_gcl_loss, module.tiled_matrix_loss, module.tiled_graded_loss
        found = all_forms(*tiled_forms, scale, keep_bytes=keep)
        largest = max(largest, (found - expected).abs().nan_to_num(torch.inf).max().item())
    return largest


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_each_mutant_is_caught(mutant):
    try:
        off = deviation(mutated(mutant))
    except (RuntimeError, IndexError, UserWarning):
        off = float("inf")
    assert (off < 1e-8) if mutant is None else (off > 1e-4)


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_size_decides(monkeypatch):
    assert sized("gcl", 1024, 1024) is gcl_loss
    assert sized("gcl", 4096, 4096) is tiled_gcl_loss
    assert sized("matrix", 4096, 192) is matrix_loss
    assert sized("matrix", 4096, 8192) is tiled_matrix_loss
    assert sized("graded", 4096, 8192) is tiled_graded_loss
    monkeypatch.setitem(losses.LOSSES, "other", len)
    assert sized("other", 4096, 8192) is len


@pytest.mark.parametrize("loss", ["gcl", "matrix", "graded"])
def test_training_tiled_is_training_dense(loss, monkeypatch):
    from test_train import TITLES, words_shop

    from gcl_toolkit import GCLModel, TrainConfig, train

    def run():
        config = TrainConfig(loss=loss, steps=4, batch=12, precision="float32")
        return [r["loss"] for r in train(GCLModel("small", right=TITLES, dimension=32), words_shop(), config)]

    dense = run()
    monkeypatch.setattr(losses, "DENSE_CELLS", 0)
    called = []
    monkeypatch.setattr(tiled, "log_sum_exps", lambda *a, **k: called.append(1) or log_sum_exps.log_sum_exps(*a, **k))
    assert run() == pytest.approx(dense, rel=1e-4)
    assert len(called) == 4
