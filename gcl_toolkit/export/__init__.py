"""Out again: a run -> a folder that others load, with its model card. `hub.push` publishes it."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit import doctor
from gcl_toolkit.checkpoints import newest_checkpoint, step_of
from gcl_toolkit.errors import UserError
from gcl_toolkit.export.card import write_card
from gcl_toolkit.export.towers import write_towers
from gcl_toolkit.index import write_vectors
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.runs import load_model, writable_folder, write_json

MANIFEST = "export.json"
"""What the folder holds and was made of; `hub.push` uploads the files that it names."""
VECTORS = "vectors.parquet"


def export(
    run: str | Path,
    out: str | Path,
    *,
    onnx: bool = True,
    data: dict[str, RankedData] | None = None,
    license: str | None = None,
) -> dict:
    """Write the model of a finished run to a new folder; returns the manifest, which also stands in it as export.json.

    open_clip's models are written as `open_clip.create_model_and_transforms("local-dir:OUT")` loads them, text encoders
    as transformers does, the small one as GCLModel.load does. onnx: also both towers, held to the model's own vectors;
    data: also the fused vectors of its products. README.md is the model card.
    Raises UserError when the run is unfinished or has no checkpoint, `out` holds files, or a tower loses its parity.
    """
    run, out = Path(run), Path(out).absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} holds files already; choose a new or an empty folder")
    finished(run)
    model = load_model(run).eval()
    beside = out.with_name(f"{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of an export that was killed
    try:
        writable_folder(beside)
        manifest = _write(model, run, beside, onnx, data, license)
        if out.is_dir():
            out.rmdir()
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def finished(run: Path) -> None:
    """Raises UserError for a run whose newest checkpoint lies before its last step; a model's folder has no steps."""
    path = run / "config.json"
    if not path.is_file():
        return
    steps = json.loads(path.read_text()).get("train", {}).get("steps", 0)
    whole = newest_checkpoint(run / "checkpoints")
    if whole and step_of(whole) < steps:
        raise UserError(
            f"{run} stands at step {step_of(whole)} of {steps}; finish it with gcl train --resume {run}, or export its "
            f"checkpoint {whole} as it is"
        )


def _write(
    model: GCLModel, run: Path, folder: Path, onnx: bool, data: dict[str, RankedData] | None, license: str | None
) -> dict:
    loadable = model.encoder.publish(folder, model.logit_scale.detach())
    if not loadable:
        model.save(folder)
    manifest = {
        "encoder": {key: value for key, value in model.encoder.spec.items() if key != "vocabulary"},
        "dimension": model.dimension,
        "left": dict(model.fields("left")),
        "right": dict(model.fields("right")),
        "logit_scale": model.logit_scale.item(),
        "date": date.today().isoformat(),
        "versions": doctor.machine()["versions"],
        "onnx": write_towers(model, folder) if onnx else {},
        "vectors": _write_vectors(model, data, folder / VECTORS) if data else 0,
    }
    write_card(folder, run, model, manifest, license)
    manifest["files"] = sorted(path.name for path in folder.iterdir())
    write_json(folder / MANIFEST, manifest)
    return manifest


def _write_vectors(model: GCLModel, data: dict[str, RankedData], path: Path) -> int:
    """The fused vectors of every product of some splits, each once; how many there are."""
    ids, vectors = np.empty(0, object), []
    for part in data.values():
        fresh = ~np.isin(part.product_ids, ids)
        vectors.append(model.embed(part.corpus.filter(pa.array(fresh)), "right"))
        ids = np.concatenate([ids, part.product_ids[fresh]])
    write_vectors(np.concatenate(vectors), ids, path)
    return len(ids)
