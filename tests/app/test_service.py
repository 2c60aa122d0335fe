import ast
import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import small_bundle
import torch
from PIL import Image

from gcl_toolkit import UserError
from gcl_toolkit.app import rankings
from gcl_toolkit.app.draw import safe
from gcl_toolkit.app.export import to_csv, to_html
from gcl_toolkit.app.limits import MAX_K, MAX_QUERY
from gcl_toolkit.app.rankings import Ask
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import TABS
from gcl_toolkit.app.tabs import about, compare, playground, queries, search, training, verdict
from gcl_toolkit.app.tabs import map as map_tab
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.measure import verdict as verdicts
from gcl_toolkit.measure.metrics import AP, NDCG, measure
from gcl_toolkit.measure.statistics import paired
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.views.bundle import read_bundle

APP = Path(rankings.__file__).parent
A, B = "graded", "clip"


@pytest.fixture(scope="module")
def folder(small_study):
    return small_study / "bundle"


@pytest.fixture(scope="module")
def service(folder):
    return Service(read_bundle(folder))


def by_hand(bundle, split, row, model, weight):
    """Product ids, best first, and cosines, from whole fused embeddings."""
    vectors, items = bundle.systems[model].vectors, bundle.items_of(split)
    image, title = (np.float64(vectors.embeddings_NxD[field][items]) for field in ("image", "title"))
    fused = weight * image + (1 - weight) * title
    norm = np.linalg.norm(fused, axis=1)
    cosines = np.where(norm > 1e-6, fused @ vectors.queries_QxD[row] / norm.clip(1e-9), -np.inf)
    order = np.argsort(-cosines, kind="stable")
    return bundle.items["product_id"].to_numpy()[items][order].tolist(), cosines[order]


# -- search ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_search_ranks_as_fused_embeddings_do_at_every_weight(service, weight):
    for label, row in service.labels["zero_shot"].items():
        found = service.search("zero_shot", label, A, weight, k=12).products
        ids, cosines = by_hand(service.bundle, "zero_shot", row, A, weight)
        kept = np.isfinite(cosines)
        np.testing.assert_allclose(np.array([p.cosine for p in found])[kept], cosines[kept], atol=1e-5)
        assert [p.product_id for p in found] == ids
        assert [p.rank for p in found] == list(range(1, 13))
        for product in found[: kept.sum()]:
            assert sum(product.parts.values()) == pytest.approx(product.cosine, abs=1e-5)


def test_a_product_without_the_only_field_that_counts_comes_last(service):
    split = next(s for s in ("in_domain", "zero_shot") if small_bundle.NO_IMAGE in items_of(service, s))
    last = service.search(split, next(iter(service.labels[split])), A, 1.0, k=12).products[-1]
    assert last.product_id == small_bundle.NO_IMAGE
    assert math.isnan(last.cosine)


def queries_of(service, **options):
    return service.queries(service.state({"a": A, "b": B, "division": "all", **options}))


def items_of(service, split):
    return service.bundle.items["product_id"].to_numpy()[service.bundle.items_of(split)].tolist()


def test_moving_the_slider_computes_no_new_cosines_of_fields(folder, monkeypatch):
    service, calls = Service(read_bundle(folder)), []
    monkeypatch.setattr(rankings, "field_cosines", lambda *a, real=rankings.field_cosines: calls.append(1) or real(*a))
    for weight in np.linspace(0, 1, 11):
        service.search("zero_shot", next(iter(service.labels["zero_shot"])), A, float(weight))
    assert len(calls) == 1


def test_scores_and_levels_are_those_of_the_querys_list(service):
    label, row = next(iter(service.labels["zero_shot"].items()))
    items, scores = service.bundle.judged(row)
    known = dict(zip(items.tolist(), scores.tolist(), strict=True))
    for product in service.search("zero_shot", label, A).products:
        assert product.score == known.get(product.item)
        assert product.level == service.level(product.score or 0)
    least, largest = service.bounds[0], service.bounds[-1]
    assert [service.level(s) for s in (0, least, largest)] == [0, 1, 4]
    assert sorted({service.level(s) for s in np.linspace(least, largest, 50)}) == [1, 2, 3, 4]
    assert [service.level(bound) for bound in service.bounds[:-1]] == [1, 2, 3, 4]
    assert not any(service.bounds % 1)


