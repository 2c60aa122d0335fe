"""Maps: alignment undone, kept neighbours counted, centring and UMAP worth their while."""

import importlib.util

import numpy as np
import pytest
import torch

from gcl_toolkit.views import space
from gcl_toolkit.views.space import align, centred, kept, lay_out


def spread(rows, dimension=8, seed=0, away=0.0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)) + away
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_alignment_undoes_a_turn_a_mirror_a_scale_and_a_shift():
    points = np.random.default_rng(1).normal(size=(50, 2))
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])
    np.testing.assert_allclose(align(3 * points @ turn + [5, -7], points), points, atol=1e-9)


def kept_by_hand(space_NxD, map_Nx2, rows, k):
    shares = []
    for row in rows:
        others = [n for n in range(len(space_NxD)) if n != row]
        near = sorted(others, key=lambda n: -float(space_NxD[n] @ space_NxD[row]))[:k]
        on_map = sorted(others, key=lambda n: float(((map_Nx2[n] - map_Nx2[row]) ** 2).sum()))[:k]
        shares.append(len({*near} & {*on_map}) / k)
    return np.mean(shares)


def test_kept_neighbours_are_counted_as_by_hand():
    vectors, places = spread(60), np.random.default_rng(2).normal(size=(60, 2))
    rows = np.array([3, 8, 40, 59])
    found = kept(vectors, places, rows, vectors[rows], places[rows], k=6, own=True)
    assert found == pytest.approx(kept_by_hand(vectors, places, rows, 6))
    circle = np.linspace(0, 3, 60)
    ring = np.stack([np.cos(circle), np.sin(circle)], 1)
    assert kept(ring, ring, rows, ring[rows], ring[rows], own=True) == 1


def test_a_map_of_few_points_is_a_projection_and_a_second_one_is_aligned(monkeypatch):
    products, queries = spread(80, away=1.0), spread(30, seed=3, away=-1.0)
    first = lay_out(products, queries)
    assert (first.method, first.products.shape, first.queries.shape) == ("PCA", (80, 2), (30, 2))
    assert first.chance == pytest.approx(10 / 79)
    mirrored = products * np.array([-1, *[1] * 7], np.float32)
    second = lay_out(mirrored, queries * np.array([-1, *[1] * 7], np.float32), first)
    np.testing.assert_allclose(second.products, first.products, atol=1e-3)
    assert second.products_kept == pytest.approx(first.products_kept, abs=0.02)


def test_centring_both_sides_brings_queries_to_their_products():
    """Two cones: raw, every query is far from all products; centred, each lies at its own."""
    products, queries = spread(100, 3, seed=4), spread(100, 3, seed=4)
    products, queries = (side + np.array(away) for side, away in ((products, (0, 0, 9)), (queries, (0, 0, -9))))
    products, queries = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (products, queries))
    assert (queries @ products.T).max() < 0
    close = centred(queries) @ centred(products).T
    assert (close.argmax(1) == np.arange(100)).mean() > 0.5


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_keeps_more_of_clusters_than_a_projection_does(monkeypatch):
    centres = spread(30, 16, seed=5)
    vectors = np.repeat(centres, 12, axis=0) + 0.3 * spread(360, 16, seed=6)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mapped = lay_out(vectors, centres)
    assert torch.get_num_threads() == 1  # as OMP_NUM_THREADS asks; umap alone makes it 2, and training 30 times slower
    monkeypatch.setattr(space, "FEWEST", 10**6)
    projected = lay_out(vectors, centres)
    assert (mapped.method, projected.method) == ("UMAP", "PCA")
    assert mapped.queries_kept > 0.6
    assert mapped.products_kept > projected.products_kept + 0.2
