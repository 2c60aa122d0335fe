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

from gcl_toolkit.data.ranked_data import IMAGE, SPLITS, leaks
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.shop import ShopConfig, catalogue, draw, engine, make_shop, queries, thin, words
from gcl_toolkit.data.sources.shop.draw import Look, to_png, to_svg
from gcl_toolkit.errors import UserError

SMALL = ShopConfig(products=120, queries=40, size=16)
LOOK = {"category": "mug", "colour": "white", "pattern": "solid", "size": "small", "background": "white"}


@pytest.fixture(scope="module")
def shop():
    return make_shop(SMALL)


@pytest.fixture(scope="module")
def products():
    return catalogue.make_catalogue(1_000, np.random.default_rng(0))


def _pixels(look, size=32) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(to_png(look, size))).convert("RGB")).astype(int)


def _rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- the whole shop ----------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_in_another_process_with_other_string_hashes(shop):
    code = "from test_shop import *; s = make_shop(SMALL); print(hash('a'), s.digest, json.dumps(s.card))"
    other = str(1 + (os.environ.get("PYTHONHASHSEED") == "1"))
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": other},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    string_hash, digest, card = printed.split(maxsplit=2)
    assert int(string_hash) != hash("a")
    assert (digest, json.loads(card)) == (shop.digest, shop.card)


def test_texts_and_scores_of_a_seed_never_change(shop):
    """The published results name seeds. Pictures are left out: their bytes are those of the installed renderer."""
    assert shop.corpus["title"].to_pylist()[:2] == ["Bruncott silk neck warmer", "Elmira zigzag cotton gown"]
    rows = [*shop.corpus["title"].to_pylist(), *shop.queries["query"].to_pylist(), *map(str, shop.qrels.to_pylist())]
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16] == "5a5a03cd5f125c94"


def test_another_seed_is_another_shop(shop):
    other = make_shop(ShopConfig(**(asdict(SMALL) | {"seed": 1})))
    for table, column in (("queries", "query"), ("corpus", "title"), ("corpus", "image"), ("qrels", "product_id")):
        one, two = (getattr(data, table)[column].to_pylist() for data in (shop, other))
        assert one != two, column


def test_tables(shop):
    assert (shop.queries.num_rows, shop.corpus.num_rows) == (40, 120)
    assert shop.queries.column_names == ["query_id", "query"]
    assert shop.corpus.column_names == ["product_id", "image", "title", "category"]
    assert shop.corpus.schema.field("image").type == IMAGE
    assert len(set(shop.corpus["category"].to_pylist())) == len(words.CATEGORIES) >= 20
    assert Image.open(io.BytesIO(shop.corpus["image"][0]["bytes"].as_py())).size == (16, 16)
    assert min(map(len, shop.corpus["title"].to_pylist())) > 0


def test_each_list_is_numbered_from_1_and_scored_101_minus_position(shop):
    qrels = shop.qrels.to_pandas()
    assert (qrels["score"] == 101 - qrels["position"]).all()
    for _, positions in qrels.groupby("query_id")["position"]:
        assert sorted(positions) == list(range(1, len(positions) + 1))
    assert qrels["position"].max() <= 100


def test_lists_have_the_length_asked_for():
    short = make_shop(ShopConfig(products=60, queries=5, size=8, per_query=4))
    assert short.qrels["position"].to_pylist() == [1, 2, 3, 4] * 5


