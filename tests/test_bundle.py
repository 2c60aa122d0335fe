import io
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import small_bundle
from PIL import Image
from pyarrow import parquet

from gcl_toolkit import DataError, UserError
from gcl_toolkit.app.service import Service
from gcl_toolkit.cli import bundle as commands
from gcl_toolkit.cli import main
from gcl_toolkit.data.sources import table
from gcl_toolkit.files import sha256
from gcl_toolkit.measure.baselines import BM25
from gcl_toolkit.measure.evaluate import METRICS
from gcl_toolkit.measure.slices import slices
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.views.bundle import best_first, field_cosines, fused_cosines, read_bundle
from gcl_toolkit.views.bundle.writing import write_bundle


@pytest.fixture
def bundle(small_study, tmp_path):
    """A copy to break."""
    return shutil.copytree(small_study / "bundle", tmp_path / "bundle")


def models(bundle):
    return [system for system in bundle.systems.values() if system.kind == "model"]


def fused_by_hand(query, embeddings, weights):
    """The cosine of a query with the normalised weighted sum of one product's field embeddings, as loops."""
    total = [0.0] * len(query)
    for weight, vector in zip(weights, embeddings, strict=True):
        for d, value in enumerate(vector):
            total[d] += weight * float(value)
    norm = math.sqrt(sum(value * value for value in total))
    return sum(q * t for q, t in zip(query, total, strict=True)) / norm if norm > 1e-6 else math.nan


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.2, 1.7), (1, 0), (0, 1), (0.5, 0.5)])
def test_fused_cosines_are_those_of_the_fused_embeddings(weights):
    rng = np.random.default_rng(0)
    fields_FxNxD = rng.normal(size=(2, 7, 5)).astype(np.float32)
    fields_FxNxD /= np.linalg.norm(fields_FxNxD, axis=-1, keepdims=True)
    fields_FxNxD[0, 2] = fields_FxNxD[1, 3] = fields_FxNxD[:, 4] = 0  # missing: one field, the other, both
    query_D = rng.normal(size=5).astype(np.float32)
    gram_NxFxF = np.einsum("fnd,gnd->nfg", fields_FxNxD, fields_FxNxD)
    fused_N = fused_cosines(field_cosines(fields_FxNxD, query_D, slice(0, 7), chunk=3), gram_NxFxF, weights)
    by_hand = [fused_by_hand(query_D, fields_FxNxD[:, n], weights) for n in range(7)]
    np.testing.assert_allclose(fused_N, by_hand, atol=1e-5)
    assert np.isnan(fused_N[4])


def test_the_slider_formula_is_the_papers_for_image_and_title():
    w, c, s_image, s_title = 0.7, 0.3, 0.8, -0.2
    gram_1x2x2 = np.array([[[1, c], [c, 1]]], np.float32)
    expected = (w * s_image + (1 - w) * s_title) / math.sqrt(w**2 + (1 - w) ** 2 + 2 * w * (1 - w) * c)
    found = fused_cosines(np.array([[s_image], [s_title]], np.float32), gram_1x2x2, (w, 1 - w))
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_best_first_keeps_the_order_of_equals_and_puts_nan_last():
    assert best_first(np.array([0.1, np.nan, 0.9, 0.1])).tolist() == [2, 0, 3, 1]


def test_the_stored_numbers_are_the_models(small_study):
    bundle, data = read_bundle(small_study / "bundle"), small_bundle.world().splits["zero_shot"]
    items, queries = bundle.items_of("zero_shot"), bundle.queries_of("zero_shot")
    assert bundle.items["product_id"][items].tolist() == list(data.product_ids)
    assert bundle.queries["query_id"][queries].tolist() == list(data.query_ids)
    for system in models(bundle):
        vectors = system.vectors
        model = GCLModel.load(vectors.weights)
        corpus_NxD, queries_QxD = model.embed(data.corpus, "right"), model.embed(data.queries, "left")
        np.testing.assert_allclose(vectors.queries_QxD[queries], queries_QxD, atol=1e-6)
        for row, query_D in enumerate(queries_QxD):
            cosines_FxN = field_cosines(vectors.embeddings_NxD.values(), vectors.queries_QxD[queries][row], items)
            found_N = fused_cosines(cosines_FxN, vectors.gram_NxFxF[items], [*vectors.fields.values()])
            np.testing.assert_allclose(found_N, corpus_NxD @ query_D, atol=1e-3)
            assert system.ranking_QxK[queries][row].tolist() == (best_first(found_N) + items.start).tolist()