def test_a_text_that_is_not_stored_is_embedded_by_the_model(service):
    found = service.search("in_domain", "  some   mug ", A)
    model = GCLModel.load(service.vectors(A).weights)
    query_D = model.embed(pa.table({"query": ["some mug"]}), "left")[0]
    corpus = small_bundle.world().splits["in_domain"].corpus
    expected = dict(zip(corpus["product_id"].to_pylist(), model.embed(corpus, "right") @ query_D, strict=True))
    assert {p.product_id: p.cosine for p in found.products} == pytest.approx(expected, abs=1e-3)
    assert found.metrics == {}
    assert all(p.score is None for p in found.products)
    with pytest.raises(UserError, match="knows none of the words"):
        service.search("in_domain", "zzzz", A)


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_terms_move_the_query_by_their_weights(service):
    label, row = next(iter(service.labels["zero_shot"].items()))
    options = Ask(label, more="mug:0.5, number:0.25", less="some mug:1.5")
    system = service.system(A)
    model = GCLModel.load(system.vectors.weights)
    mug, number, some = model.embed(pa.table({"query": ["mug", "number", "some mug"]}), "left")
    expected_D = unit(system.vectors.queries_QxD[row] + 0.5 * mug + 0.25 * number - 1.5 * some)
    np.testing.assert_allclose(service.vector("zero_shot", options, system), expected_D, atol=1e-6)
    found = service.search("zero_shot", label, A, more=options.more, less=options.less, k=12)
    plain = service.search("zero_shot", label, A, k=12)
    assert [p.item for p in found.products] != [p.item for p in plain.products]
    assert {p.item: p.score for p in found.products} == {p.item: p.score for p in plain.products}


def test_a_picture_is_searched_by_the_models_own_picture_encoder(service):
    digest = service.encoders.keep(service.bundle.thumbnail(7))
    system = service.system(A)
    found = service.search("in_domain", "anything", A, 1.0, k=12, image=digest)
    assert found.metrics == {}
    model = GCLModel.load(system.vectors.weights)
    with Image.open(io.BytesIO(service.encoders.picture(digest))) as image:
        pixels = torch.tensor(model.encoder.pixels(image.convert("RGB")))[None]
    with torch.inference_mode():
        expected_D = unit(model.eval().encoder.encode_images(pixels).numpy()[0])
    np.testing.assert_allclose(
        service.vector("in_domain", Ask("anything", image=digest), system), expected_D, atol=1e-5
    )


def test_neighbours_are_nearest_in_the_embedding_space(service):
    vectors = service.vectors(A)
    image, title = (np.float64(vectors.embeddings_NxD[field]) for field in ("image", "title"))
    fused_NxD = np.apply_along_axis(unit, 1, 0.5 * image + 0.5 * title)
    for item in (0, 5, 23):
        cosines_N = fused_NxD @ fused_NxD[item]
        cosines_N[item] = -2
        found = service.neighbours(item, A, 5).products
        np.testing.assert_allclose([p.cosine for p in found], np.sort(cosines_N)[::-1][:5], atol=1e-3)
        assert item not in [p.item for p in found]


def test_without_weights_only_stored_queries_can_be_searched(folder):
    bundle = read_bundle(folder)
    for name in (A, B):
        object.__setattr__(bundle.systems[name].vectors, "weights", None)
    with pytest.raises(UserError, match="holds no weights of clip; choose one of the stored queries"):
        Service(bundle).search("zero_shot", "mug", "clip")


# -- compare and queries -----------------------------------------------------------------------------------------------


def test_compare_measures_as_the_metrics_do_and_dcg_over_ideal_dcg_is_ndcg(service):
    for label, row in service.labels["zero_shot"].items():
        comparison = service.compare("zero_shot", label, A, B)
        items, scores = service.bundle.judged(row)
        ids = service.bundle.items["product_id"].to_numpy()
        qrels = {"q": dict(zip(ids[items], scores, strict=True))}
        for ranking in (comparison.a, comparison.b):
            order, _ = by_hand(service.bundle, "zero_shot", row, ranking.model, 0.5)
            run = {"q": {product: -rank for rank, product in enumerate(order)}}
            expected = measure(qrels, run, [*service.bundle.metrics]).loc["q"]
            assert {str(m): v for m, v in ranking.metrics.items()} == pytest.approx(expected.to_dict())
            assert ranking.dcg / ranking.ideal_dcg == pytest.approx(ranking.metrics[NDCG @ 10])
            assert 0 <= ranking.dcg <= ranking.ideal_dcg


