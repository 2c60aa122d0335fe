"""Shared by the tests: small real pictures, small RankedData, and the real data where it is there."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: sums in another order end in other bits

import pyarrow as pa
import pytest
from PIL import Image

from gcl_toolkit.data.ranked_data import IMAGE, RankedData

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that a test starts would compile the package anew
sys.dont_write_bytecode = False

DATA = Path(__file__).parents[2] / "shared" / "data"
FIRST = ("test_notebooks.py", "test_triton.py", "test_browser.py", "test_lessons.py", "test_vectors.py")
"""The files that take longest: with --no-loadscope-reorder, no worker ends long after the others."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_collection_finish():
    """The collector took a tenth of the time, most of it for the objects of imported packages, which stay."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def png(colour: int, size: int = 4) -> bytes:
    """A small real PNG; different colours have different bytes."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), (colour % 256, colour // 256, 7)).save(out, "PNG")
    return out.getvalue()


def ranked(queries: int = 4, products: int = 6, **columns) -> RankedData:
    """Queries q0.., products p0.. with title and picture, every pair scored 1 + product row."""
    pairs = [(q, p) for q in range(queries) for p in range(products)]
    return RankedData(
        pa.table({"query_id": [f"q{q}" for q in range(queries)], "query": [f"mug {q}" for q in range(queries)]}),
        pa.table(
            {
                "product_id": [f"p{p}" for p in range(products)],
                "title": [f"title {p}" for p in range(products)],
                "image": pa.array([{"bytes": png(p), "path": None} for p in range(products)], IMAGE),
            }
        ),
        pa.table(
            {
                "query_id": [f"q{q}" for q, _ in pairs],
                "product_id": [f"p{p}" for _, p in pairs],
                "score": [1.0 + p for _, p in pairs],
                **columns,
            }
        ),
        name="toy",
        card={"made": "by a test"},
    )


def clip_folder(folder: Path, size, resize_mode: str = "shortest", text: dict | None = None) -> str:
    """A tiny CLIP model as `local-dir:` reads it; returns its name."""
    import open_clip
    from safetensors.torch import save_file

    vision = {"image_size": size, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    own = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text or own}
    model = (open_clip.CustomTextCLIP if text else open_clip.CLIP)(**config)
    save_file({name: v.contiguous() for name, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": resize_mode}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return f"local-dir:{folder}"


@pytest.fixture
def real_data():
    """The folder of a real data set by name; skips the test where it isn't there."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"real data set {name} is not at {DATA}")
        return DATA / name

    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    import transformers

    """The folder of a Hugging Face text encoder with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", ":", "red", "mug"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """A folder with the study and the bundle of small_bundle.py, `study` and `bundle`; only to be read. The workers of
    pytest-xdist share it."""
    import small_bundle
    from filelock import FileLock

    place = tmp_path_factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "small"
    with FileLock(f"{folder}.lock"):
        if not (folder / "bundle").exists():
            small_bundle.make(folder)
    return folder


@pytest.fixture(scope="session")
def small_app(small_study, tmp_path_factory):
    """The app's address, serving the small bundle."""
    from chrome import served

    judgements = tmp_path_factory.mktemp("small_app") / "judgements.jsonl"
    with served(small_study / "bundle", "--judgements", str(judgements)) as address:
        yield address


@pytest.fixture(scope="module")
def chromium(request):
    """The system's Chromium; without WebGL for modules that state `WEBGL = False`. While it is there an event loop runs
    in this thread: never two, not longer than needed."""
    from chrome import CHROMIUM, FLAGS, WITHOUT_WEBGL
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = FLAGS if getattr(request.module, "WEBGL", True) else WITHOUT_WEBGL
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, url):
    """A fresh page; afterwards: nothing went to another host, nothing was executed, the console is free of errors."""
    from chrome import WAIT

    page, found = chromium.new_page(viewport={"width": 1440, "height": 1000}), []
    page.set_default_timeout(WAIT)
    page.on("console", lambda m: found.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (found.append(f"executed: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else found.append(f"to: {r.url}"))
    yield page
    page.close()
    assert not found, found
