"""The map's numbers: what a lasso holds, which colour a point has, what the page tells map.js."""

import base64
import json
import re
import shutil
import time
from dataclasses import replace
from html import unescape

import big_bundle
import numpy as np
import pytest

from gcl_toolkit.app import mapping
from gcl_toolkit.app.page import content
from gcl_toolkit.app.rankings import Ask
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.tabs import map as map_tab
from gcl_toolkit.views.bundle import read_bundle


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return Service(read_bundle(big_bundle.make(tmp_path_factory.mktemp("map") / "bundle", 400)))


def inside_by_hand(x, y, corners):
    """How often a ray to the right crosses the edges."""
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            odd = not odd
    return odd


@pytest.mark.parametrize(
    "corners",
    [
        [(0, 0), (1, 0), (1, 1), (0, 1)],
        [(-1, -1), (1, 1), (1, -1), (-1, 1)],  # crosses itself
        [(0, 0), (2, 0.1), (0.2, 0.2), (0.1, 2), (-2, -0.5)],
        [(0, 0), (1, 1), (2, 2)],  # no area
    ],
)
def test_a_polygon_holds_what_a_loop_says(corners):
    points = np.random.default_rng(0).uniform(-2, 2, (800, 2)).astype(np.float32)
    found = mapping.inside(points, np.array(corners, float))
    assert found.tolist() == [inside_by_hand(float(x), float(y), corners) for x, y in points]


def lassoed(service, panel="a", **options):
    return service.state({"tab": "map", "lasso": f"{panel}:-0.3,-0.4;0.35,-0.2;0.1,0.4", **options})


@pytest.mark.parametrize("panel", ["a", "b"])
def test_a_lasso_selects_on_the_map_that_it_was_drawn_on(service, panel):
    state = lassoed(service, panel)
    found = mapping.select(service, state)
    places = service.vectors(getattr(state, panel)).map_Mx2
    expected = [inside_by_hand(*map(float, place), [(-0.3, -0.4), (0.35, -0.2), (0.1, 0.4)]) for place in places]
    assert found.products.tolist() == np.flatnonzero(expected[:400]).tolist()
    assert found.queries.tolist() == np.flatnonzero(expected[400:]).tolist()
    assert 5 < len(found.products) < 200
    assert mapping.select(service, replace(state, lasso="")) is None


def test_the_selected_table_has_scores_and_both_ranks(service):
    state = lassoed(service)
    table = mapping.selected(service, state)
    assert list(table.columns) == ["product_id", "title", "category", "score", "rank by A", "rank by B"]
    known = dict(zip(*service.judged("zero_shot", Ask(state.query)), strict=True))
    ranks = {m: service.ranks("zero_shot", state.query, m) for m in ("a", "b")}
    for row, line in table.iterrows():
        assert line["score"] == known.get(row) or (np.isnan(line["score"]) and row not in known)
        assert (line["rank by A"], line["rank by B"]) == (ranks["a"][row], ranks["b"][row])


def test_colours_are_those_of_the_legend(service):
    kinds = service.bundle.items["category"]
    for colour in ("category", "score", "split", "difference"):
        state = service.state({"tab": "map", "colour": colour})
        colours, names = mapping.colours(service, state), dict(mapping.legend(service, state))
        assert set(colours[:400].tolist()) <= set(names)
        assert set(mapping.over(state)) < set(names)
        if colour == "category":
            shown = [names[number] for number in colours[:400]]
            assert all(name in (kind, "other") for name, kind in zip(shown, kinds, strict=True))
            assert shown.count("other") == sum(kind not in names.values() for kind in kinds) > 0
        if colour == "score":
            known, scores = service.judged("zero_shot", Ask(state.query))
            assert mapping.over(state) == sorted(set(names) - {0})  # the best on top
            assert {int(n): int(colours[n]) for n in np.flatnonzero(colours[:400])} == {
                n: service.level(score) for n, score in zip(known.tolist(), scores, strict=True)
            }
        if colour == "difference":
            a, b = (service.ranks("zero_shot", state.query, m) for m in ("a", "b"))
            assert (colours[:400][b >= 10 * a] == 7).all()
            assert (colours[:400][a >= 10 * b] == 1).all()
            assert (colours[:400][a == b] == 4).all()


def test_map_js_gets_the_numbers_of_numpy(service):
    state = lassoed(service, item="7")
    html = map_tab.draw(service, state)
    facts = json.loads(unescape(re.search(r'data-map="([^"]*)"', html)[1]))
    bits = np.unpackbits(np.frombuffer(base64.b64decode(facts["chosen"]), np.uint8), bitorder="little")[:450]
    found = mapping.select(service, state)
    assert np.flatnonzero(bits).tolist() == [*found.products, *(400 + found.queries)]
    assert f'<b class="count">{len(found.products)}</b>' in html
    assert facts["near"] == [p.item for p in service.neighbours(7, "a").products]
    assert facts["edges"] == [
        [p.item, p.level] for p in service.compare("zero_shot", state.query, "a", "b", k=20).ideal
    ]
    first = [p.item for p in service.search("zero_shot", state.query, "a", k=10).products]
    assert [int(row) for row in re.findall(r'<li data-item="(\d+)"', html.split("First by A")[1])][:10] == first
    assert facts["queries"] == 50
    for model in ("a", "b"):
        assert f"{model}: this map (PCA) preserves <b>10 %</b>" in html


def test_a_lasso_over_100_000_points_takes_no_time():
    points = np.random.default_rng(0).normal(size=(100_000, 2)).astype(np.float32)
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    corners = np.stack([np.cos(turn), np.sin(turn)], 1) * 2
    start = time.process_time()
    found = mapping.inside(points, corners)
    assert time.process_time() - start < 1
    ring = np.hypot(*points.T)
    assert (found[ring < 1.99]).all()
    assert not found[ring > 2].any()


def test_systems_without_vectors_are_named_and_not_shown(tmp_path):
    folder = big_bundle.make(tmp_path / "bundle", 60)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["systems"]["bm25"] = manifest["systems"]["a"] | {"kind": "baseline", "vectors": None, "history": False}
    (folder / "systems" / "bm25").mkdir()
    shutil.copy(folder / "systems" / "a" / "ranking.npy", folder / "systems" / "bm25")
    manifest["files"]["systems/bm25/ranking.npy"] = manifest["files"]["systems/a/ranking.npy"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    service = Service(read_bundle(folder))
    for a, b, shown in (("bm25", "a", ["b", "a"]), ("b", "bm25", ["b", "a"]), ("bm25", "bm25", ["a", "b"])):
        html = content(service, {"tab": "map", "a": a, "b": b})
        assert json.loads(unescape(re.search(r'data-map="([^"]*)"', html)[1]))["models"] == shown
        assert "Not shown, as they have no vectors: bm25." in html
