from dataclasses import replace

import pytest
from test_study import table

from gcl_toolkit import UserError
from gcl_toolkit.cli import main
from gcl_toolkit.methods import METHODS
from gcl_toolkit.studies.recipes import RECIPES, Recipe, recipe


def test_an_expected_gain_is_checked_against_the_control_that_it_names():
    rows = table(methods=("matrix-noscores", "graded"))
    expected = ("graded", "matrix-noscores", "zero_shot", "NDCG@10")
    assert Recipe("", "", 1, [], expected={expected: 0.01}).missed(rows) == []
    (line,) = Recipe("", "", 1, [], expected={expected: 5.0}).missed(rows)
    assert line.startswith("graded over matrix-noscores, zero_shot: NDCG@10 ")
    assert line.endswith("at least +500% is expected")


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_runs_it(name, monkeypatch, tmp_path):
    """The command line reaches the study with the recipe's own worlds and settings; the work itself is not done."""
    known, calls = RECIPES[name], []
    monkeypatch.setattr("gcl_toolkit.cli.studies._run_study", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("gcl_toolkit.cli.studies.read_study", lambda _: table(methods=("matrix-noscores", "graded")))
    main([*known.command.split()[1:], "--out", str(tmp_path / "out")])
    assert calls == [(known.worlds, known.study, tmp_path / "out", 0)]
    for method, control, split, metric in known.expected:
        assert {method, control} <= {*known.study.methods} & {*METHODS}
        assert (split, metric) in {(s, "NDCG@10") for s in ("in_domain", "novel_query", "novel_document", "zero_shot")}


def test_the_sparse_shop_is_trained_on_two_pairs_a_product_and_evaluated_on_whole_lists():
    spec = RECIPES["shop-sparse"].worlds[1]
    assert spec.source == "shop:seed=1"
    world = replace(spec, source=f"{spec.source},products=200,queries=60,per_query=20,size=8").open()
    train, judged = world.splits["in_domain"], world.evaluated()["in_domain"]
    assert train.qrels.num_rows == pytest.approx(2 * train.corpus.num_rows, rel=0.1)
    assert judged.qrels.num_rows > 2 * train.qrels.num_rows
    assert judged.corpus is train.corpus


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown recipe 'shoe'; known: shop, shop-full, shop-sparse"):
        recipe("shoe")
