"""Both towers as ONNX, each compared with the model's own vectors."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_toolkit.errors import UserError, first_line
from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.models.small import Encoder

PARITY = 1e-4
"""The largest difference allowed between a component of the two unit vectors."""
TEXTS = ("red striped mug", "a photo of a wooden chair, hand made in 1970", "a")
ONE_FILE = 1_500_000_000
"""Larger weights (in bytes) are stored beside the graph: a protobuf file ends at 2 GB."""


class _Tower(nn.Module):
    def __init__(self, model: GCLModel, side: str, field: str):
        super().__init__()
        self.model, self.side, self.field = model, side, field

    def forward(self, inputs: Tensor) -> Tensor:
        return normalize(self.model.encoder.encode(inputs, self.side, self.field).float(), dim=-1)


def write_towers(model: GCLModel, folder: Path) -> dict[str, float]:
    """Write image.onnx (`pixels`, uint8, N x 3 x H x W) and text.onnx (`tokens`, int64, N x L), or of an adapter
    SIDE_FIELD.onnx (`inputs`, float32, N x d), each giving `vectors` (N x D, of length 1); returns tower -> largest
    difference from the model.

    Raises UserError if a package is missing, a tower can't be written, or differs by more than `PARITY`.
    """
    differences = {}
    for name, (input_name, rows) in examples(model.encoder).items():
        side, _, field = name.partition("_")
        path, tower = folder / f"{name}.onnx", _Tower(model, side, field).eval()
        try:
            _write(tower, rows[:2], input_name, path)
            differences[name] = _difference(path, tower, rows)
        except ImportError as error:
            raise UserError(
                f"{error.name} is not installed; pip install 'gcl-toolkit[export]', or skip ONNX with --no-onnx"
            ) from None
        except Exception as error:  # the exporter raises exceptions of any type
            raise UserError(f"can't write {path.name} ({first_line(error)}); skip ONNX with --no-onnx") from error
        if not differences[name] <= PARITY:
            raise UserError(
                f"{path.name} differs from the model by {differences[name]:.1e}; at most {PARITY:g} is expected; skip "
                "ONNX with --no-onnx"
            )
    return differences


def examples(encoder: Encoder) -> dict[str, tuple[str, Tensor]]:
    """Tower -> the name of its input, and four rows of it."""
    generator, count = torch.Generator().manual_seed(0), len(TEXTS) + 1
    if isinstance(encoder, VectorEncoder):
        sizes = {key: about["dimension"] for key, about in encoder.inputs.items()}
        return {key: ("inputs", torch.randn(count, size, generator=generator)) for key, size in sizes.items()}
    vocabulary = getattr(encoder, "vocabulary", ())  # of the small encoder, which skips all other words
    towers = {"text": ("tokens", encoder.tokens([*TEXTS, " ".join(vocabulary[:8]) or TEXTS[0]]))}
    if encoder.image_shape:
        shape = (count, 3, *encoder.image_shape)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        towers["image"] = ("pixels", pixels)
    return towers


def _write(tower: nn.Module, examples: Tensor, input_name: str, path: Path) -> None:
    import onnx  # noqa: F401 - torch's exporter needs it; if it is missing, the error names it

    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            tower,
            (examples,),
            input_names=[input_name],
            output_names=["vectors"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths and lines of this machine's source files
    program.save(path, external_data=sum(p.numel() * p.element_size() for p in tower.parameters()) > ONE_FILE)


def _difference(path: Path, tower: nn.Module, examples: Tensor) -> float:
    """The largest difference for one row and for all rows, which also shows that the number of rows is free."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    difference = 0.0
    with torch.inference_mode():
        for rows in (examples[:1], examples):
            (vectors,) = session.run(None, {name: rows.numpy()})
            difference = max(difference, (torch.from_numpy(vectors) - tower(rows)).abs().max().item())
    return difference
