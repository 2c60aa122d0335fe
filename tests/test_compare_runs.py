"""gcl compare-runs, gcl bundle --run and gcl app --run, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forks import forks

from gcl_toolkit.cli import main
from gcl_toolkit.cli.compare_runs import reasons
from gcl_toolkit.data.formats import write_trec_qrels, write_trec_run
from gcl_toolkit.data.judgements import Judgement, Judgements
from gcl_toolkit.data.runs import read_systems
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.measure.slices import slices
from gcl_toolkit.measure.statistics import paired
from gcl_toolkit.measure.verdict import Lists, verdict
from gcl_toolkit.views.bundle import read_bundle

QUERIES, PRODUCTS, DEPTH = 120, 200, 30
KINDS = ("lamp", "mug", "shoe")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three runs of a shop: `good` and `twin` are alike; `bad` loses, and far more on shoes. A title is code."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(3)
    kind_N = np.arange(PRODUCTS) % 3
    grades_QxN = np.where(kind_N == np.arange(QUERIES)[:, None] % 3, rng.integers(0, 4, (QUERIES, PRODUCTS)), 0)
    titles = [f"{KINDS[kind]} {p}" for p, kind in enumerate(kind_N)]
    titles[0] = "<script>alert(1)</script>"
    table = pd.DataFrame({"product_id": [f"p{p}" for p in range(PRODUCTS)], "title": titles})
    table.assign(category=[KINDS[kind] for kind in kind_N]).to_csv(folder / "products.csv", index=False)
    judged_QxN = rng.random(grades_QxN.shape) < 0.6
    qrels = {f"q{q}": {f"p{p}": float(grades_QxN[q, p]) for p in np.flatnonzero(judged_QxN[q])} for q in range(QUERIES)}
    write_trec_qrels(qrels, folder / "qrels.txt")
    for name, noise in (("good", 0.8), ("twin", 0.8), ("bad", 1.2)):
        run = {}
        for q in range(QUERIES):
            spread = noise * (3 if name == "bad" and q % 3 == 2 else 1)
            score_N = grades_QxN[q] + spread * rng.normal(size=PRODUCTS)
            run[f"q{q}"] = {f"p{p}": float(score_N[p]) for p in np.argsort(-score_N)[:DEPTH]}
        write_trec_run(run, folder / f"{name}.trec")
    return folder


def gcl(files, *arguments, code=0):
    """The output of the installed command, in the folder of the files."""
    done = subprocess.run(
        [sys.executable, "-m", "gcl_toolkit.cli", *arguments], cwd=files, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def compared(capsys, files, *arguments):
    """The same in this process: its lines, and the exit status with the lines of the reason."""
    status = 0
    try:
        main(["compare-runs", *(str(files / a) if (files / a).is_file() else a for a in arguments)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return out.splitlines(), status, err


def test_two_runs_and_qrels_give_a_verdict_that_is_the_paired_one(files, tmp_path):
    out = gcl(
        files,
        "compare-runs",
        "bad.trec",
        "good.trec",
        "--qrels",
        "qrels.txt",
        "--products",
        "products.csv",
        "--out",
        str(tmp_path),
    )
    data, rankings = read_systems(
        [str(files / n) for n in ("bad.trec", "good.trec")], files / "qrels.txt", files / "products.csv"
    )
    lists = Lists(data.query_ids.tolist(), *data.pairs, rankings, slices(data, "category"))
    found = verdict(lists, "bad", "good")
    values = [lists.measured(rankings[name], NDCG @ 10) for name in ("bad", "good")]
    assert found.difference == paired(*values)
    assert out.splitlines()[0] == found.sentence
    assert found.sentence.startswith("bad is worse than good by ")
    assert "unjudged among the first 10: " in out
    assert "condensed list: " in out
    assert "bpref: " in out
    assert "regressed where category is shoe: " in out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'verdict.html'}"


def test_neither_torch_nor_plotly_is_imported(files, tmp_path):
    code = f"""