def test_the_ideal_order_is_by_score_and_has_both_models_ranks(service):
    label, row = next(iter(service.labels["zero_shot"].items()))
    comparison = service.compare("zero_shot", label, A, B)
    assert [p.score for p in comparison.ideal] == sorted(service.bundle.judged(row)[1], reverse=True)[:10]
    for model in (A, B):
        order, _ = by_hand(service.bundle, "zero_shot", row, model, 0.5)
        assert [p.other[model] for p in comparison.ideal] == [order.index(p.product_id) + 1 for p in comparison.ideal]
    order_b, _ = by_hand(service.bundle, "zero_shot", row, B, 0.5)
    assert [p.other[B] for p in comparison.a.products] == [
        order_b.index(p.product_id) + 1 for p in comparison.a.products
    ]


def test_the_sentence_names_the_better_model_and_a_product_it_ranks_higher(service):
    for split in service.bundle.splits:
        for label in service.labels[split]:
            comparison = service.compare(split, label, A, B)
            gap = comparison.a.metrics[NDCG @ 10] - comparison.b.metrics[NDCG @ 10]
            if abs(gap) < 0.0005:
                assert "Both systems reach the same" in comparison.sentence or "Neither" in comparison.sentence
                continue
            better, worse = (A, B) if gap > 0 else (B, A)
            assert comparison.sentence.startswith(f"{better} is better by {abs(gap):.3f} NDCG@10")
            here, there = re.search(rf"at (\d+), {worse} at (\d+)\. Their", comparison.sentence).groups()
            assert int(here) < int(there)


def test_the_sentence_says_when_no_comparison_is_possible(service):
    assert "on both sides" in service.compare("zero_shot", next(iter(service.labels["zero_shot"])), A, A).sentence
    assert "No scores are known" in service.compare("in_domain", "some mug", A, B).sentence


def test_the_table_of_queries_equals_the_comparisons(service):
    for split in service.bundle.splits:
        table = queries_of(service, split=split)
        assert len(table) == len(service.labels[split])
        for row in table.itertuples():
            comparison = service.compare(split, row.query, A, B)
            assert (row.a, row.b) == pytest.approx((comparison.a.metrics[NDCG @ 10], comparison.b.metrics[NDCG @ 10]))
            assert row.difference == pytest.approx(row.a - row.b)


def test_the_table_is_sorted_and_filtered_as_asked(service):
    asked = {"split": "in_domain", "metric": "AP"}
    tables = {order: queries_of(service, **asked, order=order) for order in ("win", "loss", "worst")}
    assert tables["win"]["difference"].is_monotonic_decreasing
    assert tables["loss"]["difference"].is_monotonic_increasing
    assert tables["worst"]["a"].is_monotonic_increasing
    spread = queries_of(service, **asked, order="spread")["difference"].abs()
    assert spread.is_monotonic_decreasing
    for column in ("a", "b", "difference", "unjudged"):
        for order, sign in ((column, 1), (f"-{column}", -1)):
            assert (sign * queries_of(service, **asked, order=order)[column]).is_monotonic_increasing
    assert queries_of(service, **asked, order="-query")["query"].str.lower().is_monotonic_decreasing
    halves = [queries_of(service, **asked, division=division) for division in ("dev", "test")]
    assert sum(map(len, halves)) == len(tables["win"])
    assert all(half["division"].nunique() <= 1 for half in halves)


def test_slices_cut_the_table_and_each_query_is_in_one_slice_of_a_way(service):
    everything = set(queries_of(service, split="in_domain")["query_id"])
    ways = {}
    for name in service.slices("in_domain")[1:]:
        part = queries_of(service, split="in_domain", slice=name)["query_id"].tolist()
        assert part
        ways.setdefault(name.split(": ")[0], []).extend(part)
    assert ways
    for parts in ways.values():
        assert len(parts) == len(set(parts))
        assert set(parts) == everything


