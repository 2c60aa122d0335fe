"""Vectors as fields: columns, folders of `gcl embed`, files of others, adapters."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch.nn.functional import normalize

from gcl_toolkit import NDCG, Fields, GCLModel, evaluate, load, train
from gcl_toolkit.cli import main
from gcl_toolkit.data.columns import as_vectors, is_vector, vector_parts
from gcl_toolkit.data.imported import read_vectors
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.vectors import VectorFolder, fingerprints, with_vectors
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.models import embed
from gcl_toolkit.models.embed import embed_field, embed_into
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.serving.export import export
from gcl_toolkit.studies.study import StudyConfig, read_study, study
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import Run

RIGHT = Fields(image=0.5, title=0.5)


@pytest.fixture(scope="module")
def shop():
    return load("shop", products=200, queries=30)


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    """A small encoder that makes the vectors, saved, and the name of its folder."""
    model = GCLModel()
    for _ in train(model, shop["in_domain"], steps=2, batch=32):
        pass
    return model.encoder.eval()


@pytest.fixture(scope="module")
def folder(shop, trained, tmp_path_factory):
    return embedded(VectorFolder(tmp_path_factory.mktemp("embed") / "vectors"), shop, trained)


def embedded(folder: VectorFolder, shop: dict, encoder, *, name: str = "small") -> VectorFolder:
    """The vectors of the three fields by an encoder that is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "tower", lambda spec: encoder)
        patch.setattr(embed, "SHARD", 64)
        for side, field in (("left", "query"), ("right", "image"), ("right", "title")):
            for _ in embed_into(folder, shop, side, field, {"name": name}):
                pass
    return folder


@pytest.fixture(scope="module")
def data(shop, folder):
    return with_vectors(shop, folder.path)


# -- columns -----------------------------------------------------------------------------------------------------------


def column(*rows, kind=None):
    return pa.chunked_array([pa.array(rows, kind)])


def test_lists_of_equal_length_are_vectors_and_may_be_missing():
    found = as_vectors(column([1.0, 2.0], None, [3.0, 4.0]))
    assert is_vector(found)
    assert found.to_pylist() == [[1.0, 2.0], None, [3.0, 4.0]]
    assert vector_parts(found.slice(2))[0].tolist() == [[3.0, 4.0]]
    half = column([1.0], kind=pa.list_(pa.float16()))
    assert as_vectors(half).type.value_type == pa.float16()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0], [1.0]], "row 1 has 1 numbers, row 0 has 2"),
        ([[1, 2]], "lists of int64; multiply quantized vectors by their scale and store them as float32"),
        ([None], "it holds no vector"),
        ([[]], "row 0 has 0 numbers"),
        ([[1.0, float("nan")]], "vector of row 0 has NaN or infinite numbers"),
        ([[1.0, 1.0], [0.0, 0.0]], "vector of row 1 has only zeros .1 such row.; embed it again"),
    ],
)
def test_lists_that_are_no_vectors_are_named(rows, words):
    kind = pa.list_(pa.int64()) if rows == [[1, 2]] else pa.list_(pa.float64())
    corpus = pa.table({"product_id": list(map(str, range(len(rows)))), "vector": pa.array(rows, kind)})
    queries = pa.table({"query_id": ["q"], "query": ["mug"]})
    qrels = pa.table({"query_id": ["q"], "product_id": ["0"], "score": [1.0]})
    with pytest.raises(DataError, match=words):
        RankedData(queries, corpus, qrels)


def test_a_table_with_a_column_of_lists_trains_an_adapter(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "query": f"q{i}",
            "product_id": f"p{i}{j}",
            "score": 3.0 - j,
            "vector": rng.normal(size=4),
            "query_vector": [i, 1.0],
        }
        for i in range(1, 9)
        for j in range(3)
    ]
    path = tmp_path / "pairs.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    split = load(path)["in_domain"]
    assert {"vector"} <= set(split.corpus_fields)
    model = GCLModel("vectors:dimension=8", left=Fields(query_vector=1), right=Fields(vector=1))
    assert [record["step"] for record in train(model, split, steps=2, batch=8)] == [1, 2]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_encoder_and_lie_in_mapped_shards(shop, data, folder, trained):
    for split in ("in_domain", "zero_shot"):
        column = data[split].corpus["image_vector"]
        expected = embed_field(trained, shop[split].corpus, "image", "right")
        np.testing.assert_allclose(np.concatenate(vector_parts(column)), expected, atol=2e-3)
    assert len(folder.fields["image_vector"]["shards"]) == 4
    assert not vector_parts(data["in_domain"].corpus["image_vector"])[0].flags.owndata


