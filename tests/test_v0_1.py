"""The run, the export and the bundle in tests/v0_1 were written by version 0.1; today's code reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gcl_toolkit import GCLModel, UserError, load, train
from gcl_toolkit.methods import METHODS
from gcl_toolkit.training.config import MachineConfig, TrainConfig, Tuning
from gcl_toolkit.training.runs import Run, load_model, read_config, read_steps
from gcl_toolkit.views.bundle import read_bundle

FOLDER = Path(__file__).parent / "v0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
ABOUT = {"arguments": read_config(FOLDER / "run")["arguments"]}
QUERY = pa.table({"query": [EXPECTED["text"]]})


def settings():
    """The settings of the run, as gcl train --resume takes them from its config.json."""
    config = read_config(FOLDER / "run")
    written = config["train"]
    tuning = Tuning(**{**written["tuning"], "dimensions": tuple(written["tuning"]["dimensions"])})
    machine = MachineConfig(**{**config["machine"], "log": tuple(config["machine"]["log"])})
    return METHODS[config["method"]], TrainConfig(**{**written, "tuning": tuning}), machine


def test_a_run_has_its_vectors_method_and_records():
    model = load_model(FOLDER / "run")
    np.testing.assert_allclose(model.embed(QUERY, "left")[0], EXPECTED["vector"], atol=1e-6)
    assert read_config(FOLDER / "run")["method"] == "clip"
    assert [record["step"] for record in read_steps(FOLDER / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_resumes_without_a_step_and_other_data_is_refused(tmp_path):
    method, config, machine = settings()
    folder, data = shutil.copytree(FOLDER / "run", tmp_path / "run"), load(FOLDER / "table.csv")["in_domain"]
    fields = load_model(folder).right
    model = GCLModel("small", right=fields, dimension=16, image_size=32, width=8)
    assert list(train(model, data, method, config, machine=machine, run=Run(folder, resume=True, about=ABOUT))) == []
    np.testing.assert_allclose(model.embed(QUERY, "left")[0], EXPECTED["vector"], atol=1e-6)
    with pytest.raises(UserError, match="was started with data"):
        list(train(model, data.only("dev"), method, config, machine=machine, run=Run(folder, resume=True, about=ABOUT)))


def test_an_export_loads_and_its_onnx_towers_give_the_models_vectors():
    model = GCLModel.load(FOLDER / "export")
    np.testing.assert_allclose(model.embed(QUERY, "left")[0], EXPECTED["vector"], atol=1e-6)
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = {"text": {"tokens": model.encoder.tokens([EXPECTED["text"]]).numpy()}}
    inputs["image"] = {"pixels": np.zeros((1, 3, *model.encoder.image_shape), np.uint8)}
    for tower, values in inputs.items():
        session = onnxruntime.InferenceSession(FOLDER / "export" / f"{tower}.onnx", providers=["CPUExecutionProvider"])
        (vectors,) = session.run(["vectors"], values)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
        if tower == "text":
            np.testing.assert_allclose(vectors[0], EXPECTED["vector"], atol=1e-4)


def test_the_app_answers_from_a_bundle():
    pytest.importorskip("gradio", reason="gradio is not installed; pip install 'gcl-toolkit[app]'")
    from gcl_toolkit.app.service import Service

    bundle = read_bundle(FOLDER / "bundle")
    service = Service(bundle)
    state = service.state()
    assert (state.a, state.b) == ("gcl-matrix", "clip")
    for model in bundle.systems:
        metrics = pd.read_parquet(FOLDER / "bundle" / "models" / model / "metrics.parquet")
        pd.testing.assert_frame_equal(service.metrics(model), metrics.drop(columns="query_id"), atol=1e-6)
        for query in service.labels["zero_shot"]:
            ranking = service.search("zero_shot", query, model, k=12)
            row = service.labels["zero_shot"][query]
            stored = metrics.iloc[row].drop("query_id").to_dict()
            assert {str(metric): value for metric, value in ranking.metrics.items()} == pytest.approx(stored)
    assert service.search("in_domain", "some mug", "clip").products  # embedded by the stored weights