def test_equal_texts_get_labels_of_their_own(folder):
    bundle = read_bundle(folder)
    bundle.queries["query"] = "mug"
    labels = Service(bundle).labels["in_domain"]
    assert len(labels) == bundle.queries_of("in_domain").stop
    assert next(iter(labels)) == "mug"
    assert all(re.fullmatch(r"mug \(q\d+\)", label) for label in list(labels)[1:])


# -- systems without vectors, judgements -------------------------------------------------------------------------------


def test_a_baseline_is_compared_by_its_stored_ranking(service):
    label, row = next(iter(service.labels["zero_shot"].items()))
    comparison = service.compare("zero_shot", label, A, "bm25", B)
    assert [r.model for r in comparison.rankings] == [A, "bm25", B]
    assert (comparison.a.model, comparison.b.model) == (A, B)
    bm25 = comparison.rankings[1]
    stored = service.system("bm25").ranking_QxK[row].tolist()
    assert [p.item for p in bm25.products] == stored[:10]
    assert all(math.isnan(p.cosine) and not p.parts for p in bm25.products)
    for product in comparison.a.products:
        assert product.other["bm25"] == stored.index(product.item) + 1
    assert all(set(p.other) == {A, "bm25", B} for p in comparison.ideal)


def test_a_baseline_does_not_rank_a_typed_text(service):
    comparison = service.compare("in_domain", "some mug", A, "bm25")
    assert (comparison.b.products, comparison.b.listed) == ([], 0)
    assert all(p.other == {"bm25": None} for p in comparison.a.products)
    assert comparison.sentence.startswith("bm25 ranks no product for this text")
    for call in (lambda: service.search("in_domain", "mug", "bm25"), lambda: service.neighbours(3, "bm25")):
        with pytest.raises(UserError, match="bm25 has no vectors"):
            call()
    assert service.searchable == ["clip", "graded"]


def test_two_to_five_systems_are_compared(service):
    label = next(iter(service.labels["zero_shot"]))
    assert len(service.compare("zero_shot", label, A, "bm25", A, "bm25", B).rankings) == 5
    for names in ((A,), (A,) * 6):
        with pytest.raises(UserError, match="systems are given; 2 to 5 are expected"):
            service.compare("zero_shot", label, *names)
    state = service.state({"a": "bm25", "b": A, "also": f"{B},{A},bm25, {B}"})
    assert state.also == B
    assert service.systems_of(state) == ["bm25", B, A]
    assert {"a", "b", "c"} <= set(queries_of(service, also="bm25"))


def test_the_page_opens_on_a_query_where_the_first_system_wins(service):
    for split in service.bundle.splits:
        label = service.state({"split": split}).query
        comparison = service.compare(split, label, A, B)
        assert comparison.a.metrics[NDCG @ 10] > comparison.b.metrics[NDCG @ 10]


def test_metrics_are_those_of_each_ranking(service):
    ids = service.bundle.items["product_id"].to_numpy()
    for name, system in service.bundle.systems.items():
        qrels, run = {}, {}
        for row, ranking_K in enumerate(system.ranking_QxK):
            items, scores = service.bundle.judged(row)
            qrels[row] = dict(zip(ids[items], scores, strict=True))
            run[row] = {product: -rank for rank, product in enumerate(ids[ranking_K[ranking_K >= 0]])}
        expected = measure(qrels, run, [*service.bundle.metrics])
        np.testing.assert_allclose(service.metrics(name), expected)


def test_a_verdict_is_of_the_chosen_queries_and_its_difference_the_paired_one(service):
    rows = service.rows("in_domain", "test")
    lists = service.lists("in_domain", [A, "bm25", B], "test")
    assert list(lists.query_ids) == service.bundle.queries["query_id"].iloc[rows].tolist()
    a, b = (pd.Series(service.metrics(n)["AP"].to_numpy()[rows], lists.query_ids, name="AP") for n in (A, B))
    found = verdicts.verdict(lists, A, B, AP)
    assert found.difference == paired(a, b)
    assert lists.unlisted == "irrelevant"
    assert len(lists.labels) == len(rows)


