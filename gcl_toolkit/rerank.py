"""A second stage to compare with: read query and product together, score the pair, re-order the first `depth`.

Trained on the same pairs with the same scores as the first stages; a product that a query does not list counts 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, layer_norm

from gcl_toolkit.baselines import texts
from gcl_toolkit.batches import Inputs, augment_images
from gcl_toolkit.doctor import fast_bfloat16
from gcl_toolkit.encoders import SmallEncoder
from gcl_toolkit.errors import UserError
from gcl_toolkit.fields import Fields
from gcl_toolkit.losses import matrix_loss
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.samplers import MatrixSampler, PairSampler
from gcl_toolkit.weighting import is_top, to_weights


@dataclass(frozen=True)
class RerankConfig:
    """How to train a re-ranker."""

    steps: int = 400
    batch: int | None = None
    """Products a step (small), pairs a step (CrossEncoder); None: the re-ranker's own."""
    learning_rate: float | None = None
    """The peak; None: the re-ranker's own."""
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}; at least 1 is expected")


class Reranker:
    """Scores pairs; `network` holds what is trained. A new one needs `scores`, and `_objective` if it learns."""

    network: Any
    batch: int
    learning_rate: float

    def train(self, data: RankedData, config: RerankConfig | None = None) -> Iterator[dict]:
        """Train in place on the pairs of `data`; yields {step, loss, learning_rate, seconds}."""
        config = config or RerankConfig()
        loss_of = self._objective(data, config)
        peak = config.learning_rate or self.learning_rate
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=peak, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=config.steps + 1, pct_start=0.1)
        started = time.perf_counter()
        for step in range(config.steps):
            self.network.train()
            optimizer.zero_grad()
            with torch.random.fork_rng(devices=[]):  # dropout is a function of the seed and the step, too
                torch.manual_seed(config.seed * 1_000_003 + step)
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
        """What is computed of a corpus in advance and kept, in bytes."""
        return 0

    def _objective(self, data: RankedData, config: RerankConfig) -> Callable[[int], Tensor]:
        """step -> loss."""
        raise NotImplementedError


def rerank(
    products_QxK: np.ndarray, depth: int, reranker: Reranker, data: RankedData, query_rows: np.ndarray | None = None
) -> np.ndarray:
    """The rankings (product rows, best first) with the first `depth` re-ordered; the rest stays.

    Row i ranks for query i of `data`, or for query `query_rows[i]`. Equal scores keep their order; -1 (no product) may
    end a row.
    """
    if depth < 1:
        raise UserError(f"depth is {depth}; re-rank at least the first product")
    head_QxK = products_QxK[:, :depth]
    query_rows = np.arange(len(products_QxK)) if query_rows is None else query_rows
    scores_QxK = np.where(head_QxK >= 0, reranker.scores(query_rows, head_QxK, data), -np.inf)
    order_QxK = np.argsort(-scores_QxK, axis=1, kind="stable")
    return np.hstack([np.take_along_axis(head_QxK, order_QxK, 1), products_QxK[:, depth:]])


class OracleReranker(Reranker):
    """Scores by the true score, 0 where a product is not listed: the ceiling of any second stage."""

    def scores(self, query_rows, products_QxK, data):
        return _true_scores(data)(query_rows, products_QxK)


def make_reranker(name: str, left: Fields, right: Fields, *, seed: int = 0) -> Reranker:
    """ "small": from scratch, for pictures and texts; else a CrossEncoder's name or folder, for texts."""
    return SmallReranker(left, right, seed=seed) if name == "small" else CrossEncoderReranker(name, left, right)


# -- small -------------------------------------------------------------------------------------------------------------


class SmallReranker(Reranker):
    """Trained from scratch on a CPU: the small encoder's picture trunk and word tower for each field of both sides,
    then layers that see query and product together; by the score-matrix loss over their logits, with GCL's weights.
    What a product alone decides is computed once a corpus."""

    batch = 192
    learning_rate = 4e-3
    queries = 256
    """At most so many a step."""

    def __init__(self, left: Fields, right: Fields, *, seed: int = 0):
        self.left, self.right, self.seed = left, right, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: _Joint = _Joint(left, right)
        self._stored: tuple[pa.Table, Tensor] | None = None

    def scores(self, query_rows, products_QxK, data):
        products_MxC = self._products(data.corpus)
        asked = Inputs(self.network.encoder, data.queries.take(pa.array(query_rows)), self.left)
        with torch.inference_mode():
            queries_QxC = self.network.side(*asked.rows(np.arange(len(query_rows))), "left")
            rows = [
                self.network(query[None], products_MxC[torch.from_numpy(products)])[0]
                for query, products in zip(queries_QxC, products_QxK, strict=True)
            ]
        return torch.stack(rows).numpy()

    def stored_bytes(self, corpus: pa.Table) -> int:
        return self._products(corpus).nbytes

    def _products(self, corpus: pa.Table) -> Tensor:
        if self._stored is None or self._stored[0] is not corpus:
            inputs, parts = Inputs(self.network.encoder, corpus, self.right), []
            with torch.inference_mode():
                for start in range(0, corpus.num_rows, 256):
                    rows = np.arange(start, min(start + 256, corpus.num_rows))
                    parts.append(self.network.side(*inputs.rows(rows), "right"))
            self._stored = corpus, torch.cat(parts)
        return self._stored[1]

    def _objective(self, data, config):
        encoder = self.network.encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder.learn_vocabulary(
                text
                for table, fields in ((data.queries, self.left), (data.corpus, self.right))
                for text in texts(table, fields)
            )
        queries, products = Inputs(encoder, data.queries, self.left), Inputs(encoder, data.corpus, self.right)
        scores, size = data.pairs.score, config.batch or self.batch
        weights, top = to_weights(scores, "sharp"), is_top(scores)
        sampler = MatrixSampler(data, weights, top, size=size, queries=self.queries, seed=config.seed)

        def loss_of(step: int) -> Tensor:
            self._stored, batch = None, sampler(step)
            rng = np.random.default_rng((config.seed, step))
            kept = np.sort(rng.permutation(len(batch.queries))[: self.queries])
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
                queries_NxC = self.network.side(*_augmented(queries, batch.queries[kept], generator), "left")
                products_MxC = self.network.side(*_augmented(products, batch.products, generator), "right")
                logits_NxM = self.network(queries_NxC, products_MxC).float()
            # of these logits in place of cosines
            return matrix_loss(
                logits_NxM, torch.eye(logits_NxM.shape[1]), batch.weights.to_dense()[kept], logit_scale=1.0
            )

        return loss_of


