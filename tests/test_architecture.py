"""Imports go paper <- world <- acts <- views <- promises, heavy packages have one door, names end where they say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gcl_toolkit"
LAYERS = {
    "paper": "errors findings weighting fields losses metrics ranked_data statistics propensity",
    "world": "doctor pictures texts sources encoders model samplers batches index formats",
    "acts": "checkpoints runs adapt engine train search baselines rerank evaluate study summary stages official slices "
    "parity curate",
    "views": "figures results report glossary space bundle export",
    "promises": "recipes hosting cli",
}
LEVEL = {name: level for level, names in enumerate(LAYERS.values()) for name in names.split()}
DOORS = {
    "open_clip": {"encoders"},
    "transformers": {"encoders"},
    "sentence_transformers": {"rerank"},
    "plotly": {"figures"},
    "umap": {"space"},
    "bm25s": {"baselines"},
    "pymilvus": {"index"},
    "faiss": {"index"},
    "ranx": {"formats"},
    "datasets": {"sources"},
    "resvg_py": {"sources"},
    "duckdb": {"sources"},
    "gradio": {"the app, not the package"},
    "accelerate": {"engine"},
    "peft": {"adapt"},
    "huggingface_hub": {"export"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "simplejpeg": {"pictures"},
    "openai": {"curate"},
    "httpx2": {"curate"},
    "tyro": {"cli", "curate"},
    "rich": {"cli"},
}


def imports(path):
    """(module, whether at the top of the file) of every import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "gcl_toolkit":
                names = [f"gcl_toolkit.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node in tree.body


def module_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if module_of(path) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up_and_heavy_packages_have_one_door(path):
    here = module_of(path)
    for name, _ in imports(path):
        root, *rest = name.split(".")
        if root == "gcl_toolkit" and rest:
            assert LEVEL[rest[0]] <= LEVEL[here], f"{path}: {here} imports {rest[0]}, a layer above"
        assert here in DOORS.get(root, {here}), f"{path}: {root} may be imported in {DOORS[root]} only"


def test_every_module_has_a_layer():
    assert {module_of(path) for path in FILES} == set(LEVEL)


def test_importing_the_package_brings_none_of_the_heavy_ones():
    heavy = ["open_clip", "transformers", "plotly", "datasets", "bm25s", "gradio", "umap", "torchvision"]
    code = f"import sys, gcl_toolkit; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
