"""A run goes out as others load it: plain open_clip, transformers, ONNX; its card; the hub; what is refused."""

import io
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from conftest import ranked
from PIL import Image
from pyarrow import parquet

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, Tuning, UserError, cli, train
from gcl_toolkit.cli.common import command
from gcl_toolkit.data.ranked_data import IMAGE
from gcl_toolkit.files import write_json
from gcl_toolkit.methods import METHODS
from gcl_toolkit.serving.export import export, hub, towers
from gcl_toolkit.studies.study import StudyConfig, read_study, study
from gcl_toolkit.studies.summary import summarise
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import Run, load_model

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
OTHERS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
BOTH = Fields(image=0.9, title=0.1)
TOKEN = "hf_" + "s3cret" * 6


def noise(width, height, seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def trained(model, folder, arguments=None, **tuning):
    config = TrainConfig(steps=2, batch=4, learning_rate=1e-2, warmup=0.0, tuning=Tuning(**tuning))
    run, machine = Run(folder, about={"arguments": arguments} if arguments else {}), MachineConfig(precision="float32")
    list(train(model, ranked(3, 4), METHODS["gcl-linear"], config, machine=machine, run=run))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A fine-tuned run of open_clip's architecture, with adapters and pictures prepared in its own way, exported."""
    import open_clip

    place = tmp_path_factory.mktemp("export")
    (place / "gcl-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(place / "gcl-tiny.json")
    run = trained(GCLModel("gcl-tiny", right=BOTH, preprocess=OTHERS), place / "run", lora=2)
    manifest = export(run, place / "out", data={"all": ranked(3, 4)}, license="apache-2.0")
    return run, place / "out", manifest


@pytest.fixture
def small(tmp_path):
    return trained(GCLModel("small", dimension=8, width=8), tmp_path / "small")


def code_of(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    return code


PROBE = """
import json, sys
sys.modules["gcl_toolkit"] = None  # an import of it would fail
{code}
rows = [embed(RIGHT, image=Image.open(f"../{{i}}.png"), title=f"title {{i}}").tolist() for i in range(3)]
found = {{"query": query.tolist(), "rows": rows, "scale": model.logit_scale.exp().item(), "weights": RIGHT}}
print(json.dumps(found))
"""


def test_plain_open_clip_loads_it_by_the_cards_code_and_embeds_the_same(tiny):
    """The third picture is resized: by Pillow there, by torch's antialiased resizing here."""
    run, out, _ = tiny
    pictures = [noise(32, 32, 0), noise(32, 32, 1), noise(50, 40, 2)]
    for i, picture in enumerate(pictures):
        (out.parent / f"{i}.png").write_bytes(picture)
    code = PROBE.format(code=code_of((out / "README.md").read_text()))
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    model = load_model(run)
    assert model.encoder.preprocess == OTHERS
    ours = model.embed(pa.table({"query": ["red striped mug"]}), "left")[0]
    assert np.abs(ours - found["query"]).max() < 1e-6
    images = pa.array([{"bytes": picture, "path": None} for picture in pictures], IMAGE)
    products = pa.table({"product_id": list("abc"), "image": images, "title": [f"title {i}" for i in range(3)]})
    difference = np.abs(model.embed(products, "right") - found["rows"]).max(1)
    assert difference[:2].max() < 1e-6
    assert difference[2] < 5e-3
    assert found["scale"] == pytest.approx(model.logit_scale.item(), rel=1e-5)
    assert found["scale"] != pytest.approx(1 / 0.07, rel=1e-3)
    assert found["weights"] == dict(BOTH)


def test_both_towers_are_onnx_and_fused_they_are_the_products_vectors(tiny):
    run, out, manifest = tiny
    assert manifest["onnx"].keys() == {"text", "image"}
    assert max(manifest["onnx"].values()) < towers.PARITY == 1e-4
    model, data = load_model(run), ranked(3, 4)

    def vectors(tower, inputs):
        session = onnxruntime.InferenceSession(out / f"{tower}.onnx", providers=["CPUExecutionProvider"])
        return session.run(["vectors"], inputs)[0]

    pictures = [Image.open(io.BytesIO(row["bytes"])) for row in data.corpus["image"].to_pylist()]
    pixels = np.stack([model.encoder.pixels(picture) for picture in pictures])
    titles = model.encoder.tokens(data.corpus["title"].to_pylist(), "right").numpy()
    fused = 0.9 * vectors("image", {"pixels": pixels}) + 0.1 * vectors("text", {"tokens": titles})
    fused /= np.linalg.norm(fused, axis=1, keepdims=True)
    assert np.abs(fused - model.embed(data.corpus, "right")).max() < 1e-4
    written = parquet.read_table(out / "vectors.parquet")
    assert written["product_id"].to_pylist() == data.product_ids.tolist()
    assert np.abs(fused - np.stack(written["vector"].to_numpy())).max() < 1e-4
    assert b"site-packages" not in (out / "image.onnx").read_bytes() + (out / "text.onnx").read_bytes()


def test_a_tower_that_differs_is_refused_and_nothing_is_left(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx is not installed; pip install 'gcl-toolkit\[export\]'"):
        export(small, tmp_path / "out")
    monkeypatch.setattr(towers, "_write", lambda *_: None)
    monkeypatch.setattr(towers, "_difference", lambda *_: float("nan"))
    with pytest.raises(UserError, match=r"text.onnx differs from the model by nan; at most 0.0001 is expected"):
        export(small, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_small_encoder_loads_by_the_cards_code_and_its_towers_run(small, tmp_path, monkeypatch, capsys):
    status, out, error = gcl(capsys, "export", small, tmp_path / "out")
    assert status == 0, error
    assert "open_clip doesn't know the encoder small" in out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "open_clip and transformers can't load it" in card
    assert not list((tmp_path / "out").glob("open_clip*"))
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(code_of(card), names)
    model = load_model(small)
    queries = ["mug 1", "title mug 2 unknown", "nothing known"]
    ours = model.embed(pa.table({"query": queries}), "left")
    assert (names["model"].embed(pa.table({"query": queries}), "left") == ours).all()
    session = onnxruntime.InferenceSession("text.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"tokens": model.encoder.tokens(queries).numpy()})
    assert np.abs(found - ours).max() < 1e-4


def test_a_text_encoder_loads_in_transformers_and_its_card_hides_local_paths(tiny_bert, tmp_path, monkeypatch):
    import transformers

    model = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0), length=12, prefix="query: ", product_prefix="")
    arguments = {"data": f"{tmp_path}/mugs.csv:quarantine={tmp_path}/bad.csv", "pretrained": None}
    manifest = export(trained(model, tmp_path / "run", arguments), tmp_path / "out")
    assert manifest["onnx"].keys() == {"text"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`text:{tiny_bert.name}`, started from its pretrained weights" in card
    assert "# GCL model on mugs.csv" in card
    assert str(tiny_bert.parent) not in card + (tmp_path / "out" / "export.json").read_text()
    assert transformers.AutoModel.from_pretrained(tmp_path / "out").config.hidden_size == 16
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(code_of((tmp_path / "out" / "README.md").read_text()), names)
    ours = load_model(tmp_path / "run").embed(pa.table({"query": ["red striped mug"]}), "left")
    assert np.abs(names["vectors"] - ours).max() < 1e-6


def test_sentence_transformers_embeds_as_the_exported_text_encoder(tiny_bert, tmp_path):
    """The same prefixes, the same greatest length and the same pooling."""
    from sentence_transformers import SentenceTransformer

    model = GCLModel(f"text:{tiny_bert}", right=Fields(title=1.0), length=12, prefix="query: ", product_prefix="mug ")
    manifest = export(trained(model, tmp_path / "run"), tmp_path / "out", onnx=False)
    assert "1_Pooling/config.json" in manifest["files"]
    assert set(manifest["files"]) < set(hub.exported_files(tmp_path / "out"))
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert theirs.max_seq_length == 12
    texts = ["red mug", "mug " * 50]
    ours = load_model(tmp_path / "run")
    for side, column, embed in (("left", "query", theirs.encode_query), ("right", "title", theirs.encode_document)):
        assert np.abs(ours.embed(pa.table({"product_id": ["a", "b"], column: texts}), side) - embed(texts)).max() < 1e-6


def test_the_card_of_a_studys_model_has_its_table_with_intervals_and_controls(tmp_path):
    from huggingface_hub import ModelCard

    data = ranked(6, 6)
    divided = replace(data, queries=data.queries.append_column("division", pa.array(["dev", "test"] * 3)))
    splits = {"in_domain": divided, "zero_shot": divided}
    config = StudyConfig(("bm25", "clip", "graded"), train=TrainConfig(steps=2, batch=4), right=Fields(title=1.0))
    list(study([World("toys", splits)], config, tmp_path / "study"))
    results = replace(
        summarise(read_study(tmp_path / "study")),
        command="gcl compare",
        date="2026-11-22",
        machine={"processor": "a processor"},
        data={"toys": {"made": "by a test", "path": "/home/me/toys"}},
    )
    results.write(tmp_path / "study" / "results.json")
    export(tmp_path / "study" / "runs" / "toys" / "graded" / "seed_0", tmp_path / "out", onnx=False)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    mean, low, high = results.averages["NDCG@10"]["graded"]["zero_shot"]
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in re.search(r"^\| \*\*graded\*\*.*$", card.text, re.M)[0]
    assert re.search(r"^\| clip \| NDCG@10 \| zero_shot \| [+-]", card.text, re.M)
    assert "| bm25 |" in card.text
    assert "method `graded`, 2 steps of 4" in card.text
    assert "`small`, started from random weights" in card.text
    assert "made: by a test" in card.text
    assert "/home/me" not in card.text
    metrics = {(one.metric_name, one.dataset_split): one.metric_value for one in card.data.eval_results}
    assert metrics["NDCG@10", "zero_shot"] == pytest.approx(mean, abs=1e-4)
    assert "No licence is stated" in card.text


def test_the_card_of_a_single_run_claims_no_result(tiny):
    card = (tiny[1] / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "library_name: open_clip" in card
    assert "None: this model was not trained in a study" in card
    assert re.search(r"^- data: \w", card, re.M)
    assert "`gcl-tiny`, initial weights not recorded" in card
    assert "lora 2 (its adapters are merged into the weights)" in card


# -- what is refused ---------------------------------------------------------------------------------------------------


def gcl(capsys, *arguments):
    status = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr()
    return status, " ".join(out.out.split()), out.err.strip()


def unfinished(run, out):
    config = json.loads((run / "config.json").read_text())
    config["train"]["steps"] = 9
    write_json(run / "config.json", config)


def no_checkpoint(run, out):
    for file in run.glob("checkpoints/*/*"):
        file.unlink()


def unknown_encoder(run, out):
    (checkpoint,) = run.glob("checkpoints/*")
    model = {**json.loads((checkpoint / "model.json").read_text()), "encoder": {"name": "ViT-Z-99"}}
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "state.safetensors").unlink()
    (checkpoint / "model.json").write_text(json.dumps(model))


def files_in_out(run, out):
    out.mkdir()
    (out / "letters.txt").write_text("mine")


BAD = {
    unfinished: r"stopped at step 2 of 9; finish it with gcl train --resume",
    no_checkpoint: r"holds no model and no checkpoint; give the folder of a run",
    unknown_encoder: r"unknown model 'ViT-Z-99'; 'small'",
    files_in_out: r"already holds files; choose a new or empty folder",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore:.*is corrupt or incomplete")
def test_a_run_that_can_not_be_exported_is_refused_in_one_line(small, tmp_path, capsys, make):
    out = tmp_path / "out"
    make(small, out)
    before = sorted(tmp_path.rglob("*"))
    status, _, error = gcl(capsys, "export", small, out, "--no-onnx")
    assert status == 2
    assert re.search(BAD[make], error), error
    assert error.startswith("gcl: ")
    assert "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """A hub on 127.0.0.1 that takes what it is sent, or, once `answer` is set, answers with that."""
    from huggingface_hub import constants

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            server.asked.append((self.path.split("?")[0], self.headers["Authorization"], body))
            status, reply = server.answer or (200, self.reply(body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def reply(self, body):
            if "/preupload/" in self.path:
                files = [file["path"] for file in json.loads(body)["files"]]
                return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
            address = f"{constants.ENDPOINT}/me/mugs"
            return {"url": address, "commitUrl": f"{address}/commit/1", "commitOid": "1", "warnings": [], "errors": []}

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.answer = [], None
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def out(small, tmp_path):
    export(small, tmp_path / "out", onnx=False)
    return tmp_path / "out"


def holding(text, folder):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_push_sends_what_export_wrote_and_the_token_as_a_header_only(served, out, capsys):
    (out / "notes.txt").write_text("not for others")
    status, shown, error = gcl(capsys, "push", out, "me/mugs")
    assert status == 0, error
    assert shown.endswith("/me/mugs")
    assert {header for _, header, _ in served.asked} == {f"Bearer {TOKEN}"}
    assert json.loads(served.asked[0][2])["name"] == "mugs"
    assert json.loads(served.asked[0][2]).get("visibility", "private") == "private"
    path, _, commit = served.asked[-1]
    assert path == "/api/models/me/mugs/commit/main"
    sent = [json.loads(line)["value"] for line in commit.splitlines()]
    assert {one["path"] for one in sent if "path" in one} == set(hub.exported_files(out))
    assert "notes.txt" not in commit
    assert not any(TOKEN in body for _, _, body in served.asked)
    assert TOKEN not in shown + error
    assert not holding(TOKEN, out.parent)


def test_a_dry_run_asks_nobody(served, out, capsys, monkeypatch):
    status, shown, _ = gcl(capsys, "push", out, "me/mugs", "--dry-run")
    assert status == 0
    assert "model.safetensors" in shown
    assert "destination: me/mugs (private if it is new); nothing was uploaded" in shown
    assert not served.asked
    assert TOKEN not in shown


def test_what_the_hub_refuses_is_one_line_without_the_token(served, out, capsys):
    served.answer = 401, {"error": f"Invalid credentials {TOKEN} in Authorization header"}
    status, shown, error = gcl(capsys, "push", out, "me/mugs")
    assert status == 2
    assert error.startswith("gcl: me/mugs could not be pushed (")
    assert "401" in error
    assert "\n" not in error
    assert TOKEN not in shown + error


def test_an_error_that_quotes_the_token_is_shown_without_it(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise RuntimeError(f"bad header 'Authorization: Bearer {TOKEN}'\nand more")

    (tmp_path / "export.json").write_text('{"files": []}')
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError) as error:
        hub.push(tmp_path, "me/mugs")
    assert str(error.value).startswith("me/mugs could not be pushed (bad header 'Authorization: Bearer ***'")
    assert "\n" not in str(error.value)


def test_a_missing_export_name_or_token_is_reported(out, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    for arguments, words in (
        ((tmp_path, "me/mugs"), "holds no export"),
        ((out, "me/too/many"), "'me/too/many' is not a repository"),
        ((out, "me/mugs"), "no token for the hub: set HF_TOKEN"),
    ):
        status, _, error = gcl(capsys, "push", *arguments)
        assert (status, words in error, "\n" in error) == (2, True, False), error
    (out / "model.safetensors").unlink()
    assert "lacks model.safetensors" in gcl(capsys, "push", out, "me/mugs", "--dry-run")[2]


@pytest.mark.parametrize("typed", [["--token", TOKEN], [f"--token={TOKEN}"], ["--uri", f"http://me:{TOKEN}@host:1"]])
def test_a_command_is_written_without_its_secrets(monkeypatch, typed):
    monkeypatch.setattr(sys, "argv", ["gcl", "index", "run", *typed, "--kind", "FLAT"])
    assert TOKEN not in command()
    assert command().startswith("gcl index run --")
    assert command().endswith(" --kind FLAT")