def test_card_is_json_and_counts_right(shop):
    card = json.loads(json.dumps(shop.card))
    assert card["pairs"] == shop.qrels.num_rows
    assert card["pairs per product"] == pytest.approx(shop.qrels.num_rows / 120)
    assert card["products listed at least once"] == len(set(shop.qrels["product_id"].to_pylist())) / 120
    assert sum(card["queries by kind"].values()) == 40
    assert card["config"] == asdict(SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"products": 10}, r"products=10, .*at least 1 query and 30 products"),
        ({"queries": 0}, r"queries=0"),
        ({"per_query": 101}, r"per_query=101; expected 1 to 100"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        ShopConfig(**wrong)


# -- the splits --------------------------------------------------------------------------------------------------------


def test_sparse_splits_do_not_leak_and_only_training_pairs_are_thinned(monkeypatch, shop):
    monkeypatch.setattr("gcl_toolkit.data.sources.shop.make_shop", lambda _: shop)
    splits, sparse = load("shop", seed=3), load("shop", seed=3, sparse=True)
    assert tuple(splits) == SPLITS
    assert leaks(splits) == []
    assert all(split.qrels.num_rows > 0 for split in splits.values())
    for name in SPLITS[1:]:
        assert sparse[name].qrels.equals(splits[name].qrels)
    assert sparse["in_domain"].qrels.equals(thin(splits["in_domain"], seed=3).qrels)


def test_thinning_keeps_evenly_spaced_positions_of_every_list(shop):
    kept = thin(shop, seed=3)
    assert kept.qrels.num_rows / 120 == pytest.approx(2, abs=0.1)
    assert shop.qrels.num_rows > 2 * kept.qrels.num_rows
    assert set(map(tuple, kept.qrels.to_pandas().to_numpy())) <= set(map(tuple, shop.qrels.to_pandas().to_numpy()))
    share = kept.qrels.num_rows / shop.qrels.num_rows
    assert kept.card["share of pairs kept"] == pytest.approx(share, abs=0.01)
    for query, positions in shop.qrels.to_pandas().groupby("query_id")["position"]:
        of_query = kept.qrels.filter(pc.equal(kept.qrels["query_id"], query))["position"].to_pylist()
        assert abs(len(of_query) - share * len(positions)) < 1.1
        assert {*np.diff(sorted(of_query))} <= {int(1 / share), int(1 / share) + 1}


# -- queries -----------------------------------------------------------------------------------------------------------


def test_no_two_queries_want_the_same():
    drawn = queries.make_queries(1_000, _rng())
    assert len({query.text.lower() for query in drawn}) == 1_000
    assert len({(query.categories, frozenset(query.wanted.items())) for query in drawn}) == 1_000
    assert {query.kind for query in drawn} == set(queries.KINDS)
    assert {len(query.wanted) for query in drawn} == {0, 1, 2, 3}


def test_a_query_names_what_it_wants():
    for query in queries.make_queries(300, _rng()):
        for facet, values in query.wanted.items():
            if len(values) == 1:
                names = words.FACETS[facet][values[0]]
            else:
                names = [mood for mood, colours in words.MOODS.items() if colours == values]
            assert any(re.search(rf"\b{re.escape(name.lower())}\b", query.text) for name in names), query
        assert query.categories <= query.candidates


@pytest.mark.parametrize("change", [{}, {"text": "other words"}, {"categories": frozenset()}])
def test_more_queries_than_differ_in_text_and_meaning_is_an_error(change, monkeypatch):
    only = queries.make_queries(1, _rng())[0]
    drawn = cycle([only, only._replace(**change)])
    monkeypatch.setattr(queries, "_query", lambda rng: next(drawn))
    with pytest.raises(UserError, match="queries=2, but only 1 distinct ones"):
        queries.make_queries(2, _rng())


# -- titles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facet", catalogue.TITLED)
def test_titles_name_a_facet_with_its_share(facet, products):
    known = list(words.FACETS[facet].values())
    named = [
        any(re.search(rf"\b{re.escape(name)}\b", title) for name in known[value])
        for title, value in zip(products.titles, products.values[facet], strict=True)
    ]
    assert np.mean(np.array(named)[products.titled[facet]]) == 1
    assert np.mean(named) == pytest.approx(catalogue.TITLED[facet], abs=0.08)
    assert np.mean(named) < 0.97


def test_only_the_title_shows_brand_material_and_style(products):
    for facet in words.FACETS:
        shown = products.shows(facet).sum(axis=1)
        np.testing.assert_array_equal(shown, 1 if facet in catalogue.PICTURED else products.titled[facet])
    assert not {"brand", "material", "style"} & set(Look._fields)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_every_word_has_its_art():
    drawings = {path.stem.replace("-", " ") for path in Path(draw.__file__).parent.glob("art/*.svg")}
    assert drawings == {category.replace("-", " ") for category in words.CATEGORIES}
    assert all(("tile" in entry) == (pattern != "solid") for pattern, entry in words.WORDS["patterns"].items())
    assert {word.group for word in words.CATEGORIES.values()} == set(words.GROUPS)
    assert {c for served in words.OCCASIONS.values() for c in served} <= set(words.CATEGORIES)
    assert {c for colours in words.MOODS.values() for c in colours} <= set(words.FACETS["colour"])


def test_products_with_the_same_attributes_have_different_pictures(products):
    same = [products.look(p)._replace(**LOOK) for p in range(60)]
    assert len({to_png(look, 64) for look in same}) == 60


def test_processes_draw_the_same_pictures_in_order(products):
    looks = [products.look(p) for p in range(7)]
    assert draw.to_pngs(looks, 16, part=2) == [to_png(look, 16) for look in looks]


def test_pictures_are_drawn_once(products, tmp_path, monkeypatch):
    """A broken file is drawn again; without a place to keep them, pictures are drawn all the same."""
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path))
    run, runs = draw.subprocess.run, []
    monkeypatch.setattr(draw.subprocess, "run", lambda *given, **options: runs.append(1) or run(*given, **options))
    looks = [products.look(p) for p in range(3)]

    def drawn(size=16):
        runs.clear()
        assert draw.to_pngs(looks, size, part=2) == [to_png(look, size) for look in looks]
        return len(runs)

    assert (drawn(), drawn()) == (2, 0)
    (kept,) = tmp_path.rglob("*.arrow")
    assert (drawn(size=17), drawn()) == (2, 0)
    kept.write_bytes(kept.read_bytes()[:-100])
    assert (drawn(), drawn()) == (2, 0)
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(kept))
    assert (drawn(), drawn()) == (2, 2)


