"""Both towers as ONNX, each held to the model's own vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_toolkit.errors import UserError, first_line
from gcl_toolkit.model import GCLModel

PARITY = 1e-4
"""The most by which a number of a unit vector may differ."""
TEXTS = ("red striped mug", "a photo of a wooden chair, hand made in 1970", "a")
ONE_FILE = 1_500_000_000
"""Bytes of weights beyond which they lie beside the graph: a file of protobuf ends at 2 GB."""


class _Tower(nn.Module):
    def __init__(self, model: GCLModel, encode: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, inputs: Tensor) -> Tensor:
        return normalize(self.encode(inputs).float(), dim=-1)


def write_towers(model: GCLModel, folder: Path) -> dict[str, float]:
    """Write image.onnx (`pixels`, uint8, N x 3 x S x S) and text.onnx (`tokens`, int64, N x L), each giving `vectors`
    (N x D, of length 1); returns the largest difference from the model, by tower.

    Raises UserError when a package is missing, a tower can't be written, or differs by more than `PARITY`.
    """
    encoder = model.encoder
    towers: dict[str, tuple[str, Callable, Tensor]] = {"text": ("tokens", encoder.encode_texts, _tokens(model))}
    if encoder.image_size:
        shape = (len(TEXTS) + 1, 3, encoder.image_size, encoder.image_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        towers["image"] = ("pixels", encoder.encode_images, pixels)
    differences = {}
    for name, (inputs_name, encode, inputs) in towers.items():
        path = folder / f"{name}.onnx"
        try:
            _write(_Tower(model, encode).eval(), inputs[:2], inputs_name, path)
            differences[name] = _difference(path, _Tower(model, encode).eval(), inputs)
        except ImportError as error:
            raise UserError(
                f"{error.name} is not installed; pip install 'gcl-toolkit[export]', or leave ONNX out with --no-onnx"
            ) from None
        except Exception as error:  # the exporter raises whatever stands in its way
            said = first_line(error)
            raise UserError(f"{path.name} can't be written ({said}); leave ONNX out with --no-onnx") from error
        if not differences[name] <= PARITY:
            raise UserError(
                f"{path.name} differs from the model by {differences[name]:.1e}; at most {PARITY:g} is expected; leave "
                "ONNX out with --no-onnx"
            )
    return differences


def _tokens(model: GCLModel) -> Tensor:
    """Of `TEXTS`, and of words that the small encoder knows."""
    return model.encoder.tokens([*TEXTS, " ".join(getattr(model.encoder, "vocabulary", ())[:8]) or TEXTS[0]])


def _write(tower: nn.Module, inputs: Tensor, name: str, path: Path) -> None:
    import onnx  # noqa: F401 - what torch's exporter writes with, asked for here to be named when it is missing

    for name_of_logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name_of_logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            tower,
            (inputs,),
            input_names=[name],
            output_names=["vectors"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths and lines of this machine's source files
    weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    program.save(path, external_data=weights > ONE_FILE)


def _difference(path: Path, tower: nn.Module, inputs: Tensor) -> float:
    """The largest over one row and over all of them, so that the number of rows is seen to be free."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    found = 0.0
    with torch.inference_mode():
        for rows in (inputs[:1], inputs):
            (vectors,) = session.run(None, {name: rows.numpy()})
            found = max(found, (torch.from_numpy(vectors) - tower(rows)).abs().max().item())
    return found
