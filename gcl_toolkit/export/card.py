"""The model card of an exported model: how to use it, what it was trained on, what was measured, what it can't do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcl_toolkit.encoders import OpenClipEncoder
from gcl_toolkit.errors import UserError
from gcl_toolkit.export import usage
from gcl_toolkit.model import GCLModel
from gcl_toolkit.results import method_as_markdown
from gcl_toolkit.summary import MACRO


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as the files beside it tell."""

    config: dict = field(default_factory=dict)
    """config.json of the run."""
    pretrained: str | None = None
    world: str = ""
    method: str = ""
    results: dict = field(default_factory=dict)
    """results.json of the study that the run belongs to."""

    @classmethod
    def of(cls, run: Path) -> Origin:
        run = run.resolve()
        config = _read(run / "config.json")
        arguments = config.get("arguments", {})
        study = run.parents[3] if len(run.parents) > 3 else run
        if not (study / "study.json").is_file() or run.parents[2].name != "runs":
            return cls(config, arguments.get("pretrained"), Path(arguments.get("data", "")).name)
        world, method = run.parents[1].name, run.parents[0].name
        results = _read(study / "results.json")
        told = method in results.get("averages", {}).get("NDCG@10", {})
        return cls(config, _read(study / "study.json").get("pretrained"), world, method, results if told else {})


def write_card(folder: Path, run: Path, model: GCLModel, manifest: dict, license: str | None) -> None:
    """Write README.md: the header that the hub reads, and the card."""
    from huggingface_hub import ModelCard, ModelCardData

    origin = Origin.of(run)
    name = f"{origin.method or 'GCL model'} on {origin.world or 'own data'}"
    library, tags = usage.library_of(model)
    header = ModelCardData(
        library_name=library,
        pipeline_tag="feature-extraction",
        tags=["retrieval", "ranking", *tags],
        license=license,
        model_name=name,
        eval_results=list(_evaluated(origin)) or None,
    )
    parts = [f"# {name}", _about(model), "## Use", usage.text(model), "## Training", _training(origin, model)]
    parts += ["## Results", _results(origin), "## Limits", _limits(origin, model, license)]
    parts += ["## Files", _files(folder, model, manifest)]
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n").save(folder / "README.md")


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} can't be read as JSON ({error}); is it whole?") from None


def _evaluated(origin: Origin) -> Iterator[Any]:
    """The averages of the study as the hub's header has them."""
    from huggingface_hub import EvalResult

    for metric, methods in origin.results.get("averages", {}).items():
        if metric in ("NDCG@10", "AP"):
            for split, (mean, *_) in methods[origin.method].items():
                if split != MACRO:
                    yield EvalResult(
                        task_type="text-retrieval",
                        dataset_type=origin.world,
                        dataset_name=origin.world,
                        dataset_split=split,
                        metric_type=metric.lower().replace("@", "_at_"),
                        metric_name=metric,
                        metric_value=round(mean, 4),
                    )


def _about(model: GCLModel) -> str:
    return (
        f"Embeds queries ({_typed(model.fields('left'))}) and products ({_typed(model.fields('right'))}) into one "
        f"space of {model.dimension} numbers, in which a larger inner product is a better rank. Trained with the GCL "
        "Toolkit, an open framework for Generalized Contrastive Learning (arXiv 2404.08535)."
    )


def _training(origin: Origin, model: GCLModel) -> str:
    train, engine = origin.config.get("train", {}), origin.config.get("engine", {})
    start = origin.pretrained or ("random weights" if not model.encoder.spec["name"].startswith("text:") else "its own")
    lines = [f"- encoder: `{model.encoder.spec['name']}`, started from {start}"]
    if "data" in origin.config:
        lines.append("- data: " + ", ".join(filter(None, (origin.world, origin.config["data"]))))
    card = origin.results.get("data", {}).get(origin.world, {})
    said = {key: value for key, value in card.items() if isinstance(value, str | int | float) and key != "path"}
    if said:
        told = (f"{key}: {round(value, 3) if isinstance(value, float) else value}" for key, value in said.items())
        lines.append(f"- its data card says: {'; '.join(told)}")
    if train:
        lines.append(
            f"- loss `{train['loss']}`, weights of scores `{train['weighting']}`, {train['steps']:,} steps of "
            f"{train['batch']:,}, seed {train['seed']}" + (", best grades only" if train.get("top_only") else "")
        )
    special = {key: engine[key] for key in ("lock", "lora", "ema", "dimensions", "learn_fields") if engine.get(key)}
    if special:
        merged = " (its adapters are merged into the weights)" if "lora" in special else ""
        lines.append(f"- {', '.join(f'{key} {value}' for key, value in special.items())}{merged}")
    if len(lines) == 1:
        lines.append("- no record of the training was found beside the model")
    return "\n".join(lines)


def _results(origin: Origin) -> str:
    if not origin.results:
        return (
            "None: this model was not trained in a study, so nothing here tells it from its controls. "
            "`gcl compare` trains the controls beside it and puts the table here."
        )
    results, machine = origin.results, origin.results["machine"]
    queries = ", ".join(f"{count:,} {split}" for split, count in results["queries"].items())
    told = (
        f"`{results['command']}`, {results['date']}, {machine['processor']}. {results['division'].capitalize()} "
        f"queries: {queries}. Means over {len(results['worlds'])} world(s) and {results['seeds']} seed(s), 95% "
        f"intervals by bootstrap; these weights are seed {origin.config['train']['seed']} on {origin.world}."
    )
    return f"{told}\n\n{method_as_markdown(results, origin.method)}"


def _limits(origin: Origin, model: GCLModel, license: str | None) -> str:
    lines = [
        f"- It ranks what looks and reads like {origin.world or 'its training data'}; nothing is known of other data.",
        "- Scores carry the biases of what they were made from (positions, clicks, judges), and so does the model.",
        "- A product's vector depends on the weights of its fields; other weights than those above were not measured.",
    ]
    if isinstance(model.encoder, OpenClipEncoder):
        lines.append(
            "- In training, pictures were resized by torch, about a grey level from what open_clip's Pillow does; "
            "the same pixels give the same vectors to 1e-6."
        )
    if model.encoder.spec["name"] == "small":
        lines.append(
            f"- It knows the {len(getattr(model.encoder, 'vocabulary', ())):,} words of its training texts and skips "
            "all others."
        )
    if len(origin.results.get("worlds", ())) == 1 and origin.results.get("seeds") == 1:
        lines.append("- One world, one seed: the intervals say nothing of other data or of another training.")
    if not license:
        lines.append("- No licence is stated; that of the data and of the initial weights has to be looked at.")
    return "\n".join(lines)


def _files(folder: Path, model: GCLModel, manifest: dict) -> str:
    lines = [f"- `{path.name}`, {path.stat().st_size:,} bytes" for path in sorted(folder.iterdir())]
    if manifest["onnx"]:
        lines.append("\n" + usage.of_onnx(model, manifest["onnx"]))
    if manifest["vectors"]:
        lines.append(f"\n`vectors.parquet`: `product_id` and fused `vector` of {manifest['vectors']:,} products.")
    return "\n".join(lines)


def _typed(weights) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
