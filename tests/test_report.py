"""The report shows what `summary` computed, needs nothing else, and never turns data into markup."""

import base64
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import png, ranked
from PIL import Image

from gcl_toolkit import UserError, cli
from gcl_toolkit.data.ranked_data import SPLITS, four_way_split
from gcl_toolkit.data.sources import table as own_table
from gcl_toolkit.files import write_json
from gcl_toolkit.measure.baselines import oracle_top_k
from gcl_toolkit.measure.evaluate import METRICS, measure_ranking
from gcl_toolkit.measure.statistics import holm
from gcl_toolkit.studies.results import read_results
from gcl_toolkit.studies.study import StudyConfig, read_study
from gcl_toolkit.studies.summary import gain, strongest_control, summarise
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import Run
from gcl_toolkit.views import figures
from gcl_toolkit.views.report import write_report, write_run_report
from gcl_toolkit.views.report.gallery import data_uri

FEW = ("clip", "clip-top", "graded", "oracle")
MANY = ("bm25", "clip", "clip-masked", "clip-top", "gcl-linear", "gcl-reciprocal", "graded", "oracle")
NASTY = """<script>alert("x")</script> & 'quoted' </style>"""


class Page(HTMLParser):
    """Every tag with its attributes, and the text between the tags."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def make_study(folder, *, methods, best=()) -> World:
    """A study of random rankings; the methods in `best` rank as the oracle does."""
    data = ranked(60, 30)
    pair_query, pair_product, _ = data.pairs
    listed = np.flatnonzero((pair_query + pair_product) % 3 > 0)
    corpus = data.corpus.set_column(1, "title", pa.array([f"{p} {NASTY}" for p in range(30)]))
    queries = data.queries.set_column(1, "query", pa.array([f"{q} {NASTY}" for q in range(60)]))
    splits = four_way_split(replace(data, queries=queries, corpus=corpus, qrels=data.qrels.take(pa.array(listed))))
    rng = np.random.default_rng(0)
    tables = []
    for method in methods:
        for split, part in splits.items():
            rows = oracle_top_k(part, 15) if method in (*best, "oracle") else None
            if rows is None:
                rows = np.stack([rng.permutation(part.corpus.num_rows) for _ in range(part.queries.num_rows)])
            table = measure_ranking(rows, part, METRICS).reset_index()
            top = [part.product_ids[row[row >= 0]].tolist() for row in rows[:, :10]]
            division = part.queries["division"].to_pylist()
            table = table.assign(
                world="<toy>", data_set="<toy>", method=method, seed=0, split=split, division=division, top=top
            )
            tables.append(table)
    pd.concat(tables, ignore_index=True).to_parquet(folder / "per_query.parquet")
    return World("<toy>", splits)


def read(path) -> tuple[Page, str]:
    """The page, and its text without plotly.js; white space as single spaces."""
    text = path.read_text(encoding="utf-8")
    assert text.count(figures.plotly_js()) == 1
    text = " ".join(text.replace(figures.plotly_js(), "").split())
    return Page(text), text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def report(folder):
    """Of a study in which graded is as good as the oracle."""
    world = make_study(folder, methods=MANY, best=("graded",))
    run = folder / "runs" / "<toy>" / "clip" / "seed_0"
    run.mkdir(parents=True)
    (run / "steps.jsonl").write_text('{"step": 1, "loss": 2.0, "logit_scale": 10.0}\n')
    write_json(run / "done.json", {"train_cpu_seconds": 41.7})
    results = replace(summarise(read_study(folder)), command="gcl demo --recipe '<toy>'")
    results.write(folder / "results.json")
    return read(write_report(folder, [world], title=f"Toy {NASTY}"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Folder and world of a study of four methods without any real difference; only to be read."""
    folder = tmp_path_factory.mktemp("few")
    world = make_study(folder, methods=FEW)
    summarise(read_study(folder)).write(folder / "results.json")
    return folder, world


@pytest.fixture
def few_copy(few, tmp_path):
    folder, world = few
    return shutil.copytree(folder, tmp_path / "study"), world


@pytest.fixture(scope="module")
def few_report(few, tmp_path_factory):
    folder, world = few
    return read(write_report(folder, [world], title="Toy", path=tmp_path_factory.mktemp("page") / "report.html"))


def test_needs_nothing_from_outside(report):
    page, text = report
    assert all(value.startswith(("data:", "#")) for name in ("src", "href", "srcset") for value in page.values(name))
    assert not re.search(r"@import|https?://|url\((?!data:)|fetch\(|import\(", text)
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    buttons = figures.CONFIG["modeBarButtonsToRemove"]
    assert not figures.CONFIG["displaylogo"]
    assert {"sendDataToCloud", "sendChartToCloud"} <= set(buttons)


def test_data_never_becomes_markup(report):
    page, text = report
    assert "alert(" in text
    assert "<script>alert" not in text
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"].count("application/json") == 4
    assert sum(tag == "script" for tag, _ in page.tags) == 4 + 2  # the figures' data, plotly.js and ours
    assert any(value.endswith(NASTY) for value in page.values("title"))
    assert any(value.endswith(NASTY) for value in page.values("aria-label"))
    assert not any(tag == "toy" for tag, _ in page.tags)
    assert "gcl demo --recipe '<toy>'" in page.text