def test_a_judgement_changes_the_metrics_of_its_query_everywhere(folder, tmp_path):
    service = Service(read_bundle(folder), Judgements(tmp_path / "grades.jsonl"))
    before = {name: service.metrics(name).copy() for name in service.bundle.systems}
    rows = np.flatnonzero(service.bundle.queries["query_id"] == "q3")  # in two splits
    items, _ = service.judged_row(int(rows[1]))
    span = service.bundle.items_of(service.bundle.queries["split"].iat[rows[1]])
    item = next(item for item in range(span.start, span.stop) if item not in items)
    for step, grade in enumerate((4, 2, None), start=1):
        assert service.grade(int(rows[1]), item, grade, "me").grade == grade
        assert service.revision == step
        fresh = Service(service.bundle, Judgements(tmp_path / "grades.jsonl"))
        for name, table in before.items():
            pd.testing.assert_frame_equal(service.metrics(name), fresh.metrics(name))
            changed = np.flatnonzero((service.metrics(name) != table).any(axis=1))
            assert changed.tolist() == ([rows[1]] if grade else [])
        product = service.judged_product(int(rows[1]), item)
        assert product.score == (grade * 29 / 4 if grade else None)  # 4 is the largest score of the bundle
    np.testing.assert_array_equal(service.judged_row(int(rows[1]))[0], items)
    with pytest.raises(UserError, match="is not in the split"):
        service.grade(int(rows[1]), span.start - 1, 3, "me")
    with pytest.raises(UserError, match="not kept on this server"):
        Service(service.bundle).grade(0, 0, 3, "me")


def test_a_judgement_takes_the_place_of_a_stored_score(folder, tmp_path):
    service = Service(read_bundle(folder), Judgements(tmp_path / "grades.jsonl"))
    items, scores = service.judged_row(0)
    service.grade(0, int(items[0]), 0, "me")
    stored = dict(zip(items.tolist(), scores.tolist(), strict=True))
    assert dict(zip(*map(np.ndarray.tolist, service.judged_row(0)), strict=True)) == stored | {int(items[0]): 0.0}
    in_split = service.qrels.query < service.bundle.queries_of("in_domain").stop
    assert service.lists("in_domain", [A, B]).qrel_grade.sum() == service.qrels.score[in_split].sum()


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, 2.5, "10", None, True, math.nan])
def test_k_out_of_range_is_refused(service, k):
    with pytest.raises(UserError, match=f"an integer from 1 to {MAX_K} is expected"):
        service.search("zero_shot", "mug", A, k=k)


@pytest.mark.parametrize("weight", [-0.1, 1.1, "x", math.nan, math.inf, [1], {}])
def test_a_weight_out_of_range_is_refused(service, weight):
    with pytest.raises(UserError, match="a number from 0 to 1 is expected"):
        service.search("zero_shot", "mug", A, weight)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_query_is_refused(service, text):
    with pytest.raises(UserError, match="the query is empty"):
        service.search("zero_shot", text, A)


def test_a_long_query_is_refused(service):
    with pytest.raises(UserError, match=f"{MAX_QUERY + 1} characters; at most {MAX_QUERY}"):
        service.search("zero_shot", "m" * (MAX_QUERY + 1), A)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "weights", None, 3, ["clip"], "x" * 9_999])
def test_unknown_names_are_refused_with_the_known_ones(service, name):
    for call in (
        lambda: service.search("zero_shot", "mug", name),
        lambda: service.search(name, "mug", A),
        lambda: service.compare("zero_shot", "mug", A, name),
        lambda: service.metrics(name),
        lambda: service.lists("zero_shot", [A, name]),
        lambda: service.rows("zero_shot", name),
        lambda: service.rows("zero_shot", "all", name),
        lambda: service.queries(replace(service.state(), metric=name)),
        lambda: service.queries(replace(service.state(), order=name)),
    ):
        with pytest.raises(UserError, match=r"unknown .*known: ") as caught:
            call()
        assert len(str(caught.value)) < 2 * MAX_QUERY + 200


@pytest.mark.parametrize("item", [-1, 24, 10**9])
def test_an_item_out_of_range_has_no_picture(service, item):
    with pytest.raises(UserError, match="there is no product row"):
        service.image(item)


