"""A second stage to compare with: read query and product together, score the pair, re-order the first `depth`.

Trained on the same pairs with the same scores as the first stages; a product that a query does not list counts 0.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, layer_norm

from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.weighting import to_weights
from gcl_toolkit.errors import UserError
from gcl_toolkit.losses import matrix_loss
from gcl_toolkit.machine import fast_bfloat16
from gcl_toolkit.measure.baselines import texts
from gcl_toolkit.methods.samplers import MatrixSampler, PairSampler
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.small import SmallEncoder
from gcl_toolkit.training.augment import augment_images


class Reranker:
    """Scores pairs of a query and a product. A subclass defines `scores`, and to be trained `network` and `_loss`."""

    network: Any
    batch: int
    """Products a step (small), pairs a step (CrossEncoder)."""
    learning_rate: float
    """At its peak."""

    def train(
        self,
        data: RankedData,
        *,
        steps: int = 400,
        batch: int | None = None,
        learning_rate: float | None = None,
        seed: int = 0,
    ) -> Iterator[dict]:
        """Train in place on the pairs of `data`; yields {step, loss, learning_rate, seconds}."""
        if steps < 1 or (batch or 1) < 1:
            raise UserError(f"steps is {steps}, batch is {batch}; they must be integers >= 1")
        loss_of = self._loss(data, batch or self.batch, seed)
        peak = learning_rate or self.learning_rate
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=peak, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=0.1)
        started = time.perf_counter()
        for step in range(steps):
            self.network.train()
            optimizer.zero_grad()
            with torch.random.fork_rng(devices=[]):  # dropout too is a function of the seed and the step
                torch.manual_seed(seed * 1_000_003 + step)
                loss = loss_of(step)
                loss.backward()
            optimizer.step()
            self.network.eval()
            rate = schedule.get_last_lr()[0]
            schedule.step()
            seconds = time.perf_counter() - started
            yield {"step": step + 1, "loss": loss.item(), "learning_rate": rate, "seconds": seconds}

    def scores(self, query_rows: np.ndarray, products_QxK: np.ndarray, data: RankedData) -> np.ndarray:
        """Q x K: the score of each product (row numbers) for its query (row numbers of `data`); larger is better."""
        raise NotImplementedError

    def stored_bytes(self, corpus: pa.Table) -> int:
        """The size of what is computed of a corpus in advance, in bytes."""
        return 0

    def _loss(self, data: RankedData, batch: int, seed: int) -> Callable[[int], Tensor]:
        """step -> loss."""
        raise NotImplementedError


def rerank(
    products_QxK: np.ndarray, depth: int, reranker: Reranker, data: RankedData, query_rows: np.ndarray | None = None
) -> np.ndarray:
    """The rankings (product rows, best first) with the first `depth` re-ordered.

    Row i ranks for query i of `data`, or for query `query_rows[i]`. Equal scores keep their order; a row may end with
    -1 (no product).
    """
    if depth < 1:
        raise UserError(f"depth is {depth}; it must be an integer >= 1")
    head_QxK = products_QxK[:, :depth]
    query_rows = np.arange(len(products_QxK)) if query_rows is None else query_rows
    scores_QxK = np.where(head_QxK >= 0, reranker.scores(query_rows, head_QxK, data), -np.inf)
    order_QxK = np.argsort(-scores_QxK, axis=1, kind="stable")
    return np.hstack([np.take_along_axis(head_QxK, order_QxK, 1), products_QxK[:, depth:]])


class OracleReranker(Reranker):
    """Scores by the true score, 0 where a product is not listed: the upper bound of any second stage."""

    def scores(self, query_rows, products_QxK, data):
        return _true_scores(data)(query_rows, products_QxK)


def make_reranker(name: str, left: Fields, right: Fields, *, seed: int = 0) -> Reranker:
    """ "small": from scratch, for pictures and texts; else a CrossEncoder's name or folder, for texts."""
    return SmallReranker(left, right, seed=seed) if name == "small" else CrossEncoderReranker(name, left, right)


