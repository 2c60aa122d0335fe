"""Folders import one way, without circles; heavy packages have one door; functions and files stay small."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ranked

from gcl_toolkit import GCLModel, cli
from gcl_toolkit.data.sources import table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gcl_toolkit"
BASE = {"errors", "files", "machine", "options"}
"""Modules beside the folders: every folder may import them."""
MAY_IMPORT = {
    "losses": set(),
    "data": set(),
    "models": {"data"},
    "methods": {"losses", "data"},
    "training": {"methods", "models", "losses", "data"},
    "measure": {"training", "methods", "models", "data"},
    "curate": {"measure", "training", "models", "data"},
    "studies": {"measure", "training", "methods", "models", "losses", "data"},
    "views": {"studies", "measure", "training", "methods", "models", "data"},
    "serving": {"views", "studies", "measure", "training", "methods", "models", "data"},
    "integrations": {"methods", "losses", "measure", "data"},
    "cli": {"app", "serving", "views", "studies", "curate", "measure", "training", "methods", "models", "data"},
    "app": {"views", "measure", "models", "data"},
}
DOORS = {
    "open_clip": "models/encoders.py",
    "transformers": "models/encoders.py",
    "sentence_transformers": ("studies/rerank.py", "integrations/"),
    "plotly": ("views/figures/", "app/"),
    "umap": "views/space.py",
    "bm25s": "measure/baselines.py",
    "pymilvus": "serving/index.py",
    "faiss": "serving/index.py",
    "ranx": "data/formats.py",
    "datasets": ("data/sources/", "integrations/"),
    "resvg_py": "data/sources/shop/",
    "duckdb": "data/",
    "gradio": "app/",
    "accelerate": "training/engine.py",
    "peft": "models/adapt.py",
    "huggingface_hub": ("serving/export/", "cli/publish.py", "data/sources/"),
    "onnx": "serving/export/",
    "onnxruntime": "serving/export/",
    "simplejpeg": "data/pictures.py",
    "openai": "curate/",
    "httpx2": "curate/",
    "rich": "cli/",
}
FILES = {
    **{path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))},
    **{f"app/{path.relative_to(ROOT / 'app').as_posix()}": path for path in sorted((ROOT / "app").rglob("*.py"))},
}


def imports(path, top_only=False):
    """The full names that a file imports; of `from a import b` both a and a.b."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", FILES)
def test_imports_follow_the_edges_and_heavy_packages_have_one_door(name):
    here = name.split("/")[0]
    for imported in imports(FILES[name]):
        root, *rest = imported.split(".")
        assert root not in DOORS or name.startswith(DOORS[root]), f"{root} may be imported in {DOORS[root]} only"
        if root == "gcl_toolkit" and rest and here in MAY_IMPORT and rest[0] not in BASE | {"__version__"}:
            assert rest[0] == here or rest[0] in MAY_IMPORT[here], f"{here} must not import {rest[0]}"
        if root == "gcl_toolkit" and name.removesuffix(".py") in BASE:
            assert rest[0] in BASE, f"{name} must not import {imported}"


def test_every_folder_has_its_edges():
    assert {name.split("/")[0] for name in FILES if "/" in name} == set(MAY_IMPORT)
    assert {name.removesuffix(".py") for name in FILES if "/" not in name} == BASE | {"__init__"}


def test_there_is_no_circle_of_modules():
    """Also not one that an import inside a function hides."""
    modules = {}
    for name, path in FILES.items():
        module = f"gcl_toolkit.{name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
        modules[module] = path
    edges = {
        module: {i for i in imports(path) if i in modules and i != module and not _is_reexport(module, i)}
        for module, path in modules.items()
    }
    done, trail = set(), []

    def visit(module):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            trail.append(module)
            for other in edges[module]:
                visit(other)
            done.add(trail.pop())

    for module in edges:
        visit(module)


def _is_reexport(module, imported):
    """A module that imports its own package gets the package's submodules, not what its __init__ defines."""
    return module.startswith(f"{imported}.")


def test_no_function_is_longer_than_40_lines_and_no_file_than_350():
    """A function from its `def` to its end, signature and docstring included."""
    long = []
    for name, path in FILES.items():
        text = path.read_text()
        if text.count("\n") > 350:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 40:
                long.append(f"{name}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert not long


def test_the_package_does_not_grow():
    """A ratchet: lower the number when the package shrinks (the aim is 12,500, CHANGELOG.md)."""
    assert sum(path.read_text().count("\n") for path in PACKAGE.rglob("*.py")) <= 23_255


def test_importing_the_package_or_the_app_brings_none_of_the_heavy_ones():
    heavy = ["torch", "open_clip", "transformers", "plotly", "datasets", "bm25s", "gradio", "umap", "pandas"]
    code = f"import sys, gcl_toolkit; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = "import sys, gcl_toolkit.app.service; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_command_imports_what_it_needs_and_nothing_else(tmp_path):
    """torch takes seconds; open_clip, datasets and torch._dynamo several more."""
    model, data = tmp_path / "model", tmp_path / "data"
    encoder = GCLModel("small", dimension=8, width=8, image_size=16, vocabulary=["mug"])
    encoder.save(model)
    table.write({"in_domain": ranked(4, 6)}, data)
    search = ["search", str(model), "mug", "--data", str(data), "--split", "in_domain"]
    slow = ["pandas", "torch._dynamo", "torchvision", "open_clip", "transformers", "datasets", "duckdb", "scipy"]
    none = ["torch", "numpy", "pyarrow", "plotly", *slow]
    cli.main(search)  # stores the products
    cases = ((["--help"], none, "search"), (["search", "--help"], none, "--split"), (search, slow, "title 5"))
    for arguments, excluded, shown in cases:
        code = f"import sys; from gcl_toolkit import cli\ntry: cli.main({arguments})\nexcept SystemExit: pass\n"
        code += f"print([name for name in {excluded} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == ["[]"], (arguments, done.stdout, done.stderr)
        assert shown in done.stdout


def test_public_names_are_not_hidden_by_modules():
    import gcl_toolkit

    assert not [name for name in gcl_toolkit.__all__ if inspect.ismodule(getattr(gcl_toolkit, name))]
    folders = {path.stem for path in PACKAGE.iterdir()}
    assert not folders & set(gcl_toolkit.__all__)


def test_identifiers_and_prose_are_plain_english():
    """Words of version 0.1's idiom, for summary, options, engine, corrupt, not fine-tuned, every N steps."""
    words = re.compile(r"\b(t[o]ld|s[a]id|m[o]tor|t[o]rn|as it c[a]me|so o[f]ten)\b", re.IGNORECASE)
    kinds = {".py", ".md", ".toml", ".html", ".css", ".js"}
    places = ("gcl_toolkit", "app", "benchmarks", "docs", "data", "tests", "notebooks", "*.md")
    files = (path for place in places for path in (ROOT.glob(place) if "*" in place else (ROOT / place).rglob("*")))
    found = []
    for path in files:
        if path.suffix in kinds and not {"v0_1", "student", "downloads"} & {*path.parts}:
            found += [f"{path.relative_to(ROOT)}: {word}" for word in words.findall(path.read_text())]
    assert not found