def test_splits_share_the_rows_of_a_corpus_and_every_pair_is_there(small_study):
    bundle, splits = read_bundle(small_study / "bundle"), small_bundle.world().splits
    assert len(bundle.items) == 24
    assert bundle.items_of("in_domain") == bundle.items_of("novel_query") != bundle.items_of("zero_shot")
    for split, data in splits.items():
        start = bundle.queries_of(split).start
        for row, query_id in enumerate(data.query_ids):
            items, scores = bundle.judged(start + row)
            found = dict(zip(bundle.items["product_id"].to_numpy()[items], scores, strict=True))
            qrels = data.qrels.to_pandas()
            expected = qrels[qrels["query_id"] == query_id].set_index("product_id")["score"].to_dict()
            assert found == expected
            assert (np.diff(scores) <= 0).all()


def test_the_baselines_and_the_control_are_the_studys(small_study):
    bundle, data = read_bundle(small_study / "bundle"), small_bundle.world().splits["zero_shot"]
    assert [(system.name, system.kind) for system in bundle.systems.values()] == [
        ("clip", "model"), ("graded", "model"), ("bm25", "baseline"),
    ]  # fmt: skip
    assert bundle.pair == ("graded", "clip")
    assert bundle.manifest["unlisted"] == "irrelevant"
    bm25, items = bundle.systems["bm25"], bundle.items_of("zero_shot")
    assert (bm25.vectors, bm25.history) == (None, None)
    expected_QxK = BM25(data.corpus["title"].to_pylist()).top_k(data.queries["query"].to_pylist(), 1000)
    found_QxK = bm25.ranking_QxK[bundle.queries_of("zero_shot")]
    np.testing.assert_array_equal(found_QxK, expected_QxK + items.start)


def test_the_opening_names_a_win_and_a_loss_of_the_first_system(small_study):
    service = Service(read_bundle(small_study / "bundle"))
    gap = service.metrics("graded")["NDCG@10"] - service.metrics("clip")["NDCG@10"]
    opening = service.bundle.manifest["opening"]
    assert set(opening) == set(service.bundle.splits)
    for split, rows in opening.items():
        span = service.bundle.queries_of(split)
        assert rows.keys() == {"win", "loss"}
        assert gap[rows["win"]] > 0 > gap[rows["loss"]]
        assert all(span.start <= row < span.stop for row in rows.values())


def test_terms_of_the_glossary_are_explained(small_study):
    glossary = read_bundle(small_study / "bundle").manifest["glossary"]
    assert {"zero-shot", "score", "unjudged", "bpref", "Holm", *map(str, METRICS)} <= glossary.keys()
    assert all(glossary.values())


def test_the_metrics_are_the_studys(small_study):
    bundle = read_bundle(small_study / "bundle")
    service = Service(bundle)
    for system in models(bundle):
        method = system.name
        study = pd.read_parquet(small_study / "study" / "runs" / "toy" / method / "seed_0" / "per_query.parquet")
        metrics = service.metrics(method)
        assert set(bundle.queries["query_id"]) == set(study["query_id"])
        for metric in map(str, METRICS):
            assert metrics[metric].mean() == pytest.approx(study[metric].mean(), abs=0.01)
        assert system.history["step"].tolist() == [1, 2, 3]
        for split in bundle.splits:
            _, halfway, last = system.history[f"NDCG@10 {split}"]
            dev = study[(study["split"] == split) & (study["division"] == "dev")]
            assert 0 <= halfway <= 1
            assert last == pytest.approx(dev["NDCG@10"].mean())


def test_maps_hold_products_then_queries_and_say_what_they_keep(small_study):
    bundle = read_bundle(small_study / "bundle")
    first, second = (system.vectors.map_Mx2 for system in models(bundle))
    assert first.shape == second.shape == (len(bundle.items) + len(bundle.queries), 2)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first.mean(0), second.mean(0), atol=1e-4)
    for system in models(bundle):
        kept = system.vectors.kept
        assert kept["method"] == "PCA"
        assert 0 <= kept["queries_kept"] <= 1
        assert kept["chance"] == pytest.approx(10 / 23)
        assert system.config["train"]["steps"] == 3


def test_slices_are_those_of_each_split(small_study):
    bundle, splits = read_bundle(small_study / "bundle"), small_bundle.world().splits
    for split, data in splits.items():
        expected = slices(data)
        rows = bundle.slices.iloc[bundle.queries_of(split)]
        for way in expected:
            assert rows[way].tolist() == expected[way].astype(str).tolist()


