"""An adapter merged into the open_clip model that made its vectors: its maps go into the towers' last projections.

A map and a projection are one matrix, and vectors are brought to length 1 after it. Queries and products have maps of
their own, so there are two models, LEFT and RIGHT of the folder.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from gcl_toolkit.errors import UserError
from gcl_toolkit.files import write_json
from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.encoders import CONFIG, OpenClipEncoder, make_encoder
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.serving.export.towers import examples

PARITY = 1e-5
"""The largest difference allowed between a number of the two unit vectors."""
PROJECTIONS = {
    "image": re.compile(r"visual\.(proj|attnpool\.c_proj\.weight|head\.proj\.weight|trunk\.head\.(fc\.)?weight)"),
    "text": re.compile(r"(text\.)?text_projection(\.weight)?|text\.proj\.weight"),
}
"""Tower -> open_clip's names of its last projection, of which a model has one. Without ".weight": width x D."""
ADDED = {
    "image": ("vision_cfg", "timm_model_name", "timm_proj", "visual.head.proj.weight"),
    "text": ("text_cfg", "hf_model_name", "hf_proj_type", "text.proj.weight"),
}
"""Tower -> where the configuration of a model that ends without a projection has one added."""


def write_merged(model: GCLModel, folder: Path) -> dict[str, float]:
    """Write folder/left and folder/right for `open_clip.create_model_and_transforms("local-dir:...")`; returns, of
    "left text" and so on, the largest difference of a unit vector's numbers from tower and adapter.

    A side without a field for one of its towers has the other side's map there. UserError where the adapter isn't
    linear, its vectors aren't all of one open_clip model, or a tower has two maps on one side, none, or no projection.
    """
    adapter, keys = maps(model)
    source = _source(adapter)
    differences: dict[str, float] = {}
    for side, other in (("left", "right"), ("right", "left")):
        chosen = {tower: keys.get((side, tower)) or keys.get((other, tower)) for tower in PROJECTIONS}
        if missing := [tower for tower, key in chosen.items() if not key]:
            raise UserError(f"the adapter has no map of the model's {missing[0]} tower; export without --merge")
        out = folder / side
        out.mkdir()
        source.publish(out, model.logit_scale.detach())
        _project(out, {tower: _matrix(adapter, str(key)) for tower, key in chosen.items()})
        found = _differences(out, source, adapter, chosen)
        differences |= {f"{side} {tower}": difference for tower, difference in found.items()}
    return differences


def maps(model: GCLModel) -> tuple[VectorEncoder, dict[tuple[str, str], str]]:
    """The adapter, and (side, tower) -> the name of its map; UserError if it can't be merged."""
    adapter = model.encoder
    if not isinstance(adapter, VectorEncoder) or adapter.map == "mlp":
        raise UserError("only an adapter with map=linear or map=low-rank can be merged; export without --merge")
    keys: dict[tuple[str, str], str] = {}
    for key, about in adapter.inputs.items():
        place = key.partition("_")[0], about.get("tower", "")
        if place in keys:
            raise UserError(
                f"{keys[place]} and {key} are two maps of one tower, which has one projection; train on one of these "
                "fields, such as a column with the texts of both, or export without --merge"
            )
        keys[place] = key
    return adapter, keys


def _source(adapter: VectorEncoder) -> OpenClipEncoder:
    """The encoder that made the vectors."""
    made_by = [about.get("encoder", {}) for about in adapter.inputs.values()]
    first = made_by[0]
    if any(other != first for other in made_by) or "imported" in first or "name" not in first:
        names = ", ".join(
            f"{key} by {one.get('name', 'unknown')}" for key, one in zip(adapter.inputs, made_by, strict=True)
        )
        raise UserError(f"the vectors aren't of one open_clip model ({names}); export without --merge")
    encoder = make_encoder(**first).eval()
    if not isinstance(encoder, OpenClipEncoder):
        raise UserError(f"{first['name']} made the vectors, which is no open_clip model; export without --merge")
    return encoder


def _matrix(adapter: VectorEncoder, key: str) -> Tensor:
    """The map as D x d, up to a factor."""
    with torch.inference_mode():
        return adapter.maps[key](torch.eye(adapter.inputs[key]["dimension"])).T.double()


def _project(folder: Path, maps: dict[str, Tensor]) -> None:
    """Multiply the projections of the model in a folder with maps (tower -> D x d)."""
    weights, config = folder / "open_clip_model.safetensors", json.loads((folder / CONFIG).read_text())
    state = load_file(weights)
    for tower, matrix in maps.items():
        section, kind, option, added = ADDED[tower]
        name = next(filter(PROJECTIONS[tower].fullmatch, state), None)
        if name is None and kind in (about := config["model_cfg"][section]) and about.get(option) != "mlp":
            about[option], state[added] = "linear", matrix.float()
        elif name is None:
            raise UserError(f"the {tower} tower ends without a linear projection; export without --merge")
        elif not name.endswith(".weight"):
            state[name] = (state[name].double() @ matrix.T).float()
        else:
            state[name] = (matrix @ state[name].double()).float()
            bias = name.removesuffix("weight") + "bias"
            if bias in state:
                state[bias] = (matrix @ state[bias].double()).float()
        config["model_cfg"]["embed_dim"] = len(matrix)
    save_file({name: value.contiguous() for name, value in state.items()}, weights, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def _differences(
    folder: Path, source: OpenClipEncoder, adapter: VectorEncoder, maps: dict[str, str | None]
) -> dict[str, float]:
    """Tower -> the largest difference; UserError if it is above `PARITY`."""
    merged, differences = OpenClipEncoder(f"local-dir:{folder}").eval(), {}
    for tower, (_, values) in examples(merged).items():
        with torch.inference_mode():
            side, _, field = str(maps[tower]).partition("_")
            expected = adapter.encode_vectors(source.encode(values, side, field), side, field)
            found = merged.encode(values, side, field)
        difference = (normalize(found, dim=-1) - normalize(expected, dim=-1)).abs().max().item()
        if not difference <= PARITY:
            raise UserError(
                f"with the adapter in its projection the {tower} tower differs by {difference:.1e}, so it doesn't end "
                "there; export without --merge"
            )
        differences[tower] = difference
    return differences