import sys
from gcl_toolkit.cli import main
qrels = ["--qrels", "qrels.txt", "--out"]
main(["compare-runs", "good.trec", "bad.trec", *qrels, {str(tmp_path)!r}])
main(["bundle", "--run", "good.trec", "--run", "bad.trec", *qrels, {str(tmp_path / "b")!r}])
print([m for m in ("torch", "plotly", "open_clip", "gradio", "ranx", "datasets") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=files, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_last_system_is_the_baseline_unless_another_is_named(files, tmp_path, capsys):
    options = ("--qrels", "qrels.txt", "--out", str(tmp_path))
    lines, _, _ = compared(capsys, files, "good.trec", "twin.trec", "bad.trec", *options)
    assert [line.split(" by ")[0] for line in lines if " than " in line] == [
        "good is better than bad", "twin is better than bad",
    ]  # fmt: skip
    (ties,) = [line for line in lines if line.startswith("not separated, best first: ")]
    assert sorted(re.split(", |; ", ties.split(": ")[1])) == ["bad", "good", "twin"]
    assert re.search("good, twin; bad$|twin, good; bad$", ties)
    lines, _, _ = compared(
        capsys, files, "good.trec", f"Old={files / 'bad.trec'}", "twin.trec", *options, "--baseline", "good"
    )
    assert lines[0].startswith("Old is worse than good")
    _, status, err = compared(capsys, files, "good.trec", "bad.trec", *options, "--baseline", "best")
    assert (status, err) == (2, "gcl: unknown baseline 'best'; known: bad, good\n")


def test_the_metric_and_peoples_judgements_count(files, tmp_path, capsys):
    """People find whatever `bad` ranks first perfect, and the other products of `good` irrelevant."""
    options = ("--qrels", "qrels.txt", "--out", str(tmp_path))
    lines, _, _ = compared(capsys, files, "bad.trec", "good.trec", *options, "--metric", "AP")
    assert " AP [" in lines[0]
    data, rankings = read_systems([str(files / n) for n in ("good.trec", "bad.trec")], files / "qrels.txt")
    pairs = {}
    for name, grade in (("good", 0), ("bad", 4)):
        pairs |= {(row, item): grade for row in range(QUERIES) for item in rankings[name][row, :10].tolist()}
    Judgements(tmp_path / "grades.jsonl").append(
        Judgement(data.query_ids[row], data.product_ids[item], grade, "me") for (row, item), grade in pairs.items()
    )
    lines, _, _ = compared(
        capsys, files, "bad.trec", "good.trec", *options, "--judgements", str(tmp_path / "grades.jsonl")
    )
    assert lines[0].startswith("bad is better than good by ")
    assert "0.0 of bad, 0.0 of good" in lines[1]


def test_the_gate_fails_with_1_and_says_why_and_errors_are_2(files, tmp_path, capsys):
    options = ("--qrels", "qrels.txt", "--products", "products.csv", "--out", str(tmp_path))
    assert compared(capsys, files, "good.trec", "bad.trec", *options, "--fail-if-worse", "0.005")[1] == 0
    err = gcl(files, "compare-runs", "bad.trec", "good.trec", *options, "--fail-if-worse", "0.005", code=1)
    overall, *slices = err.splitlines()
    assert overall.startswith("gcl: bad may be worse than good by more than 0.005 over all queries: NDCG@10 ")
    assert slices[0].startswith("gcl: bad may be worse than good by more than 0.005 where category is shoe: NDCG@10 ")
    _, status, err = compared(capsys, files, "bad.trec", "good.trec", "--qrels", "good.trec")
    assert status == 2
    assert (
        err.replace(f"{files}/", "")
        == "gcl: good.trec: its lines are 'query_id Q0 product_id rank score tag': this is a run, not qrels\n"
    )


def test_a_gate_that_could_never_fail_is_refused(files, tmp_path, capsys):
    for allowed in ("nan", "-0.1"):
        options = ("--qrels", "qrels.txt", "--out", str(tmp_path), "--fail-if-worse", allowed)
        _, status, err = compared(capsys, files, "bad.trec", "good.trec", *options)
        assert status == 2
        assert err.startswith(f"gcl: --fail-if-worse is {allowed}; ")
        assert not (tmp_path / "verdict.html").exists()


def test_equal_rankings_have_the_same_value_on_every_query(files, tmp_path, capsys):
    twin = f"copy={files / 'good.trec'}"
    lines, _, _ = compared(capsys, files, "good.trec", twin, "--qrels", "qrels.txt", "--out", str(tmp_path))
    assert lines[0].endswith("(120 queries); they have the same value on every query")


def test_queries_for_people_are_written_to_a_folder_that_does_not_exist_yet(files, tmp_path, capsys):
    runs = [str(files / name) for name in ("good.trec", "bad.trec")]
    options = ["--qrels", str(files / "qrels.txt"), "--products", str(files / "products.csv"), "--for-human", "3"]
    pd.DataFrame({"query_id": [f"q{q}" for q in range(QUERIES)], "query": "mug"}).to_csv(tmp_path / "queries.csv")
    options += ["--queries", str(tmp_path / "queries.csv")]
    main(["judge", *runs, *options, "--judgements", str(tmp_path / "new" / "grades.jsonl")])
    assert "of 3 queries to grade" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "new" / "grades.people.csv")["query_id"].nunique() == 3


def test_the_gate_asks_for_the_lower_end_and_of_slices_for_a_significant_loss(files):
    data, rankings = read_systems(
        [str(files / n) for n in ("twin.trec", "bad.trec", "good.trec")], files / "qrels.txt", files / "products.csv"
    )
    lists = Lists(data.query_ids.tolist(), *data.pairs, rankings, slices(data, "category"))
    twin, bad = (verdict(lists, name, "good") for name in ("twin", "bad"))
    assert len(reasons([twin], -twin.difference.low - 1e-9)) == 1
    assert reasons([twin], -twin.difference.low + 1e-9) == []
    assert (twin.slices["difference"].map(lambda d: d.low) < twin.difference.low).any()  # but not significant
    (shoe,) = bad.slices[bad.slices["slice"] == "shoe"].itertuples()
    assert shoe.regressed
    allowed = (shoe.difference.low + bad.difference.low) / -2  # the overall loss passes, that of shoes doesn't
    assert ["where category is shoe" in reason for reason in reasons([bad], allowed)] == [True]


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_file_without_scripts_or_requests(files, tmp_path, capsys):
    options = ("--qrels", "qrels.txt", "--products", "products.csv", "--out", str(tmp_path))
    lines, _, _ = compared(capsys, files, "good.trec", "twin.trec", "bad.trec", *options)
    html = (tmp_path / "verdict.html").read_text()
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object"})
    assert [a["href"] for _, a in page.tags if "href" in a] == ["data:,"]
    assert "@media (prefers-color-scheme: dark)" in html
    text = " ".join(page.text.split())
    sentences = [line for line in lines if " than " in line]
    assert all(sentence in text for sentence in sentences)
    for shown in (
        "2 systems against bad",
        "p (Holm)",
        "category: shoe",
        "condensed list",
        "Largest losses: good against bad",
        "unjudged",
        "lamp 3",
        "head, the fewest with half of all scores",
        "Categories of fewer than 10 queries, merged.",
    ):
        assert shown in text
    assert list(tmp_path.iterdir()) == [tmp_path / "verdict.html"]


# -- the app -----------------------------------------------------------------------------------------------------------


def test_gcl_bundle_makes_one_of_runs(files, tmp_path, capsys):
    runs = [part for name in ("good", "twin", "bad") for part in ("--run", f"{name}={files / name}.trec")]
    options = ["--qrels", str(files / "qrels.txt"), "--products", str(files / "products.csv")]
    main(["bundle", *runs, *options, "--baseline", "twin", "--out", str(tmp_path / "out")])
    assert f"next: gcl app --bundle {tmp_path / 'out'}" in capsys.readouterr().out.replace("\n", "")
    bundle = read_bundle(tmp_path / "out")
    assert list(bundle.systems) == ["good", "twin", "bad"]
    assert bundle.pair == ("good", "twin")
    for wrong, problem in (
        ([], "give the folder of a study, or rankings with --run"),
        (["study", *runs], "give the folder of a study, or rankings with --run"),
        (runs, "give them with --qrels"),
        ([*runs, *options, "--baseline", "x"], "unknown baseline 'x'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["bundle", *wrong, "--out", str(tmp_path / "other")])
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


AS_MAIN = """
import os, runpy, sys
os.chdir(sys.argv.pop(1))
sys.stdout.reconfigure(line_buffering=True)
runpy.run_module("gcl_toolkit.app.app", run_name="__main__")
"""


def test_gcl_app_serves_runs(files, tmp_path, monkeypatch):
    """Without a study, vectors or torch: the page opens on the verdict. What the process would become is forked."""
    pytest.importorskip("gradio", reason="gradio is not installed; pip install 'gcl-toolkit[app]'")
    became = []
    monkeypatch.setattr(os, "execv", lambda *given: became.append(given))
    monkeypatch.chdir(tmp_path)
    runs = ["--run", str(files / "good.trec"), "--run", str(files / "bad.trec")]
    main(["app", *runs, "--qrels", str(files / "qrels.txt"), "--products", str(files / "products.csv")])
    [(program, [itself, *command])] = became
    assert (program, itself, command[:2]) == (sys.executable, sys.executable, ["-m", "gcl_toolkit.app.app"])
    processes = forks("gcl_toolkit.app.app")
    app, output = processes.start(AS_MAIN, str(tmp_path), *command[2:])
    try:
        while not (found := re.search(r"http://[\d.:]+/", output.read_text() if output.exists() else "")):
            assert not processes.ended(app), output.read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(f"{found[0]}gcl/view", timeout=60) as answer:
            page = Page(answer.read().decode())
        assert "libtorch" not in Path(f"/proc/{app}/maps").read_text()
    finally:
        os.kill(app, signal.SIGTERM)
        processes.wait(app)
    assert "good is better than bad by " in page.text
    tabs = [attributes["id"] for tag, attributes in page.tags if (attributes.get("id") or "").startswith("tab-")]
    assert tabs == ["tab-verdict", "tab-compare", "tab-queries", "tab-about"]