def test_a_missing_value_has_no_vector_and_the_other_fields_count(shop, trained, tmp_path):
    part = shop["in_domain"]
    titles = part.corpus["title"].to_pylist()
    titles[3] = None
    position = part.corpus.column_names.index("title")
    corpus = part.corpus.set_column(position, "title", pa.array(titles, pa.string()))
    holey = {"in_domain": RankedData(part.queries, corpus, part.qrels)}
    found = with_vectors(holey, embedded(VectorFolder(tmp_path / "v"), holey, trained).path)["in_domain"]
    assert found.corpus["title_vector"].null_count == 1
    model = GCLModel("vectors:dimension=8")
    list(train(model, found, steps=1, batch=16))
    both = model.embed(found.corpus, "right")
    model.right = Fields(image=1.0)
    np.testing.assert_allclose(both[3], model.embed(found.corpus, "right")[3], atol=1e-6)


def test_a_stopped_command_continues_with_the_next_shard(shop, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "tower", lambda spec: trained)
    monkeypatch.setattr(embed, "SHARD", 16)
    whole, stopped = VectorFolder(tmp_path / "whole"), VectorFolder(tmp_path / "stopped")
    list(embed_into(whole, shop, "right", "title", {"name": "small"}))
    steps = embed_into(stopped, shop, "right", "title", {"name": "small"})
    assert [next(steps)[0], next(steps)[0]] == [16, 32]
    with pytest.raises(DataError, match="title_vector is not complete; the same gcl embed command continues"):
        with_vectors(shop, stopped.path)
    counted = []
    monkeypatch.setattr(embed, "embed_field", lambda *args, **k: counted.append(1) or embed_field(*args, **k))
    list(embed_into(VectorFolder.open(stopped.path), shop, "right", "title", {"name": "small"}))
    assert len(counted) == len(whole.fields["title_vector"]["shards"]) - 2
    assert VectorFolder.open(stopped.path).fields == whole.fields


def test_another_encoder_needs_another_folder(shop, folder, trained):
    with pytest.raises(DataError, match="query_vector was made by another encoder; choose another folder"):
        embedded(VectorFolder.open(folder.path), shop, trained, name="other")


def test_values_that_changed_since_are_noticed(shop, folder):
    part = shop["in_domain"]
    titles = part.corpus["title"].to_pylist()
    titles[5] += " new"
    position = part.corpus.column_names.index("title")
    corpus = part.corpus.set_column(position, "title", pa.array(titles))
    product = part.product_ids[5]
    with pytest.raises(
        DataError, match=f"title of product_id '{product}' has changed since title_vector was made .1 such"
    ):
        folder.add_to(RankedData(part.queries, corpus, part.qrels))


