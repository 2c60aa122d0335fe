"""All metrics in one pass over arrays against pytrec_eval, warm ranx and the official script's path through dicts.

OMP_NUM_THREADS=1 python benchmarks/metrics.py [--small]    (a peer that is not installed is left out: extra `bench`)
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import numpy as np
from interleaved import arguments, cpu_seconds, faster, header

from gcl_toolkit.measure.metrics import AP, ERR, NDCG, RBP, Precision, Recall, measure_ranked, ranked_gains

CUTOFFS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 500, 1000]
METRICS = [metric @ k for metric in (NDCG, AP, Recall, Precision) for k in CUTOFFS]
METRICS += [ERR, RBP(0.7), RBP(0.8), RBP(0.9)]
PYTREC = {"ndcg_cut": NDCG, "map_cut": AP, "recall": Recall, "P": Precision}
RANX = {"ndcg": NDCG, "map": AP, "recall": Recall, "precision": Precision}
PRODUCTS, DEPTH, JUDGED = 200_000, 1000, 100


def rankings(queries: int):
    """(qrels as query, product, grade; retrieved Q x 1000): 60 of 100 judged products are found, grades 100..1."""
    rng = np.random.default_rng(0)
    retrieved_QxK = (rng.integers(0, PRODUCTS, (queries, 1)) + 199 * np.arange(DEPTH)) % PRODUCTS
    retrieved_QxK = rng.permuted(retrieved_QxK, axis=1)
    found_QxJ = retrieved_QxK[:, ::10].copy()
    found_QxJ[:, 60:] = PRODUCTS + np.arange(JUDGED - 60)
    grade_QxJ = rng.permuted(np.tile(np.arange(1.0, JUDGED + 1), (queries, 1)), axis=1)
    return (np.repeat(np.arange(queries), JUDGED), found_QxJ.ravel(), grade_QxJ.ravel()), retrieved_QxK


def ours(qrels, retrieved_QxK):
    gains_QxK = ranked_gains(*qrels, retrieved_QxK)
    return measure_ranked(gains_QxK, qrels[0], qrels[2], METRICS)


def dicts(qrels, retrieved_QxK):
    """{query: {product: grade}} and {query: {product: score}}, with ids as text, as trec_eval wants them."""
    graded: dict = {}
    for query, product, grade in zip(*(column.tolist() for column in qrels), strict=True):
        graded.setdefault(str(query), {})[str(product)] = int(grade)
    run = {
        str(query): {str(product): float(DEPTH - rank) for rank, product in enumerate(row)}
        for query, row in enumerate(retrieved_QxK.tolist())
    }
    return graded, run


def err_loop(graded, run):
    """Expected reciprocal rank, as a loop over dicts: the chance to stop at g is (2^g - 1) / 2^best."""
    values = {}
    for query, scores in run.items():
        best, reaches, value = max(graded[query].values()), 1.0, 0.0
        for rank, product in enumerate(scores, start=1):
            stops = (2 ** graded[query].get(product, 0) - 1) / 2**best
            value += reaches * stops / rank
            reaches *= 1 - stops
        values[query] = value
    return values


def rbp_loop(graded, run, p):
    values = {}
    for query, scores in run.items():
        best, value = max(graded[query].values()), 0.0
        for rank, product in enumerate(scores):
            value += graded[query].get(product, 0) / best * p**rank
        values[query] = (1 - p) * value
    return values


def pytrec(graded, run):
    import pytrec_eval

    wanted = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in PYTREC}
    return pytrec_eval.RelevanceEvaluator(graded, wanted).evaluate(run)


def official(qrels, retrieved_QxK):
    graded, run = dicts(qrels, retrieved_QxK)
    return pytrec(graded, run), err_loop(graded, run), [rbp_loop(graded, run, p) for p in (0.7, 0.8, 0.9)]


def check(qrels, retrieved_QxK) -> None:
    """Every value of every query equals the peers' within 1e-12."""
    table = ours(qrels, retrieved_QxK)
    expected, err, rbp = official(qrels, retrieved_QxK)
    for query in table.index:
        row, trec = table.loc[query], expected[str(query)]
        for name, metric in PYTREC.items():
            for k in CUTOFFS:
                assert abs(row[str(metric @ k)] - trec[f"{name}_{k}"]) <= 1e-12, (query, name, k)
        assert abs(row["ERR"] - err[str(query)]) <= 1e-12, query
        for p, values in zip((0.7, 0.8, 0.9), rbp, strict=True):
            assert abs(row[str(RBP(p))] - values[str(query)]) <= 1e-12, (query, p)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    queries = 200 if options.small else 2000
    qrels, retrieved_QxK = rankings(queries)
    runs = {"ours": lambda: ours(qrels, retrieved_QxK)}
    if find_spec("pytrec_eval"):
        check(*rankings(min(queries, 200)))
        graded, run = dicts(qrels, retrieved_QxK)
        runs["pytrec_eval (84 of the 88, dicts ready)"] = lambda: pytrec(graded, run)
        runs["official path (dicts, pytrec_eval, loops)"] = lambda: official(qrels, retrieved_QxK)
        if find_spec("ranx"):
            import ranx

            pair = ranx.Qrels(graded), ranx.Run(run)
            names = [f"{name}@{k}" for name in RANX for k in CUTOFFS]
            means = ranx.evaluate(*pair, names, make_comparable=False)  # also compiles
            table = ours(qrels, retrieved_QxK).mean()
            for name in names:
                metric = RANX[name.split("@")[0]] @ int(name.split("@")[1])
                assert abs(means[name] - table[str(metric)]) <= 1e-12, name
            runs["ranx, warm (84 of the 88)"] = lambda: ranx.evaluate(*pair, names, make_comparable=False)
    seconds = cpu_seconds(runs, options.rounds)
    header(f"{queries:,} queries x top {DEPTH:,}, {JUDGED} judged products each, {len(METRICS)} metrics")
    taken = seconds.pop("ours")
    for peer, bar in zip(seconds, (10, 50, 3), strict=False):
        faster("all metrics, from row numbers to a table", taken, peer, seconds[peer], bar)
    many = rankings(10 * queries)
    started = time.process_time()
    ours(*many)
    taken = time.process_time() - started
    print(f"\n{10 * queries:,} queries: {taken:.2f} s; bar < 2 s for 20,000: {'yes' if taken < 2 else 'no'}")


if __name__ == "__main__":
    main()