def test_thumbnails_are_small_pictures_and_missing_fields_are_zero(small_study):
    bundle = read_bundle(small_study / "bundle")
    row = {product: row for row, product in enumerate(bundle.items["product_id"])}
    with Image.open(io.BytesIO(bundle.thumbnail(row["p5"]))) as picture:
        assert picture.size == (70, 70)
        assert np.abs(np.subtract(picture.convert("RGB").getpixel((9, 9)), (45, 0, 7))).max() < 12
    assert bundle.thumbnail(row[small_bundle.NO_IMAGE]) == b""
    for system in models(bundle):
        norms = {field: np.linalg.norm(np.float32(e), axis=1) for field, e in system.vectors.embeddings_NxD.items()}
        for field, product in (("image", small_bundle.NO_IMAGE), ("title", small_bundle.NO_TITLE)):
            assert norms[field][row[product]] == 0
            assert np.delete(norms[field], row[product]) == pytest.approx(1, abs=1e-3)


def test_without_weights_the_models_are_left_out(small_study, tmp_path):
    folder = write_bundle(small_study / "study", small_bundle.world(), tmp_path / "light", weights=False)
    assert not list(folder.rglob("*.safetensors"))
    assert read_bundle(folder).systems["clip"].vectors.weights is None


# -- the commands ------------------------------------------------------------------------------------------------------


