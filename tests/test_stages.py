"""One stage or two: the numbers of evaluate(), the oracle above them, measured costs, a finding that is true."""

import math
from dataclasses import replace

import pytest
from conftest import ranked

from gcl_toolkit import DataError, Fields, TrainConfig, UserError, evaluate, four_way_split
from gcl_toolkit.cli import main
from gcl_toolkit.data.sources import table
from gcl_toolkit.files import write_json
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.measure.statistics import Difference
from gcl_toolkit.studies.markdown import stages_table
from gcl_toolkit.studies.stages import Measured, Stages, StagesConfig, read_stages, stages, systems
from gcl_toolkit.studies.study import StudyConfig, study
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import load_model
from gcl_toolkit.views import figures

CONFIG = StagesConfig(depths=(2, 5), steps=2, timed=3)
METHODS = ("bm25", "clip-top", "graded")


def worlds(seed=1):
    return [World("toy", four_way_split(ranked(40, 20), seed=seed))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    config = StudyConfig(methods=METHODS, train=TrainConfig(steps=2, batch=4), right=Fields(title=1.0))
    for _ in study(worlds(), config, folder):
        pass
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return stages(folder, worlds(), CONFIG)


def rows_of(result, first, second):
    return [row for row in result.systems if (row.first, row.second) == (first, second)]


def test_the_default_alone_has_the_value_of_evaluate(folder, result):
    model = load_model(folder / "runs" / "toy" / "graded" / "seed_0")
    data = worlds()[0].splits["zero_shot"]
    # all queries in one batch, as in the study: equal titles tie, and ties are broken by rounding errors
    by_query = evaluate(model, data, [NDCG @ 10], division="all")["NDCG@10"][data.only("test").query_ids]
    (alone,) = rows_of(result, "graded", "")
    assert alone.mean == pytest.approx(by_query.mean(), abs=1e-9)
    assert alone.difference.queries == len(by_query)
    assert alone.difference.difference == 0
    assert [row.system for row in result.systems] == [str(system) for system in systems(METHODS, (2, 5))]
    for row in result.systems:
        assert row.difference.difference == pytest.approx(row.mean - alone.mean)


def test_the_oracle_is_above_and_does_not_fall_with_depth(result):
    for first in METHODS:
        ceilings = [row.mean for row in rows_of(result, first, "oracle")]
        reranked = [row.mean for row in rows_of(result, first, "re-ranker")]
        assert ceilings == sorted(ceilings)
        assert ceilings[0] >= rows_of(result, first, "")[0].mean
        assert all(c >= r - 1e-12 for c, r in zip(ceilings, reranked, strict=True))


def test_costs_are_measured_and_a_second_stage_adds_to_them(result):
    for row in result.systems:
        assert row.p50_ms is None if row.second == "oracle" else 0 < row.p50_ms <= row.p99_ms
    (alone,) = rows_of(result, "graded", "")
    products = worlds()[0].splits["zero_shot"].corpus.num_rows
    assert alone.stored_mb == products * 128 * 4 / 1e6
    for row in rows_of(result, "graded", "re-ranker"):
        assert row.stored_mb - alone.stored_mb == pytest.approx(products * 256 * 4 / 1e6)
        assert row.parameters_mb > alone.parameters_mb
    assert rows_of(result, "bm25", "")[0].parameters_mb == 0


def test_other_data_than_that_of_the_study_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="give the data that the study was made of"):
        stages(folder, worlds(seed=2), CONFIG)
    with pytest.raises(UserError, match="holds no study"):
        stages(tmp_path, worlds(), CONFIG)
    with pytest.raises(UserError, match="unknown split 'later'; known: in_domain"):
        stages(folder, worlds(), StagesConfig(split="later"))
    for _ in study(worlds(), StudyConfig(methods=("bm25",), right=Fields(title=1.0)), tmp_path):
        pass
    with pytest.raises(UserError, match="has no graded to compare with; it has bm25"):
        stages(tmp_path, worlds(), CONFIG)
    with pytest.raises(UserError, match="must be integers >= 1"):
        StagesConfig(depths=(0,))


# -- the result --------------------------------------------------------------------------------------------------------


def test_it_is_written_and_read(result, tmp_path):
    result = replace(result, command="gcl stages", date="2026-01-01", machine={"processor": "x"})
    result.write(tmp_path / "stages.json")
    assert read_stages(tmp_path / "stages.json") == result
    write_json(tmp_path / "other.json", {"finding": ""})
    for name in ("missing.json", "other.json"):
        with pytest.raises(UserError, match=f"{name} can't be read as a stages.json"):
            read_stages(tmp_path / name)


def measured(first, mean, low, high, second=""):
    gain = Difference("NDCG@10", mean, 0.5, mean - 0.5, low, high, math.nan, math.nan, math.nan, 0.5, 100)
    name = f"{first} + {second} @ 5" if second else first
    values = {"system": name, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "p50_ms": 2.0}
    return Measured(first, second, 5, **values, difference=gain)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.2, -0.01, "worse"), (0.01, 0.2, "better"), (-0.1, 0.1, "not significantly different")],
)
def test_the_finding_agrees_with_the_interval(low, high, verdict):
    rows = [measured("graded", 0.5, 0, 0), measured("bm25", 0.6, low, high, "re-ranker")]
    finding = Stages(StagesConfig(), rows, {"rival": "bm25 + re-ranker @ 5"}).finding
    start = "On 100 test queries of zero_shot, graded alone reaches NDCG@10 0.500 [0.400, 0.600] in 2.00 ms (median); "
    assert finding.startswith(start)
    assert f"+0.100 [{low:+.3f}, {high:+.3f}], {verdict}. The systems" in finding


def test_the_finding_names_a_first_stage_that_beats_the_default():
    rows = [measured("graded", 0.5, 0, 0), measured("bm25", 0.6, 0, 0), measured("clip", 0.4, 0, 0)]
    finding = Stages(StagesConfig(), rows, {}).finding
    assert "bm25 alone reaches 0.600 [0.500, 0.700], more than graded alone" in finding
    assert "clip" not in finding


def test_the_figure_has_every_system_at_its_latency(result):
    figure = figures.quality_against_latency(result.systems, result.metric)
    drawn = {(x, y) for trace in figure.data if "markers" in trace.mode for x, y in zip(trace.x, trace.y, strict=True)}
    assert drawn == {(row.p50_ms, row.mean) for row in result.systems if row.second != "oracle"}
    assert figure.layout.xaxis.type == "log"


def test_the_command_writes_the_table_and_the_figure(folder, tmp_path, capsys):
    table.write(worlds()[0].splits, tmp_path / "toy")
    common = ["--depths", "2", "--steps", "1", "--timed", "1"]
    main(["stages", str(folder), "--data", str(tmp_path / "toy"), *common])
    result = read_stages(folder / "stages.json")
    assert result.config.depths == (2,)
    assert result.command
    assert result.machine
    written = (folder / "stages.md").read_text()
    for row in stages_table(result)[1]:
        assert f"| {' | '.join(row)} |" in written
    assert result.finding in written
    page = (folder / "stages.html").read_text()
    assert "plotly" in page
    assert "<script src=" not in page
    assert " ".join(result.finding.split()) in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="2"):
        main(["stages", str(folder), *common])
    assert "give it with --data" in capsys.readouterr().err