def test_categories_look_different():
    pictures = np.stack([_pixels(Look(category, "red")) for category in words.CATEGORIES])
    for i in range(len(pictures)):
        difference = np.abs(np.delete(pictures, i, axis=0) - pictures[i]).max(axis=-1)
        assert ((difference > 30).mean(axis=(1, 2)) > 0.04).all(), list(words.CATEGORIES)[i]


@pytest.mark.parametrize("category", words.CATEGORIES)
def test_a_pattern_is_visible_and_stays_on_the_body(category):
    """Where a pattern changes the picture, the colour does too; the corners have neither."""
    plain = _pixels(Look(category, "teal"))
    coloured = np.abs(plain - _pixels(Look(category, "yellow"))).max(axis=-1) > 0
    for pattern in words.FACETS["pattern"]:
        changed = np.abs(plain - _pixels(Look(category, "teal", pattern))).max(axis=-1) > 2
        if pattern == "solid":
            assert not changed.any()
            continue
        assert changed.mean() > 0.02, pattern
        assert not (changed & ~coloured).any(), pattern
        assert not changed[[0, 0, -1, -1], [0, -1, 0, -1]].any(), pattern


@pytest.mark.parametrize("field", ["colour", "size", "background"])
def test_attributes_are_visible(field):
    pictures = [_pixels(Look("mug", "red")._replace(**{field: value})) for value in words.FACETS[field]]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 1.5


@pytest.mark.parametrize("pattern", words.FACETS["pattern"])
def test_ids_are_defined_once_and_carry_the_name(pattern):
    svg = to_svg(Look("mug", "red", pattern), "one")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(i.startswith("one-") for i in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) == set(ids)


def test_contact_sheet_shows_every_category(tmp_path):
    draw.contact_sheet(tmp_path / "sheet.png", size=8, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 8, len(words.CATEGORIES) * 8)


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(products):
    """Builds an engine with the default strengths, some of them changed."""
    strengths = {"brand": 0.6, "looks": 0.6, "popularity": 0.35, "noise": 0.5}
    drawn = queries.make_queries(120, _rng(1))
    return lambda **changed: engine.make_engine(products, drawn, strengths | changed, _rng(2))


