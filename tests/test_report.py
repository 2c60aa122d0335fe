"""The report says what `summary` computed, needs no other file and no host, and lets no data become markup."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import png, ranked
from PIL import Image

from gcl_toolkit import UserError, cli, figures
from gcl_toolkit.baselines import oracle_top_k
from gcl_toolkit.evaluate import METRICS, measure_ranking
from gcl_toolkit.ranked_data import SPLITS, four_way_split
from gcl_toolkit.report import write_report, write_run_report
from gcl_toolkit.report.gallery import data_uri
from gcl_toolkit.runs import Run, write_json
from gcl_toolkit.sources import table as own_table
from gcl_toolkit.statistics import holm
from gcl_toolkit.study import METHODS, World, read_study
from gcl_toolkit.summary import gain, results, strongest_control

FEW = ("clip", "clip-top", "gcl-matrix", "oracle")
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


def make_study(folder, *, methods=METHODS, best=(), image=True) -> World:
    """A study of random rankings; the methods in `best` rank as the oracle does."""
    data = ranked(60, 30)
    pair_query, pair_product, _ = data.pairs
    listed = np.flatnonzero((pair_query + pair_product) % 3 > 0)
    corpus = data.corpus.set_column(1, "title", pa.array([f"{p} {NASTY}" for p in range(30)]))
    queries = data.queries.set_column(1, "query", pa.array([f"{q} {NASTY}" for q in range(60)]))
    corpus = corpus if image else corpus.drop_columns(["image"])
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
            table = table.assign(world="<toy>", method=method, seed=0, split=split, division=division, top=top)
            tables.append(table)
    pd.concat(tables, ignore_index=True).to_parquet(folder / "per_query.parquet")
    return World("<toy>", splits)


def read(path) -> tuple[Page, str]:
    """The page, and its text without plotly.js."""
    text = path.read_text(encoding="utf-8")
    assert text.count(figures.plotly_js()) == 1
    text = text.replace(figures.plotly_js(), "")
    return Page(text), text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def report(folder):
    world = make_study(folder, best=("gcl-matrix",))
    run = folder / "runs" / "<toy>" / "clip" / "seed_0"
    run.mkdir(parents=True)
    (run / "steps.jsonl").write_text('{"step": 1, "loss": 2.0, "logit_scale": 10.0}\n')
    write_json(run / "done.json", {"train_cpu_seconds": 41.7})
    write_json(folder / "results.json", results(read_study(folder)) | {"command": "gcl demo --recipe '<toy>'"})
    return read(write_report(folder, [world], title=f"Toy {NASTY}"))


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
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"].count("application/json") == 3
    assert sum(tag == "script" for tag, _ in page.tags) == 3 + 2  # the figures' data, plotly.js and ours
    assert any(value.endswith(NASTY) for value in page.values("title"))
    assert any(value.endswith(NASTY) for value in page.values("aria-label"))
    assert not any(tag == "toy" for tag, _ in page.tags)
    assert "gcl demo --recipe '<toy>'" in page.text


def test_headline_is_the_gain_of_the_summary(folder, report):
    _, text = report
    table = read_study(folder)
    control = strongest_control(table)
    told = gain(table, "gcl-matrix", control)
    lead = Page(text[text.index("<section class=lead>") : text.index("<section id=table>")]).text
    assert f"{told.mean_a:.3f}" in lead
    assert f"{told.mean_b:.3f} for {control}, the strongest of 6 controls" in lead
    assert f"+{100 * told.relative:.1f} %" in lead
    assert f"({told.low:.3f} to {told.high:.3f})" in lead
    assert "does not show a difference" not in lead
    for split in SPLITS:
        assert f"+{100 * gain(table, 'gcl-matrix', control, split=split).relative:.1f} %" in lead


def test_every_method_metric_and_figure_is_there(report):
    page, text = report
    assert {method for method in METHODS if f"<th scope=row>{method}<" not in text} == set()
    assert page.values("data-pane") == [str(metric) for metric in METRICS] * 2
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section" and "id" in attributes] == [
        *("table", "gains", "scores", "wins", "queries", "training", "how")
    ]
    assert "clip 42" in page.text  # seconds
    assert "paper, MarqoGS-10M, pre-trained models" in page.text


def test_p_values_are_corrected_over_the_splits(folder, report):
    _, text = report
    gains = Page(text[text.index("<section id=gains>") : text.index("<section id=scores>")]).text
    table = read_study(folder)
    raw = [gain(table, "gcl-linear", "clip", split=split).p_value for split in SPLITS]
    assert list(holm(raw)) != raw
    row = gains[gains.index("gcl-linear over clip") : gains.index("gcl-reciprocal over clip")]
    assert re.findall(r"p = (\d\.\d+)", row)[:4] == [f"{p:.3f}" for p in holm(raw)]
    assert row.count("not significant") >= 4


def test_says_when_nothing_is_shown(tmp_path):
    page, _ = read(write_report(tmp_path, [make_study(tmp_path, methods=FEW)], title="Toy"))
    assert "The interval includes zero: this study does not show a difference." in page.text


def test_the_three_queries_are_the_best_the_median_and_the_worst(folder, report):
    _, text = report
    table = read_study(folder)
    rows = table[(table["split"] == "zero_shot") & (table["division"] == "test")]
    values = rows.pivot(index="query_id", columns="method", values="NDCG@10")
    change = (values["gcl-matrix"] - values[strongest_control(table)]).sort_values()
    shown = re.findall(r"<h3>“(\d+) .*?NDCG@10 \+(\d\.\d+) over", text)
    wanted = [change.index[-1], change.index[len(change) // 2], change.index[0]]
    assert shown == [(query.removeprefix("q"), f"{change[query]:.3f}") for query in wanted]
    assert "The worst case" in text  # it wins everywhere here: there is no loss


def test_lists_the_five_largest_wins_and_losses_and_links_to_their_pictures(tmp_path):
    world = make_study(tmp_path, methods=FEW)
    page, text = read(write_report(tmp_path, [world], title="Toy"))
    table = read_study(tmp_path)
    rows = table[(table["split"] == "zero_shot") & (table["division"] == "test")]
    values = rows.pivot(index="query_id", columns="method", values="NDCG@10")
    control = strongest_control(table)
    change = (values["gcl-matrix"] - values[control]).sort_values()
    wins, losses = change[change > 0][::-1][:5], change[change < 0][:5]
    assert len(wins) > 1
    assert len(losses) > 1
    section = text[text.index("<h3>The largest wins and losses") : text.index("<section id=queries>")]
    found = re.findall(
        r"<th scope=row>(?:<a href='#case-(\w+)'>)?(\d+) .*?</th><td><b>(.*?)</b></td><td>(.*?)</td><td>(.*?)<", section
    )
    numbers = [
        (f"{change[q]:+.3f}".replace("-", "−"), f"{values['gcl-matrix'][q]:.3f}", f"{values[control][q]:.3f}")
        for q in (*wins.index, *losses.index)
    ]
    assert [tuple(row[2:]) for row in found] == numbers
    assert found[0][:2] == ("win", wins.index[0].removeprefix("q"))
    assert found[len(wins)][:2] == ("loss", losses.index[0].removeprefix("q"))
    assert {f"#{anchor}" for anchor in page.values("id")} >= {v for v in page.values("href") if v.startswith("#")}


def test_refuses_data_that_the_study_was_not_made_of(tmp_path):
    world = make_study(tmp_path, methods=FEW)
    zero = world.splits["zero_shot"]
    doubled = zero.qrels.set_column(2, "score", pa.array(np.arange(zero.qrels.num_rows, dtype=float) % 7))
    for other, said in (
        (replace(zero, qrels=doubled), "on these scores and .* in the study"),
        (world.splits["novel_query"], "has no 'p.*which the study has"),
        (world.splits["novel_document"], "has no 'q.*which the study has"),
    ):
        with pytest.raises(UserError, match=said):
            write_report(tmp_path, [World("<toy>", {**world.splits, "zero_shot": other})])


def test_the_command_makes_it_again_with_and_without_the_data(tmp_path, capsys):
    study, data = tmp_path / "study", tmp_path / "data"
    study.mkdir()
    world = make_study(study, methods=FEW)
    write_json(study / "study.json", {"seeds": 1})
    own_table.write(world.splits, data)
    cli.main(["report", str(study), "--data", str(data), "--out", str(tmp_path / "new" / "with.html")])
    page, text = read(tmp_path / "new" / "with.html")
    assert "background-image" in text
    assert "without the data" not in page.text
    capsys.readouterr()
    cli.main(["report", str(study)])
    assert "without texts and pictures" in capsys.readouterr().out
    page, text = read(study / "report.html")
    assert "background-image" not in text
    assert "made without the data" in page.text
    assert re.search(r"<th scope=row>q\d+</th>", text)
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path)])
    assert "holds neither a study" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "options"), [("sparse2", {"seed": 2}), ("shop", {})])
def test_the_command_takes_the_shop_of_the_study(tmp_path, monkeypatch, name, options):
    world = make_study(tmp_path, methods=FEW)
    read_study(tmp_path).assign(world=name).to_parquet(tmp_path / "per_query.parquet")
    write_json(tmp_path / "study.json", {})
    asked = []
    monkeypatch.setattr(cli.common, "load", lambda source, **given: asked.append((source, given)) or world.splits)
    cli.main(["report", str(tmp_path), "--data", "shop"])
    assert asked == [("shop", options)]
    assert "background-image" in (tmp_path / "report.html").read_text()


def test_a_run_has_its_curves_and_its_configuration(tmp_path, capsys):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"neither a study .* nor a trained run"):
        write_run_report(run.folder)
    run.configure({"train": {"loss": "matrix", "steps": 9, "seed": None}, "model": "<small>", "data": "toy"})
    for step, loss in ((1, 3.5), (2, 2.5)):
        measured = {"NDCG@10 zero_shot": 0.25} if step == 2 else {}
        run.record(
            {"step": step, "loss": loss, **measured, "logit_scale": 20.0, "learning_rate": 0.004 / step, "seconds": 7.0}
        )
    cli.main(["report", str(run.folder)])
    page, text = read(run.folder / "report.html")
    for said in ("2 of 9 steps in 7 s", "loss 2.500, logit scale 20.0", "learning rate0.004", "<small>", "lossmatrix"):
        assert said in page.text
    assert "seed" not in page.text
    assert str(tmp_path) not in text  # the page may be passed on
    assert "<small>" not in text
    losses, measured = (json.loads(made) for made in re.findall(r"application/json'>(.*?)</script>", text))
    assert losses["data"][0]["y"] == [3.5, 2.5]
    assert (measured["data"][0]["x"], measured["data"][0]["y"]) == ([2], [0.25])


def test_badges_tell_the_score_or_that_there_is_none(report):
    _, text = report
    queries = text[text.index("<article") : text.index("<section id=training>")]
    oracle = queries[: queries.index(">gcl-matrix<")]
    scores = [float(score) for score in re.findall(r'badge g\d">([\d.]+)<', oracle)]
    assert scores
    assert scores == sorted(scores, reverse=True)
    assert "not listed" not in oracle
    assert "not listed" in queries


def test_each_picture_stands_in_the_page_once(report):
    page, text = report
    uris = re.findall(r"background-image:url\((.*?)\)", text)
    assert len(uris) == len(set(uris)) == len(re.findall("data:image/png", text))
    assert {value for value in page.values("class") if value.startswith("pic ")} == {
        f"pic i{number}" for number in range(len(uris))
    }


def test_works_without_pictures_and_without_worlds(tmp_path):
    world = make_study(tmp_path, methods=FEW, image=False)
    page, text = read(write_report(tmp_path, [world], title="Toy", path=tmp_path / "texts.html"))
    assert "words" in page.values("class")
    assert "background-image" not in text
    page, _ = read(write_report(tmp_path, [], title="Toy"))
    assert "queries" not in page.values("id")


def test_tells_what_the_results_file_adds(tmp_path):
    world = make_study(tmp_path, methods=FEW)
    added = {
        "date": "2026-01-02",
        "minutes": 4.25,
        "machine": {"processor": "<abacus>", "versions": {"torch": "9.9", "gone": None}},
        "data": {"<toy>": {"made by": "<nobody>"}},
    }
    write_json(tmp_path / "results.json", results(read_study(tmp_path), control="clip") | added)
    page, _ = read(write_report(tmp_path, [world], title="Toy"))
    for said in (
        "2026-01-02",
        "4.2 CPU-minutes of training",
        "processor <abacus>",
        "torch 9.9",
        "<nobody>",
        "clip, the control chosen",
    ):
        assert said in page.text
    assert "gone" not in page.text


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
