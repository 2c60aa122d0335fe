import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_study import table, world

from gcl_toolkit import UserError, load
from gcl_toolkit.cli import doctor, main
from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.measure.baselines import oracle_top_k
from gcl_toolkit.methods import METHODS
from gcl_toolkit.studies.clock import Clock
from gcl_toolkit.studies.recipes import RECIPES, Recipe, recipe
from gcl_toolkit.studies.study import Progress, StudyConfig
from gcl_toolkit.views.first_look import first_look


def test_an_expected_gain_is_checked_against_the_control_that_it_names():
    rows = table(methods=("matrix-noscores", "graded"))
    expected = ("graded", "matrix-noscores", "zero_shot", "NDCG@10")
    assert Recipe("", "", [], expected={expected: 0.01}).missed(rows) == []
    (line,) = Recipe("", "", [], expected={expected: 5.0}).missed(rows)
    assert line.startswith("graded over matrix-noscores, zero_shot: NDCG@10 ")
    assert line.endswith("at least +500% is expected")


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_runs_it(name, monkeypatch, tmp_path):
    """The command line reaches the study with the recipe's own worlds and settings; the work itself is not done."""
    known, calls = RECIPES[name], []
    small = world()
    monkeypatch.setattr("gcl_toolkit.cli.studies._opened", lambda specs: calls.append(specs) or [small])
    monkeypatch.setattr("gcl_toolkit.cli.studies._run_study", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("gcl_toolkit.cli.studies.read_study", lambda _: table(methods=("graded-noscores", "graded")))
    main([*known.command.split()[1:], "--out", str(tmp_path / "out")])
    assert calls == [known.worlds, ([small], known.study, tmp_path / "out", 0)]
    for method, control, split, metric in known.expected:
        assert {method, control} <= {*known.study.methods} & {*METHODS}
        assert (split, metric) in {(s, "NDCG@10") for s in ("in_domain", "novel_query", "novel_document", "zero_shot")}


def test_the_minutes_are_those_of_pictures_and_rounds_of_trainings_on_the_cores(monkeypatch):
    monkeypatch.setattr(doctor, "seconds_here", lambda: (0.006, 0.1))
    monkeypatch.setattr(doctor, "machine", lambda: {"device": "cpu"})
    one = replace(RECIPES["shop"], study=StudyConfig(methods=("bm25", "clip", "graded", "matrix"), seeds=3))
    for cores, rounds in ((1, 9), (2, 5), (16, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        steps = doctor.START + rounds * (400 + doctor.EVALUATION)
        assert doctor.minutes_here(one) == pytest.approx((6_000 * 0.006 / cores + 0.1 * steps) / 60)


def test_the_minutes_left_count_what_runs_and_what_waits(monkeypatch):
    """Two at a time of three trainings of 100 steps, 2 seconds a step."""
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock, now = Clock(3), 0.0
    for step in range(1, 31):
        now = 2.0 * step
        a = clock(Progress("shop", "a", 0, step, 100))
        b = clock(Progress("shop", "b", 0, step, 100))
        assert (a is None) == (b is None) == (step <= 10)
    assert b == pytest.approx((70 + 100) * 2 / 60)
    assert clock(Progress("shop", "a", 0, 100, 100, whole=True)) == pytest.approx((70 + 100) * 2 / 60)
    assert clock(Progress("shop", "c", 0, 1, 100)) == pytest.approx(99 * 2 / 60)


def test_the_first_look_shows_what_bm25_finds_above_the_best(tmp_path):
    data = load("shop", products=60, queries=30, per_query=12, size=8)["in_domain"]
    lines = first_look(data, StudyConfig(), tmp_path / "look.png")
    assert lines[0].startswith("BM25 over titles: NDCG@10 0.")
    query = re.search('"(.*)"', lines[1])[1]
    assert query in data.queries["query"].to_pylist()
    best = oracle_top_k(data, 1)[data.queries["query"].to_pylist().index(query)]
    with Image.open(tmp_path / "look.png") as sheet:
        assert sheet.size == (960, 192)
        shown = np.asarray(sheet)[96:, :96]
    picture = open_image(data.corpus["image"][int(best[0])].as_py()).resize((96, 96))
    assert (shown == np.asarray(picture)).all()


def test_the_sparse_shop_is_trained_on_two_pairs_a_product_and_evaluated_on_whole_lists():
    spec = RECIPES["shop-sparse"].worlds[1]
    assert spec.source == "shop:seed=1"
    world = replace(spec, source=f"{spec.source},products=200,queries=60,per_query=20,size=8").open()
    train, judged = world.splits["in_domain"], world.evaluated()["in_domain"]
    assert train.qrels.num_rows == pytest.approx(2 * train.corpus.num_rows, rel=0.1)
    assert judged.qrels.num_rows > 2 * train.qrels.num_rows
    assert judged.corpus is train.corpus


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown recipe 'shoe'; known: marqo-wfash, shop, shop-full, shop-sparse"):
        recipe("shoe")