class SmallReranker(Reranker):
    """Trained from scratch on a CPU: the small encoder's picture and word towers for each field of both sides, then
    layers that see query and product together; by the score-matrix loss over their logits. What depends on a product
    alone is computed once a corpus."""

    batch = 192
    learning_rate = 4e-3
    queries = 256
    """Maximum a step."""

    def __init__(self, left: Fields, right: Fields, *, seed: int = 0):
        self.left, self.right, self.seed = left, right, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: _Joint = _Joint(left, right)
        self._stored: tuple[pa.Table, Tensor] | None = None

    def scores(self, query_rows, products_QxK, data):
        products_MxC = self._products(data.corpus)
        inputs = Inputs(self.network.encoder, data.queries.take(pa.array(query_rows)), self.left)
        with torch.inference_mode():
            queries_QxC = self.network.side(*inputs.rows(np.arange(len(query_rows))), "left")
            rows = [
                self.network(query[None], products_MxC[torch.from_numpy(products)])[0]
                for query, products in zip(queries_QxC, products_QxK, strict=True)
            ]
        return torch.stack(rows).numpy()

    def stored_bytes(self, corpus):
        return self._products(corpus).nbytes

    def _products(self, corpus: pa.Table) -> Tensor:
        if self._stored is None or self._stored[0] is not corpus:
            inputs = Inputs(self.network.encoder, corpus, self.right)
            blocks = np.split(np.arange(corpus.num_rows), range(256, corpus.num_rows, 256))
            with torch.inference_mode():
                parts = [self.network.side(*inputs.rows(rows), "right") for rows in blocks]
            self._stored = corpus, torch.cat(parts)
        return self._stored[1]

    def _loss(self, data, batch, seed):
        encoder = self.network.encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder.learn_vocabulary(texts(data.queries, self.left) + texts(data.corpus, self.right))
        queries, products = Inputs(encoder, data.queries, self.left), Inputs(encoder, data.corpus, self.right)
        weights = to_weights(data.pairs.score, "sharp")
        sampler = MatrixSampler(data, weights, size=batch, queries=self.queries, seed=seed)

        def loss_of(step: int) -> Tensor:
            self._stored, sampled = None, sampler(step)
            rng = np.random.default_rng((seed, step))
            kept = np.sort(rng.permutation(len(sampled.queries))[: self.queries])
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
                queries_NxC = self.network.side(*_augmented(queries, sampled.queries[kept], generator), "left")
                products_MxC = self.network.side(*_augmented(products, sampled.products, generator), "right")
                logits_NxM = self.network(queries_NxC, products_MxC).float()
            weights_NxM = sampled.weights.to_dense()[kept]
            # logits @ identity: the loss sees these logits instead of cosines
            return matrix_loss(logits_NxM, torch.eye(logits_NxM.shape[1]), weights_NxM, logit_scale=1.0)

        return loss_of


class _Joint(nn.Module):
    """Both sides through the small encoder; their sums and products of channels through a two-layer network."""

    def __init__(self, left: Fields, right: Fields, dimension: int = 128):
        super().__init__()
        self.encoder = SmallEncoder(dimension=dimension)
        left_map, right_map = (nn.Linear(len(fields) * dimension, 2 * dimension) for fields in (left, right))
        self.sides = nn.ModuleDict({"left": left_map, "right": right_map})
        self.mix = nn.Linear(dimension, dimension)
        self.score = nn.Sequential(
            nn.GELU(), nn.Linear(dimension, dimension), nn.GELU(), nn.Linear(dimension, 1, bias=False)
        )

    def side(self, inputs: dict[str, Tensor], present: dict[str, Tensor], side: str) -> Tensor:
        """N x C: the features of one side; zeros for a missing field."""
        encoded = [self.encoder.encode(values, side, name) * present[name][:, None] for name, values in inputs.items()]
        plain_NxD, factor_NxD = self.sides[side](torch.cat(encoded, 1)).chunk(2, 1)
        return torch.cat([plain_NxD, layer_norm(factor_NxD, factor_NxD.shape[1:])], 1)

    def forward(self, queries_NxC: Tensor, products_MxC: Tensor) -> Tensor:
        """N x M logits."""
        query_NxD, query_factor_NxD = queries_NxC.chunk(2, 1)
        product_MxD, product_factor_MxD = products_MxC.chunk(2, 1)
        match_NxMxD = query_factor_NxD[:, None] * product_factor_MxD
        joint_NxMxD = query_NxD[:, None] + product_MxD + self.mix(match_NxMxD)
        return self.score(joint_NxMxD)[..., 0] + 0.1 * match_NxMxD.sum(-1)  # the sum alone learns fast


