"""One stage or two: the numbers of evaluate(), the oracle above them, measured costs, a sentence that is true."""

import json

import pytest
from conftest import ranked

from gcl_toolkit import Fields, TrainConfig, UserError, evaluate, figures, four_way_split
from gcl_toolkit.cli import main
from gcl_toolkit.metrics import NDCG
from gcl_toolkit.runs import load_model
from gcl_toolkit.sources import table
from gcl_toolkit.stages import StagesConfig, System, finding, stages, systems
from gcl_toolkit.study import StudyConfig, World, study

CONFIG = StagesConfig(depths=(2, 5), steps=2, timed=3)
STUDY = StudyConfig(
    methods=("bm25", "clip-top", "gcl-matrix"), train=TrainConfig(steps=2, batch=4), right=Fields(title=1.0)
)


def splits(seed=1):
    return four_way_split(ranked(40, 20), seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for _ in study([World("toy", splits())], STUDY, folder):
        pass
    return folder


@pytest.fixture(scope="module")
def told(folder):
    return stages(folder, [World("toy", splits())], CONFIG)


def rows_of(told, first, second):
    return [row for row in told["systems"] if (row["first"], row["second"]) == (first, second)]


def test_gcl_alone_has_the_value_of_evaluate(folder, told):
    model = load_model(folder / "runs" / "toy" / "gcl-matrix" / "seed_0")
    by_query = evaluate(model, splits()["zero_shot"], [NDCG @ 10], division="test")["NDCG@10"]
    (alone,) = rows_of(told, "gcl-matrix", "")
    assert alone["mean"] == pytest.approx(by_query.mean(), abs=1e-9)
    assert alone["queries"] == len(by_query)
    assert alone["difference"]["mean"] == 0


def test_every_system_is_there_and_differs_from_gcl_by_its_mean(told):
    names = [row["system"] for row in told["systems"]]
    assert names == [str(system) for system in systems(("bm25", "clip-top", "gcl-matrix"), (2, 5))]
    assert str(System("bm25", "re-ranker", 5)) in names
    (alone,) = rows_of(told, "gcl-matrix", "")
    for row in told["systems"]:
        assert row["difference"]["mean"] == pytest.approx(row["mean"] - alone["mean"])


def test_the_oracle_is_above_and_does_not_fall(told):
    for first in ("bm25", "clip-top", "gcl-matrix"):
        alone = rows_of(told, first, "")[0]["mean"]
        ceilings = [row["mean"] for row in rows_of(told, first, "oracle")]
        reranked = [row["mean"] for row in rows_of(told, first, "re-ranker")]
        assert ceilings == sorted(ceilings)
        assert ceilings[0] >= alone
        assert all(c >= r - 1e-12 for c, r in zip(ceilings, reranked, strict=True))


def test_costs_are_measured_and_a_second_stage_adds_to_them(told):
    for row in told["systems"]:
        if row["second"] == "oracle":
            assert "p50_ms" not in row
        else:
            assert 0 < row["p50_ms"] <= row["p99_ms"]
    (alone,) = rows_of(told, "gcl-matrix", "")
    products = splits()["zero_shot"].corpus.num_rows
    assert alone["stored_mb"] == products * 128 * 4 / 1e6
    for row in rows_of(told, "gcl-matrix", "re-ranker"):
        assert row["stored_mb"] - alone["stored_mb"] == pytest.approx(products * 256 * 4 / 1e6)
        assert row["parameters_mb"] > alone["parameters_mb"]
    assert rows_of(told, "bm25", "")[0]["parameters_mb"] == 0


def test_other_data_than_the_study_s_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="give the data that the study was made of"):
        stages(folder, [World("toy", splits(seed=2))], CONFIG)
    with pytest.raises(UserError, match="is no study"):
        stages(tmp_path, [World("toy", splits())], CONFIG)
    (tmp_path / "study.json").write_text(
        json.dumps({"methods": ["clip"], "left": {"query": 1}, "right": {"title": 1}, "train": {"steps": 2}})
    )
    with pytest.raises(UserError, match="has no gcl-matrix to compare with; it has clip"):
        stages(tmp_path, [World("toy", splits())], CONFIG)
    with pytest.raises(UserError, match="unknown split 'later'; known: in_domain"):
        stages(folder, [World("toy", splits())], StagesConfig(split="later"))
    with pytest.raises(UserError, match="numbers >= 1 are expected"):
        StagesConfig(depths=(0,))


# -- what is said ------------------------------------------------------------------------------------------------------


def row(system, mean, low, high):
    difference = {"mean": mean - 0.5, "low": low, "high": high}
    return {
        "system": system,
        "second": "re-ranker" if "+" in system else "",
        "mean": mean,
        "low": mean - 0.1,
        "high": mean + 0.1,
        "difference": difference,
        "p50_ms": 2.0,
        "queries": 100,
    }


@pytest.mark.parametrize(
    ("low", "high", "words"), [(-0.2, -0.01, "worse"), (0.01, 0.2, "better"), (-0.1, 0.1, "can't tell from none")]
)
def test_the_finding_says_what_the_interval_says(low, high, words):
    rows = [row("gcl-matrix", 0.5, 0, 0), row("bm25 + re-ranker @ 5", 0.6, low, high)]
    said = finding(rows, {"rival": "bm25 + re-ranker @ 5"}, StagesConfig())
    assert said.startswith(
        "On 100 test queries of zero_shot, GCL alone reaches NDCG@10 0.500 [0.400, 0.600] in 2.00 ms"
    )
    assert f"+0.100 [{low:+.3f}, {high:+.3f}]" in said
    assert words in said
    assert sum(word in said for word in ("worse", "better", "can't tell")) == 1


def test_the_finding_tells_of_a_first_stage_that_beats_gcl_alone():
    rows = [row("gcl-matrix", 0.5, 0, 0), row("bm25", 0.6, 0, 0), row("clip", 0.4, 0, 0)]
    said = finding(rows, {}, StagesConfig())
    assert "bm25 alone reaches 0.600 [0.500, 0.700], more than GCL alone" in said
    assert "clip" not in said


def test_the_figure_has_every_system_at_its_latency(told):
    figure = figures.quality_against_latency(told["systems"], "NDCG@10")
    drawn = {(x, y) for trace in figure.data if "markers" in trace.mode for x, y in zip(trace.x, trace.y, strict=True)}
    assert drawn == {(row["p50_ms"], row["mean"]) for row in told["systems"] if row["second"] != "oracle"}
    assert figure.layout.xaxis.type == "log"


def test_the_command_writes_the_table_and_the_figure(folder, tmp_path, capsys):
    table.write(splits(), tmp_path / "data")
    common = ["--depths", "2", "--steps", "1", "--timed", "1"]
    main(["stages", str(folder), "--data", str(tmp_path / "data"), *common])
    said = json.loads((folder / "stages.json").read_text())
    assert said["config"]["depths"] == [2]
    assert {"command", "date", "machine", "finding"} <= set(said)
    written = (folder / "stages.md").read_text()
    for row in said["systems"]:
        shown = f"| {row['system']} | {row['mean']:.3f} ["
        assert (shown in written) == (row["second"] != "oracle")
    assert said["finding"] in written
    page = (folder / "stages.html").read_text()
    assert "plotly" in page
    assert "<script src=" not in page
    assert " ".join(said["finding"].split()) in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="2"):
        main(["stages", str(folder), *common])
    assert "say with --data what the study was made of" in capsys.readouterr().err