def test_headline_is_the_gain_of_the_summary(folder, report):
    _, text = report
    table = read_study(folder)
    control = strongest_control(table)
    difference = gain(table, "graded", control)
    lead = Page(text[text.index("<section class=lead>") : text.index("<section id=table>")]).text
    assert f"{difference.mean_a:.3f}" in lead
    assert f"{difference.mean_b:.3f} for {control}, the strongest of 3 controls" in lead
    assert f"+{100 * difference.relative:.1f} %" in lead
    assert f"({difference.low:.3f} to {difference.high:.3f})" in lead
    assert "does not show a difference" not in lead
    for split in SPLITS:
        assert f"+{100 * gain(table, 'graded', control, split=split).relative:.1f} %" in lead


def test_every_method_metric_and_figure_is_there(report):
    page, text = report
    assert {method for method in MANY if f"<th scope=row>{method}<" not in text} == set()
    assert page.values("data-pane") == [str(metric) for metric in METRICS] * 2
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section" and "id" in attributes] == [
        *("table", "gains", "scores", "wins", "queries", "training", "how")
    ]
    assert "clip 42" in page.text  # seconds
    assert "as the paper reports it: MarqoGS-10M, pretrained models" in page.text


def test_p_values_are_corrected_over_the_splits(folder, report):
    _, text = report
    gains = Page(text[text.index("<section id=gains>") : text.index("<section id=scores>")]).text
    table = read_study(folder)
    raw = [gain(table, "gcl-linear", "clip", split=split).p_value for split in SPLITS]
    assert list(holm(raw)) != raw
    row = gains[gains.index("gcl-linear over clip") : gains.index("gcl-reciprocal over clip")]
    assert re.findall(r"p = (\d\.\d+)", row)[:4] == [f"{p:.3f}" for p in holm(raw)]
    assert row.count("not significant") >= 4


def test_reports_when_there_is_no_difference(few_report):
    page, _ = few_report
    assert "The interval includes zero: this study does not show a difference." in page.text


def test_the_three_queries_are_the_best_the_median_and_the_worst(folder, report):
    _, text = report
    table = read_study(folder)
    rows = table[(table["split"] == "zero_shot") & (table["division"] == "test")]
    values = rows.pivot(index="query_id", columns="method", values="NDCG@10")
    change = (values["graded"] - values[strongest_control(table)]).sort_values()
    shown = re.findall(r"<h3>“(\d+) .*?NDCG@10 \+(\d\.\d+) over", text)
    wanted = [change.index[-1], change.index[len(change) // 2], change.index[0]]
    assert shown == [(query.removeprefix("q"), f"{change[query]:.3f}") for query in wanted]
    assert "The worst case" in text  # it wins everywhere here: there is no loss


def test_lists_the_five_largest_wins_and_losses_and_links_to_their_pictures(few, few_report):
    page, text = few_report
    table = read_study(few[0])
    rows = table[(table["split"] == "zero_shot") & (table["division"] == "test")]
    values = rows.pivot(index="query_id", columns="method", values="NDCG@10")
    control = strongest_control(table)
    change = (values["graded"] - values[control]).sort_values()
    wins, losses = change[change > 0][::-1][:5], change[change < 0][:5]
    assert len(wins) > 1
    assert len(losses) > 1
    section = text[text.index("<h3>The largest wins and losses") : text.index("<section id=queries>")]
    listed = re.findall(
        r"<th scope=row>(?:<a href='#case-(\w+)'>)?(\d+) .*?</th><td><b>(.*?)</b></td><td>(.*?)</td><td>(.*?)<", section
    )
    numbers = [
        (f"{change[q]:+.3f}".replace("-", "−"), f"{values['graded'][q]:.3f}", f"{values[control][q]:.3f}")
        for q in (*wins.index, *losses.index)
    ]
    assert [tuple(row[2:]) for row in listed] == numbers
    assert listed[0][:2] == ("win", wins.index[0].removeprefix("q"))
    assert listed[len(wins)][:2] == ("loss", losses.index[0].removeprefix("q"))
    assert {f"#{anchor}" for anchor in page.values("id")} >= {v for v in page.values("href") if v.startswith("#")}


def test_refuses_data_that_the_study_was_not_made_of(few):
    folder, world = few
    zero = world.splits["zero_shot"]
    doubled = zero.qrels.set_column(2, "score", pa.array(np.arange(zero.qrels.num_rows, dtype=float) % 7))
    for other, words in (
        (replace(zero, qrels=doubled), "on these scores and .* in the study"),
        (world.splits["novel_query"], "has no 'p.*which the study has"),
        (world.splits["novel_document"], "has no 'q.*which the study has"),
    ):
        with pytest.raises(UserError, match=words):
            write_report(folder, [World("<toy>", {**world.splits, "zero_shot": other})])


def test_the_command_writes_it_again_with_and_without_the_data(few_copy, tmp_path, capsys):
    (study, world), data = few_copy, tmp_path / "data"
    write_json(
        study / "study.json", {**asdict(StudyConfig()), "left": {"query": 1}, "right": {"title": 1}, "worlds": []}
    )
    own_table.write(world.splits, data)
    cli.main(["report", str(study), "--data", str(data), "--out", str(tmp_path / "new" / "with.html")])
    page, text = read(tmp_path / "new" / "with.html")
    assert "background-image" in text
    assert "without the data" not in page.text
    capsys.readouterr()
    cli.main(["report", str(study)])
    assert "without texts and pictures" in " ".join(capsys.readouterr().out.split())
    page, text = read(study / "report.html")
    assert "background-image" not in text
    assert "made without the data" in page.text
    assert re.search(r"<th scope=row>q\d+</th>", text)
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path)])
    assert "holds neither a study" in capsys.readouterr().err