def test_a_spoilt_or_missing_folder_is_one_line(shop, folder, tmp_path):
    with pytest.raises(DataError, match=r"holds no vectors .manifest.json is missing.; make them with gcl embed"):
        load("shop", products=200, queries=30, vectors=tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "title_vector-00001.npy").write_bytes(b"spoilt")
    with pytest.raises(DataError, match=r"title_vector-00001.npy is missing or was changed; embed the data again"):
        with_vectors(shop, copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json can't be read"):
        with_vectors(shop, copy)


def test_vectors_of_other_data_are_refused(folder):
    other = {"in_domain": load("shop", products=40, queries=8, seed=3)["in_domain"]}
    corpus = other["in_domain"].corpus
    ids = pa.array([f"x{i}" for i in range(corpus.num_rows)])
    qrels = other["in_domain"].qrels
    renamed = dict(zip(corpus["product_id"].to_pylist(), ids.to_pylist(), strict=True))
    qrels = qrels.set_column(1, "product_id", pa.array([renamed[p] for p in qrels["product_id"].to_pylist()]))
    queries = other["in_domain"].queries.set_column(1, "query", pa.array(["new"] * other["in_domain"].queries.num_rows))
    part = RankedData(queries, corpus.set_column(0, "product_id", ids), qrels)
    folder = VectorFolder(folder.path, {name: folder.fields[name] for name in ("image_vector", "title_vector")})
    with pytest.raises(DataError, match="no product_id of the data has a image_vector; it has ids such as 'x0'"):
        folder.add_to(part)


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map", ["linear", "mlp", "low-rank"])
def test_an_adapter_learns_and_is_loaded_as_it_was(data, tmp_path, map):
    model, before = GCLModel(f"vectors:map={map}", right=RIGHT), None
    for record in train(model, data["in_domain"], steps=40, batch=64):
        before = before or record["loss"]
    assert record["loss"] < before
    assert evaluate(model, data["in_domain"], [NDCG @ 10])["NDCG@10"].mean() > 0.3
    model.save(tmp_path)
    again = GCLModel.load(tmp_path)
    for table, side in ((data["zero_shot"].queries, "left"), (data["zero_shot"].corpus, "right")):
        assert np.array_equal(model.embed(table, side), again.embed(table, side))


@pytest.mark.parametrize("map", ["linear", "mlp", "low-rank"])
def test_every_map_starts_at_the_pretrained_space(data, map):
    model = GCLModel(f"vectors:map={map}", right=Fields(title=1))
    model.encoder.learn_vectors(
        {"left": (data["in_domain"].queries, model.left), "right": (data["in_domain"].corpus, model.right)}
    )
    expected = normalize(
        torch.from_numpy(np.concatenate(vector_parts(data["in_domain"].corpus["title_vector"]))).float(), dim=1
    )
    np.testing.assert_allclose(model.embed(data["in_domain"].corpus, "right"), expected, atol=1e-5)


def test_only_vectors_in_the_space_of_the_queries_stay_in_it():
    def inputs(size, other="small"):
        return {
            "left_query": {"dimension": 8, "encoder": {"name": "small"}},
            "right_title": {"dimension": 8, "encoder": {"name": other}},
            "right_image": {"dimension": size, "encoder": {"name": "small"}},
        }

    def start(inputs, **options):
        encoder = make_encoder("vectors", inputs=inputs, **options)
        return encoder.dimension, {key for key, one in encoder.maps.items() if not one.linear.weight.any()}

    assert start(inputs(12)) == (8, {"left_query", "right_title"})
    assert start(inputs(8)) == (8, {"left_query", "right_title", "right_image"})
    assert start(inputs(12, "other")) == (256, set())
    assert start(inputs(12), dimension=8) == (8, set())
    again = make_encoder(**make_encoder("vectors", inputs=inputs(12)).spec)
    assert (again.dimension, again.maps["right_title"].near, again.maps["right_image"].near) == (8, True, False)


def test_untrained_is_the_vectors_as_they_are(data, tmp_path):
    """And an adapter without any pretrained space is no method of its own."""
    options = {"methods": ("untrained",), "right": Fields(title=1.0)}
    for _ in study([World("shop", data)], StudyConfig(encoder="vectors", **options), tmp_path):
        pass
    table = read_study(tmp_path)
    for split, ranked in data.items():
        queries, products = (
            np.concatenate(vector_parts(column)).astype(np.float32)
            for column in (ranked.queries["query_vector"], ranked.corpus["title_vector"])
        )
        cosine_QxN = queries @ (products / np.linalg.norm(products, axis=1, keepdims=True)).T
        best = ranked.product_ids[cosine_QxN.argmax(axis=1)]
        tops = table[table["split"] == split].set_index("query_id")["top"]
        assert np.mean([tops[query][0] == first for query, first in zip(ranked.query_ids, best, strict=True)]) > 0.95
    with pytest.raises(UserError, match="'untrained' needs vectors of one encoder and dimension"):
        list(study([World("shop", data)], StudyConfig(encoder="vectors:dimension=8", **options), tmp_path / "other"))


def test_texts_without_vectors_are_embedded_by_the_encoder_of_the_others(shop, data, trained, monkeypatch):
    model = GCLModel("vectors:dimension=16")
    list(train(model, data["in_domain"], steps=1, batch=16))
    monkeypatch.setattr(embed, "tower", lambda spec: trained if spec == {"name": "small"} else None)
    bare = pa.table({"query_id": ["a"], "query": [data["in_domain"].queries["query"][0].as_py()]})
    np.testing.assert_allclose(
        model.embed(bare, "left")[0], model.embed(data["in_domain"].queries, "left")[0], atol=5e-3
    )
    np.testing.assert_allclose(
        model.embed(shop["zero_shot"].corpus, "right"), model.embed(data["zero_shot"].corpus, "right"), atol=5e-3
    )


def test_a_picture_is_embedded_as_the_products_with_it(shop, data, trained, monkeypatch):
    model = GCLModel("vectors:dimension=16")
    list(train(model, data["in_domain"], steps=1, batch=16))
    model.eval().right = Fields(image=1.0)
    monkeypatch.setattr(embed, "tower", lambda spec: trained if spec == {"name": "small"} else None)
    stored = shop["in_domain"].corpus["image"][3].as_py()["bytes"]
    with Image.open(io.BytesIO(stored)) as image, torch.inference_mode():
        found = normalize(embed.embed_picture(model.encoder, image.convert("RGB")), dim=-1)
    np.testing.assert_allclose(found, model.embed(data["in_domain"].corpus, "right")[3], atol=5e-3)
    model.encoder.inputs["right_image"].pop("encoder")
    with pytest.raises(UserError, match="search by text"):
        embed.embed_picture(model.encoder, Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda c: put(c, np.ones((c.num_rows, 5), np.float32)),
            "vectors of 5 numbers; the adapter was trained on 128",
        ),
        (
            lambda c: put(c, np.ones((c.num_rows, 128), np.float32), "other"),
            "was made by other; the adapter was trained on vectors of small",
        ),
    ],
)
def test_other_vectors_than_those_of_training_are_refused(data, spoil, words):
    model = GCLModel("vectors:dimension=16", right=Fields(title=1))
    list(train(model, data["in_domain"], steps=1, batch=16))
    with pytest.raises(DataError, match=words):
        model.embed(spoil(data["zero_shot"].corpus), "right")


