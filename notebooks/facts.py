"""The register of facts: what each notebook asserts, and the range of the asserted numbers over random seeds.

`python notebooks/facts.py 04 --seeds 20` runs the source in tiny mode with GCL_SEED=0..19 and writes the results into
facts.toml. The entries of notebooks that aren't named stay unchanged.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(
    0, str(HERE.parent)
)  # this checkout's library and tests, not an installed library
SOURCES = {path.stem: path for path in sorted(HERE.glob("[0-9][0-9]_*.py"))}
REGISTER = HERE / "facts.toml"
HEAD = """\
# Every asserted fact of the notebooks: its test; the number of seeds (GCL_SEED, tiny mode); for how many of them it held;
# the range of each number in the test, from left to right. Made by `python notebooks/facts.py`.
"""


@contextlib.contextmanager
def local_hub():
    """Inside, the hub is a server of this process, with the generated shop as MarqoGS and an untrained CLIP,
    test/small-clip: for notebook 10 in tiny mode, here and in kernels."""
    import pytest

    from tests.hub import Hub

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop_as_marqo(folder / "hub")
        small_clip(folder / "hub" / "models" / "test" / "small-clip")
        with Hub(folder / "hub") as hub, pytest.MonkeyPatch.context() as patch:
            hub.use(patch, folder / "cache")
            yield


def shop_as_marqo(
    folder: Path, queries: int = 200, products: int = 400, listed: int = 24
) -> None:
    """The generated shop in the layout that MarqoGS has on the hub: a fifth of the queries, half the products held out."""
    import pyarrow as pa
    from pyarrow import parquet

    from gcl_toolkit.curate.demo import Shop
    from gcl_toolkit.data.sources.shop.draw import to_png
    from tests.replicas import MARQO, PARTS, _readme

    shop, data, sizes = Shop(products, queries), folder / MARQO / "data", {}
    data.mkdir(parents=True)
    pictures = [to_png(shop.catalogue.look(product), 64) for product in range(products)]
    for split, (part, half) in PARTS.items():
        rows = [
            {
                "image": {"bytes": pictures[product], "path": f"{product}.png"},
                "query": query.text,
                "product_id": str(product),
                "position": position,
                "title": shop.catalogue.titles[product],
                "pair_id": f"{number}_{product}",
                "score_linear": 101 - position,
                "score_reciprocal": 1 / position,
                "no_score": 1,
                "query_id": str(number),
            }
            for number, query in enumerate(shop.queries)
            if (number % 5 == 4) == part
            for position, product in enumerate(shop.rankings[number][:listed].tolist(), 1)
            if product % 2 == half
        ]
        table = pa.Table.from_pylist(
            sorted(rows, key=lambda row: (row["query"], row["position"]))
        )
        sizes[split] = (table.num_rows, table.nbytes)
        parquet.write_table(table, data / f"{split}-00000-of-00001.parquet", row_group_size=100)
    (data.parent / "README.md").write_text(_readme(table.schema, sizes))


def small_clip(folder: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = open_clip.CLIP(**config).state_dict()
    folder.mkdir(parents=True)
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    about = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))


def code(name: str) -> list[str]:
    """The code cells of a py:percent source."""
    parts = re.split(r"^# %%(.*)\n", SOURCES[name].read_text(), flags=re.M)[1:]
    return [
        text.strip("\n")
        for title, text in zip(parts[::2], parts[1::2], strict=True)
        if not title.strip()
    ]


def facts(name: str) -> dict[str, str]:
    """Message -> test of every assertion with a message."""
    nodes = ast.walk(ast.parse("\n".join(code(name))))
    return {
        message(node): ast.unparse(node.test)
        for node in nodes
        if isinstance(node, ast.Assert) and node.msg is not None
    }


def message(node: ast.Assert) -> str:
    """The message of an assertion; of an f-string, the text before its first value."""
    text = node.msg.values[0] if isinstance(node.msg, ast.JoinedStr) else node.msg
    return text.value.rstrip(" (")


class Noting(ast.NodeTransformer):
    """`assert a < 3, "message"` becomes `note_("message", a < 3, [a])`."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        if node.msg is None:
            return node
        test = node.test
        sides = [test.left, *test.comparators] if isinstance(test, ast.Compare) else []
        sides = [side for side in sides if any(isinstance(n, ast.Name) for n in ast.walk(side))]
        arguments = [ast.Constant(message(node)), test, ast.List(sides, ast.Load())]
        call = ast.Call(ast.Name("note_", ast.Load()), arguments, [])
        return ast.copy_location(ast.Expr(call), node)


def measure(name: str, seed: int) -> dict[str, list[tuple[bool, list]]]:
    """Message -> for each time it is asserted, whether it holds and the values that it compares."""
    os.environ.update(GCL_MODE="tiny", GCL_SEED=str(seed))
    noted: dict[str, list[tuple[bool, list]]] = {}
    scope = {
        "__name__": "notebook",
        "note_": lambda fact, holds, sides: noted.setdefault(fact, []).append(
            (bool(holds), sides)
        ),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        for text in code(name):
            tree = ast.fix_missing_locations(Noting().visit(ast.parse(text)))
            exec(compile(tree, name, "exec"), scope)
    return noted


def entry(test: str, runs: list[list[tuple[bool, list]]]) -> dict:
    """The register's entry for a fact, with a range if the test compares numbers."""
    held = sum(all(holds for holds, _ in run) for run in runs)
    summary = {"test": test, "seeds": len(runs), "held": held}
    try:
        sides = np.array([sides for run in runs for _, sides in run], float)
    except (TypeError, ValueError):
        return summary
    if sides.ndim != 2 or not sides.size:
        return summary
    ranges = [[float(f"{end:.3g}") for end in (side.min(), side.max())] for side in sides.T]
    return {**summary, "range": ranges if ranges[1:] else ranges[0]}


def write(register: dict[str, dict[str, dict]]) -> None:
    parts = [HEAD]
    for name, entries in sorted(register.items()):
        for fact, values in entries.items():
            lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
            parts.append("\n".join([f"[{name}.{json.dumps(fact)}]", *lines, ""]))
    REGISTER.write_text("\n".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", help="01 02 ...; default: all")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    for name in SOURCES:
        if arguments.notebooks and not name.startswith(tuple(arguments.notebooks)):
            continue
        runs: list[dict] = []
        for seed in range(arguments.seeds):
            runs.append(measure(name, seed))
            broken = [
                fact for fact, times in runs[-1].items() if not all(holds for holds, _ in times)
            ]
            print(name, "seed", seed, broken or "all hold", flush=True)
            register = tomllib.loads(REGISTER.read_text()) if REGISTER.is_file() else {}
            register[name] = {
                fact: entry(test, [run[fact] for run in runs])
                for fact, test in facts(name).items()
            }
            write(register)


if __name__ == "__main__":
    with local_hub():
        main()
