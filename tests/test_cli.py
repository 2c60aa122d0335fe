"""The command line as its user meets it: what works, and one clear line with a non-zero exit for each bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import png

from gcl_toolkit import Fields, GCLModel, cli
from gcl_toolkit.cli import doctor as doctoring
from gcl_toolkit.data.sources import load
from gcl_toolkit.methods import RIVALS
from gcl_toolkit.serving.export import export
from gcl_toolkit.studies.candidates import best, read_choices
from gcl_toolkit.studies.results import read_results
from gcl_toolkit.studies.study import laboratory, open_study
from gcl_toolkit.training.runs import load_model, read_steps


def gcl(capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    status = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr()
    return status, " ".join(out.out.split()), out.err.strip()


def rows(queries=60, products=16):
    return [
        {"query": f"{'red' if q % 2 else 'blue'} mug {q}", "product_id": f"p{p}", "score": 100 - 5 * ((p + q) % 12),
         "title": f"{'red' if p % 2 else 'blue'} mug"}
        for q in range(queries) for p in range(products) if (p + q) % 3
    ]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    def write(change=None, name="pairs.csv"):
        made = rows()
        if change:
            change(made)
        pd.DataFrame(made).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write


TITLES = ("--right", "title=1")


def test_train_evaluate_search(capsys, table, tmp_path):
    status, out, _ = gcl(
        capsys,
        "train",
        "--data",
        table(),
        "--out",
        tmp_path / "run",
        *TITLES,
        "--steps",
        3,
        "--batch",
        8,
        "--evaluate-every",
        2,
    )
    assert status == 0
    assert "next: gcl evaluate" in out
    records = read_steps(tmp_path / "run")
    assert [record["step"] for record in records if "NDCG@10 zero_shot" in record] == [2, 3]
    assert len((tmp_path / "run" / "steps.jsonl").read_text().splitlines()) == 3
    found = gcl(
        capsys,
        "evaluate",
        tmp_path / "run",
        "--data",
        table(),
        "--division",
        "all",
        "--out",
        tmp_path / "table.parquet",
    )
    assert found[0] == 0
    assert "zero_shot" in found[1]
    assert {"NDCG@10", "split"} <= set(pd.read_parquet(tmp_path / "table.parquet").columns)
    status, out, _ = gcl(capsys, "search", tmp_path / "run", "red mug", "--data", table(), "--k", 3)
    assert status == 0
    assert out.count("mug") >= 3


def test_evaluate_officially(capsys, table, tmp_path):
    """A model and its ranking, written by the first and read again, give the same files."""
    gcl(
        capsys,
        "train",
        "--data",
        table(),
        "--out",
        tmp_path / "run",
        "--right",
        "title=1",
        "--steps",
        "2",
        "--batch",
        "4",
    )
    options = ("--data", table(), "--official", "--division", "all", "--split", "in_domain")
    gcl(capsys, "evaluate", tmp_path / "run", *options, "--out", tmp_path / "a")
    written = tmp_path / "a" / "in_domain"
    _, shown, _ = gcl(capsys, "evaluate", written / "retrieval.json", *options, "--out", tmp_path / "b")
    output = json.loads((written / "output.json").read_text())
    assert f"{output['summary']['mERR']:.5f}" in shown
    assert json.loads((tmp_path / "b" / "in_domain" / "output.json").read_text()) == output
    assert (written / "output.csv").read_text().startswith("mAP@1000,mrr@1000,NDCG@10,mERR")


def test_a_published_checkpoint_is_evaluated_in_one_line(capsys, table, tmp_path):
    """One with Python objects in it only after the conversion that the error advises."""
    import argparse

    import open_clip
    import torch
    from test_export import TINY

    name, file = "gcl-tiny-cli", tmp_path / "epoch 1.pt"
    (tmp_path / f"{name}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    state = {f"module.{key}": value for key, value in open_clip.create_model(name).state_dict().items()}
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": state}, file)
    line = ("evaluate", "--encoder", name, "--data", table(), "--split", "zero_shot", "--official", "--division", "all",
            "--right", "title=1", "--top-k", 10, "--out", tmp_path / "out", "--pretrained")  # fmt: skip
    status, _, error = gcl(capsys, *line, file)
    assert status == 2
    assert "holds Python objects besides tensors" in error
    assert "weights_only`" not in error
    advised = error[error.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(advised, shell=True, check=True)
    status, out, error = gcl(capsys, *line, file.with_suffix(".safetensors"))
    assert status == 0, error
    assert "mAP@10" in out
    ranking = json.loads((tmp_path / "out" / "zero_shot" / "retrieval.json").read_text())
    assert {len(scores) for scores in ranking.values()} == {8}  # all of the split's products


def test_an_export_is_evaluated_as_its_run(capsys, table, tmp_path):
    from test_encoders import clip_folder

    (tmp_path / "base").mkdir()
    model = GCLModel(clip_folder(tmp_path / "base", [32, 32]), right=Fields(title=1.0))
    model.save(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "export", onnx=False)
    options = ("--data", table(), "--division", "all", "--out")
    for folder in ("run", "export"):
        assert gcl(capsys, "evaluate", tmp_path / folder, *options, tmp_path / f"{folder}.parquet")[0] == 0
    a, b = (pd.read_parquet(tmp_path / f"{folder}.parquet") for folder in ("run", "export"))
    pd.testing.assert_frame_equal(a, b)


def test_what_evaluate_needs_is_said(capsys, table, tmp_path):
    pairs, ranking = table(), tmp_path / "retrieval.json"
    ranking.write_text(json.dumps({"another query_{!@#~}_": {"p0": 1.0}}))
    for arguments, words in [
        (("--data", pairs), "give a run, or --encoder (and --pretrained)"),
        ((tmp_path, "--encoder", "small", "--data", pairs), "give a run, or --encoder"),
        ((tmp_path, "--pretrained", "openai", "--data", pairs), "give a run, or --encoder"),
        (("--encoder", "small"), "give some with --data"),
        ((ranking, "--data", pairs), "is a file; give the folder of a model, or add --official"),
        ((ranking, "--data", pairs, "--top-k", 20), "--top-k, --top-q and --truth change the official form only"),
        ((ranking, "--data", pairs, "--official", "--top-k", 5), "top_k is 5; at least 10 is expected"),
        ((ranking, "--data", pairs, "--official"), "none that the ranking has is scored in in_domain, "),
        ((ranking, "--data", pairs, "--official", "--truth", ranking), "1 ground-truth files for the splits in_domain"),
    ]:
        status, _, error = gcl(capsys, "evaluate", *arguments)
        assert status == 2, arguments
        assert words in error, (arguments, error)
        assert "\n" not in error


def test_compare_writes_a_table_that_names_the_control(capsys, table, tmp_path):
    arguments = ("compare", "--data", table(), "--out", tmp_path / "study", *TITLES, "--steps", 2, "--jobs", 1)
    methods = ("--methods", "random", "clip", "clip-top", "graded")
    status, out, error = gcl(capsys, *arguments, *methods, "--control", "clip", "--candidates", "dropout=0.5")
    assert status == 0, error
    choices = read_choices(tmp_path / "study")
    assert choices.keys() == {"clip", "clip-top", "graded"}
    assert [*choices["clip"]] == ["", "dropout=0.5"]
    assert "Settings, chosen by each method on the dev queries" in out
    assert "│ clip-top " in out  # names are whole, and numbers too
    assert "…" not in out
    assert "fewer than 30 queries in in_domain, novel_query, novel_document, zero_shot: these" in out
    assert "graded over clip (gcl-linear - scores: one known pair a row, with weight 1;" in out
    results = read_results(tmp_path / "study" / "results.json")
    assert results.control == "clip"
    assert results.machine["versions"]["torch"]
    assert results.choices == choices
    chosen = best(choices["graded"]) or "as given"
    assert (
        f"| graded | {choices['graded']['']:.3f} | {choices['graded']['dropout=0.5']:.3f} | {chosen} |"
        in (tmp_path / "study" / "results.md").read_text()
    )
    report = (tmp_path / "study" / "report.html").read_text()
    assert len(report) > 1_000_000
    assert "Settings chosen on dev queries" in report
    for candidate, mean in choices["clip"].items():
        cell = f"<b>{mean:.3f}</b>" if candidate == best(choices["clip"]) else f"{mean:.3f}"
        assert f"<td>{cell}</td>" in report
    assert "With fewer than 30 queries in in-domain, novel query" in " ".join(report.split())
    status, _, error = gcl(capsys, *arguments[:2], f"{arguments[2]}:seed=1", *arguments[3:], *methods)
    assert status == 2
    assert f"holds a study of {arguments[2]}; give another folder with --out" in error
    again = gcl(capsys, *arguments, *methods, "--control", "clip", "--candidates", "dropout=0.5")
    assert again[0] == 0
    assert "other settings" not in again[1]
    status, out, error = gcl(capsys, *arguments, "--methods", "random", "graded")
    assert "holds a study with other settings; its results are replaced, runs that fit are kept" in out
    assert (status, error) == (2, error)
    assert "the study has no control to report gains over" in error


def test_without_a_named_field_products_are_embedded_by_what_they_have(capsys, table, tmp_path):
    arguments = ("--data", table(), "--steps", 1, "--batch", 8)
    status, out, error = gcl(capsys, "train", *arguments, "--out", tmp_path / "run")
    assert (status, error) == (0, "")
    assert "note: the products are embedded by their title; --right names other fields" in out
    assert dict(load_model(tmp_path / "run").right) == {"title": 1.0}
    status, out, _ = gcl(capsys, "compare", *arguments, "--methods", "clip", "--jobs", 1, "--out", tmp_path / "study")
    assert (status, dict(open_study(tmp_path / "study").config.right)) == (0, {"title": 1.0})
    status, _, error = gcl(capsys, "train", *arguments, "--right", "image=1", "--out", tmp_path / "other")
    assert "field 'image' is not a column of the table; name its fields with --right (it has " in error


def test_ctrl_c_ends_a_study_and_its_workers(table, tmp_path):
    arguments = ["compare", "--data", table(), *TITLES, "--methods", "clip", "graded", "--steps", 100000, "--jobs", 2]
    code = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from gcl_toolkit.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--out", tmp_path / "study"]  # a background job ignores SIGINT
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        run = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
        assert "minutes left" in run.stdout.readline()
        os.kill(run.pid, signal.SIGINT)  # to the parent alone: the workers must not be waited for
        try:
            run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "Traceback" not in errors.read_text()
    for _ in range(300):  # the server of the workers ends by itself
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers are left")


def test_lab_adds_every_loss_to_the_runs_of_compare(capsys, table, tmp_path):
    folder = tmp_path / "study"
    settings = ("--data", table(), "--out", folder, *TITLES, "--steps", 2, "--batch", 8, "--jobs", 1)
    assert gcl(capsys, "compare", *settings, "--methods", "clip")[0] == 0
    clip = folder / "runs" / "pairs.csv" / "clip" / "seed_0" / "done.json"
    before = clip.stat().st_mtime_ns
    status, out, error = gcl(capsys, "lab", *settings)
    assert status == 0, error
    assert clip.stat().st_mtime_ns == before
    results = read_results(folder / "results.json")
    assert set(results.averages["AP"]) == set(laboratory())
    over = {(gain.method, gain.metric) for gain in results.gains if gain.control == results.control}
    assert over >= {(method, metric) for method in (*RIVALS, "matrix") for metric in ("NDCG@10", "AP")}
    assert "Order and recall" in out
    assert "| bixse | 0." in (folder / "results.md").read_text().split("**Order and recall**")[1]


def test_data_make_and_check(capsys, tmp_path, monkeypatch):
    from gcl_toolkit.data.sources import shop

    small = shop.load(seed=0, products=200, queries=60, per_query=6, size=16)
    monkeypatch.setattr(shop, "load", lambda **_: small)
    monkeypatch.setattr(shop, "contact_sheet", lambda path: path.write_bytes(png(1)))
    assert gcl(capsys, "data", "make", tmp_path / "shop")[0] == 0
    assert json.loads((tmp_path / "shop" / "card.json").read_text())["name"] == "shop"
    again = load(tmp_path / "shop")
    assert {name: repr(data) for name, data in again.items()} == {name: repr(data) for name, data in small.items()}
    status, out, _ = gcl(capsys, "data", "check", tmp_path / "shop")
    assert status == 0, out
    assert "no problem found" in out


def test_data_import_maps_columns_and_sums_scores(capsys, tmp_path):
    made = pd.DataFrame(rows()).rename(columns={"query": "term", "title": "name"})
    made.assign(clicks=made["score"] % 7, carts=1).drop(columns="score").to_csv(tmp_path / "log.csv", index=False)
    mapping = ("--columns", "query", "term", "title", "name", "--score", "clicks", 1, "carts", 4)
    status, _, error = gcl(capsys, "data", "import", tmp_path / "log.csv", tmp_path / "out", *mapping)
    assert status == 0, error
    splits = load(tmp_path / "out")
    score = splits["in_domain"].pairs.score
    assert score.min() >= 4
    assert set(score) <= set(range(4, 11))
    assert splits["in_domain"].corpus_fields == ["title"]
    wrong = (*mapping[:5], "--score", "sales", 1)
    status, _, error = gcl(capsys, "data", "import", tmp_path / "log.csv", tmp_path / "out", *wrong)
    assert status == 2
    assert "'sales'" in error


def test_doctor_says_what_there_is(capsys, monkeypatch):
    monkeypatch.setattr(doctoring, "seconds_here", lambda: (0.005, 0.1))
    status, out, _ = gcl(capsys, "doctor")
    assert status == 0
    assert "torch 2" in out
    assert "gcl demo: about" in out
    monkeypatch.setattr(doctoring, "version", lambda name: None if name == "bm25s" else "1.0")
    status, out, _ = gcl(capsys, "doctor")
    assert status == 1
    assert "bm25s is not installed; run: make setup" in out


def set_score(value):
    return lambda made: made[4].update(score=value)


def drop(column):
    return lambda made: [row.pop(column) for row in made]


def conflict(made):
    made.append({**made[0], "score": 1})


def empty_fields(made):
    for row in made:
        row["title"] = " " if row["product_id"] == "p3" else row["title"]


BAD = {
    "missing column": (drop("score"), "score"),
    "NaN score": (set_score(float("nan")), "score"),
    "negative score": (set_score(-3), "score is '-3'"),
    "text score": (set_score("best"), "'best'"),
    "two scores": (conflict, "two scores"),
    "no field": (empty_fields, "'p3'"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["check", "compare"])
def test_bad_tables_are_one_clear_line(capsys, table, tmp_path, command, case):
    change, words = BAD[case]
    if command == "check":
        status, out, error = gcl(capsys, "data", "check", table(change))
        assert status == 1, out
        assert words in out
        return
    arguments = ("--out", tmp_path / "s", *TITLES, "--steps", 1, "--jobs", 1, "--methods", "clip", "graded")
    status, _, error = gcl(capsys, "compare", "--data", table(change), *arguments)
    assert status == 2
    assert words in error
    assert error.startswith("gcl: ")
    assert "\n" not in error


def test_a_pair_with_an_unknown_product(capsys, table, tmp_path):
    folder = tmp_path / "three"
    folder.mkdir()
    made = pd.DataFrame(rows())
    made[["query"]].drop_duplicates().assign(query_id=lambda t: t["query"]).to_csv(folder / "queries.csv", index=False)
    made[["product_id", "title"]].drop_duplicates().iloc[1:].to_csv(folder / "corpus.csv", index=False)
    made.assign(query_id=made["query"])[["query_id", "product_id", "score"]].to_csv(folder / "qrels.csv", index=False)
    status, out, _ = gcl(capsys, "data", "check", folder)
    assert status == 1
    assert "is not in the corpus" in out
    status, _, error = gcl(capsys, "train", "--data", folder, "--out", tmp_path / "run", *TITLES)
    assert status == 2
    assert "is not in the corpus" in error
    assert "\n" not in error


@pytest.mark.filterwarnings("default")
def test_broken_pictures_count_as_missing_and_are_counted(capsys, tmp_path):
    made = pd.DataFrame(rows()).assign(image=lambda t: t["product_id"] + ".png")
    for number, product in enumerate(sorted(set(made["product_id"]))):
        (tmp_path / f"{product}.png").write_bytes(png(number))
    whole = (tmp_path / "p3.png").read_bytes()
    (tmp_path / "p3.png").write_bytes(whole[:45])
    (tmp_path / "p4.png").unlink()
    made.to_csv(tmp_path / "pairs.csv", index=False)
    status, out, _ = gcl(capsys, "data", "check", tmp_path / "pairs.csv")
    assert status == 1
    assert "p3" in out
    assert "p4" in out
    run = ("--out", tmp_path / "run", "--steps", 1, "--batch", 4)
    status, out, error = gcl(capsys, "train", "--data", tmp_path / "pairs.csv", *run)
    assert status == 0, error
    assert "taken as missing" in out


def test_a_run_is_not_trained_over(capsys, table, tmp_path):
    run = ("train", "--data", table(), "--out", tmp_path / "run", *TITLES, "--batch", 4, "--steps")
    assert gcl(capsys, *run, 2)[0] == 0
    status, _, error = gcl(capsys, *run, 1)
    assert (status, len(read_steps(tmp_path / "run"))) == (2, 2)
    assert error == (
        f"gcl: {tmp_path}/run already holds a run; continue it with --resume {tmp_path}/run, or choose another --out"
    )


def test_other_mistakes(capsys, table, tmp_path):
    (tmp_path / "file").touch()
    run, new = tmp_path / "run", tmp_path / "new"
    gcl(capsys, "train", "--data", table(), "--out", run, *TITLES, "--steps", 1, "--batch", 4)
    for arguments, words in [
        (("train", "--data", table(), "--out", tmp_path / "file" / "x", *TITLES), "can't be written to"),
        (("compare", "--data", table(), "--out", tmp_path / "file" / "x", *TITLES), "can't be written to"),
        (("evaluate", run, "--data", table(), "--split", "zeroshot"), "no split 'zeroshot'; it has in_domain"),
        (("evaluate", tmp_path, "--data", table()), "holds no model"),
        (("search", run, " ", "--data", table()), "gcl: the text to search for is empty"),
        (("train", "--data", "no/such/file.csv", "--out", new), "unknown source or path 'no/such/file.csv'"),
        (("train", "--data", table(), "--right", "picture=1", "--out", new), "field 'picture' is not a column"),
        (("train", "--data", table(), "--encoder", "ViT-B-99", "--out", new), "unknown model 'ViT-B-99'"),
        (
            ("train", "--data", table(), "--method", "clop", "--out", new),
            "unknown method 'clop'; known: bixse, clip,",
        ),
        (("demo", "--recipe", "shoe", "--out", run), "unknown recipe 'shoe'; known: marqo-wfash, shop"),
        (("compare", "--data", table(), "--methods", "clop", "--out", run), "unknown method 'clop'"),
        (("compare", "--data", f"{table()}:queries=5", "--out", new), "source table has no option 'queries'"),
        (("compare", "--data", f"{table()}:quarantine={tmp_path}/no.csv", "--out", new), "no.csv can't be read"),
        (("train", "--data", "shop:quarantine=x.csv", "--out", new), "source shop has no option 'quarantine'"),
        (("train", "--data", "shop:seed=one", "--out", new), "option seed of source shop is 'one'; int is expected"),
        (("train", "--data", "shop:seed=1,seed=2", "--out", new), "option 'seed' appears twice"),
        (("train", "--data", "shop:seed=1,size", "--out", new), "'size' is not an option; write name=value,name=value"),
        (
            ("train", "--data", table(), "--learning-rate", 0, "--out", new),
            "learning_rate is 0.0; it must be a",
        ),
        (("train", "--data", table(), "--ema", 1.5, "--out", new), "gcl: ema is 1.5; it must be in [0, 1)"),
        (("train", "--data", table(), "--right", "title=1,title=2", "--out", new), "'title' appears twice"),
        (("data", "check", table(), "--quarantine", "/proc/x.csv"), "/proc/x.csv can't be written"),
    ]:
        status, _, error = gcl(capsys, *arguments)
        assert status == 2, arguments
        assert words in error, (arguments, error)
        assert "\n" not in error


@pytest.mark.parametrize("command", ["compare", "train"])
def test_a_value_that_a_setting_refuses_is_one_line(capsys, command):
    assert gcl(capsys, command, "--batch", 0) == (2, "", "gcl: batch is 0; it must be an integer >= 2")
    assert gcl(capsys, command, "--ema", 1.5) == (2, "", "gcl: ema is 1.5; it must be in [0, 1)")


@pytest.mark.parametrize(
    ("words", "help_of"),
    [
        (["compare", "--batch", "x"], "gcl compare"),
        (["compare", "--bach", "3"], "gcl compare"),
        (["data", "chek"], "gcl data"),
        (["serch"], "gcl"),
        ([], "gcl"),
    ],
)
def test_what_cannot_be_parsed_names_the_help_of_its_command(capsys, words, help_of):
    status, _, error = gcl(capsys, *words)
    assert status == 2
    assert re.search(rf"(see|run) {help_of} --help", error)


def test_a_broken_table_file(capsys, tmp_path):
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(Exception):  # noqa: B017 - the library's own error, which the command turns into a line
        pq.read_table(tmp_path / "pairs.parquet")
    status, out, _ = gcl(capsys, "data", "check", tmp_path / "pairs.parquet")
    assert status == 1
    assert "pairs.parquet" in out
    assert gcl(capsys, "train", "--data", tmp_path / "pairs.parquet", "--out", tmp_path / "run")[0] == 2


def test_a_stopped_training_says_how_to_go_on_and_does(capsys, table, tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = ("--steps", 4, "--batch", 8, "--save-minutes", 0, "--workers", 2)

    def stopped(records):
        for record in records:
            yield record
            if record["step"] == 2:
                raise KeyboardInterrupt

    module = import_module("gcl_toolkit.cli.train")
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", lambda *a, train=module.train, **k: stopped(train(*a, **k)))
        status, _, error = gcl(capsys, "train", "--data", table(), "--out", run, *TITLES, *settings)
    assert (status, error) == (130, f"gcl: stopped; gcl train --resume {run} continues after step_2")
    status, out, _ = gcl(capsys, "train", "--resume", run)
    assert status == 0
    assert "loss" in out
    assert [record["step"] for record in read_steps(run)] == [1, 2, 3, 4]
    assert "all steps were already done" in gcl(capsys, "train", "--resume", run)[1]
    assert "holds no run (config.json is missing)" in gcl(capsys, "train", "--resume", tmp_path / "none")[2]


def test_a_training_that_is_stopped_while_it_reads_gives_advice_that_works(capsys, table, tmp_path, monkeypatch):
    module, run = import_module("gcl_toolkit.cli.train"), tmp_path / "run"
    command = ("train", "--data", table(), "--out", run, *TITLES, "--steps", 1, "--batch", 4)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "splits_of", stopped)
        status, _, error = gcl(capsys, *command)
    assert (status, error) == (130, "gcl: stopped; training had not started: run the same command again")
    assert gcl(capsys, *command)[0] == 0


def test_evaluate_search_and_index_take_the_data_of_the_run(capsys, table, tmp_path):
    run = tmp_path / "run"
    gcl(capsys, "train", "--data", table(), "--out", run, *TITLES, "--steps", 1, "--batch", 4)
    assert "in_domain" in gcl(capsys, "evaluate", run, "--division", "all")[1]
    assert "mug" in gcl(capsys, "search", run, "red mug", "--k", 2)[1]
    (run / "config.json").unlink()
    status, _, error = gcl(capsys, "evaluate", run)
    assert (status, error) == (2, f"gcl: {run} doesn't say what data it was trained on; give some with --data")


def test_a_split_without_test_queries_does_not_stop_the_others(capsys, table, tmp_path):
    def few(made):
        made[:] = [row for row in made if int(row["query"].split()[-1]) < 6]

    path, run = table(few), tmp_path / "run"
    gcl(capsys, "train", "--data", path, "--out", run, *TITLES, "--steps", 1, "--batch", 4)
    splits = load(path)
    empty = [name for name, part in splits.items() if not len(part.only("test").pairs.query)]
    assert 0 < len(empty) < 4
    status, out, error = gcl(capsys, "evaluate", run)
    assert status == 0, error
    assert all(f" {name} " in out for name in splits if name not in empty)
    assert f"without scored test queries: {', '.join(empty)}" in out


def test_titles_are_printed_as_they_are(capsys, table, tmp_path):
    """Brackets in data are not markup."""
    odd = ["Mug [red] 300 ml", "T-shirt [navy/white]", "Bowl [/clearance]"]

    def titles(made):
        for row in made:
            row["title"] = odd[int(row["product_id"][1:]) % 3]

    run = tmp_path / "run"
    gcl(capsys, "train", "--data", table(titles), "--out", run, *TITLES, "--steps", 1, "--batch", 4)
    out = gcl(capsys, "search", run, "red mug", "--k", 8)[1]
    assert any(title in out for title in odd)
    assert out.count("[") == out.count("]") > 2


def test_a_reader_that_stops_reading_gets_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "gcl_toolkit.cli", "lab", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reading:
        reading.stdout.close()  # as `gcl lab --help | head -0`
        assert reading.stderr.read() == b""
    assert reading.returncode == 1