def test_a_run_has_its_curves_and_its_configuration(tmp_path, capsys):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"neither a study .* nor a trained run"):
        write_run_report(run.folder)
    run.configure({"train": {"steps": 9, "seed": None}, "method": "matrix", "model": "<small>", "data": "toy"})
    for step, loss in ((1, 3.5), (2, 2.5)):
        measured = {"NDCG@10 zero_shot": 0.25} if step == 2 else {}
        run.record(
            {"step": step, "loss": loss, **measured, "logit_scale": 20.0, "learning_rate": 0.004 / step, "seconds": 7.0}
        )
    cli.main(["report", str(run.folder)])
    page, text = read(run.folder / "report.html")
    for words in (
        "2 of 9 steps in 7 s",
        "loss 2.500, logit scale 20.0",
        "learning rate0.004",
        "<small>",
        "methodmatrix",
    ):
        assert words in page.text
    assert "seed" not in page.text
    assert str(tmp_path) not in text  # the page may be passed on
    assert "<small>" not in text
    losses, measured = (json.loads(plot) for plot in re.findall(r"application/json'>(.*?)</script>", text))
    assert losses["data"][0]["y"] == [3.5, 2.5]
    assert (measured["data"][0]["x"], measured["data"][0]["y"]) == ([2], [0.25])


def test_badges_show_the_score_or_not_listed(report):
    _, text = report
    queries = text[text.index("<article") : text.index("<section id=training>")]
    oracle = queries[: queries.index(">graded<")]
    scores = [float(score) for score in re.findall(r'badge g\d">([\d.]+)<', oracle)]
    assert scores
    assert scores == sorted(scores, reverse=True)
    assert "not listed" not in oracle
    assert "not listed" in queries


def test_each_picture_is_in_the_page_once(report):
    page, text = report
    uris = re.findall(r"background-image:url\((.*?)\)", text)
    assert len(uris) == len(set(uris)) == len(re.findall("data:image/png", text))
    rules = {f"pic {name}" for name in re.findall(r"\.(i\d+){background-image", text)}
    assert len(rules) == len(uris)
    assert {value for value in page.values("class") if value.startswith("pic ")} == rules


def test_works_without_pictures_and_without_worlds(few, tmp_path):
    folder, world = few
    splits = {name: replace(part, corpus=part.corpus.drop_columns(["image"])) for name, part in world.splits.items()}
    page, text = read(write_report(folder, [World("<toy>", splits)], path=tmp_path / "texts.html"))
    assert "words" in page.values("class")
    assert "background-image" not in text
    page, _ = read(write_report(folder, [], path=tmp_path / "ids.html"))
    assert "queries" not in page.values("id")


def test_shows_what_the_results_file_adds(few_copy):
    folder, world = few_copy
    results = replace(
        read_results(folder / "results.json"),
        control="clip",
        strongest=False,
        date="2026-01-02",
        minutes=4.25,
        machine={"processor": "<abacus>", "versions": {"torch": "9.9", "gone": None}},
        data={"<toy>": {"made by": "<nobody>"}},
    )
    results.write(folder / "results.json")
    open_ones = {"open": None, "tuning": {"dimensions": [], "ema": 0}}
    (folder / "study.json").write_text(json.dumps({"train": {"steps": 7, **open_ones}, "open": None}))
    page, _ = read(write_report(folder, [world], title="Toy"))
    facts = ("2026-01-02", "4.2 CPU-minutes of training", "processor <abacus>", "torch 9.9", "<nobody>", "steps 7")
    for text in (*facts, "clip, the chosen control"):
        assert text in page.text
    how = page.text.split("How this was made")[1]
    assert not {"gone", "open", "dimensions"} & {*how.replace(",", " ").split()}


def test_pictures_are_kept_or_made_small():
    small = png(3)
    assert base64.b64decode(data_uri({"bytes": small, "path": None}).split(",")[1]) == small
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)).save(out, "PNG")
    kind, data = data_uri({"bytes": out.getvalue(), "path": None}).split(",")
    assert kind == "data:image/jpeg;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 192
    assert data_uri({"bytes": b"no picture", "path": None}) is None
    assert data_uri({"bytes": None, "path": "/nowhere.png"}) is None
    assert data_uri({"bytes": None, "path": None}) is None