@pytest.fixture(scope="module")
def default(build):
    return build()


def test_match_against_a_loop(products):
    drawn = queries.make_queries(30, _rng(1))
    match_QxP = engine._match(products, drawn)
    for q, query in enumerate(drawn):
        for p in range(0, 1000, 11):
            value = {facet: list(known)[products.values[facet][p]] for facet, known in words.FACETS.items()}
            expected = 3.0 * (value["category"] in query.categories)
            for facet, weight in (("colour", 1), ("pattern", 1), ("size", 0.6)):
                expected += weight * (value[facet] in query.wanted.get(facet, ()))
            for facet, weight in (("brand", 0.8), ("material", 0.8), ("style", 0.8)):
                expected += weight * (value[facet] in query.wanted.get(facet, ())) * products.titled[facet][p]
            if value["category"] not in query.candidates:
                expected = -np.inf
            assert match_QxP[q, p] == pytest.approx(expected, abs=1e-6)


def test_priors_have_the_configured_strength_and_the_unnamed_brand_is_hidden(products, build, default):
    brands = build(looks=0.0, popularity=0.0)
    named = products.titled["brand"]
    assert (brands.prior_P[~named] == 0).all()
    assert (brands.hidden_P[named] == 0).all()
    brand_P = brands.prior_P + brands.hidden_P
    assert brand_P.std() == pytest.approx(0.6, rel=0.05)
    for brand in range(len(words.FACETS["brand"])):
        assert len(set(brand_P[products.values["brand"] == brand])) == 1
    assert build(brand=0.0).prior_P.std() == pytest.approx(0.6, rel=0.05)
    assert build(brand=0.0, looks=0.0).hidden_P.std() == pytest.approx(0.35, rel=0.1)
    assert default.noise_QxP.std() == pytest.approx(0.5, rel=0.02)


def test_lists_hold_the_best_candidates_in_order(default):
    score_QxP = default.match_QxP + default.prior_P + default.hidden_P + default.noise_QxP
    for scores, listed in zip(score_QxP, default.rank(100), strict=True):
        candidates = [p for p in range(1000) if scores[p] > -np.inf]
        assert list(listed) == sorted(candidates, key=lambda p: -scores[p])[:100]


def _reference_ndcg(scores, listed) -> float:
    gain = {p: 100 - i for i, p in enumerate(listed)}
    ranked = sorted(range(len(scores)), key=lambda p: -scores[p])[:10]
    ideal = sorted(gain.values(), reverse=True)[:10]
    total = sum(gain.get(p, 0) / np.log2(i + 2) for i, p in enumerate(ranked))
    return total / sum(g / np.log2(i + 2) for i, g in enumerate(ideal))


def test_ceilings_against_a_loop_and_in_order(default):
    listed = default.rank(17)  # as many per category as at the defaults: half of its products
    ceilings = default.ceilings(listed, _rng())
    for name, known_QxP in (
        ("all that is visible", default.match_QxP + default.prior_P),
        ("all but noise", default.match_QxP + default.prior_P + default.hidden_P),
    ):
        reference = [_reference_ndcg(scores, best) for scores, best in zip(known_QxP, listed, strict=True)]
        assert ceilings["whole corpus"][name] == pytest.approx(np.mean(reference), abs=1e-3)
    for part in ceilings.values():
        assert part["all but noise"] > part["all that is visible"] + 0.02
        assert part["all that is visible"] > part["attribute match alone"] + 0.2
        assert part["attribute match alone"] > part["random"] + 0.2


def test_queries_without_a_listed_product_do_not_count_in_the_ceilings():
    score_QxP, gain_QxP = np.array([[3.0, 2, 1], [1, 2, 3]]), np.array([[0.0, 9, 0], [0, 0, 0]])
    assert engine._ndcg_at_10(score_QxP, gain_QxP) == pytest.approx(1 / np.log2(3))


def test_without_noise_the_engine_is_known(build):
    exact = build(noise=0.0)
    assert exact.ceilings(exact.rank(100), _rng())["whole corpus"]["all but noise"] == pytest.approx(1)
