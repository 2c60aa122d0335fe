"""Products that are stored with their vectors: the same as anew, read once, and again when model or data change."""

import numpy as np
import pytest
from conftest import ranked

from gcl_toolkit import GCLModel
from gcl_toolkit.serving.stored import stored_products


@pytest.fixture
def folder(tmp_path):
    model = GCLModel("small", dimension=8, width=8, image_size=16, vocabulary=["title", "mug"])
    model.save(tmp_path / "model")
    (tmp_path / "data.csv").write_text("any")
    return tmp_path


def search(folder):
    """The stored products, and whether the data was read for them."""
    model, corpus, read = GCLModel.load(folder / "model"), ranked(4, 6).corpus, []
    source = str(folder / "data.csv")
    products, vectors = stored_products(folder / "model", model, source, "novel", lambda: read.append(1) or corpus)
    assert products.equals(corpus.drop_columns("image"))
    np.testing.assert_array_equal(vectors, model.embed(corpus, "right"))
    return bool(read)


def test_the_data_is_read_once(folder):
    assert [search(folder), search(folder)] == [True, False]


def test_the_data_is_read_again_when_it_changes(folder):
    search(folder)
    (folder / "data.csv").write_text("other")
    assert [search(folder), search(folder)] == [True, False]


def test_the_products_are_embedded_again_when_the_model_changes(folder):
    search(folder)
    model = GCLModel.load(folder / "model")
    model.encoder.image_head.bias.data += 1
    model.save(folder / "model")
    assert [search(folder), search(folder)] == [True, False]


@pytest.mark.parametrize("content", [b"", b"ARROW1 but no more"])
def test_a_corrupt_file_is_written_again(folder, content):
    (folder / "model" / "products").mkdir()
    (folder / "model" / "products" / "novel.arrow").write_bytes(content)
    assert [search(folder), search(folder)] == [True, False]


def test_a_folder_that_cannot_be_written_to_only_costs_time(folder):
    (folder / "model" / "products").write_text("a file where the folder would be")
    assert [search(folder), search(folder)] == [True, True]
