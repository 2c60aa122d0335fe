"""Weights by id, for other trainers."""

import numpy as np
import pytest
import torch
from conftest import ranked
from torch.nn.functional import normalize

from gcl_toolkit import DataError
from gcl_toolkit.losses import gcl_loss
from gcl_toolkit.methods import DEFAULT, METHODS, KnownPairs


def known_pairs(data):
    pairs = data.qrels
    return KnownPairs(pairs["query_id"].to_pylist(), pairs["product_id"].to_pylist(), pairs["score"].to_numpy())


def test_the_weights_are_those_of_the_default_method():
    data = ranked(6, 8)
    batch = METHODS[DEFAULT].sampler(data, 5, seed=0)(0)
    weights = known_pairs(data).weights(data.query_ids[batch.queries], data.product_ids[batch.products])
    assert weights.dtype == torch.float32
    assert torch.equal(weights, batch.weights.to_dense())


def test_repeated_ids_and_pairs_and_scores_of_zero():
    known = KnownPairs([1, 1, 2, 2, 2], [7, 8, 8, 9, 8], [3, 1, 2, 0, 3], weighting=np.asarray)
    assert known.weights([1, 2, 1], torch.tensor([8, 7, 9, 8])).tolist() == [[1, 3, 0, 1], [3, 0, 0, 3], [1, 3, 0, 1]]


def test_ids_of_another_type_are_an_error():
    with pytest.raises(DataError, match=r"query id '1' has no known pair; ids such as 1 are expected"):
        KnownPairs([1], [7], [3.0]).weights(["1"], [7])


def test_the_mask_of_a_loss_of_pairs_excludes_every_other_known_pair():
    torch.manual_seed(0)
    weights = known_pairs(ranked(3, 4)).weights(["q0", "q1", "q0"], ["p0", "p1", "p2"])
    left, right = normalize(torch.randn(3, 5), dim=1), normalize(torch.randn(3, 5), dim=1)
    assert gcl_loss(left, right, weights.diagonal(), logit_scale=5.0, excluded=weights.nonzero().T) == 0
