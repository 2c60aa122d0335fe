"""Rows that can't be trained on are found, written with their reason, and left out when the file is given back."""

import io

import numpy as np
import pandas as pd
import pytest
from conftest import png
from PIL import Image

from gcl_toolkit import DataError, UserError
from gcl_toolkit.data.sources import load
from gcl_toolkit.data.sources.check import check, image_oddities
from gcl_toolkit.data.sources.quarantine import read


def picture(mode="RGB", size=40, exif=None):
    out = io.BytesIO()
    image = Image.new(mode, (size, size))
    image.save(out, "JPEG", **({"exif": exif} if exif else {}))
    return out.getvalue()


@pytest.fixture
def faulty(tmp_path):
    """A table of 12 queries x 8 products with six kinds of fault."""
    for i in range(8):
        (tmp_path / f"p{i}.png").write_bytes(png(i, 20) if i != 3 else b"not a picture")
    rows = [
        {"query": f"mug {q}", "product_id": f"p{p}", "score": 10.0 * (p + 1), "title": f"mug {p}", "image": f"p{p}.png"}
        for q in range(12)
        for p in range(8)
    ]
    rows[4]["score"] = np.nan
    rows[5]["score"] = -1
    rows[6]["score"] = np.inf
    rows.append({**rows[10], "score": 99.0})
    rows.append(rows[20])
    pd.DataFrame(rows).to_parquet(tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_what_cannot_be_trained_on_is_written_down_and_left_out(faulty, tmp_path):
    file = tmp_path / "quarantine.csv"
    facts, problems = check(faulty, None, quarantine=file)
    assert any("7 rows written to" in fact for fact in facts)
    assert problems
    found = {(s.table, s.row): s.reason.split(":")[0] for s in read(file)}
    several = "the pair has several scores, none of which is known to be right"
    assert found == {
        ("corpus", 3): "picture can't be decoded",
        ("qrels", 4): "score is not a number",
        ("qrels", 5): "score is negative",
        ("qrels", 6): "score is infinite",
        ("qrels", 10): several,
        ("qrels", 96): several,
        ("qrels", 97): "repeats the pair of a row above",
    }
    with pytest.raises(DataError, match="a finite number >= 0"):
        load(faulty)
    splits = load(faulty, quarantine=file)
    assert sum(data.qrels.num_rows for data in splits.values()) == 98 - 6
    images = {
        product: image
        for data in splits.values()
        for product, image in zip(data.product_ids, data.corpus["image"].to_pylist(), strict=True)
    }
    assert images["p3"] is None
    assert images["p4"]["path"].endswith("p4.png")


def test_a_product_left_out_takes_its_pairs_along(faulty, tmp_path):
    file = tmp_path / "quarantine.csv"
    check(faulty, None, quarantine=file)
    rows = pd.read_csv(file)
    rows.loc[len(rows)] = {"file": "pairs.parquet", "table": "corpus", "row": 7, "id": "p7", "reason": "mine"}
    rows.to_csv(file, index=False)
    splits = load(faulty, quarantine=file)
    assert all("p7" not in set(data.product_ids) for data in splits.values())
    assert all("p7" not in set(data.qrels["product_id"].to_pylist()) for data in splits.values())


def test_a_quarantine_of_other_data_or_that_is_invalid_is_an_error(faulty, tmp_path):
    file = tmp_path / "quarantine.csv"
    check(faulty, None, quarantine=file)
    rows = pd.read_csv(file)
    rows.loc[0, "id"] = "p9"
    rows.to_csv(file, index=False)
    with pytest.raises(DataError, match=r"names row 3 of the corpus .* as 'p9', but it is 'p3'.*write a new one"):
        load(faulty, quarantine=file)
    file.write_text("nothing,of,the,kind\n1,2,3,4\n")
    with pytest.raises(DataError, match="can't be read as a quarantine"):
        load(faulty, quarantine=file)
    file.write_text("file,table,row,id,reason\npairs.parquet,products,1,p1,none\n")
    with pytest.raises(UserError, match=r"unknown table in .*quarantine.csv 'products'; known: corpus, qrels, queries"):
        load(faulty, quarantine=file)
    with pytest.raises(UserError, match=r"none/x.csv can't be written .*choose another file"):
        check(faulty, None, quarantine=tmp_path / "none" / "x.csv")


def test_a_picture_too_long_to_be_resized_is_left_out(faulty, tmp_path):
    Image.new("1", (1, 1_500_000)).save(tmp_path / "p5.png")
    check(faulty, None, quarantine=tmp_path / "quarantine.csv")
    (found,) = (suspect for suspect in read(tmp_path / "quarantine.csv") if suspect.id == "p5")
    assert found.reason.startswith("picture is too large: 1 x 1500000 pixels;")


def test_odd_texts_and_scores_are_reported(tmp_path):
    titles = ["red\u200b mug", "caf\u00c3\u00a9", "a &amp; b", "rep\ufffd", "bell\u0007", "caf\u00e9 \u8336"]
    rows = [
        {"query": f"q {q}", "product_id": f"p{p}", "score": 2e6, "title": title}
        for q in range(6)
        for p, title in enumerate(titles)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "pairs.parquet")
    problems = " ".join(check(tmp_path / "pairs.parquet")[1])
    for words in ("every score is 2e+06", "at most 1e+06", "invisible", "Latin-1", "HTML", "wrong encoding", "control"):
        assert words in problems
    assert "\u8336" not in problems


def test_odd_pictures_are_reported():
    assert list(image_oddities({"bytes": picture(), "path": None})) == []
    assert "a side below 16" in next(image_oddities({"bytes": picture(size=8), "path": None}))
    assert "CMYK" in next(image_oddities({"bytes": picture("CMYK"), "path": None}))