@pytest.mark.parametrize("tab", TABS)
def test_a_state_comes_back_from_its_url(service, tab):
    for query in (*small_bundle.HOSTILE, "mug number 13", "ä & b = c # ? %41 +"):
        options = {
            "split": "novel_query",
            "query": query,
            "a": B,
            "b": A,
            "item": "3",
            "look": "lines",
            "panels": "a",
            "colour": "split",
        }
        options |= {
            "weight": 0.37,
            "more": "red:0.8, a mug:1",
            "less": "b:2",
            "metric": "RBP(0.9)",
            "order": "worst",
            "division": "dev",
        }
        options |= {"lasso": "b:0,0;1,0;1,1.5", "weighting": "linear", "temperature": 0.2, "score": 7}
        options["slice"] = service.slices("novel_query")[-1]
        options |= {"tab": tab, "image": service.encoders.keep(small_bundle.png(3, 9)), "also": "bm25"}
        state = replace(service.state(options), given=tuple(options))
        back = replace(service.state(dict(parse_qsl(state.url()[1:]))), given=state.given)
        assert back == state
        assert all(getattr(state, name) == value for name, value in options.items() if name != "query")
        assert back.tab == tab
        assert state.query == query
    assert service.state().tab == "verdict"
    with pytest.raises(UserError, match="unknown tab 'maps'; known: about, compare, map"):
        service.state({"tab": "maps"})


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"more": "a:3"}, "number from 0 to 2"),
        ({"more": "a:x"}, "number from 0 to 2"),
        ({"less": ":1"}, "empty"),
        ({"more": "a,b,c,d,e,f"}, "6 terms are given; at most 5"),
        ({"less": "m" * 201}, "at most 200 are allowed"),
        ({"item": "-1"}, "no product row -1"),
        ({"item": "24"}, "no product row 24"),
        ({"item": "٣"}, "no product row"),
        ({"item": "9" * 99}, "no product row"),
        ({"lasso": "a:1,2;3,4"}, "2 corners; 3 to 64"),
        ({"lasso": "a:1;2;3"}, "pair"),
        ({"lasso": "b:" + "0,0;1,1;" * 99}, "corners"),
        ({"lasso": "c:0,0;1,1;2,3"}, "unknown map of the lasso"),
        ({"lasso": "a:nan,0;1,1;2,3"}, "number from"),
        ({"image": "../x"}, "no longer kept"),
        ({"temperature": "0"}, "number from 0.005 to 0.5"),
        ({"score": "101"}, "number from 1 to 100"),
        ({"weight": True}, "number from 0 to 1"),
        ({"also": "bm26"}, "unknown system 'bm26'; known: bm25, clip, graded"),
    ],
)
def test_values_out_of_range_in_a_url_are_refused_with_a_reason(service, options, wrong):
    with pytest.raises(UserError, match=wrong):
        service.state(options)


# -- what is drawn -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with attributes, and the text, as a browser would read them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.rows = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


DRAWN = {
    "verdict": verdict,
    "search": search,
    "compare": compare,
    "queries": queries,
    "map": map_tab,
    "playground": playground,
    "training": training,
    "about": about,
}
FORBIDDEN = {"script", "iframe", "object", "embed", "link", "meta", "base", "style"}


@pytest.mark.parametrize(
    ("tab", "query"),
    [(tab, query) for tab in DRAWN for query in small_bundle.HOSTILE[: None if "query" in TABS[tab].controls else 2]],
)
def test_hostile_texts_are_drawn_as_text_on_every_tab(service, tab, query):
    split = next(s for s in service.bundle.splits if query in service.labels[s])
    item = str(small_bundle.HOSTILE.index(query))
    options = {"tab": tab, "split": split, "query": query, "division": "all", "item": item, "also": "bm25"}
    html = DRAWN[tab].draw(service, service.state(options))
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & FORBIDDEN
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcdoc", "formaction")]
        assert re.fullmatch(
            r"gcl/(picture/\d+|upload/\w+)\?v=[0-9a-f]{8}", attributes.get("src", "gcl/picture/1?v=00000000")
        )
        assert re.fullmatch(r"(gcl/[a-z_.]+)?\?[\w=&.%+()-]*", attributes.get("href", "?")), tag
    assert not re.search(r"\$\{|\{\{|`", html)
    if tab == "compare":
        shown = service.compare(split, query, A, B)
        assert all(p.title in page.text for p in (*shown.a.products, *shown.b.products, *shown.ideal))