def put(table, vectors, encoder="small"):
    origin = json.dumps({"of": "title", "encoder": {"name": encoder}})
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    at = table.column_names.index("title_vector")
    return table.set_column(at, pa.field("title_vector", flat.type, metadata={"origin": origin}), flat)


def test_settings_that_can_not_be_are_one_line(shop, data):
    with pytest.raises(UserError, match="unknown map 'cubic'"):
        GCLModel("vectors:map=cubic")
    with pytest.raises(UserError, match="encoder vectors has no option 'depth'"):
        GCLModel("vectors:depth=3")
    with pytest.raises(UserError, match=r"encoder 'vectors:dropout=2': dropout probability has to be between 0 and 1"):
        GCLModel("vectors:dropout=2")
    with pytest.raises(DataError, match="the data has no vectors of 'query'; make them with gcl embed"):
        list(train(GCLModel("vectors"), shop["in_domain"], steps=1))
    with pytest.raises(UserError, match="small reads no vectors"):
        list(train(GCLModel(right=Fields(title_vector=1)), data["in_domain"], steps=1, batch=8))


# -- files of others ---------------------------------------------------------------------------------------------------


def written(path: Path, ids, vectors) -> Path:
    """A file of vectors in the format of its name."""
    if path.suffix == ".jsonl":
        openai = "openai" in path.name
        lines = [
            {"custom_id": i, "response": {"body": {"data": [{"embedding": v}]}}}
            if openai
            else {"_id": i, "_embedding": v}
            for i, v in zip(ids, vectors.tolist(), strict=True)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({"product_id": ids, "price": [1] * len(ids), "vector": vectors.tolist()}), path)
        return path
    np.save(path, vectors) if path.suffix == ".npy" else save_file({"vectors": vectors}, path)
    path.with_name(path.name + ".ids.txt").write_text("\n".join(ids))
    return path


@pytest.mark.parametrize("name", ["openai.jsonl", "marqo.jsonl", "a.parquet", "a.npy", "a.safetensors"])
def test_files_of_others_are_read(tmp_path, name):
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    ids, found, note = read_vectors(written(tmp_path / name, ["a", "b", "c", "d"], vectors))
    assert ids.to_pylist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(found, vectors, rtol=1e-6)
    assert note == ""


def test_equal_vectors_are_noted(tmp_path):
    vectors = np.array([[1, 2], [1, 2], [3, 4]], np.float32)
    assert (
        "1 of 3 vectors are equal to another, such as that of 'a'"
        in read_vectors(written(tmp_path / "a.npy", ["a", "b", "c"], vectors))[2]
    )