class CrossEncoderReranker(Reranker):
    """A sentence-transformers CrossEncoder, by name or folder, over the text fields of both sides.

    Trained by binary cross-entropy towards score / best score; half of a batch are pairs drawn at random.
    """

    batch = 32
    learning_rate = 2e-5

    def __init__(self, name: str, left: Fields, right: Fields):
        self.left, self.right = left, right
        try:
            from sentence_transformers import CrossEncoder

            self.network = CrossEncoder(name, num_labels=1)
        except ImportError as error:
            raise UserError(f"{name}: {error}; run: pip install 'gcl-toolkit[text]'") from error
        except Exception as error:  # many kinds, from the hub or for a damaged folder
            raise UserError(f"{name} can't be loaded as a CrossEncoder: {error}") from error

    def scores(self, query_rows, products_QxK, data):
        queries = texts(data.queries, self.left, query_rows)
        products = texts(data.corpus, self.right, products_QxK.ravel().clip(min=0))
        pairs = list(zip(np.repeat(queries, products_QxK.shape[1]).tolist(), products, strict=True))
        scores = self.network.predict(pairs, activation_fn=nn.Identity(), show_progress_bar=False)
        return scores.reshape(products_QxK.shape)

    def _loss(self, data, batch, seed):
        queries, products = texts(data.queries, self.left), texts(data.corpus, self.right)
        true_scores, best = _true_scores(data), data.pairs.score.max()
        sampler = PairSampler(data, np.ones(len(data.pairs.score)), size=batch - batch // 2, seed=seed)

        def loss_of(step: int) -> Tensor:
            sampled, rng = sampler(step), np.random.default_rng((seed, step))
            query_N = np.concatenate([sampled.queries, rng.choice(sampled.queries, batch // 2)])
            product_N = np.concatenate([sampled.products, rng.integers(len(products), size=batch // 2)])
            targets_N = torch.from_numpy(true_scores(query_N, product_N[:, None])[:, 0] / best)
            pairs = [(queries[query], products[product]) for query, product in zip(query_N, product_N, strict=True)]
            tokens = self.network.tokenizer(pairs, padding=True, truncation=True, return_tensors="pt")
            logits_N = self.network.model(**tokens.to(self.network.device)).logits[:, 0].float()
            return binary_cross_entropy_with_logits(logits_N, targets_N.to(logits_N))

        return loss_of


def _true_scores(data: RankedData) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(query rows, products_QxK) -> Q x K scores, 0 where a pair is not listed."""
    query, product, score = data.pairs
    score_QxM = csr_array((score, (query, product)), shape=(data.queries.num_rows, data.corpus.num_rows))

    def look_up(query_rows: np.ndarray, products_QxK: np.ndarray) -> np.ndarray:
        scores_QxK = score_QxM[np.broadcast_to(query_rows[:, None], products_QxK.shape), products_QxK].toarray()
        return np.where(products_QxK >= 0, scores_QxK, 0.0)

    return look_up


def _augmented(
    inputs: Inputs, rows: np.ndarray, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values, present = inputs.rows(rows)
    for name, value in values.items():
        image = value.dim() == 4
        values[name] = augment_images(value, generator) if image else inputs.encoder.drop_words(value, generator)
    return values, present