def test_about_names_every_endpoint_with_its_parameters(service):
    found = ast.parse((APP / "api.py").read_text())
    endpoints = [
        f for f in ast.walk(found) if isinstance(f, ast.FunctionDef) and ast.get_docstring(f) and f.name[0] != "_"
    ]
    options = {f"/{f.name}": ", ".join(a.arg for a in f.args.args) for f in endpoints if f.name != "add_api"}
    assert {name: parameters for name, (parameters, _) in about.API.items()} == options


def test_safe_is_undone_by_a_browser_and_by_nothing_less():
    for text in small_bundle.HOSTILE:
        assert Page(f"<p>{safe(text)}</p>").text == text
        assert Page(f'<p title="{safe(text)}"></p>').tags[0][1]["title"] == text
        assert not set(safe(text)) & set("<>\"'`${}")


def test_nothing_in_the_page_is_a_template_or_sets_html():
    script = "".join(path.read_text() for path in APP.glob("*.js"))
    assert not re.search(r"outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\b", script)
    assert script.count(".innerHTML =") <= 1  # between two parts that the server has drawn
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg not in ("html_template", "css_template", "allowed_paths")


def test_numbers_in_the_page_are_the_services(service):
    label = next(iter(service.labels["zero_shot"]))
    comparison = service.compare("zero_shot", label, A, B)
    text = Page(compare.draw(service, service.state({"tab": "compare"}))).text
    for ranking in (comparison.a, comparison.b):
        assert f"NDCG@10{ranking.metrics[NDCG @ 10]:.3f}DCG {ranking.dcg:.0f} / {ranking.ideal_dcg:.0f}" in text
    assert comparison.sentence in text


def test_rank_flow_lines_join_the_ranks_of_each_product(service):
    html = compare.draw(service, service.state({"tab": "compare", "look": "lines"}))
    comparison = service.compare("zero_shot", service.state().query, A, B)
    first, ideal = ({p.item: p.rank for p in side} for side in (comparison.a.products, comparison.ideal))
    flows = re.findall(r"<svg.*?</svg>", html)
    assert len(flows) == 2
    joined = {int(t["data-item"]): t["d"] for tag, t in Page(flows[0]).tags if tag == "path"}
    assert set(joined) == set(first) | set(ideal)
    for item in set(first) & set(ideal):
        assert joined[item].startswith(f"M0.0 {first[item] - 0.5} ")
        assert joined[item].endswith(f" 10.0 {ideal[item] - 0.5}")


def test_a_saved_comparison_is_one_file_without_scripts(service):
    state = service.state({"tab": "compare"})
    page = Page(to_html(service, state))
    sources = [a["src"] for tag, a in page.tags if "src" in a]
    assert sources
    assert all(s.startswith("data:image/webp;base64,") for s in sources)
    assert "script" not in {tag for tag, _ in page.tags}
    assert service.compare(state.split, state.query, A, B).sentence in page.text


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_no_cell_of_the_csv_is_a_formula_and_numbers_stay_numbers(service):
    starts = ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", " =1", "mug", "", "'mug"]
    table = pd.DataFrame({"=name": starts, "value": -0.5})
    head, *rows = csv.reader(io.StringIO(to_csv(table)))
    assert head == ["'=name", "value"]
    for text, (cell, value) in zip(starts, rows, strict=True):
        assert cell in (text, f"'{text}")
        assert not cell.lstrip().startswith(("=", "+", "-", "@"))
        assert float(value) == -0.5
    exported = to_csv(queries_of(service, split="in_domain"))
    assert any(row[0].startswith("'=") or row[0].startswith("'@") for row in csv.reader(io.StringIO(exported)))


# -- torch -------------------------------------------------------------------------------------------------------------


def test_stored_queries_need_no_torch_and_no_gradio(folder):
    code = f"""
import json, sys
from gcl_toolkit.app.export import to_csv
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.tabs import about, compare, map, playground, queries, search, training, verdict
from gcl_toolkit.views.bundle import read_bundle
service = Service(read_bundle({str(folder)!r}))
tabs = (verdict, search, compare, queries, map, playground, training, about)
drawn = [tab.draw(service, service.state()) for tab in tabs]
heavy = [m for m in ("torch", "gradio", "open_clip", "transformers") if m in sys.modules]
service.search("in_domain", "some mug", "clip")
print(json.dumps([len(drawn), heavy, "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert json.loads(done.stdout or "null") == [8, [], True], done.stderr
