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

from gcl_toolkit.losses import fast, gcl_loss, graded_loss, matrix_loss, same_id_cells
from gcl_toolkit.losses.fast import Forms, log_sum_exps, tiled, tiles
from gcl_toolkit.losses.fast.tiled import tiled_gcl_loss, tiled_graded_loss, tiled_matrix_loss

N, M, D, TILE = 11, 7, 5, (4, 3)
KEEP = {"nothing kept": 0, "some tiles kept": 300, "all kept": 1 << 20}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 4 x 3, worked on 2 rows at a time: none of the sizes here is a multiple."""
    monkeypatch.setattr(tiles, "PART", 6)
    monkeypatch.setattr(log_sum_exps, "tiles_of", lambda *given: tiles.Tiles(*given, TILE))


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
SAME_IDS = torch.cat([same_id_cells(QUERY_IDS), same_id_cells(PRODUCT_IDS)], 1)
KNOWN = torch.tensor([[0, 5, 5, 10], [1, 2, 2, 10]])  # one twice, one on the diagonal
BOTH = torch.cat([SAME_IDS, KNOWN], 1)


# -- the same value and gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("scale", [3.0, 100.0, 3000.0])  # at 3000 rows are done alone
@pytest.mark.parametrize("excluded", [None, SAME_IDS, BOTH], ids=["", "ids", "ids and known"])
def test_tiled_is_dense_for_pairs(excluded, scale, keep):
    masks = {"excluded": excluded}
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


@pytest.mark.parametrize("recall", [0.15, 0.5, 1.0])
def test_tiled_graded_is_dense_at_each_end_of_the_dial(recall):
    given, weights, settings = inputs(N, M, 20.0), sparse_weights(), {"recall": recall}
    expected = value_and_gradients(lambda a, b, s: graded_loss(a, b, weights, logit_scale=s, **settings), *given)
    found = value_and_gradients(lambda a, b, s: tiled_graded_loss(a, b, weights, logit_scale=s, **settings), *given)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    by_default = graded_loss(*given[:2], weights, logit_scale=given[2])
    assert abs(by_default.item() - expected[0].item()) > 1e-4


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
        lambda a, b: tiled_gcl_loss(a, b, weights, logit_scale=3.0, excluded=SAME_IDS),
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
        return tiled_gcl_loss(a, b, w, logit_scale=s, excluded=BOTH)

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
    monkeypatch.setattr(tiles, "PART", 1024)
    monkeypatch.setattr(log_sum_exps, "tiles_of", lambda *given: tiles.Tiles(*given, (32, 32)))

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
        tiled_gcl_loss(left, right, logit_scale=20.0, excluded=same_id_cells(ids), keep_bytes=0).backward()
    assert rows * D <= largest.numbers <= 32 * 32


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_dots_of_cells_leave_no_holes_in_memory():
    """Kept small tensors between freed large ones: the heap grew by as much as 50 MB."""

    def resident():
        rows = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
        return int(rows["RssAnon"].split()[0])

    left = torch.randn(16384, 512)
    log_sum_exps._dots(left[:64], left[:64], torch.arange(64).expand(2, -1))
    before = resident()
    dots_K = log_sum_exps._dots(left, left, torch.arange(16384).expand(2, -1))
    assert resident() - before < 10_000
    torch.testing.assert_close(dots_K, left.double().square().sum(1))


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
    "positives among the others": ("tiles", ".view(-1).index_fill_(0, self.sorted.place[tile.cells], 0)", ""),
    "excluded cells ignored": ("tiled", "excluded = excluded.to(left.device)", "excluded = None"),
    "unweighted": ("tiled", "(weights[way.kept] * softplus(", "(softplus("),
    "weights not normalised": ("tiled", "if normalise_weights", "if not normalise_weights"),
    "rows only": ("tiled", "Way(column_M, own_K, column_K, slice(None))", "Way(row_N, own_K, row_K, slice(None))"),
    "half forgotten": ("tiled", "loss / (2 * count)", "loss / count"),
    "left detached": ("tiled", "log_sum_exps(left, right, ", "log_sum_exps(left.detach() + 0 * left, right, "),
    "transposed": ("tiles", "gradient_RxC.T, self.left[tile.rows]", "gradient_RxC.T, self.right[tile.rows]"),
    "factors of other rows": ("tiles", "a_R[part, None] + b_C", "a_R[part, None].roll(1, 0) + b_C"),
    "scale without gradient": ("log_sum_exps", ".sum() * largest\n", ".sum() * largest * 0\n"),
    "scale forgotten in the gradient": ("log_sum_exps", "mul_(scale * largest)", "mul_(largest)"),
    "gradient of the cells in the wrong order": ("tiles", "by_cell_K[self.sorted.order]", "by_cell_K"),
    "edge tiles misplaced": ("tiles", "width_K = (shape[1] - column_K // columns * columns).clamp(max=columns)",
                             "width_K = columns"),
    "the rows of another part": ("tiles", "sums_N[tile.rows][part] +=", "sums_N[tile.rows][:1] +="),
    "last tile lost": ("tiles", "in range(0, self.shape[1], self.size[1])",
                       "in range(0, self.shape[1] - 2, self.size[1])"),
    "a kept tile of a neighbour": ("tiles", "kept[number] if", "kept[number // 2] if"),
    "small sums not computed again": ("log_sum_exps", "found_R[rows] = ", "_ = "),
    "gradients of recomputed rows lost": ("tiles", "by_left[rows_R] += ", "_ = "),
    "shift forgotten": ("tiles", "torch.exp(self.shift - found_R)", "torch.exp(-found_R)"),
    "shares of the other side": ("tiled", "listed_shares(weight_K, cells[side], shape[side])",
                                 "listed_shares(weight_K, cells[0], shape[0])"),
    "grades in no order": ("tiled", "order_K = grade_K.argsort()", "order_K = torch.arange(len(grade_K))"),
    "groups without weight counted": ("tiled", "(total_N > 0).sum()", "(total_N >= 0).sum()"),
    "a softmax over the positives' rest only": ("tiled", "index_add(0, group_K, exp_K * ~is_top_K)", "clone()"),
    "the top alone": ("tiled", "torch.where(is_top_K, 0.0, top_exp_G[group_K] - exp_K)", "0.0"),
}  # fmt: skip


def mutated(which):
    """tiled.py over log_sum_exps.py over tiles.py, one line of one of them changed."""
    module, old, new = MUTANTS.get(which, ("", "", ""))
    modules = {}
    for name in ("tiles", "log_sum_exps", "tiled"):
        source = (Path(fast.__file__).parent / f"{name}.py").read_text()
        assert name != module or source.count(old) == 1, f"{old!r} occurs {source.count(old)} times"
        modules[name] = types.ModuleType(f"mutated_{name}")
        sys.modules[modules[name].__name__] = modules[name]
        for other in ("tiles", "log_sum_exps"):
            source = source.replace(f"gcl_toolkit.losses.fast.{other} ", f"mutated_{other} ")
        exec(source.replace(old, new) if name == module else source, vars(modules[name]))
    modules["tiles"].PART = 6
    modules["log_sum_exps"].tiles_of = lambda *given: modules["tiles"].Tiles(*given, TILE)
    return modules["tiled"]


def all_forms(pair_form, matrix_form, graded_form, scale, **kept):
    """Value and gradients of the losses in one row."""
    masks = {"excluded": BOTH}

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


def test_the_size_of_the_batch_chooses_the_form(monkeypatch):
    left, right = unit(3, 0), unit(4, 1)
    forms = Forms(lambda *_, **__: "dense", lambda *_, **__: "tiled")
    monkeypatch.setattr(fast, "DENSE_CELLS", 12)
    assert forms(left, right, torch.ones(3, 4)) == "dense"
    assert forms(left, right, torch.ones(3, 5)) == "tiled"
    assert forms(left, right, torch.ones(3)) == "dense"
    assert forms(left, right, torch.ones(4)) == "tiled"
    assert Forms(lambda *_, **__: "dense")(left, right, torch.ones(9, 9)) == "dense"


@pytest.mark.parametrize("method", ["gcl-linear", "clip-masked", "matrix", "graded"])
def test_training_tiled_is_training_dense(method, monkeypatch):
    from test_train import TITLES, words_shop

    from gcl_toolkit import GCLModel, MachineConfig, train
    from gcl_toolkit.methods import samplers

    def run():
        machine, model = MachineConfig(precision="float32"), GCLModel("small", right=TITLES, dimension=32)
        return [r["loss"] for r in train(model, words_shop(), method, machine=machine, steps=4, batch=12)]

    dense, calls = run(), []
    for module in (fast, samplers):
        monkeypatch.setattr(module, "DENSE_CELLS", 0)
    monkeypatch.setattr(tiled, "log_sum_exps", lambda *a, **k: calls.append(1) or log_sum_exps.log_sum_exps(*a, **k))
    assert run() == pytest.approx(dense, rel=1e-4)
    assert len(calls) == 4
