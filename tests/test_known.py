"""Weights by id, for other trainers: a PyTorch loop, sentence-transformers, DistributedDataParallel."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ranked
from ranks import on_ranks
from torch import nn
from torch.nn.functional import normalize

from gcl_toolkit import DataError
from gcl_toolkit.losses import gcl_loss, graded_loss
from gcl_toolkit.losses.fast.ranks import gather, own_share, ranks, whole_batch
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


def gradients_under_ddp():
    """Gradients of a DDP model on this rank's share of a batch; without ranks, those of the model itself."""
    torch.manual_seed(0)
    model, rows, known = nn.Linear(4, 3), torch.randn(6, 4), known_pairs(ranked(3, 3))
    queries, products = ["q0", "q1", "q2", "q0", "q1", "q2"], ["p0", "p1", "p2", "p2", "p0", "p1"]
    own, weights = own_share(6), known.weights(queries, products)
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model)
    vectors = normalize(model(rows[own]), dim=1)
    (ranks() * whole_batch(graded_loss)(vectors, vectors.flip(1), weights, logit_scale=5.0)).backward()
    return [p.grad.tolist() for p in model.parameters()], len(gather(vectors))


def test_under_ddp_the_share_times_the_ranks_has_the_gradients_of_one_process():
    expected, _ = gradients_under_ddp()
    for gradients, rows in on_ranks(2, gradients_under_ddp):
        assert rows == 6
        for ours, theirs in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ids_reach_a_loss_of_sentence_transformers_as_labels(tiny_bert, tmp_path):
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    queries, products, scores = [0, 0, 1, 1], [0, 1, 1, 2], [3, 1, 3, 1]
    known, labels_seen = KnownPairs(queries, products, scores), []

    class GradedLoss(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, features, labels):
            labels_seen.extend(labels.tolist())
            left, right = (normalize(self.model(part)["sentence_embedding"], dim=1) for part in features)
            return graded_loss(left, right, known.weights(*labels.T).to(left.device), logit_scale=20.0)

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    texts = {"query": [f"red {q}" for q in queries], "product": [f"mug {p}" for p in products]}
    data = Dataset.from_dict({**texts, "label": [list(pair) for pair in zip(queries, products, strict=True)]})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=1, report_to="none", use_cpu=True, save_strategy="no"
    )
    result = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=GradedLoss(model)).train()
    assert 0 < result.training_loss < 100
    assert sorted(labels_seen) == [[0, 0], [0, 1], [1, 1], [1, 2]]
