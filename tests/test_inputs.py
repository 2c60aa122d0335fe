"""From the rows of a table to model inputs."""

import os
import time
import warnings
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import png, ranked

from gcl_toolkit import GCLModel, train
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import IMAGE
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.models.inputs import Inputs

BOTH = Fields(image=0.5, title=0.5)


def corpus(*images):
    return pa.table(
        {
            "product_id": [f"p{i}" for i in range(len(images))],
            "image": pa.array(images, IMAGE),
            "title": (["red mug", None, " ", "rug"] * len(images))[: len(images)],
        }
    )


def encoder():
    return make_encoder("small", dimension=8, vocabulary=["red", "mug", "rug"])


def test_inputs_say_what_is_present_field_by_field(tmp_path):
    (tmp_path / "a.png").write_bytes(png(3))
    image = {"bytes": png(1)}
    table = corpus(image, {"path": str(tmp_path / "a.png")}, image, {"bytes": b"", "path": None})
    values, present = Inputs(encoder(), table, BOTH).rows(np.array([1, 0, 3]))
    assert present["image"].tolist() == [True, True, False]
    assert present["title"].tolist() == [False, True, True]
    assert values["image"][:, 0, 0, 0].tolist() == [3, 1, 0]
    assert values["title"][1, :2].tolist() == [1, 2]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("broken", [png(1)[:45], b"not a picture", "missing.png"], ids=["cut", "text", "gone"])
def test_a_broken_picture_counts_as_missing_or_raises_when_strict(broken, cache_bytes):
    image = {"path": broken} if isinstance(broken, str) else {"bytes": broken}
    table = corpus({"bytes": png(1)}, {"bytes": png(2)}, {"bytes": png(3)}, image)
    inputs = Inputs(encoder(), table, BOTH, cache_bytes=cache_bytes)
    _, present = inputs.rows(np.array([0, 3]))
    assert present["image"].tolist() == [True, False]
    assert "'p3' (row 3)" in inputs.broken[3]
    with pytest.raises(DataError, match=r"'p3' \(row 3\) can't be read.*replace it"):
        Inputs(encoder(), table, BOTH, cache_bytes=cache_bytes, strict=True).rows(np.array([0, 3]))


def test_a_row_without_any_field_is_named():
    image = {"bytes": png(1)}
    with pytest.raises(DataError, match=r"1 product without any of .* image, title, first .*'p1' \(row 1\); drop the"):
        Inputs(encoder(), corpus(image, None), BOTH, side="right")
    table = corpus(image, None, None).append_column("kind", pa.array(["mug"] * 3))
    cure = r"2 products .*'p1' \(row 1\); add a field, as in --right image=0.5,title=0.5,kind=0.1, or drop"
    with pytest.raises(DataError, match=cure):
        Inputs(encoder(), table, BOTH, side="right")
    with pytest.raises(DataError, match=r"'p2' \(row 2\); drop the rows"):
        Inputs(encoder(), corpus(image, image, {"path": "missing.png"}), BOTH)


def test_an_unknown_field_names_the_columns():
    with pytest.raises(DataError, match=r"field 'picture' is not a column.*product_id, image, title"):
        Inputs(encoder(), corpus(None), Fields(picture=1))


@pytest.mark.parametrize(
    ("name", "options", "limit"), [("small", {"vocabulary": ["mug"]}, 32), ("ViT-S-32-alt", {}, 77)]
)
def test_texts_that_are_too_long_are_reported(name, options, limit):
    encoder = make_encoder(name, **options)
    table = pa.table({"product_id": ["a", "b", "c"], "title": ["mug " * 5, "mug " * 80, "mug " * 90]})
    (note,) = Inputs(encoder, table, Fields(title=1)).notes
    assert note.startswith(f"2 texts in 'title' fill all {limit} words or tokens")
    assert note.endswith("(first: product_id 'b' (row 1))")
    assert Inputs(encoder, table.slice(0, 1), Fields(title=1)).notes == []


def test_training_warns_of_texts_that_are_too_long():
    data = ranked(3, 4)
    titles = pa.array(["mug " * 40, *["mug"] * 3])
    data = type(data)(data.queries, data.corpus.set_column(1, "title", titles), data.qrels)
    model = GCLModel("small", right=Fields(title=1.0), dimension=8)
    with pytest.warns(UserWarning, match="1 text in 'title' fills all 32 words"):
        list(train(model, data, "gcl-linear", steps=1, batch=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(train(GCLModel("small", right=Fields(title=1.0), dimension=8), ranked(3, 4), steps=1, batch=4))


# -- decoded in processes ----------------------------------------------------------------------------------------------


def in_processes(table, **options):
    """Inputs that decode in two processes, as for a GPU."""
    return Inputs(encoder(), table, BOTH, cache_bytes=0, workers=2, for_gpu=True, **options)


@pytest.mark.parametrize("cached", [False, True])
def test_processes_decode_what_threads_do(tmp_path, cached):
    images = [{"bytes": png(i % 250)} for i in range(300)]
    images[7] = images[150] = {"bytes": b"not a picture"}
    images[8] = None
    table = corpus(*images).set_column(2, "title", pa.array(["mug"] * len(images)))
    rows = np.random.default_rng(0).integers(0, 300, 500)
    rows[:3] = 7, 8, 9
    inputs = in_processes(table, cache=tmp_path if cached else None)
    plain = Inputs(encoder(), table, BOTH, cache_bytes=0)
    for _ in range(2):
        ours, theirs = inputs.rows(rows), plain.rows(rows)
        assert all(torch.equal(ours[part][name], theirs[part][name]) for part in (0, 1) for name in BOTH)
    assert inputs.broken.keys() == plain.broken.keys() == {7, 150}
    assert "'p7' (row 7) can't be read: cannot identify image" in inputs.broken[7]
    inputs.close()


def test_a_process_that_dies_is_an_error_and_ends_the_others():
    inputs = in_processes(corpus({"bytes": png(1)}))
    processes = list(inputs._forked.pool._processes.values())
    assert len(processes) == 2
    processes[0].kill()
    with pytest.raises(UserError, match="a process that decodes pictures died; use fewer"):
        any(inputs.rows(np.zeros(200, int)) is None for _ in range(100))
    ends = time.monotonic() + 60  # a thread of the pool waits for them; join() and is_alive() here would race with it
    while running := [process.pid for process in processes if exists(process.pid)]:
        assert time.monotonic() < ends, running
        time.sleep(0.1)


def exists(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
