"""The shop: reproducible, each side lacks what the other has, and an order that can be learnt up to known ceilings."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from gcl_toolkit.errors import UserError
from gcl_toolkit.ranked_data import IMAGE, SPLITS, leaks
from gcl_toolkit.sources import load
from gcl_toolkit.sources.shop import ShopConfig, art, catalogue, draw, engine, make_shop, wishes, words
from gcl_toolkit.sources.shop.draw import Look, to_png, to_svg

SMALL = ShopConfig(products=300, queries=80, size=24)
LOOK = {"category": "mug", "colour": "white", "pattern": "solid", "size": "small", "background": "white"}
CATALOGUE = catalogue.make_catalogue(1_000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def shop():
    return make_shop(SMALL)


@pytest.fixture(scope="module")
def splits():
    return load("shop", seed=3, products=300, queries=80, size=24)


def fingerprint(shop) -> str:
    tables = [table.to_pylist() for table in (shop.queries, shop.corpus, shop.qrels)]
    return hashlib.sha256(repr((tables, shop.card)).encode()).hexdigest()


def _pixels(look, size=48) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(to_png(look, size))).convert("RGB")).astype(int)


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_in_another_process_with_other_string_hashes(shop):
    code = "from test_shop import *; print(fingerprint(make_shop(SMALL)), hash('a'))"
    other = str(1 + (os.environ.get("PYTHONHASHSEED") == "1"))
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": other},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    digest, string_hash = printed.split()
    assert int(string_hash) != hash("a")
    assert digest == fingerprint(shop)


def test_another_seed_is_another_shop(shop):
    other = make_shop(ShopConfig(**(asdict(SMALL) | {"seed": 1})))
    for table, column in (("queries", "query"), ("corpus", "title"), ("corpus", "image"), ("qrels", "product_id")):
        mine, theirs = (getattr(data, table)[column].to_pylist() for data in (shop, other))
        assert mine != theirs, column


def test_tables(shop):
    assert (shop.queries.num_rows, shop.corpus.num_rows) == (80, 300)
    assert shop.queries.column_names == ["query_id", "query"]
    assert shop.corpus.column_names == ["product_id", "image", "title", "category"]
    assert shop.corpus.schema.field("image").type == IMAGE
    assert len(set(shop.corpus["category"].to_pylist())) == len(words.CATEGORIES) >= 20
    assert Image.open(io.BytesIO(shop.corpus["image"][0]["bytes"].as_py())).size == (24, 24)
    assert min(map(len, shop.corpus["title"].to_pylist())) > 0


def test_each_list_is_numbered_from_1_and_scored_101_minus_position(shop):
    qrels = shop.qrels.to_pandas()
    assert (qrels["score"] == 101 - qrels["position"]).all()
    for _, positions in qrels.groupby("query_id")["position"]:
        assert sorted(positions) == list(range(1, len(positions) + 1))
    assert qrels["position"].max() <= 100
    assert (
        make_shop(ShopConfig(products=60, queries=5, size=8, per_query=4)).qrels["position"].to_pylist()
        == [1, 2, 3, 4] * 5
    )


def test_card_is_json_and_counts_right(shop):
    card = json.loads(json.dumps(shop.card))
    assert card["pairs"] == shop.qrels.num_rows
    assert card["pairs per product"] == pytest.approx(shop.qrels.num_rows / 300)
    assert card["products listed at least once"] == len(set(shop.qrels["product_id"].to_pylist())) / 300
    assert card["config"] == asdict(SMALL)


def test_progress_reaches_the_end():
    calls = []
    make_shop(ShopConfig(products=40, queries=5, size=8), lambda done, total: calls.append((done, total)))
    assert calls == [(i, 40) for i in range(1, 41)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"products": 10}, r"10 products .*at least 1 query and 30 products"),
        ({"queries": 0}, r"0 queries"),
        ({"per_query": 101}, r"per_query is 101; 1 to 100"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        ShopConfig(**wrong)


# -- the splits --------------------------------------------------------------------------------------------------------


def test_four_splits_without_leak(splits):
    assert tuple(splits) == SPLITS
    assert leaks(splits) == []
    assert all(split.qrels.num_rows > 0 for split in splits.values())


def test_products_of_the_same_attributes_have_different_pictures():
    same = [CATALOGUE.look(p)._replace(**LOOK) for p in range(200)]
    assert len({to_png(look, 64) for look in same}) == 200


def test_sparse_thins_the_training_pairs_alone_to_two_a_product(splits):
    sparse = load("shop", seed=3, sparse=True, products=300, queries=80, size=24)
    for name in SPLITS[1:]:
        assert sparse[name].qrels.equals(splits[name].qrels)
    whole, kept = splits["in_domain"].qrels, sparse["in_domain"].qrels
    assert kept.num_rows / sparse["in_domain"].corpus.num_rows == pytest.approx(2, abs=0.1)
    assert whole.num_rows > 2 * kept.num_rows
    assert set(map(tuple, kept.to_pandas().to_numpy())) <= set(map(tuple, whole.to_pandas().to_numpy()))
    share = kept.num_rows / whole.num_rows
    listed, left = (pc.value_counts(table["query_id"]).to_pylist() for table in (whole, kept))
    left = {count["values"]: count["counts"] for count in left}
    assert all(abs(left.get(n["values"], 0) - share * n["counts"]) < 1 for n in listed)
    for query, positions in whole.to_pandas().groupby("query_id")["position"]:
        of_query = kept.filter(pc.equal(kept["query_id"], query))["position"].to_pylist()
        steps = np.diff(np.searchsorted(np.sort(positions), np.sort(of_query)))
        assert set(steps) <= {int(1 / share), int(1 / share) + 1}


# -- queries -----------------------------------------------------------------------------------------------------------


def test_no_two_queries_ask_for_the_same():
    made = wishes.make_wishes(3_000, np.random.default_rng(0))
    assert len({wish.text.lower() for wish in made}) == 3_000
    assert len({(wish.categories, frozenset(wish.asked.items())) for wish in made}) == 3_000
    assert {wish.kind for wish in made} == set(wishes.KINDS)
    assert {len(wish.asked) for wish in made} == {0, 1, 2, 3}


def test_a_query_says_what_it_asks_for():
    names = {facet: {n: v for v, all_ in known.items() for n in all_} for facet, known in catalogue.FACETS.items()}
    for wish in wishes.make_wishes(300, np.random.default_rng(0)):
        for facet, values in wish.asked.items():
            if len(values) == 1:
                said = [name for name, value in names[facet].items() if value == values[0]]
            else:
                said = [mood for mood, colours in words.MOODS.items() if colours == values]
            assert any(re.search(rf"\b{re.escape(name.lower())}\b", wish.text) for name in said), wish
        assert wish.categories <= wish.candidates


@pytest.mark.parametrize("change", [{}, {"text": "other words"}, {"categories": frozenset()}])
def test_more_queries_than_differ_in_words_and_meaning_is_an_error(change, monkeypatch):
    only = wishes.make_wishes(1, np.random.default_rng(0))[0]
    drawn = cycle([only, only._replace(**change)])
    monkeypatch.setattr(wishes, "_wish", lambda rng: next(drawn))
    with pytest.raises(UserError, match="only 1 different queries were found, 2 are wanted"):
        wishes.make_wishes(2, np.random.default_rng(0))


# -- titles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facet", catalogue.TITLED)
def test_titles_name_a_facet_as_often_as_told(facet):
    known = list(catalogue.FACETS[facet].values())
    named = [
        any(re.search(rf"\b{re.escape(name)}\b", title) for name in known[value])
        for title, value in zip(CATALOGUE.titles, CATALOGUE.values[facet], strict=True)
    ]
    assert np.mean(np.array(named)[CATALOGUE.titled[facet]]) == 1
    assert np.mean(named) == pytest.approx(catalogue.TITLED[facet], abs=0.08)
    assert np.mean(named) < 0.97


def test_only_the_title_shows_brand_material_and_style():
    for facet in catalogue.FACETS:
        shown = CATALOGUE.shows(facet).sum(axis=1)
        np.testing.assert_array_equal(shown, 1 if facet in catalogue.PICTURED else CATALOGUE.titled[facet])
    assert not {"brand", "material", "style"} & set(Look._fields)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_every_word_has_its_art():
    assert list(art.TEMPLATES) == list(words.CATEGORIES)
    assert (list(draw.HUES), list(draw.SCALES)) == (list(words.COLOURS), list(words.SIZES))
    assert (set(draw._TILES), set(draw._SCENES)) == (set(words.PATTERNS), set(words.BACKGROUNDS))
    assert {word.group for word in words.CATEGORIES.values()} == set(words.GROUPS)
    assert {c for served in words.OCCASIONS.values() for c in served} <= set(words.CATEGORIES)
    assert {c for colours in words.MOODS.values() for c in colours} <= set(words.COLOURS)


def test_categories_look_different():
    pictures = np.stack([_pixels(Look(category, "red")) for category in words.CATEGORIES])
    for i in range(len(pictures)):
        difference = np.abs(np.delete(pictures, i, axis=0) - pictures[i]).max(axis=-1)
        assert ((difference > 30).mean(axis=(1, 2)) > 0.04).all(), list(words.CATEGORIES)[i]


@pytest.mark.parametrize("category", words.CATEGORIES)
def test_a_pattern_is_seen_and_stays_on_the_body(category):
    """Where a pattern changes the picture, the colour does too; the corners have neither."""
    plain = _pixels(Look(category, "teal"))
    coloured = np.abs(plain - _pixels(Look(category, "yellow"))).max(axis=-1) > 0
    for pattern in words.PATTERNS:
        changed = np.abs(plain - _pixels(Look(category, "teal", pattern))).max(axis=-1) > 2
        if pattern == "solid":
            assert not changed.any()
            continue
        assert changed.mean() > 0.02, pattern
        assert not (changed & ~coloured).any(), pattern
        assert not changed[[0, 0, -1, -1], [0, -1, 0, -1]].any(), pattern


@pytest.mark.parametrize(
    ("field", "values"), [("colour", words.COLOURS), ("size", words.SIZES), ("background", words.BACKGROUNDS)]
)
def test_attributes_are_seen(field, values):
    pictures = [_pixels(Look("mug", "red")._replace(**{field: value})) for value in values]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 1.5


@pytest.mark.parametrize("pattern", words.PATTERNS)
def test_ids_are_defined_once_and_carry_the_name(pattern):
    svg = to_svg(Look("mug", "red", pattern), "one")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(i.startswith("one-") for i in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) == set(ids)


def test_contact_sheet_shows_every_category(tmp_path):
    draw.contact_sheet(tmp_path / "sheet.png", size=16, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 16, len(words.CATEGORIES) * 16)


# -- the engine --------------------------------------------------------------------------------------------------------

STRENGTHS = {"brand": 0.6, "looks": 0.6, "popularity": 0.35, "noise": 0.5}


def _engine(**changed) -> engine.Engine:
    made = wishes.make_wishes(120, np.random.default_rng(1))
    return engine.make_engine(CATALOGUE, made, STRENGTHS | changed, np.random.default_rng(2))


def test_match_against_a_loop():
    made = wishes.make_wishes(60, np.random.default_rng(1))
    match_QxP = engine._match(CATALOGUE, made)
    for q, wish in enumerate(made):
        for p in range(0, 1000, 7):
            value = {facet: list(known)[CATALOGUE.values[facet][p]] for facet, known in catalogue.FACETS.items()}
            expected = 3.0 * (value["category"] in wish.categories)
            for facet, weight in (("colour", 1), ("pattern", 1), ("size", 0.6)):
                expected += weight * (value[facet] in wish.asked.get(facet, ()))
            for facet, weight in (("brand", 0.8), ("material", 0.8), ("style", 0.8)):
                expected += weight * (value[facet] in wish.asked.get(facet, ())) * CATALOGUE.titled[facet][p]
            if value["category"] not in wish.candidates:
                expected = -np.inf
            assert match_QxP[q, p] == pytest.approx(expected, abs=1e-6)


def test_priors_have_the_strength_told_and_the_unnamed_brand_is_hidden():
    made = _engine(looks=0.0, popularity=0.0)
    named = CATALOGUE.titled["brand"]
    assert (made.prior_P[~named] == 0).all()
    assert (made.hidden_P[named] == 0).all()
    brand_P = made.prior_P + made.hidden_P
    assert brand_P.std() == pytest.approx(0.6, rel=0.05)
    for brand in range(len(words.BRANDS)):
        assert len(set(brand_P[CATALOGUE.values["brand"] == brand])) == 1
    assert _engine(brand=0.0).prior_P.std() == pytest.approx(0.6, rel=0.05)
    assert _engine(brand=0.0, looks=0.0).hidden_P.std() == pytest.approx(0.35, rel=0.1)
    assert _engine().noise_QxP.std() == pytest.approx(0.5, rel=0.02)


def test_lists_hold_the_best_candidates_in_order():
    made = _engine()
    score_QxP = made.match_QxP + made.prior_P + made.hidden_P + made.noise_QxP
    for scores, products in zip(score_QxP, made.rank(100), strict=True):
        candidates = [p for p in range(1000) if scores[p] > -np.inf]
        assert list(products) == sorted(candidates, key=lambda p: -scores[p])[:100]


def _reference_ndcg(scores, products) -> float:
    gain = {p: 100 - i for i, p in enumerate(products)}
    ranked = sorted(range(len(scores)), key=lambda p: -scores[p])[:10]
    ideal = sorted(gain.values(), reverse=True)[:10]
    found = sum(gain.get(p, 0) / np.log2(i + 2) for i, p in enumerate(ranked))
    return found / sum(g / np.log2(i + 2) for i, g in enumerate(ideal))


def test_ceilings_against_a_loop_and_in_order():
    made = _engine()
    listed = made.rank(17)  # as many a category as at the defaults: half of its products
    ceilings = made.ceilings(listed, np.random.default_rng(0))
    for name, known_QxP in (
        ("all that is visible", made.match_QxP + made.prior_P),
        ("all but noise", made.match_QxP + made.prior_P + made.hidden_P),
    ):
        reference = [_reference_ndcg(scores, products) for scores, products in zip(known_QxP, listed, strict=True)]
        assert ceilings["whole corpus"][name] == pytest.approx(np.mean(reference), abs=1e-3)
    for part in ceilings.values():
        assert part["all but noise"] > part["all that is visible"] + 0.02
        assert part["all that is visible"] > part["attribute match alone"] + 0.2
        assert part["attribute match alone"] > part["random"] + 0.2


def test_without_noise_the_engine_is_known():
    made = _engine(noise=0.0)
    assert made.ceilings(made.rank(100), np.random.default_rng(0))["whole corpus"]["all but noise"] == pytest.approx(1)
