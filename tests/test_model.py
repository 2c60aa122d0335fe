import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import Fields, GCLModel, UserError
from gcl_toolkit.runs import Run, load_model, read_steps

WORDS = {"vocabulary": ["mug", "title"], "dimension": 16}


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = GCLModel("small", seed=1), GCLModel("small", seed=1), GCLModel("small", seed=2)
    assert (torch.random.get_rng_state() == before).all()
    pairs = list(zip(a.state_dict().items(), b.state_dict().values(), c.state_dict().values(), strict=True))
    assert all((x == y).all() for (_, x), y, _ in pairs)
    assert any((x != z).any() for (_, x), _, z in pairs)


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch():
    data, model = ranked(4, 6), GCLModel("small", **WORDS)
    whole = model.embed(data.corpus, "right")
    assert whole.shape == (6, 16)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.embed(data.corpus, "right", batch=4) == pytest.approx(whole, abs=1e-5)
    assert model.embed(data.corpus.slice(0, 0), "right").shape == (0, 16)
    assert model.training


def test_saved_and_loaded_it_embeds_the_same(tmp_path):
    data, model = ranked(), GCLModel("small", left=Fields(query=1), right=Fields(title=0.3, image=0.7), seed=4, **WORDS)
    model.save(tmp_path / "m")
    again = GCLModel.load(tmp_path / "m")
    assert again.right == model.right
    assert (again.embed(data.corpus, "right") == model.embed(data.corpus, "right")).all()
    assert (again.embed(data.queries, "left") == model.embed(data.queries, "left")).all()
    assert not any(path.suffix in (".pt", ".pkl", ".bin") for path in (tmp_path / "m").iterdir())


def test_a_model_of_open_clip_goes_the_same_way(tmp_path):
    data, model = ranked(2, 2), GCLModel("ViT-S-32-alt", seed=1)
    model.save(tmp_path)
    again = GCLModel.load(tmp_path)
    assert (again.embed(data.corpus, "right") == model.embed(data.corpus, "right")).all()


def test_a_field_without_a_column_and_a_folder_without_a_model_are_told(tmp_path):
    with pytest.raises(UserError, match="field 'query' is not a column"):
        GCLModel("small", **WORDS).embed(pa.table({"text": ["mug"]}), "left")
    with pytest.raises(UserError, match=r"holds no model; model.json"):
        GCLModel.load(tmp_path)
    with pytest.raises(UserError, match="holds no model and no checkpoint"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_torn_model_is_told(tmp_path, name):
    GCLModel("small", **WORDS).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{name} can't be read .*it is torn"):
        GCLModel.load(tmp_path)


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_logit_scale_that_is_none_is_told(scale):
    with pytest.raises(UserError, match=r"logit_scale is .*; a number > 0"):
        GCLModel("small", logit_scale=scale)


def test_a_run_keeps_its_newest_whole_checkpoint(tmp_path):
    run, model = Run(tmp_path), GCLModel("small", **WORDS)
    run.configure({"steps": 2})
    run.record({"step": 1, "loss": 0.5})
    run.checkpoint(model, 1)
    with torch.no_grad():
        model.log_logit_scale += 1
    run.checkpoint(model, 2)
    (tmp_path / "checkpoints" / "step_3.part").mkdir()
    assert load_model(tmp_path).logit_scale == model.logit_scale
    assert read_steps(tmp_path) == [{"step": 1, "loss": 0.5}]
    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 2}


def test_an_unwritable_output_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be written to.*choose another output folder"):
        Run(tmp_path / "file" / "run")


def test_embedding_leaves_what_was_in_evaluation_in_evaluation():
    model = GCLModel("small", right=Fields(title=1.0), **WORDS)
    model.train()
    model.encoder.text_tower.eval()
    model.embed(ranked().corpus, "right")
    assert model.training
    assert not model.encoder.text_tower.training