def test_gcl_bundle_makes_one_of_a_study_and_its_data(small_study, tmp_path):
    table.write(small_bundle.world().splits, tmp_path / "data")
    main(["bundle", str(small_study / "study"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    again, first = read_bundle(tmp_path / "out"), read_bundle(small_study / "bundle")
    for name in first.systems:
        np.testing.assert_array_equal(again.systems[name].ranking_QxK, first.systems[name].ranking_QxK)


@pytest.mark.parametrize("has_bundle", [True, False])
def test_gcl_app_makes_a_small_bundle_only_if_there_is_none(small_study, tmp_path, monkeypatch, has_bundle):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(commands, "_make_small_bundle", lambda folder: calls.append(("small", folder)))
    monkeypatch.setattr(commands, "version", lambda package: "6.31")
    monkeypatch.setattr("os.execv", lambda program, command: calls.append(command[1:]))
    if has_bundle:
        shutil.copytree(small_study / "bundle", tmp_path / "runs" / "app" / "bundle")
    main(["app", "--port", "7999"])
    started = ["-m", "gcl_toolkit.app.app", "runs/app/bundle", "--port", "7999"]
    assert calls == ([] if has_bundle else [("small", Path("runs/app/bundle"))]) + [started]


def test_gcl_app_without_gradio_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(commands, "version", lambda package: None)
    with pytest.raises(SystemExit, match="2"):
        main(["app"])
    assert "gradio is not installed; pip install 'gcl-toolkit[app]'" in capsys.readouterr().err


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_other_data_than_the_studys_is_refused(small_study, tmp_path):
    with pytest.raises(DataError, match=r"NDCG@10 in .* give the data that the study was made on"):
        write_bundle(small_study / "study", small_bundle.world(best=11), tmp_path / "other")
    world = small_bundle.world()
    fewer = {name: data.take_queries(np.arange(1)) for name, data in world.splits.items()}
    with pytest.raises(DataError, match=r"the study measured .* queries, the data has 4"):
        write_bundle(small_study / "study", World("toy", fewer), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_without_study_an_unknown_world_and_other_files_are_refused(small_study, tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        write_bundle(tmp_path, small_bundle.world(), tmp_path / "out")
    with pytest.raises(UserError, match="unknown world of this study 'shop'; known: toy"):
        write_bundle(small_study / "study", World("shop", small_bundle.world().splits), tmp_path / "out")
    with pytest.raises(UserError, match="no finished training run with seed 3"):
        write_bundle(small_study / "study", small_bundle.world(), tmp_path / "out", seed=3)
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files but no bundle"):
        write_bundle(small_study / "study", small_bundle.world(), tmp_path)
    assert (tmp_path / "letters.txt").read_text() == "mine"


def test_a_bundle_replaces_an_older_one_completely(small_study, bundle):
    (bundle / "old.txt").write_text("")
    assert write_bundle(small_study / "study", small_bundle.world(), bundle) == bundle
    assert not (bundle / "old.txt").exists()
    assert read_bundle(bundle).splits


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(UserError, match=r"holds no bundle \(manifest.json is missing\)"):
        read_bundle(tmp_path)


FILES = ["items.parquet", "qrels.parquet", "thumbnails.bin", "systems/clip/image.npy"]


@pytest.mark.parametrize("name", [*FILES, "systems/graded/weights/model.safetensors"])
def test_one_changed_byte_in_any_file_is_found(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: its sha256 is not the manifest's .* make it again"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(DataError, match=f"{name}: the file is missing"):
        read_bundle(bundle)


def manifest(bundle, **changes):
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def signed(bundle, name):
    """Whoever changes a file can change its sha256, too."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    manifest(bundle, files=files | {name: sha256(bundle / name)})


def test_a_damaged_manifest_and_another_schema_are_reported(bundle):
    manifest(bundle, schema=99)
    with pytest.raises(DataError, match="schema is 99, expected 3"):
        read_bundle(bundle)
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_bundle(bundle)


@pytest.mark.parametrize("key", ["files", "splits", "systems", "metrics"])
def test_a_missing_part_of_the_manifest_is_named(bundle, key):
    manifest(bundle, **{key: None})
    with pytest.raises(DataError, match=f"'{key}' is missing"):
        read_bundle(bundle)


def test_nothing_outside_of_the_bundle_is_read(bundle, tmp_path):
    (tmp_path / "secret").write_text("secret")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    manifest(bundle, files=files | {"../secret": sha256(tmp_path / "secret")})
    with pytest.raises(DataError, match="it is outside the bundle"):
        read_bundle(bundle)
    manifest(bundle, files=files)
    (bundle / "items.parquet").unlink()
    (bundle / "items.parquet").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="it is outside the bundle"):
        read_bundle(bundle)


def test_a_systems_name_can_not_be_a_path(bundle):
    systems = json.loads((bundle / "manifest.json").read_text())["systems"]
    manifest(bundle, systems={"../../clip": systems["clip"]})
    with pytest.raises(DataError, match="is not a valid name of a system"):
        read_bundle(bundle)


class _Bomb:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_no_pickle_is_read(bundle, capsys):
    name = "systems/clip/image.npy"
    np.save(bundle / name, np.array([_Bomb()], object), allow_pickle=True)
    signed(bundle, name)
    with pytest.raises(DataError, match="can't be read"):
        read_bundle(bundle)
    (bundle / name).write_bytes(pickle.dumps(_Bomb()))
    signed(bundle, name)
    with pytest.raises(DataError, match="can't be read"):
        read_bundle(bundle)
    assert "a pickle was run" not in capsys.readouterr().out


def test_shapes_columns_and_row_numbers_are_checked(bundle):
    name = "systems/clip/title.npy"
    array = np.load(bundle / name)
    np.save(bundle / name, array[:-1])
    signed(bundle, name)
    with pytest.raises(DataError, match=r"title.npy: it holds float16 \(23, 128\), expected float16 \(24, 128\)"):
        read_bundle(bundle)
    np.save(bundle / name, array)
    signed(bundle, name)
    qrels = parquet.read_table(bundle / "qrels.parquet")
    for changed, problem in (
        (qrels.drop_columns(["score"]), "column 'score' is missing"),
        (qrels.set_column(1, "item", pa.array([24] * len(qrels))), "it refers to a row of item that doesn't exist"),
    ):
        parquet.write_table(changed, bundle / "qrels.parquet")
        signed(bundle, "qrels.parquet")
        with pytest.raises(DataError, match=problem):
            read_bundle(bundle)


def test_a_rankings_rows_are_checked(bundle):
    name = "systems/bm25/ranking.npy"
    ranking_QxK = np.load(bundle / name)
    for wrong in (24, -2):
        np.save(bundle / name, np.where(ranking_QxK == 3, np.int32(wrong), ranking_QxK))
        signed(bundle, name)
        with pytest.raises(DataError, match=r"ranking.npy: it refers to a row of item that doesn't exist"):
            read_bundle(bundle)
    np.save(bundle / name, ranking_QxK[:, :-1])
    signed(bundle, name)
    with pytest.raises(DataError, match=r"ranking.npy: it holds int32 \(40, 11\), expected int32 \(40, 12\)"):
        read_bundle(bundle)


def test_an_unreadable_table_is_reported(bundle):
    (bundle / "queries.parquet").write_text("no table")
    signed(bundle, "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet can't be read"):
        read_bundle(bundle)


def test_a_file_that_is_not_in_the_manifest_is_refused(bundle):
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    del files["systems/clip/gram.npy"]
    manifest(bundle, files=files)
    with pytest.raises(DataError, match=r"gram.npy: it is not in the manifest"):
        read_bundle(bundle)