class _Joint(nn.Module):
    """Both sides through the small encoder; their sums and products of channels through a two-layer network."""

    def __init__(self, left: Fields, right: Fields, dimension: int = 128):
        super().__init__()
        self.encoder = SmallEncoder(dimension=dimension)
        self.sides = nn.ModuleDict(
            {
                side: nn.Linear(len(fields) * dimension, 2 * dimension)
                for side, fields in (("left", left), ("right", right))
            }
        )
        self.mix = nn.Linear(dimension, dimension)
        self.score = nn.Sequential(
            nn.GELU(), nn.Linear(dimension, dimension), nn.GELU(), nn.Linear(dimension, 1, bias=False)
        )

    def side(self, inputs: dict[str, Tensor], present: dict[str, Tensor], side: str) -> Tensor:
        """N x C: what one side brings; a missing field brings zeros."""
        encoded = []
        for name, values in inputs.items():
            encode = self.encoder.encode_images if values.dim() == 4 else self.encoder.encode_texts
            encoded.append(encode(values) * present[name][:, None])
        plain_NxD, factor_NxD = self.sides[side](torch.cat(encoded, 1)).chunk(2, 1)
        return torch.cat([plain_NxD, layer_norm(factor_NxD, factor_NxD.shape[1:])], 1)

    def forward(self, queries_NxC: Tensor, products_MxC: Tensor) -> Tensor:
        """N x M logits."""
        query_NxD, query_factor_NxD = queries_NxC.chunk(2, 1)
        product_MxD, product_factor_MxD = products_MxC.chunk(2, 1)
        match_NxMxD = query_factor_NxD[:, None] * product_factor_MxD
        joint_NxMxD = query_NxD[:, None] + product_MxD + self.mix(match_NxMxD)
        return self.score(joint_NxMxD)[..., 0] + 0.1 * match_NxMxD.sum(-1)  # the sum alone learns fast


# -- CrossEncoder ------------------------------------------------------------------------------------------------------


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

            self.network: Any = CrossEncoder(name, num_labels=1)
        except ImportError as error:
            raise UserError(f"{name}: {error}; pip install 'gcl-toolkit[text]'") from error
        except Exception as error:  # the hub, a torn folder: one clear line
            raise UserError(f"{name} could not be loaded as a CrossEncoder: {error}") from error

    def scores(self, query_rows, products_QxK, data):
        queries = texts(data.queries, self.left, query_rows)
        products = texts(data.corpus, self.right, products_QxK.ravel().clip(min=0))
        pairs = list(zip(np.repeat(queries, products_QxK.shape[1]).tolist(), products, strict=True))
        found = self.network.predict(pairs, activation_fn=nn.Identity(), show_progress_bar=False)
        return found.reshape(products_QxK.shape)

    def _objective(self, data, config):
        queries, products = texts(data.queries, self.left), texts(data.corpus, self.right)
        true_scores, best, size = _true_scores(data), data.pairs.score.max(), config.batch or self.batch
        sampler = PairSampler(data, np.ones(len(data.pairs.score)), size=size - size // 2, seed=config.seed)

        def loss_of(step: int) -> Tensor:
            batch, rng = sampler(step), np.random.default_rng((config.seed, step))
            query_N = np.concatenate([batch.queries, rng.choice(batch.queries, size // 2)])
            product_N = np.concatenate([batch.products, rng.integers(len(products), size=size // 2)])
            targets_N = torch.from_numpy(true_scores(query_N, product_N[:, None])[:, 0] / best)
            pairs = [(queries[query], products[product]) for query, product in zip(query_N, product_N, strict=True)]
            tokens = self.network.tokenizer(pairs, padding=True, truncation=True, return_tensors="pt")
            logits_N = self.network.model(**tokens.to(self.network.device)).logits[:, 0].float()
            return binary_cross_entropy_with_logits(logits_N, targets_N.to(logits_N))

        return loss_of


# -- helpers -----------------------------------------------------------------------------------------------------------


def _true_scores(data: RankedData) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(query rows, products_QxK) -> Q x K scores, 0 where a pair is not listed."""
    query, product, score = data.pairs
    key = query * data.corpus.num_rows + product
    order = np.argsort(key)
    key, score = key[order], score[order]

    def look_up(query_rows: np.ndarray, products_QxK: np.ndarray) -> np.ndarray:
        wanted_QxK = query_rows[:, None] * data.corpus.num_rows + products_QxK
        place_QxK = np.searchsorted(key, wanted_QxK).clip(max=len(key) - 1)
        return np.where((key[place_QxK] == wanted_QxK) & (products_QxK >= 0), score[place_QxK], 0.0)

    return look_up


def _augmented(
    inputs: Inputs, rows: np.ndarray, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values, present = inputs.rows(rows)
    for name, value in values.items():
        image = value.dim() == 4
        values[name] = augment_images(value, generator) if image else inputs.encoder.drop_words(value, generator)
    return values, present
