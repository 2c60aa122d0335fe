import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import Fields, GCLModel, UserError
from gcl_toolkit.training.runs import Run, load_model, read_steps

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
    for rows in (slice(0, 1), slice(1, 3), slice(2, 6)):
        part = data.corpus.take(pa.array(np.arange(6)[rows]))
        assert model.embed(part, "right") == pytest.approx(whole[rows], abs=1e-5)
    assert model.embed(data.corpus.slice(0, 0), "right").shape == (0, 16)
    assert model.training


TITLES = ["red mug", "mug red", "red mug rug", "blue", "rug mug"] * 60


def model_of_words():
    words = ["red", "mug", "rug", "blue"]
    return GCLModel("small", right=Fields(title=1.0), vocabulary=words, dimension=48, seed=2)


def titled(titles):
    return pa.table({"product_id": [f"p{i}" for i in range(len(titles))], "title": titles})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_vector_is_the_same_to_the_last_bit_in_every_batch(threads):
    model, corpus = model_of_words(), titled(TITLES)
    torch.set_num_threads(threads)
    try:
        vectors = model.embed(corpus, "right")
        assert len(np.unique(vectors, axis=0)) <= 5  # equal titles, equal vectors
        for start, rows in ((0, 1), (3, 2), (7, 9), (100, 33), (150, 131)):
            part = model.embed(corpus.slice(start, rows), "right")
            assert (part == vectors[start : start + rows]).all(), (start, rows)
    finally:
        torch.set_num_threads(1)


def test_a_pretrained_text_encoder_embeds_a_text_alike_in_every_batch(tiny_bert):
    model = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0))
    corpus = titled(["red mug", "mug", "red red mug"] * 50)
    vectors = model.embed(corpus, "right")
    for start, rows in ((0, 1), (3, 2), (7, 9), (40, 100)):
        assert (model.embed(corpus.slice(start, rows), "right") == vectors[start : start + rows]).all()


RANKINGS = """
import hashlib
from test_model import *
from gcl_toolkit.measure.search import top_k
model, queries = model_of_words(), pa.table({"query_id": list("abc"), "query": ["red mug", "rug", "blue mug"]})
corpus = model.embed(titled(TITLES), "right")
whole = top_k(model.embed(queries, "left"), corpus, 200)[1]
for row in range(3):
    for chunk in (7, 64, None):
        assert (top_k(model.embed(queries.slice(row, 1), "left"), corpus, 200, chunk=chunk)[1] == whole[row]).all()
for ranking in whole:  # equal titles follow each other, in row order
    for title in set(TITLES):
        places = [place for place, row in enumerate(ranking) if TITLES[row] == title]
        assert ranking[places].tolist() == sorted(ranking[places])
print(hashlib.sha256(whole.tobytes()).hexdigest())
"""


def test_rankings_with_duplicates_are_the_same_from_every_path_and_instruction_set(capsys):
    """This process has the best instruction set; the others are chosen when a process starts."""
    exec(RANKINGS, {})
    best, digests = torch.backends.cpu.get_cpu_capability(), {capsys.readouterr().out}
    for capability in {"default", "avx2"} - {best.lower()}:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1", "PYTHONPATH": "tests:."}
        done = subprocess.run([sys.executable, "-c", RANKINGS], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


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


def test_a_field_without_a_column_and_a_folder_without_a_model_are_reported(tmp_path):
    with pytest.raises(UserError, match="field 'query' is not a column"):
        GCLModel("small", **WORDS).embed(pa.table({"text": ["mug"]}), "left")
    with pytest.raises(UserError, match=r"contains no model; model.json"):
        GCLModel.load(tmp_path)
    with pytest.raises(UserError, match="holds no model and no checkpoint"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_corrupt_model_is_reported(tmp_path, name):
    GCLModel("small", **WORDS).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{name} is corrupt .*use another checkpoint"):
        GCLModel.load(tmp_path)


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_bad_logit_scale_is_reported(scale):
    with pytest.raises(UserError, match=r"logit_scale is .*; give a finite number > 0"):
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


def test_an_unwritable_output_folder_is_reported(tmp_path):
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
