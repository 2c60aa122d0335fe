"""Embeddings -> a plane to look at, and how much of the neighbourhoods it keeps; the only module that imports umap.

Queries and products lie in two cones of the space (the modality gap), which would be two islands on any map. Each side
is therefore centred first: q . (p - mean) differs from q . p by one number per query, so no query's order changes.
"""

import importlib.util
import os
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from gcl_toolkit.measure.search import top_k

THREADS = os.environ.get("OMP_NUM_THREADS", "")
if THREADS.isdigit():  # else numba, which umap needs, gives torch as many threads as there are cores
    os.environ.setdefault("NUMBA_NUM_THREADS", THREADS)

FEWEST = 200
"""Fewer points are projected by PCA instead of UMAP."""
EXACT = 50_000
"""More points are compared with approximate neighbours; which UMAP first compiles for 80 s of CPU time."""
UMAP_NEIGHBOURS, EPOCHS = 15, 200
"""With a learning rate of .25, 200 epochs keep nearly as many neighbours as 500 with 1 (docs/BENCHMARKS.md)."""
NEIGHBOURS = 10
SAMPLE = 1_000
"""Points whose neighbourhoods are compared."""


@dataclass(frozen=True)
class Plane:
    """A map: products N x 2, queries Q x 2 (float32, about -1..1), its method, and what it keeps.

    products_kept: share of a product's 10 nearest products in the space that are among its 10 nearest on the map.
    queries_kept: share of a query's first 10 products that are among the 10 nearest to it on the map. chance: what
    points in random places would keep.
    """

    products: np.ndarray
    queries: np.ndarray
    method: str
    products_kept: float
    queries_kept: float
    chance: float


def lay_out(products_NxD: np.ndarray, queries_QxD: np.ndarray, like: Plane | None = None, *, seed: int = 0) -> Plane:
    """The map of a model's L2-normalised embeddings; `like`: another model's map of the same rows, to align with."""
    both_MxD = np.concatenate([centred(side) for side in (products_NxD, queries_QxD)])
    start_Mx2 = None if like is None else np.concatenate([like.products, like.queries])
    points_Mx2, method = _project(both_MxD, start_Mx2, seed)
    if start_Mx2 is not None:
        points_Mx2 = align(points_Mx2, start_Mx2)
    else:  # around 0, with nearly all points within -1..1
        points_Mx2 = points_Mx2 - np.median(points_Mx2, axis=0)
        points_Mx2 = points_Mx2 / max(np.quantile(np.abs(points_Mx2), 0.995), 1e-9)
    products_Nx2, queries_Qx2 = np.split(points_Mx2.astype(np.float32), [len(products_NxD)])
    rng = np.random.default_rng(seed)
    some, asked = (rng.choice(rows, min(rows, SAMPLE), replace=False) for rows in (len(products_NxD), len(queries_QxD)))
    return Plane(
        products_Nx2,
        queries_Qx2,
        method,
        kept(products_NxD, products_Nx2, some, products_NxD[some], products_Nx2[some], own=True),
        kept(products_NxD, products_Nx2, asked, queries_QxD[asked], queries_Qx2[asked]),
        min(1.0, NEIGHBOURS / max(1, len(products_NxD) - 1)),
    )


def centred(vectors_NxD: np.ndarray) -> np.ndarray:
    """Without their mean, L2-normalised; float32."""
    vectors_NxD = vectors_NxD.astype(np.float32) - vectors_NxD.mean(0, dtype=np.float32)
    return vectors_NxD / np.linalg.norm(vectors_NxD, axis=1, keepdims=True).clip(1e-9)


def align(points_Nx2: np.ndarray, onto_Nx2: np.ndarray) -> np.ndarray:
    """Shifted, rotated, mirrored and scaled to the least squared distances from the same points on the other map."""
    ours, theirs = points_Nx2 - points_Nx2.mean(0), onto_Nx2 - onto_Nx2.mean(0)
    left_2x2, scale_2, right_2x2 = np.linalg.svd(ours.T @ theirs)
    return ours @ (left_2x2 @ right_2x2) * (scale_2.sum() / max((ours**2).sum(), 1e-12)) + onto_Nx2.mean(0)


def kept(space_NxD, map_Nx2, rows, from_RxD, from_Rx2, *, k: int = NEIGHBOURS, own: bool = False) -> float:
    """Share of the k rows of `space` with the largest cosines to each of R vectors that are among the k nearest to its
    point on the map. own: the vectors are `rows` of the space, which don't count as their own neighbours."""
    k = min(k, len(space_NxD) - own)
    near = []
    for found_RxK in (
        top_k(from_RxD, space_NxD, k + own)[1],
        KDTree(map_Nx2).query(from_Rx2, range(1, k + own + 1))[1],
    ):
        itself_RxK = (found_RxK == np.reshape(rows, (-1, 1))) & own
        near.append(np.take_along_axis(found_RxK, np.argsort(itself_RxK, axis=1, kind="stable")[:, :k], axis=1))
    return float((near[0][:, :, None] == near[1][:, None]).any(2).mean())


def _project(vectors_MxD: np.ndarray, start_Mx2: np.ndarray | None, seed: int) -> tuple[np.ndarray, str]:
    if len(vectors_MxD) < FEWEST or importlib.util.find_spec("umap") is None:
        centre_MxD = vectors_MxD - vectors_MxD.mean(0)
        axes_DxD = np.linalg.eigh(centre_MxD.T @ centre_MxD)[1]
        return centre_MxD @ axes_DxD[:, :-3:-1], "PCA"
    knn = {}
    if len(vectors_MxD) <= EXACT:
        cosines_MxK, rows_MxK = top_k(vectors_MxD, vectors_MxD, UMAP_NEIGHBOURS)
        knn = {"precomputed_knn": (rows_MxK, (1 - cosines_MxK).clip(0), None)}
    with warnings.catch_warnings(action="ignore"):  # about optional packages
        from umap import UMAP

        start = "spectral" if start_Mx2 is None else 10 * start_Mx2
        mapper = UMAP(
            UMAP_NEIGHBOURS, metric="cosine", n_epochs=EPOCHS, learning_rate=0.25, init=start, min_dist=0.4,
            random_state=seed, n_jobs=1, **knn,
        )  # fmt: skip
        return mapper.fit_transform(vectors_MxD), "UMAP"
