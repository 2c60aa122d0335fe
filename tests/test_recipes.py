import pandas as pd
import pytest
from test_study import table

from gcl_toolkit import UserError
from gcl_toolkit.recipes import RECIPES, Recipe, recipe


def test_a_promise_is_checked_against_the_control_it_names():
    made = table(methods=("binary-matrix", "gcl-matrix"))
    promise = ("gcl-matrix", "binary-matrix", "zero_shot", "NDCG@10")
    kept = Recipe("", "", 1, list, expected={promise: 0.01})
    broken = Recipe("", "", 1, list, expected={promise: 5.0})
    assert kept.broken_promises(made) == []
    (line,) = broken.broken_promises(made)
    assert line.startswith("gcl-matrix over binary-matrix, zero_shot: NDCG@10 ")
    assert line.endswith("at least +500% is expected")


def test_every_recipe_says_its_command_and_its_price():
    for name, known in RECIPES.items():
        assert known.command == "gcl demo" + ("" if name == "shop" else f" --recipe {name}")
        assert known.minutes > 0
        assert all(len(promise) == 4 for promise in known.expected)


def test_the_sparse_shop_is_trained_on_two_pairs_a_product_and_judged_by_whole_lists(monkeypatch):
    from gcl_toolkit import recipes

    monkeypatch.setattr(
        recipes, "load", lambda _, seed: recipes_load(products=200, queries=60, per_query=20, size=8, seed=seed)
    )
    world = RECIPES["shop-sparse"].worlds()[0]
    train, judged = world.splits["in_domain"], world.evaluated()["in_domain"]
    assert train.qrels.num_rows == pytest.approx(2 * train.corpus.num_rows, rel=0.1)
    assert judged.qrels.num_rows > 2 * train.qrels.num_rows
    assert judged.corpus is train.corpus


def recipes_load(**options):
    from gcl_toolkit.sources.shop import load

    return load(**options)


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown recipe 'shoe'; known: shop, shop-full, shop-sparse"):
        recipe("shoe")
    assert isinstance(table(), pd.DataFrame)
