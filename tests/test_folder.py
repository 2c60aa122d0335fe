"""A folder of pictures as ranked data, and how gcl data import shows what it read."""

import re

import pandas as pd
import pytest
from conftest import png

from gcl_toolkit import DataError, cli
from gcl_toolkit.data.sources import layout_of, load
from gcl_toolkit.data.sources.folder import tables


@pytest.fixture
def pictures(tmp_path):
    """2 kinds x 3 colours x 3 pictures, below one more folder that they all share."""
    root = tmp_path / "pictures"
    for number, (kind, colour) in enumerate(
        (k, c) for k in ("tea_pots", "mugs") for c in ("red", "blue", "dark-green")
    ):
        (root / "shop" / kind / colour).mkdir(parents=True)
        for i in range(3):
            (root / "shop" / kind / colour / f"IMG_{i}.PNG").write_bytes(png(10 * number + i, 20))
    (root / "shop" / ".hidden.png").write_bytes(b"")
    (root / "shop" / "notes.txt").write_text("no picture")
    return root


def gcl(capsys, *arguments):
    status = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr()
    return status, out.out, out.err.strip()


def test_folders_are_queries_and_a_score_is_the_folders_in_common(pictures):
    (made,) = tables(pictures).values()
    data = made.data()
    assert data.corpus.num_rows == 18
    texts = dict(zip(data.query_ids, data.queries["query"].to_pylist(), strict=True))
    assert texts["mugs/dark-green"] == "dark green mugs"
    assert texts["tea_pots/red"] == "red tea pots"
    scores = {
        (query, product.rsplit("/", 1)[0].removeprefix("shop/")): score
        for query, product, score in zip(*(data.qrels[c].to_pylist() for c in data.qrels.column_names), strict=True)
    }
    assert scores["mugs/red", "mugs/red"] == 2
    assert scores["mugs/red", "mugs/blue"] == 1
    assert ("mugs/red", "tea_pots/red") not in scores
    assert data.qrels.num_rows == 6 * 9


def test_a_deeper_folder_and_one_that_holds_both(tmp_path):
    for path in ("a/1.png", "a/b/2.png", "a/b/c/3.png", "d/4.jpg", "5.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_bytes(png(1))
    (made,) = tables(tmp_path).values()
    score = {(row["query_id"], row["product_id"]): row["score"] for row in made.qrels.to_pylist()}
    assert score["a/b/c", "a/b/c/3.png"] == 3
    assert score["a/b/c", "a/b/2.png"] == 2
    assert score["a/b", "a/b/c/3.png"] == 2
    assert score["a", "a/b/c/3.png"] == score["a", "a/1.png"] == 1
    assert score["d", "d/4.jpg"] == 1
    assert not any(product == "5.png" for _, product in score)
    assert "5.png" in made.corpus["product_id"].to_pylist()


def test_it_is_a_source_as_any_other_and_a_table_beside_pictures_is_a_table(pictures):
    assert layout_of(pictures) == "folder"
    assert set(load(pictures, seed=1)) == {"in_domain", "novel_query", "novel_document", "zero_shot"}
    pd.DataFrame({"query": ["red"], "product_id": ["p"], "score": [1], "image": ["shop/mugs/red/IMG_0.PNG"]}).to_csv(
        pictures / "pairs.csv", index=False
    )
    assert layout_of(pictures) == "table"


@pytest.mark.parametrize(
    ("flat", "words"), [(True, "pictures outside of sub-folders"), (False, "all pictures are in one folder")]
)
def test_pictures_without_names_are_refused(tmp_path, flat, words):
    place = tmp_path if flat else tmp_path / "one"
    place.mkdir(exist_ok=True)
    (place / "1.png").write_bytes(png(1))
    with pytest.raises(DataError, match=words):
        load(tmp_path)


def test_import_prints_findings_and_a_preview_and_leaves_out_what_is_broken(pictures, tmp_path, capsys):
    broken = pictures / "shop" / "mugs" / "red" / "broken.jpg"
    broken.write_bytes(b"no picture")
    listed = tmp_path / "left_out.csv"
    status, out, error = gcl(capsys, "data", "import", pictures, tmp_path / "out", "--quarantine", listed)
    assert status == 0, error
    text = " ".join(out.split())
    assert "6 queries, 19 products" in text
    assert "can't be decoded: Pillow doesn't know its format" in text
    assert "problems: 2" in text
    assert "mugs/red/broken.jpg" in listed.read_text()
    assert "the best two and the worst of a query" in text
    shown = pd.DataFrame(re.findall(r"│ ([a-z ]+?) +│ (\d) ", out), columns=["query", "score"])
    by_query = shown.groupby("query")["score"].agg(list)
    assert len(by_query) == 3
    assert all(scores == sorted(scores, reverse=True) for scores in by_query)
    assert ["2", "2", "1"] in by_query.to_list()
    splits = load(tmp_path / "out")
    assert splits["in_domain"].corpus.num_rows + splits["zero_shot"].corpus.num_rows == 18
    assert gcl(capsys, "data", "check", tmp_path / "out")[0] == 0


def test_import_shows_the_worst_product_too_and_texts_as_they_stand(tmp_path, capsys):
    rows = [
        {"query": f"[red]mug {q}", "product_id": f"p{p}", "score": p, "title": f"title {p} " + "long " * 20}
        for q in range(20)
        for p in range(12)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    status, out, error = gcl(capsys, "data", "import", tmp_path / "pairs.csv", tmp_path / "out")
    assert status == 0, error
    assert "[red]mug" in out
    assert "no problem found" in out
    assert "…" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--columns", "query", "term"), "source folder has no option 'columns'"),
        (("--score", "clicks", 1), "source folder has no option 'score'"),
    ],
)
def test_what_is_for_tables_is_refused_for_pictures(pictures, tmp_path, capsys, arguments, words):
    status, _, error = gcl(capsys, "data", "import", pictures, tmp_path / "out", *arguments)
    assert (status, words in error, "\n" in error) == (2, True, False), error


def test_a_table_that_can_not_be_read_is_reported_once(tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("query,product_id,score\nred,p1,-3\nred,p2,1\n")
    status, out, error = gcl(capsys, "data", "import", tmp_path / "pairs.csv", tmp_path / "out")
    assert status == 2
    assert "score is '-3'" in " ".join(out.split())
    assert "score is '-3'" in error
    assert "\n" not in error
    status, out, error = gcl(capsys, "data", "import", tmp_path / "nothing", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "nothing" in error
