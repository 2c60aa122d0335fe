"""Ranking scores in `SentenceTransformerTrainer`: losses, a batch sampler, an evaluator with graded metrics."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from gcl_toolkit.data.weighting import is_top
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.integrations import BatchLoss
from gcl_toolkit.measure.evaluate import DEPTH, METRICS
from gcl_toolkit.measure.metrics import measure
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.measure.statistics import interval
from gcl_toolkit.methods import DEFAULT, Method

try:
    from sentence_transformers.base.evaluation import BaseEvaluator
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
except ImportError:  # before 5.4
    from sentence_transformers.evaluation import SentenceEvaluator as BaseEvaluator  # type: ignore[no-redef]
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss  # type: ignore[no-redef]
    from sentence_transformers.sampler import DefaultBatchSampler  # type: ignore[no-redef]

SCORES = ("label", "labels", "score", "scores")
"""Columns that the trainer gives to a loss as labels; all others are embedded."""


class RankedLoss(nn.Module):
    """The loss of a method of the score matrix (by default of the toolkit's default method) on scored pairs.

        loss = RankedLoss(model, Dataset.from_dict({"query": ..., "document": ..., "score": ...}))
        SentenceTransformerTrainer(model, arguments, train_dataset=loss.dataset, loss=loss)

    pairs: two columns of texts, the query's first, and one of scores (larger is better, 0 is irrelevant); a query may
    have many rows. Equal texts are the same query or document; columns with the names of the texts and "_id" can say
    so instead. method: as in `BatchLoss`. scale: of the cosines, 1 / temperature.
    """

    def __init__(
        self, model: SentenceTransformer, pairs: Dataset, method: Method | str = DEFAULT, *, scale: float = 20.0
    ):
        super().__init__()
        self.model, self.scale = model, scale
        self.dataset, ids, scores = _with_ids(pairs)
        self.ranked = BatchLoss(ids[:, 0], ids[:, 1], scores, method)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        return self.of_embeddings([self.model(each)["sentence_embedding"] for each in sentence_features], labels)

    def of_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of the embeddings of queries and documents, N x D each. labels: those of `dataset`, N x 3."""
        if labels is None or labels.dim() != 2:
            raise UserError("the labels are not ids; give the trainer train_dataset=loss.dataset")
        return self.ranked(*embeddings, *labels.T[:2], logit_scale=self.scale)

    def get_config_dict(self) -> dict[str, Any]:
        return {"method": repr(self.ranked.method), "scale": self.scale}


class CachedRankedLoss(CachedMultipleNegativesRankingLoss):
    """`RankedLoss` for batches of any size, with the activations of `mini_batch_size` rows in memory."""

    def __init__(self, model, pairs, method=DEFAULT, *, scale=20.0, mini_batch_size=32):
        super().__init__(model, mini_batch_size=mini_batch_size)
        self.pairs_loss = RankedLoss(model, pairs, method, scale=scale)
        self.dataset = self.pairs_loss.dataset

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        self.labels = labels
        return super().forward(sentence_features, labels)

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        loss = self.pairs_loss.of_embeddings([torch.cat(parts) for parts in reps], self.labels)
        if not with_backward:
            return loss
        loss.backward()
        return loss.detach()

    def get_config_dict(self) -> dict[str, Any]:
        return {**self.pairs_loss.get_config_dict(), "mini_batch_size": self.mini_batch_size}


def _with_ids(pairs: Dataset) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The texts with the label [query number, document number, whether the score is one of the best]; the two numbers,
    N x 2; the scores."""
    names = [name for name in pairs.column_names if name in SCORES]
    texts = [name for name in pairs.column_names if name not in SCORES and not name.endswith("_id")]
    if len(names) != 1 or len(texts) != 2:
        expected = "two columns of texts and one of scores, such as query, document and score"
        raise DataError(f"the columns are {', '.join(pairs.column_names)}; {expected}, are expected")
    keys = [f"{name}_id" if f"{name}_id" in pairs.column_names else name for name in texts]
    table = pairs.select_columns([*keys, *names]).to_pandas()
    ids = np.stack([table[key].factorize()[0] for key in keys], 1)
    if (ids < 0).any():
        row, column = np.argwhere(ids < 0)[0]
        raise DataError(f"row {row}: {keys[column]} is missing; fill it in or leave the row out")
    scores = pd.to_numeric(table[names[0]], errors="coerce").to_numpy(float)
    if not (scores > 0).any():
        raise DataError(f"column {names[0]}: no score is a number above 0, so there is nothing to train on")
    labels = np.column_stack([ids, is_top(scores)]).tolist()
    return pairs.select_columns(texts).add_column("label", labels), ids, scores


class RankedBatchSampler(DefaultBatchSampler):
    """Batches of a loss's `dataset` in which scores can be compared, for the training argument `batch_sampler`.

    Half of a batch's rows are query-balanced (of each query in turn, one of its best documents), half
    document-balanced (of each document in turn, one of its queries). The loss finds all known pairs among them.
    An epoch has as many rows as the data, drawn with replacement.
    """

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        query, document, best = np.asarray(self.sampler["label"]).T  # type: ignore[index]
        half = self.batch_size // 2
        by_query = _in_turn(rng, query, np.flatnonzero(best), (len(self), half))
        by_document = _in_turn(rng, document, np.arange(len(document)), (len(self), self.batch_size - half))
        yield from np.hstack([by_query, by_document]).tolist()


def _in_turn(rng: np.random.Generator, group: np.ndarray, rows: np.ndarray, shape: tuple) -> np.ndarray:
    """Rows at random, one of each group before a further one of any."""
    parts, missing = [rows[:0]], shape[0] * shape[1]
    while missing > 0:
        shuffled = rng.permutation(rows)
        first = np.unique(group[shuffled], return_index=True)[1]
        parts.append(shuffled[rng.permutation(first)[:missing]])
        missing -= len(parts[-1])
    return np.concatenate(parts).reshape(shape)


class RankedEvaluator(BaseEvaluator):
    """Graded metrics with 95 % intervals over the queries, of the exact ranking of a corpus.

    queries: {query id: text}. corpus: {document id: text}. relevant_docs: {query id: {document id: grade >= 0}}; a
    query without relevant documents counts 0. metrics: the first is for choosing checkpoints. After a call, `table` has
    one row a query, as `gcl_toolkit.compare(a.table, b.table)` takes it.
    """

    table: pd.DataFrame

    def __init__(self, queries, corpus, relevant_docs, metrics=METRICS, *, name="", batch_size=32):
        super().__init__()
        if missing := [query for query in relevant_docs if query not in queries]:
            raise DataError(f"relevant_docs: query {missing[0]!r} is not in queries ({len(missing):,} in all)")
        self.queries, self.corpus, self.relevant_docs, self.metrics = queries, corpus, relevant_docs, metrics
        self.name, self.batch_size, self.primary_metric = name, batch_size, str(metrics[0])

    def __call__(  # type: ignore[override]
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """The mean of each metric by its name, with `_low` and `_high`."""
        if model.similarity_fn_name not in ("cosine", "dot"):
            raise UserError(f"the model compares by {model.similarity_fn_name}; cosine or dot is expected")
        options: Any = {"batch_size": self.batch_size, "convert_to_tensor": True, "show_progress_bar": False}
        options["normalize_embeddings"] = model.similarity_fn_name == "cosine"
        queries = model.encode_query([self.queries[query] for query in self.relevant_docs], **options)
        documents = model.encode_document(list(self.corpus.values()), **options)
        ids = np.fromiter(self.corpus, object)
        ranked = zip(self.relevant_docs, *top_k(queries, documents, DEPTH), strict=True)
        run = {query: dict(zip(ids[rows], scores, strict=True)) for query, scores, rows in ranked}
        self.table = measure(self.relevant_docs, run, self.metrics)
        metrics = {}
        for metric, values in self.table.items():
            metrics[metric], metrics[f"{metric}_low"], metrics[f"{metric}_high"] = interval(values)
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics
