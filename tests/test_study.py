import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ranked
from forks import WITH_TORCH, forks

from gcl_toolkit import NDCG, Fields, GCLModel, TrainConfig, UserError, evaluate, four_way_split
from gcl_toolkit.data.ranked_data import divide
from gcl_toolkit.methods import Graded
from gcl_toolkit.studies.candidates import best, read_choices
from gcl_toolkit.studies.results import MACRO, read_results
from gcl_toolkit.studies.study import STUDIED, StudyConfig, open_study, read_study, study
from gcl_toolkit.studies.summary import Cells, averages, check_control, gain, strongest_control, summarise
from gcl_toolkit.studies.worlds import World, WorldSpec
from gcl_toolkit.views.report.cases import query_by_query

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")
CONFIG = StudyConfig(
    methods=("random", "clip", "graded", "oracle"),
    train=TrainConfig(steps=2, batch=4),
    right=Fields(title=1.0),
    seeds=2,
)


def world(name="toy", seed=1):
    return World(name, four_way_split(ranked(20, 12), seed=seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for _ in study([world()], CONFIG, folder):
        pass
    return folder


def test_every_method_seed_split_and_query_has_a_row(folder):
    table = read_study(folder)
    splits = world().splits
    seeds = {"random": 1, "clip": 2, "graded": 2, "oracle": 1}
    for method, count in seeds.items():
        rows = table[table["method"] == method]
        assert len(rows) == count * sum(data.queries.num_rows for data in splits.values())
        assert set(rows["seed"]) == set(range(count))
    assert table.loc[table["method"] == "oracle", "NDCG@10"].to_numpy() == pytest.approx(1)
    one = table[(table["method"] == "clip") & (table["seed"] == 0) & (table["split"] == "zero_shot")].iloc[0]
    assert set(one["top"]) <= set(splits["zero_shot"].product_ids)


def test_a_stopped_study_continues_and_other_settings_start_anew(folder):
    done = folder / "runs" / "toy" / "clip" / "seed_1" / "done.json"
    others = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*/*/done.json") if p != done}
    done.unlink()
    before = read_study(folder)
    assert [e.method for e in study([world()], CONFIG, folder) if e.whole].count("clip") == 2
    assert {p: p.stat().st_mtime_ns for p in others} == others
    pd.testing.assert_frame_equal(read_study(folder), before)
    for _ in study([world()], replace(CONFIG, train=TrainConfig(steps=3, batch=4)), folder):
        pass
    changed = {p.parts[-3] for p in others if p.stat().st_mtime_ns != others[p]}
    assert changed >= {"clip", "graded"}


def test_other_texts_and_divisions_start_anew(tmp_path):
    def times(world, config=CONFIG):
        for _ in study([world], config, tmp_path):
            pass
        return {p.parts[-3]: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/*/seed_0/done.json")}

    first, data = times(world()), ranked(20, 12)
    assert times(world()) == first
    titles = pa.array([f"new {title}" for title in data.corpus["title"].to_pylist()])
    other = replace(data, corpus=data.corpus.set_column(data.corpus.column_names.index("title"), "title", titles))
    second = times(World("toy", four_way_split(other, seed=1)))
    assert all(second[method] != first[method] for method in first)
    third = times(World("toy", four_way_split(divide(other, seed=5), seed=1)))
    assert all(third[method] != second[method] for method in first)


def test_a_query_in_several_folds_counts_once():
    rows = table(worlds=2)
    folds = rows.assign(data_set="own")
    assert set(rows["world"]) == {"w0", "w1"}
    alone, apart, together = (gain(t, "graded", "clip") for t in (rows[rows["world"] == "w0"], rows, folds))
    assert (apart.queries, together.queries) == (2 * alone.queries, alone.queries)
    assert together.difference == pytest.approx(apart.difference)
    found = summarise(folds)
    assert found.queries == summarise(rows[rows["world"] == "w0"]).queries
    assert (found.worlds, found.folds, together.worlds) == (["own"], 2, 1)
    assert (summarise(rows).folds, apart.worlds) == (1, 2)
    report = query_by_query(found, folds, [])
    assert sum(report["counts"]) == sum(found.queries.values())
    assert sum(query_by_query(summarise(rows), rows, [])["counts"]) == 2 * sum(found.queries.values())


def test_intervals_of_a_mean_stay_within_the_metric():
    made = table(worlds=2)
    made["RR"] = 1.0
    made.loc[made["query_id"].isin(("q0", "q100")) & (made["seed"] == 0), "RR"] = 0.3
    cells = averages(made, "RR").loc["graded"]
    assert cells["zero_shot"].mean < 1
    assert all(0 <= cell.low <= cell.mean <= cell.high <= 1 for cell in cells)


def test_a_study_without_a_control_is_an_error_before_it_is_trained():
    data = list(world().splits.values())
    with pytest.raises(UserError, match="the study has no control to report gains over; add one of clip,"):
        check_control(("random", "bm25"), data, None)
    with pytest.raises(UserError, match="unknown control 'clp'"):
        check_control(STUDIED, data, "clp")
    undivided = [replace(d, queries=d.queries.drop_columns(["division"])) for d in data]
    tested = [
        replace(d, queries=d.queries.append_column("division", pa.array(["test"] * d.queries.num_rows)))
        for d in undivided
    ]
    with pytest.raises(UserError, match="no dev query to choose the control on"):
        check_control(STUDIED, tested, None)
    check_control(STUDIED, tested, "clip")


def test_runs_side_by_side_give_the_same_table(tmp_path):
    if os.cpu_count() == 1:
        pytest.skip("one core")
    config = StudyConfig(methods=("clip", "random"), train=TrainConfig(steps=2, batch=4), right=Fields(title=1.0))
    for jobs in (1, 2):
        events = list(study([world(), world("other", seed=2)], config, tmp_path / str(jobs), jobs=jobs))
        assert sum(e.whole for e in events) == 4
    one, two = (read_study(tmp_path / str(jobs)) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_wrong_method_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(UserError, match="unknown method 'clp'; known: bixse, bm25, clip,"):
        StudyConfig(methods=("clp",))
    with pytest.raises(UserError, match="holds no finished study"):
        read_study(tmp_path)


# -- the summary, on a made-up table -----------------------------------------------------------------------------------


def table(shift=0.05, seeds=2, worlds=1, methods=("clip", "clip-top", "graded")):
    rng = np.random.default_rng(0)
    rows = []
    for w in range(worlds):
        for split in SPLITS:
            queries = 80 if split in ("in_domain", "novel_document") else 20
            start = 0 if queries == 80 else 100
            for q in range(queries):
                base = rng.random()
                for m, method in enumerate(methods):
                    for seed in range(seeds):
                        value = np.clip(0.8 * base + shift * m + rng.normal() * 0.02, 0, 1)
                        division = "dev" if q % 2 else "test"
                        row = {"world": f"w{w}", "data_set": f"w{w}", "method": method, "seed": seed, "split": split}
                        values = dict.fromkeys(("NDCG@10", "ERR", "ERR(4)", "RBP(0.9)", "AP", "RR"), value)
                        rows.append({**row, "division": division, "query_id": f"q{start + q}", **values})
    return pd.DataFrame(rows)


def test_averages_and_gains_are_the_plain_means_of_the_test_queries():
    made = table()
    test = made[made["division"] == "test"]
    cells = averages(made)
    found = gain(made, "graded", "clip-top", split="zero_shot")
    expected = test[test["split"] == "zero_shot"].groupby("method")["NDCG@10"].mean()
    assert cells.loc["clip", "zero_shot"].mean == pytest.approx(expected["clip"])
    assert found.mean_a == pytest.approx(expected["graded"])
    assert found.mean_b == pytest.approx(expected["clip-top"])
    assert found.low > 0


def test_the_macro_mean_weighs_splits_not_queries():
    made = table(worlds=2)
    by_split = made[made["division"] == "test"].groupby(["method", "split"])["NDCG@10"].mean().groupby("method").mean()
    assert averages(made).loc["clip", MACRO].mean == pytest.approx(by_split["clip"])
    found = gain(made, "graded", "clip")
    assert found.difference == pytest.approx(by_split["graded"] - by_split["clip"])
    assert 0 < found.low < found.difference < found.high
    assert (found.worlds, found.seeds, found.queries) == (2, 2, 100)


def test_cells_are_pivot_tables_in_which_a_query_of_several_folds_counts_once():
    folds = table(worlds=2).assign(data_set="shop").sample(frac=0.9, random_state=0)
    cells, test = Cells(folds, "test"), folds[folds["division"] == "test"]
    for (method, split), part in test.groupby(["method", "split"]):
        expected = part.pivot_table(index="query_id", columns="seed", values=["AP", "ERR"])
        for name in ("AP", "ERR"):
            (found,) = cells.get(method, split, name)
            pd.testing.assert_frame_equal(found, expected[name], check_names=False)


def test_the_strongest_control_is_chosen_on_dev_queries():
    made = table()
    made.loc[(made["method"] == "clip") & (made["division"] == "test"), "NDCG@10"] = 1.0
    assert strongest_control(made) == "clip-top"
    made.loc[(made["method"] == "clip") & (made["division"] == "dev"), "NDCG@10"] = 1.0
    assert strongest_control(made) == "clip"


def test_a_gain_without_a_control_is_an_error():
    with pytest.raises(UserError, match="the study has no control to report gains over; add one of clip,"):
        strongest_control(table(methods=("graded",)))
    with pytest.raises(UserError, match="unknown method of the study 'matrix-noscores'; known: clip,"):
        gain(table(), "graded", "matrix-noscores")
    with pytest.raises(UserError, match="unknown control 'gcl'"):
        summarise(table(), control="gcl")


def test_results_are_written_and_read_and_every_gain_names_its_control(tmp_path):
    results = replace(summarise(table(worlds=2)), command="gcl compare x", minutes=1.5)
    results.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
    assert results.queries == {"in_domain": 80, "novel_query": 20, "novel_document": 80, "zero_shot": 20}
    assert results.control == "clip-top"
    assert {gain.control for gain in results.gains} == {"clip", "clip-top"}
    assert set(results.gains_of("graded", "clip-top", "AP")) == {*SPLITS, MACRO}
    assert set(results.averages["AP"]) == {"clip", "clip-top", "graded"}
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"results.json can't be read as the results of a study \('averages'\)"):
        read_results(tmp_path / "results.json")
    with pytest.raises(UserError, match="is missing; it is written by gcl demo"):
        read_results(tmp_path / "nothing.json")


def test_a_study_folder_says_what_it_was_made_of(tmp_path):
    """Settings, a method with settings of its own, and a world that can be opened again."""
    spec = WorldSpec("shop", "shop:products=40,queries=12,per_query=6,size=16", pairs_per_product=0.5)
    config = replace(CONFIG, methods=("random", "graded:weighting=log"), train=TrainConfig(steps=1, batch=4), seeds=1)
    for _ in study([spec.open()], config, tmp_path):
        pass
    opened = open_study(tmp_path)
    assert opened.config == config
    assert opened.worlds == (spec,)
    world = opened.worlds[0].open()
    assert world.splits["in_domain"].qrels.num_rows < world.evaluated()["in_domain"].qrels.num_rows
    table = read_study(tmp_path)
    assert set(table["method"]) == {"random", "graded:weighting=log"}
    assert gain(table, Graded(weighting="log"), over="random", division="all").queries == 12
    with pytest.raises(UserError, match="holds no study"):
        open_study(tmp_path / "runs")


def test_untrained_is_the_pretrained_encoder(tmp_path, tiny_bert):
    right, encoder = Fields(title=1.0), f"text:{tiny_bert}"
    config = StudyConfig(methods=("untrained",), encoder=encoder, right=right, seeds=2)
    for _ in study([world()], config, tmp_path):
        pass
    table = read_study(tmp_path)
    assert set(table["seed"]) == {0}
    expected = evaluate(GCLModel(encoder, right=right), world().splits["zero_shot"], [NDCG @ 10])["NDCG@10"]
    found = table[table["split"] == "zero_shot"].set_index("query_id")["NDCG@10"]
    assert found.to_dict() == pytest.approx(expected.to_dict())
    with pytest.raises(UserError, match="pretrained encoder"):
        StudyConfig(methods=("untrained",))


def test_all_queries_are_counted_as_all(folder):
    results = summarise(read_study(folder), division="all")
    assert results.queries == {name: data.queries.num_rows for name, data in world().splits.items()}


def test_training_takes_steps_of_adamw_and_does_not_import_the_compiler():
    code = """
import sys, torch
from gcl_toolkit.training.engine import AdamW
torch.manual_seed(0)
weights = [torch.nn.Parameter(torch.randn(size, dtype=torch.double)) for size in (20, 7)]
expected = [w.detach().clone() for w in weights]
made = AdamW([{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:]}], lr=0.1)
means, squares = ([torch.zeros_like(w) for w in expected] for _ in range(2))
for step in range(1, 6):
    (weights[0].sum() ** 2 + (weights[1] ** 3).sum()).backward()
    made.step()
    made.zero_grad()
    gradients = torch.full_like(expected[0], 2 * expected[0].sum()), 3 * expected[1] ** 2
    for w, gradient, mean, square, decay in zip(expected, gradients, means, squares, (0.1, 0.01), strict=True):
        mean.mul_(0.9).add_(0.1 * gradient)
        square.mul_(0.999).add_(0.001 * gradient**2)
        w.mul_(1 - 0.1 * decay)
        w.sub_(0.1 * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8))
for ours, theirs in zip(weights, expected, strict=True):
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-12, rtol=0)
assert "torch._dynamo" not in sys.modules
"""
    forks(*WITH_TORCH).run(code)


# -- candidate settings ------------------------------------------------------------------------------------------------


def test_each_method_takes_the_settings_that_are_best_on_its_dev_queries(tmp_path):
    """A learning rate of 1e-9 leaves the network as it is, so that a candidate with a real one must win, and lose if
    the other way round; the runs of the study are those of a study with these settings from the start."""
    methods = ("graded", "graded:recall=0.5", "random")
    slow = replace(CONFIG, methods=methods, train=TrainConfig(steps=12, batch=8, learning_rate=1e-9))
    fast = replace(slow, train=replace(slow.train, learning_rate=0.01), encoder="small:dropout=0.0")
    candidate = "learning_rate=0.01,dropout=0.0"
    events = list(study([world()], replace(slow, candidates=(candidate,)), tmp_path / "chosen"))
    choices = read_choices(tmp_path / "chosen")
    assert {name: best(means) for name, means in choices.items()} == dict.fromkeys(methods[:2], candidate)
    trained = {event.training for event in events if event.done < event.total}
    assert trained == {("toy", name, 0, tried) for name in methods[:2] for tried in ("", candidate)} | {
        ("toy", name, 1, None) for name in methods[:2]
    }
    for _ in study([world()], fast, tmp_path / "fast"):
        pass
    pd.testing.assert_frame_equal(read_study(tmp_path / "chosen"), read_study(tmp_path / "fast"))
    dev = read_study(tmp_path / "fast").query("division == 'dev' and method == 'graded' and seed == 0")
    assert choices["graded"][candidate] == pytest.approx(dev.groupby("split")["NDCG@10"].mean().mean(), abs=1e-6)
    again = list(study([world()], replace(slow, candidates=(candidate,)), tmp_path / "chosen"))
    assert all(event.whole for event in again)
    for _ in study([world()], replace(fast, candidates=("learning_rate=1e-9",)), tmp_path / "kept"):
        pass
    assert {best(means) for means in read_choices(tmp_path / "kept").values()} == {""}


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("weight_decay", "candidate 'weight_decay' is not a list of settings; write name=value,name=value"),
        ("steps=1.5", "option steps of training is 1.5; int is expected"),
        ("weight_decay=-1", "weight_decay is -1.0; it must be a number >= 0"),
        ("lora=two", "option lora of training is 'two'; int is expected"),
        ("seed=3", "candidate 'seed=3': seed can't be chosen on dev queries"),
        ("lr=1e-4", "candidate 'lr=1e-4': encoder small has no option 'lr'; .*settings of training: steps, batch, "),
    ],
)
def test_a_wrong_candidate_is_an_error_before_anything_is_trained(candidate, message):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, candidates=(candidate,))


def test_a_negative_number_of_jobs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="jobs is -1; it must be an integer >= 0"):
        next(study([world()], CONFIG, tmp_path, jobs=-1))


def test_settings_can_not_be_chosen_without_dev_queries(tmp_path):
    splits = {
        name: replace(
            data, queries=data.queries.drop_columns("division").append_column("division", pa.array(["test"] * n))
        )
        for name, data in world().splits.items()
        for n in [data.queries.num_rows]
    }
    with pytest.raises(UserError, match="there is no dev query to choose settings on; leave --candidates out"):
        list(study([World("toy", splits)], replace(CONFIG, candidates=("steps=1",)), tmp_path))
