"""A run needs no file outside its folder, whatever encoder it started from, and no other process writes there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import clip_folder, png, ranked
from safetensors.torch import load_file

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, UserError, cli, train
from gcl_toolkit.data.sources import absolute
from gcl_toolkit.serving.export import export
from gcl_toolkit.training.runs import Run, read_config, read_steps

BOTH = Fields(image=0.5, title=0.5)


def clip(place, bert):
    (place / "base").mkdir()
    clip_folder(place / "base", 32)
    return "local-dir:base", "image=0.5,title=0.5"


def clip_with_a_text_tower_of_transformers(place, bert):
    """Its tower's configuration is in a folder of its own."""
    shutil.copytree(bert, place / "base")
    shutil.copytree(bert, place / "tower")
    text = {"hf_model_name": str(place / "tower"), "hf_tokenizer_name": "bert", "context_length": 12}
    clip_folder(place / "base", 32, text={**text, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"})
    return "local-dir:base", "image=0.5,title=0.5"


def text(place, bert):
    shutil.copytree(bert, place / "base")
    return "text:base", "title=1"


@pytest.fixture(scope="module", params=[clip, clip_with_a_text_tower_of_transformers, text], ids=lambda f: f.__name__)
def moved(request, tiny_bert, tmp_path_factory):
    """The folder of a run on a relative base and relative data, trained to the end, and its copy that was stopped
    before; both bases are gone, and the data stays."""
    place = tmp_path_factory.mktemp("moved")
    rows = [f"mug {q},p{p},title {p},{p}.png,{1 + p}" for q in range(8) for p in range(4)]
    (place / "mugs.csv").write_text("\n".join(["query,product_id,title,image,score", *rows]))
    for p in range(4):
        (place / f"{p}.png").write_bytes(png(p, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        encoder, right = request.param(place, tiny_bert)
        run = ("train", "--data", "mugs.csv", "--encoder", encoder, "--right", right, "--out", "run", "--lora", "2")
        machine = ("--precision", "float32", "--save-minutes", "0", "--workers", "0")
        cli.main([*run, *machine, "--steps", "3", "--batch", "4", "--learning-rate", "1e-2"])
    stopped = place / "stopped"
    shutil.copytree(place / "run", stopped)
    shutil.rmtree(stopped / "checkpoints" / "step_3")
    for base in ("base", "tower"):
        shutil.rmtree(place / base, ignore_errors=True)
    return place


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_resumes_from_another_folder_with_the_same_weights(moved):
    cli.main(["train", "--resume", str(moved / "stopped")])
    weights = [load_file(moved / run / "checkpoints/step_3/model.safetensors") for run in ("run", "stopped")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(read_steps(moved / "stopped")) == 3


def test_it_is_evaluated_on_its_own_data_from_another_folder(moved, capsys):
    cli.main(["evaluate", str(moved / "run"), "--division", "all"])
    assert "in_domain" in capsys.readouterr().out


def test_it_is_exported_without_a_local_path(moved, tmp_path):
    export(moved / "run", tmp_path / "out", onnx=False)
    for file in (tmp_path / "out").rglob("*.*"):
        if file.suffix in (".md", ".json"):
            assert str(moved) not in file.read_text().replace(str(moved / "tower"), ""), file.name
    assert "started from its pretrained weights" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_from_the_hub_is_read_without_the_hub(tmp_path):
    (tmp_path / "base").mkdir()
    model = GCLModel(clip_folder(tmp_path / "base", 32), right=BOTH, seed=3)
    model.save(tmp_path / "model")
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["encoder"]["name"] == "local-dir:base"
    description["encoder"]["name"] = "hf-hub:nobody/nothing"
    (tmp_path / "model" / "model.json").write_text(json.dumps(description))
    again = GCLModel.load(tmp_path / "model")
    assert again.seed == 3
    data = ranked(2, 3)
    assert (again.embed(data.corpus, "right") == model.embed(data.corpus, "right")).all()


def test_paths_in_the_name_of_a_source_become_absolute(tmp_path):
    for name in ("t.csv", "shop"):
        Path(name).touch()
    assert absolute("shop:seed=1") == "shop:seed=1"  # the name of a source, even beside a file of that name
    assert absolute("t.csv") == f"{tmp_path}/t.csv"
    assert absolute("t.csv:quarantine=bad.csv,seed=2") == f"{tmp_path}/t.csv:quarantine={tmp_path}/bad.csv,seed=2"
    assert absolute("missing.csv") == "missing.csv"


# -- one process a folder ----------------------------------------------------------------------------------------------


def learn(folder, steps=2):
    model = GCLModel("small", right=Fields(title=1.0), dimension=8, width=8)
    config = TrainConfig(steps=steps, batch=4)
    machine = MachineConfig(precision="float32", workers=0, save_minutes=0)
    yield from train(model, ranked(3, 4), config=config, machine=machine, run=Run(folder, resume=True))


def test_two_trainings_in_one_folder(tmp_path):
    first = learn(tmp_path)
    next(first)
    with pytest.raises(UserError, match=r"another process is training in .*; wait until it ends, or choose another"):
        next(learn(tmp_path))
    first.close()
    assert [record["step"] for record in learn(tmp_path)] == [2]


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from gcl_toolkit.training.runs import Run\n"
        "with Run(Path(sys.argv[1])).locked(): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is training"):
            next(learn(tmp_path))
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert len(list(learn(tmp_path))) == 2


# -- several processes -------------------------------------------------------------------------------------------------


def test_accelerate_that_started_one_process_of_several_is_an_error(tmp_path, monkeypatch):
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"several processes but has started one.*; use torchrun --nproc-per-node N"):
        next(learn(tmp_path))


@pytest.mark.slow
def test_launchers_start_two_ranks_or_say_what_does(tmp_path):
    def launched(*launcher):
        settings = (
            "--data",
            "shop",
            "--right",
            "title=1",
            "--steps",
            "1",
            "--batch",
            "8",
            "--out",
            str(tmp_path / "run"),
        )
        command = [sys.executable, "-m", *launcher, "-m", "gcl_toolkit.cli", "train", *settings]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = launched("accelerate.commands.launch", "--cpu", "--num_processes", "2")
    assert done.returncode != 0
    assert "use torchrun --nproc-per-node N -m gcl_toolkit.cli train" in done.stderr
    done = launched("torch.distributed.run", "--nproc-per-node", "2")
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run")["ranks"] == 2


@pytest.mark.slow
def test_two_processes_of_mpi_are_two_ranks(tmp_path):
    """Started here with the variables that Open MPI sets."""
    command = [sys.executable, "-m", "gcl_toolkit.cli", "train", "--right", "title=1", "--steps", "1", "--batch", "8"]
    processes = []
    for rank in "01":
        mpi = {f"OMPI_COMM_WORLD_{name}": rank for name in ("RANK", "LOCAL_RANK")} | {"OMPI_COMM_WORLD_SIZE": "2"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
        processes.append(
            subprocess.Popen([*command, "--out", str(tmp_path / "run")], env={**os.environ, **mpi, **place})
        )
    assert [process.wait(300) for process in processes] == [0, 0]
    assert read_config(tmp_path / "run")["ranks"] == 2
