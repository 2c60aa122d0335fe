"""One reader for every table: ids and texts stay as written, whatever the format; what is left out is reported."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from conftest import png
from pyarrow import parquet

from gcl_toolkit import DataError, cli, load
from gcl_toolkit.data.formats import read_trec_run
from gcl_toolkit.data.sources.check import check
from gcl_toolkit.data.sources.clicks import ClickConfig, agreement, as_splits, read_clicks
from gcl_toolkit.data.sources.quarantine import read as read_quarantine
from gcl_toolkit.data.sources.table import read_table
from gcl_toolkit.data.tabular import read_file
from gcl_toolkit.errors import first_line

IDS = ["007", "7", "18446744073709551615", "550E8400-E29B-41D4-A716-446655440000", "18-11-2025", "1e5", "true", "NaN"]


def gcl(capsys, *arguments):
    try:
        cli.main([str(a) for a in arguments])
        status = 0
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr()
    return status, " ".join(out.out.split()), out.err.strip()


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        separator = {".tsv": "\t", ".csv": ","}[path.suffix]
        pd.DataFrame(rows).to_csv(path, index=False, sep=separator)
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_ids_and_texts_stay_as_written_in_tables_and_logs(tmp_path, ending):
    rows = [{"query": i, "product_id": i, "title": i, "position": 1, "clicks": 1, "score": 1} for i in IDS]
    file = write(tmp_path / f"t{ending}", rows)
    data = read_table(file)
    assert data.query_ids.tolist() == data.product_ids.tolist() == data.corpus["title"].to_pylist() == IDS
    assert data.qrels["position"].to_pylist() == [1] * len(IDS)
    assert sorted(read_clicks(file, config=ClickConfig(propensity="none")).table["product_id"]) == sorted(IDS)


def test_numbers_of_jsonl_are_read_digit_by_digit(tmp_path):
    ids = [2**64 - 1 - i for i in range(5)]
    file = write(tmp_path / "t.jsonl", [{"query": "q", "product_id": i, "title": 501, "score": 0.1} for i in ids])
    data = read_table(file)
    assert data.product_ids.tolist() == [*map(str, ids)]
    assert data.corpus["title"].to_pylist() == ["501"] * 5
    assert data.pairs.score.tolist() == [0.1] * 5


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([36, 42], ["36", "42"]),
        ([36.0, None], ["36", None]),
        ([1.5, 2], ["1.5", "2"]),
        ([True, False], ["true", "false"]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        ([b"red", b"blue"], ["red", "blue"]),
    ],
)
def test_fields_of_any_simple_type_are_text(tmp_path, values, texts):
    frame = pd.DataFrame({"query": [500, 501], "product_id": ["a", "b"], "title": "x", "score": [1, 2], "size": values})
    frame.to_parquet(tmp_path / "t.parquet")
    data = read_table(tmp_path / "t.parquet")
    assert data.corpus["size"].to_pylist() == texts
    assert data.queries["query"].to_pylist() == ["500", "501"]


@pytest.mark.parametrize("value", [["a", "b"], {"colour": "red", "size": 3}, [{"path": "a.png", "bytes": None}]])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["tags", "image", "score_parts"])
def test_nested_columns_are_left_out_and_named(tmp_path, value, ending, name):
    rows = [{"query": f"q{i}", "product_id": f"p{i}", "title": "x", "score": i, name: value} for i in range(2)]
    file = write(tmp_path / f"t{ending}", rows)
    facts, problems = check(file)
    assert problems == []
    assert read_table(file).corpus_fields == ["title"]
    assert name.startswith("score") or any(f"column {name!r} is not read: it holds" in fact for fact in facts), facts


def test_nested_ids_and_bytes_are_a_problem_in_one_line(tmp_path):
    rows = [{"query": ["a"], "product_id": "p", "title": "x", "score": 1, "raw": b"\xff"}]
    file = write(tmp_path / "t.parquet", rows)
    assert "'query' is not read: it holds values of type list" in check(file)[1][0]
    rows[0]["query"] = "a"
    assert any("'raw' is not read: it holds bytes" in fact for fact in check(write(file, rows))[0])


def test_row_numbers_of_pandas_are_not_fields(tmp_path):
    frame = pd.DataFrame({"query": ["a", "b"], "product_id": ["p", "r"], "title": ["x", "y"], "score": [1, 2]})
    frame.to_csv(tmp_path / "a.csv")
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv", index=False)
    frame.set_axis([5, 3]).to_parquet(tmp_path / "c.parquet")
    for name, column in (("a.csv", "''"), ("b.csv", "'Unnamed: 0'"), ("c.parquet", "'__index_level_0__'")):
        assert read_table(tmp_path / name).corpus_fields == ["title"]
        assert any(f"column {column} is not read" in fact for fact in check(tmp_path / name)[0])


CELLS = [
    ["query", "product_id", "title", "score"],
    ["mug", "007", 'pan 12" steel, red', "3"],
    ["cup", "8", "a;b\tc", "1"],
]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_the_separator_is_that_of_the_header(tmp_path, separator, encoding, ending):
    pd.DataFrame(CELLS[1:], columns=CELLS[0]).to_csv(
        tmp_path / f"t{ending}", index=False, sep=separator, encoding=encoding
    )
    assert read_file(tmp_path / f"t{ending}").to_pylist() == [
        dict(zip(CELLS[0], row, strict=True)) for row in CELLS[1:]
    ]


def test_quotes_that_appear_late_are_read(tmp_path):
    for late in ('pan 12" steel', "mug, red", "two\nlines"):
        rows = [
            {"query": "red mug" if i < 21_000 else late, "product_id": f"p{i % 5}", "position": 1}
            for i in range(21_500)
        ]
        pd.DataFrame(rows).assign(clicks=1).to_csv(tmp_path / "log.csv", index=False)
        queries = read_clicks(tmp_path / "log.csv", config=ClickConfig(propensity="none")).table["query"].unique()
        assert queries.tolist() == sorted([" ".join(late.split()), "red mug"])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "run.trec"])
def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path, name):
    text = {"t.jsonl": '{"query": "a"}\n{"query": "r\xf6d"}\n', "run.trec": "q Q0 a 1 2 x\nq Q0 \xf6 1 1 x\n"}
    content = text.get(name, "query,product_id,position,clicks,brand\na,b,1,1,c\na,c,1,1,r\xf6d\n")
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    line = 2 if name in text else 3
    readers = [read_trec_run] if name == "run.trec" else [read_table, read_file]
    for reader in readers:
        with pytest.raises(DataError, match=f"{name} line {line}: the text is not UTF-8; save the file as UTF-8"):
            reader(tmp_path / name)


def test_a_byte_order_mark_is_not_part_of_the_first_query(tmp_path):
    (tmp_path / "run").write_text("q1 Q0 a 1 2 x\nq1 Q0 b 2 1 x\n", encoding="utf-8-sig")
    assert read_trec_run(tmp_path / "run") == {"q1": {"a": 2, "b": 1}}
    (tmp_path / "t.jsonl").write_text('{"query": "a"}\n', encoding="utf-8-sig")
    assert read_file(tmp_path / "t.jsonl").column_names == ["query"]


def test_the_reason_of_another_library_is_kept():
    error = ValueError("CSV Error on Line: 2\n\nInvalid unicode detected. File is not utf-8 encoded.")
    assert "not utf-8" in first_line(error)
    assert len(first_line(ValueError("long " * 100))) <= 240
    assert first_line(ValueError()) == "ValueError"


# -- joins -------------------------------------------------------------------------------------------------------------


def log(tmp_path, rows):
    columns = {"query": "mug", "position": 1, "clicks": 1}
    return read_clicks(
        write(tmp_path / "log.csv", [columns | row for row in rows]), config=ClickConfig(propensity="none")
    )


def test_pairs_that_the_catalogue_lacks_are_counted_and_one_is_named(tmp_path, capsys):
    rows = [{"query": f"q{q}", "product_id": p} for q in range(8) for p in ("007", "8", "9", "0x")]
    scored = log(tmp_path, rows)
    write(tmp_path / "p.parquet", [{"product_id": p, "title": "x"} for p in (7, 8, 9)])
    splits = as_splits(scored, tmp_path / "p.parquet")
    note = "16 of 32 pairs have products that the catalogue lacks, such as "
    assert splits["in_domain"].card["notes"][0].startswith(note)
    options = ("--products", tmp_path / "p.parquet", "--out", tmp_path / "out", "--propensity", "none")
    status, out, error = gcl(capsys, "clicks", tmp_path / "log.csv", *options)
    assert status == 0, error
    assert note in out


def test_judgements_that_match_nothing_are_an_error(tmp_path):
    scored = log(tmp_path, [{"product_id": "007"}, {"product_id": "008"}])
    with pytest.raises(DataError, match=r"no judged pair, such as \('mug', '7'\), is among the scored pairs"):
        agreement(scored.table, pd.DataFrame({"query": ["mug"], "product_id": ["7"], "score": [1.0]}))


@pytest.mark.parametrize(("clicks", "impressions"), [(500, 20), (7, 0), (3, 2.5)])
def test_rows_with_more_clicks_than_impressions_are_left_out_and_counted(tmp_path, clicks, impressions):
    good = [{"product_id": f"p{i}", "clicks": 2, "impressions": 20} for i in range(4)]
    scored = log(tmp_path, [*good, {"product_id": "p1", "clicks": clicks, "impressions": impressions}])
    assert scored.rows["with more interactions than impressions (first: row 5)"] == 1
    assert scored.table["interactions"].tolist() == [2] * 4
    assert "with more" not in " ".join(log(tmp_path, good).rows)


# -- what is left out --------------------------------------------------------------------------------------------------


def beir(folder, *splits):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": i, "title": f"t{i}", "text": 5}) for i in range(3))
    )
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"w{i}"}) for i in range(6)))
    for number, split in enumerate(splits):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\nq{number}\t1\t2\n")
    return folder


@pytest.mark.parametrize("name", ["dev", "validation", "val"])
def test_the_validation_split_of_beir_is_dev(tmp_path, name):
    splits = load(beir(tmp_path / "b", "train", name, "test"))
    assert splits["novel_query"].only("dev").query_ids.tolist() == ["q1"]
    assert splits["in_domain"].corpus["text"].to_pylist() == ["5"] * 3


def test_files_of_beir_that_are_not_read_are_named(tmp_path):
    facts, _ = check(beir(tmp_path / "b", "test", "other", "validation", "dev"))
    assert any("qrels that are not read: other, validation" in fact for fact in facts)


def test_qrels_of_beir_may_lack_a_header_and_quote_ids(tmp_path):
    folder = beir(tmp_path / "b", "test")
    (folder / "qrels" / "test.tsv").write_text('q0\t"1"\t2\nq1\t2\t-1\n')
    assert load(folder)["zero_shot"].qrels.to_pylist() == [
        {"query_id": "q0", "product_id": "1", "score": 2.0},
        {"query_id": "q1", "product_id": "2", "score": 0.0},
    ]


@pytest.mark.parametrize("ending", ["HEIC", "avif", "txt"])
def test_files_that_are_not_read_in_a_folder_of_pictures_are_counted(tmp_path, ending):
    for kind in ("mugs", "plates"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes(png(1, 20))
        (tmp_path / kind / f"b.{ending}").write_bytes(b"x")
    facts, _ = check(tmp_path)
    assert any(f"not read: 2 files (2 .{ending.lower()}), such as mugs/b.{ending}" in fact for fact in facts), facts


def test_a_folder_with_unreadable_pictures_only_is_an_error_that_counts_them(tmp_path):
    (tmp_path / "mugs").mkdir()
    (tmp_path / "mugs" / "a.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"not read: 1 file \(1 .heic\)"):
        load(tmp_path)


# -- the options and advice of gcl data check --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5])
def test_the_advice_on_a_quarantine_can_be_followed(tmp_path, capsys, width):
    for i in range(1, 9):
        (tmp_path / f"{i}.png").write_bytes(png(i, 20) if i != 3 else b"<html>404")
    rows = [
        {"query": f"q{q}", "product_id": f"{p:0{width}d}", "title": f"t{p}", "image": f"{p}.png", "score": p}
        for q in range(6)
        for p in range(1, 9)
    ]
    file, bad = write(tmp_path / "my table.csv", rows), tmp_path / "bad rows.csv"
    status, out, _ = gcl(capsys, "data", "check", file, "--quarantine", bad)
    assert status == 1
    assert [suspect.id for suspect in read_quarantine(bad)] == [f"{3:0{width}d}"]
    words = shlex.split(out.split("to leave them out: ")[1].split(" problem: ")[0])
    assert words[:3] == ["gcl", "train", "--data"]
    images = (
        load(words[3])["in_domain"].corpus["image"].to_pylist()
        + load(words[3])["zero_shot"].corpus["image"].to_pylist()
    )
    assert images.count(None) == 1
    assert gcl(capsys, "data", "import", file, tmp_path / "out", "--quarantine", bad)[0] == 0


def test_data_check_takes_the_options_of_the_source(tmp_path, capsys):
    rows = [
        {"query": f"q{i}", "product_id": f"p{i}", "title": "x" if i else "", "brand": "b", "score": i} for i in range(3)
    ]
    file = write(tmp_path / "t.csv", rows)
    status, out, _ = gcl(capsys, "data", "check", file)
    assert status == 0
    assert "title: missing in 1 of 3 (33.3%), first 'p0'; title=1 alone can't be trained on these" in out
    status, out, _ = gcl(capsys, "data", "check", f"{file}:fields=title")
    assert status == 1
    assert "product_id 'p0' has no field at all" in out
    assert load(f"{file}:fields=brand")["in_domain"].corpus_fields == ["brand"]
    for source, words in (
        (f"{file}:field=x", "no option 'field'"),
        ("shop", "gcl data make"),
        ("table", "needs a path"),
    ):
        status, _, error = gcl(capsys, "data", "check", source)
        assert (status, words in error) == (2, True), error
    assert not Path("shop").exists()
