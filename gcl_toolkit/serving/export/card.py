"""The model card of an exported model: how to use it, what it was trained on, what was measured, and its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcl_toolkit.models.encoders import OpenClipEncoder, public_name
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.options import split_options
from gcl_toolkit.serving.export import usage
from gcl_toolkit.studies.markdown import method_as_markdown
from gcl_toolkit.studies.results import MACRO, Results, read_results
from gcl_toolkit.studies.study import run_folder
from gcl_toolkit.training.runs import read_config

DECAY = ("layer_decay", 1.0)
"""A setting that does nothing."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: the run's config.json; the settings that chose the encoder (arguments of gcl train, or
    study.json; None for a run made in Python); the name of the data; and, in a study, the method's name and results."""

    config: dict
    settings: Mapping[str, Any] | None
    data: str
    method: str = ""
    results: Results | None = None

    @classmethod
    def of(cls, run: Path) -> Origin:
        run = run.resolve()
        config = read_config(run) if (run / "config.json").is_file() else {}
        folder = run.parents[min(3, len(run.parents) - 1)]
        if run.parent.parent.parent != folder / "runs" or not (folder / "study.json").is_file():
            arguments = config.get("arguments")
            return cls(config, arguments, Path(split_options((arguments or {}).get("data", ""))[0]).name)
        settings, world = json.loads((folder / "study.json").read_text()), run.parents[1].name
        results = read_results(folder / "results.json") if (folder / "results.json").is_file() else None
        for method in results.averages["NDCG@10"] if results else ():
            if run_folder(folder, world, method, config["train"]["seed"]) == run:
                return cls(config, settings, world, method, results)
        return cls(config, settings, world, run.parent.name)


def write_card(folder: Path, run: Path, model: GCLModel, manifest: dict, license: str | None) -> None:
    """Write README.md: the header that the hub reads, and the card."""
    from huggingface_hub import ModelCard, ModelCardData

    origin = Origin.of(run)
    name = f"{origin.method or 'GCL model'} on {origin.data or 'own data'}"
    library = usage.library_of(model)
    header = ModelCardData(
        library_name=library,
        pipeline_tag="feature-extraction",
        tags=["retrieval", "ranking", *(["clip"] if library == "open_clip" else [])],
        license=license,
        model_name=name,
        eval_results=list(_evaluated(origin)) or None,
    )
    left, right = (", ".join(f"{n} {w:g}" for n, w in model.fields(side).items()) for side in ("left", "right"))
    body = usage.template(
        "card",
        name=name,
        left=left,
        right=right,
        dimension=model.dimension,
        usage=usage.code(model),
        training=_training(origin, model),
        results=_results(origin),
        data=origin.data or "one data set",
        limits="".join(f"- {limit}\n" for limit in _limits(origin, model, license)),
        files=_files(folder, model, manifest),
    )
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}\n").save(folder / "README.md")


def _evaluated(origin: Origin) -> Iterator[Any]:
    """The averages of the study in the form of the hub's header."""
    from huggingface_hub import EvalResult

    averages = origin.results.averages if origin.results else {}
    for metric in averages.keys() & {"NDCG@10", "AP"}:
        for split, cell in averages[metric][origin.method].items():
            if split != MACRO:
                yield EvalResult(
                    task_type="text-retrieval",
                    dataset_type=origin.data,
                    dataset_name=origin.data,
                    dataset_split=split,
                    metric_type=metric.lower().replace("@", "_at_"),
                    metric_name=metric,
                    metric_value=round(cell.mean, 4),
                )


def _start(origin: Origin, encoder: str) -> str:
    """The initial weights. Loading an encoder by a prefixed name loads its weights."""
    if origin.settings is None:
        return "initial weights not recorded"
    if pretrained := origin.settings.get("pretrained"):
        return f"started from `{Path(pretrained).name}`"
    return f"started from {'its pretrained' if ':' in encoder else 'random'} weights"


def _training(origin: Origin, model: GCLModel) -> str:
    encoder, train = model.encoder.spec["name"], origin.config.get("train")
    lines = [f"- encoder: `{public_name(encoder)}`, {_start(origin, encoder)}"]
    if "data" in origin.config:
        lines.append("- data: " + ", ".join(filter(None, (origin.data, origin.config["data"]))))
    card = origin.results.data.get(origin.data, {}) if origin.results else {}
    facts = {key: value for key, value in card.items() if isinstance(value, str | int | float) and key != "path"}
    if facts:
        written = (f"{key}: {round(value, 3) if isinstance(value, float) else value}" for key, value in facts.items())
        lines.append(f"- data card: {'; '.join(written)}")
    if not train:
        return "\n".join([*lines, "- the training was not recorded"])
    lines.append(
        f"- method `{origin.config['method']}`, {train['steps']:,} steps of {train['batch']:,}, seed {train['seed']}"
    )
    if tuning := [f"{name} {value}" for name, value in train["tuning"].items() if value and (name, value) != DECAY]:
        merged = " (its adapters are merged into the weights)" if train["tuning"]["lora"] else ""
        lines.append(f"- {', '.join(tuning)}{merged}")
    return "\n".join(lines)


def _results(origin: Origin) -> str:
    results = origin.results
    if not results:
        return (
            "None: this model was not trained in a study, so it can't be compared with its controls. `gcl compare` "
            "trains them together and adds the table here."
        )
    queries = ", ".join(f"{count:,} {split}" for split, count in results.queries.items())
    return (
        f"`{results.command}`, {results.date}, {results.machine['processor']}. {results.division.capitalize()} "
        f"queries: {queries}. Means over {len(results.worlds)} world(s) and {results.seeds} seed(s), 95% bootstrap "
        f"intervals; these weights are seed {origin.config['train']['seed']} on {origin.data}.\n\n"
        f"{method_as_markdown(results, origin.method)}"
    )


def _limits(origin: Origin, model: GCLModel, license: str | None) -> Iterator[str]:
    if isinstance(model.encoder, OpenClipEncoder):
        yield (
            "In training, pictures were resized by torch, about one grey level from open_clip's Pillow; equal pixels "
            "give equal vectors to 1e-6."
        )
    if words := getattr(model.encoder, "vocabulary", ()):
        yield f"It knows the {len(words):,} words of its training texts and skips all others."
    if origin.results and len(origin.results.worlds) == origin.results.seeds == 1:
        yield "One world, one seed: the intervals don't cover other data or another training run."
    if not license:
        yield "No licence is stated; check those of the data and of the initial weights."


def files_in(folder: Path) -> list[str]:
    """The files of a folder and its subfolders."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _files(folder: Path, model: GCLModel, manifest: dict) -> str:
    lines = [f"- `{name}`, {(folder / name).stat().st_size:,} bytes" for name in files_in(folder)]
    if manifest["onnx"]:
        lines.append("\n" + usage.onnx(model, manifest["onnx"]))
    if manifest["merged"]:
        lines.append("\n" + usage.merged(model, manifest["merged"]))
    if manifest["vectors"]:
        lines.append(f"\n`vectors.parquet`: `product_id` and fused `vector` of {manifest['vectors']:,} products.")
    return "\n".join(lines)