@pytest.mark.parametrize(
    ("name", "ids", "vectors", "words"),
    [
        ("a.npy", ["a"], np.ones((2, 3), np.float32), r"it has 2 x 3 numbers and a.npy.ids.txt has 1 ids"),
        ("a.npy", ["a", "b"], np.ones((2, 3), np.int8), "lists of int8"),
        ("a.npy", ["a", "a"], np.eye(2, dtype=np.float32), "id 'a' has 2 vectors"),
        ("a.npy", ["a", "b"], np.zeros((2, 2), np.float32), "row 0 has only zeros"),
        ("a.npy", ["a"], np.full((1, 2), np.nan, np.float32), "row 0 has NaN"),
        ("a.npy", ["a"], np.array([{}], object), "one matrix of numbers is expected"),
        ("a.txt", ["a"], np.ones((1, 1), np.float32), "the file ending is '.txt'"),
    ],
)
def test_spoilt_files_are_one_line(tmp_path, name, ids, vectors, words):
    path = tmp_path / name
    if path.suffix == ".npy":
        written(path, ids, vectors)
    with pytest.raises(DataError, match=words):
        read_vectors(path)


def test_the_command_imports_and_says_what_it_left_out(shop, tmp_path, capsys):
    """From the file to an adapter, by the commands."""
    rng, source = np.random.default_rng(0), "shop:products=200,queries=30"
    for field, ids in (
        ("query", [q for part in shop.values() for q in part.query_ids]),
        ("title", [p for part in shop.values() for p in part.product_ids]),
    ):
        ids = [*dict.fromkeys(ids), "unknown"]
        file = written(tmp_path / f"{field}.npy", ids, rng.normal(size=(len(ids), 6)).astype(np.float32))
        main(
            [
                "embed",
                "--data",
                source,
                "--encoder",
                "their-model",
                "--out",
                str(tmp_path / "v"),
                "--fields",
                field,
                "--imported",
                str(file),
            ]
        )
    assert "1 of 201 vectors are of ids that the data lacks" in " ".join(capsys.readouterr().out.split())
    options = ["--data", f"{source},vectors={tmp_path / 'v'}", "--encoder", "vectors:dimension=8", "--right", "title=1"]
    main(["train", *options, "--steps", "2", "--batch", "16", "--out", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run"), "--split", "zero_shot"])
    assert "NDCG@10" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["search", str(tmp_path / "run"), "red mug"])
    assert "their-model can't embed here, since its vectors were imported" in capsys.readouterr().err


def test_a_complete_folder_needs_no_encoder(trained, tmp_path, monkeypatch, capsys):
    command = ["embed", "--data", "shop:products=200,queries=30", "--encoder", "small", "--out", str(tmp_path)]
    shown = []
    for loads in (lambda spec: trained, None):
        monkeypatch.setattr("gcl_toolkit.cli.embed.tower", loads)
        monkeypatch.setattr(embed, "tower", loads)
        main(command)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "image_vector: " in shown[0]


def test_fingerprints_see_every_change(shop):
    corpus = shop["in_domain"].corpus
    assert (
        fingerprints(pa.chunked_array([["a", None, "a ", "a"]])).tolist()[0::3]
        == [fingerprints(pa.chunked_array([["a"]]))[0]] * 2
    )
    assert len(set(fingerprints(corpus["image"]).tolist())) > 1


# -- export ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["vectors", "vectors:dimension=16"])
def test_an_exported_adapter_ranks_alike_in_numpy_and_onnx(data, tmp_path, monkeypatch, encoder):
    """The code of the model card, without torch, and the ONNX files."""
    import onnxruntime

    model, split = GCLModel(encoder), data["zero_shot"]
    list(train(model, data["in_domain"], steps=3, batch=32, run=Run(tmp_path / "run")))
    assert set(export(tmp_path / "run", tmp_path / "out")["onnx"]) == {"left_query", "right_image", "right_title"}
    monkeypatch.chdir(tmp_path / "out")
    code = re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1]
    assert "torch" not in code
    assert "gcl_toolkit" not in code
    scope: dict = {}
    exec(code, scope)
    fields = {name: np.concatenate(vector_parts(split.corpus[f"{name}_vector"])) for name in ("image", "title")}
    queries = np.concatenate(vector_parts(split.queries["query_vector"])).astype(np.float32)
    products = {name: scope["adapt"](vectors.astype(np.float32), f"right_{name}") for name, vectors in fields.items()}
    fused = scope["unit"](0.5 * products["image"] + 0.5 * products["title"])
    np.testing.assert_allclose(scope["adapt"](queries, "left_query"), model.embed(split.queries, "left"), atol=1e-5)
    np.testing.assert_allclose(fused, model.embed(split.corpus, "right"), atol=1e-5)
    session = onnxruntime.InferenceSession("right_title.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": fields["title"].astype(np.float32)})
    np.testing.assert_allclose(found, products["title"], atol=1e-5)
