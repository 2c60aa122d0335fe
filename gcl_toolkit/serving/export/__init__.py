"""Export: a run -> a folder that other libraries load, with its model card. `hub.push` publishes it."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder, write_json
from gcl_toolkit.machine import machine
from gcl_toolkit.models.encoders import TextEncoder, public_name
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.serving.export.card import files_in, write_card
from gcl_toolkit.serving.export.merge import maps, write_merged
from gcl_toolkit.serving.export.sentence_transformers import write_modules
from gcl_toolkit.serving.export.towers import write_towers
from gcl_toolkit.serving.index import write_vectors
from gcl_toolkit.training.checkpoints import newest_checkpoint, step_of
from gcl_toolkit.training.runs import load_model, read_config

Splits = dict[str, RankedData]


def export(
    run: str | Path,
    out: str | Path,
    *,
    onnx: bool = True,
    merge: bool = False,
    data: Splits | None = None,
    license: str | None = None,
) -> dict:
    """Write the model of a finished run to a new folder; returns the manifest, which is saved there as export.json.

    open_clip models are written for `open_clip.create_model_and_transforms("local-dir:OUT")`, text encoders for
    transformers and sentence-transformers, the small one for GCLModel.load. README.md is the model card.
    onnx: also both towers, compared with the model's own vectors; data: also the fused vectors of its products. merge:
    of an adapter, also the open_clip model that made its vectors, with the adapter in its projections (`merge`).
    Raises UserError if the run is unfinished or has no checkpoint, `out` holds files, or a tower differs too much.
    """
    run, out = Path(run), Path(out).absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} already holds files; choose a new or empty folder")
    _check_finished(run)
    model, part = load_model(run).eval(), out.with_name(f"{out.name}.part")
    if merge:
        maps(model)  # an adapter that can't be merged is refused before the work
    shutil.rmtree(part, ignore_errors=True)  # left by an export that was killed
    try:
        manifest = _write(model, run, writable_folder(part), onnx, merge, data, license)
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _check_finished(run: Path) -> None:
    """Raise UserError if the newest checkpoint of a run is before its last step."""
    checkpoint = newest_checkpoint(run / "checkpoints")
    if checkpoint and (run / "config.json").is_file():
        step, steps = step_of(checkpoint), read_config(run)["train"]["steps"]
        if step < steps:
            raise UserError(
                f"{run} stopped at step {step} of {steps}; finish it with gcl train --resume {run}, or export its "
                f"checkpoint {checkpoint}"
            )


def _write(
    model: GCLModel, run: Path, folder: Path, onnx: bool, merge: bool, data: Splits | None, license: str | None
) -> dict:
    if not model.encoder.publish(folder, model.logit_scale.detach()):
        model.save(folder)
    if isinstance(model.encoder, TextEncoder):
        write_modules(model.encoder, folder)
    spec = {key: value for key, value in model.encoder.spec.items() if key != "vocabulary"}
    manifest = {
        "encoder": spec | {"name": public_name(spec["name"])},
        "dimension": model.dimension,
        "left": dict(model.fields("left")),
        "right": dict(model.fields("right")),
        "logit_scale": model.logit_scale.item(),
        "date": date.today().isoformat(),
        "versions": machine()["versions"],
        "onnx": write_towers(model, folder) if onnx else {},
        "merged": write_merged(model, folder) if merge else {},
        "vectors": _write_vectors(model, data, folder / "vectors.parquet") if data else 0,
    }
    write_card(folder, run, model, manifest, license)
    manifest["files"] = files_in(folder)
    write_json(folder / "export.json", manifest)
    return manifest


def _write_vectors(model: GCLModel, data: Splits, path: Path) -> int:
    """The fused vector of every product of some splits, each once; returns their number."""
    ids, vectors = np.empty(0, object), []
    for part in data.values():
        new = ~np.isin(part.product_ids, ids)
        vectors.append(model.embed(part.corpus.filter(pa.array(new)), "right"))
        ids = np.concatenate([ids, part.product_ids[new]])
    write_vectors(np.concatenate(vectors), ids, path)
    return len(ids)
