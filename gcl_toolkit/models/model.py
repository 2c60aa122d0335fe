"""GCLModel: an encoder, the fields of both sides, and a logit scale."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gcl_toolkit.data.fields import Fields, fuse
from gcl_toolkit.errors import UserError
from gcl_toolkit.machine import kept_memory
from gcl_toolkit.models.embed import with_vectors_of
from gcl_toolkit.models.encoders import make_encoder, public_name
from gcl_toolkit.models.inputs import Inputs


class GCLModel(nn.Module):
    """A two-sided model: `left` embeds queries, `right` embeds products, into one space of `dimension` numbers.

    encoder: a name for `make_encoder` ("small", "ViT-B-32", "hf-hub:...", "text:..."); `pretrained` and further
    options go there. The initial weights are a function of `seed`.
    """

    def __init__(
        self,
        encoder: str = "small",
        *,
        left: Fields | None = None,
        right: Fields | None = None,
        logit_scale: float | None = None,
        seed: int = 0,
        **encoder_options,
    ):
        super().__init__()
        self.left, self.right = left or Fields(query=1.0), right or Fields(image=0.5, title=0.5)
        self.seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = make_encoder(encoder, **encoder_options)
        start = self.encoder.initial_logit_scale if logit_scale is None else logit_scale
        if not 0 < start < math.inf:
            raise UserError(f"logit_scale is {start}; give a finite number > 0")
        self.log_logit_scale = nn.Parameter(torch.tensor(float(start)).log())
        self.log_field_weights: nn.ParameterDict | None = None

    @property
    def dimension(self) -> int:
        return self.encoder.dimension

    @property
    def logit_scale(self) -> Tensor:
        return self.log_logit_scale.exp()

    @property
    def device(self) -> torch.device:
        return self.log_logit_scale.device

    def fields(self, side: str) -> Fields:
        """The fields of "left" (queries) or "right" (products), with their current weights if these are learnt."""
        fields = {"left": self.left, "right": self.right}[side]
        if self.log_field_weights is None:
            return fields
        weights = self.log_field_weights[side].softmax(0).tolist()
        return Fields(**dict(zip(fields, weights, strict=True)))

    def learn_fields(self) -> None:
        """Make the weights of the fields parameters; `settle_fields` turns them into numbers again."""
        sides = {side: torch.tensor([*self.fields(side).values()]).log() for side in ("left", "right")}
        self.log_field_weights = nn.ParameterDict({side: nn.Parameter(logs) for side, logs in sides.items()})

    def settle_fields(self) -> None:
        self.left, self.right = self.fields("left"), self.fields("right")
        self.log_field_weights = None

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor], side: str) -> Tensor:
        """Fused embeddings, N x D and L2-normalised. inputs: field -> uint8 pixels, token ids or vectors;
        present: N bools."""
        fields: Mapping[str, Any] = {"left": self.left, "right": self.right}[side]
        encoded = {}
        for name in fields:
            values = inputs[name].to(self.device, non_blocking=True)
            encoded[name] = self.encoder.encode(values, side, name).float()
        if self.log_field_weights is not None:
            fields = dict(zip(fields, self.log_field_weights[side].softmax(0), strict=True))
        return fuse(encoded, {name: present[name].to(self.device, non_blocking=True) for name in fields}, fields)

    def embed(
        self, table: pa.Table, side: str, *, progress: Callable | None = None, inputs: type[Inputs] = Inputs
    ) -> np.ndarray:
        """Embeddings of every row of a queries ("left") or corpus ("right") table: float32, rows x D.

        The last `Encoder.block` is padded to a power of two from 8. Smaller products are computed by other kernels, so
        that a row's vector would depend on the number of rows. inputs: how rows are read.
        """
        table = with_vectors_of(self.encoder, table, self.fields(side), side)
        read = inputs(self.encoder, table, self.fields(side), side=side)
        in_training = [module for module in self.modules() if module.training]
        vectors = np.empty((table.num_rows, self.dimension), np.float32)
        self.eval()
        block = self.encoder.block
        with torch.inference_mode(), kept_memory() if table.num_rows > block else nullcontext():
            for start in range(0, table.num_rows, block):
                rows = np.arange(start, min(start + block, table.num_rows))
                padded = np.resize(rows, max(8, 1 << (len(rows) - 1).bit_length()))
                vectors[rows] = self(*read.rows(padded), side)[: len(rows)].cpu().numpy()
                if progress:
                    progress(len(rows))
        for module in in_training:
            module.training = True
        return vectors

    def save(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write model.json, model.safetensors and the encoder's architecture and tokenizer into a folder, from which
        alone `load` builds the model; `weights` replace the model's own."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "encoder": {**self.encoder.spec, "name": public_name(self.encoder.spec["name"])},
            "left": dict(self.fields("left")),
            "right": dict(self.fields("right")),
            "seed": self.seed,
        }
        (folder / "model.json").write_text(json.dumps(description, indent=1))
        self.encoder.save_architecture(folder)
        weights = self.state_dict() if weights is None else weights
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")

    @staticmethod
    def is_saved_in(folder: Path) -> bool:
        """Whether a folder holds the files of a saved model."""
        return (folder / "model.json").is_file() and (folder / "model.safetensors").is_file()

    @classmethod
    def load(cls, folder: str | Path) -> GCLModel:
        """Load what `save` wrote; no pickle is read."""
        folder = Path(folder)
        if not cls.is_saved_in(folder):
            raise UserError(f"{folder} contains no model; model.json and model.safetensors are expected")
        description = _read(folder / "model.json", lambda path: json.loads(path.read_text()))
        weights = _read(folder / "model.safetensors", load_file)
        left, right = (Fields(**description[side]) for side in ("left", "right"))
        spec = {**description["encoder"], "seed": description.get("seed", 0), "folder": folder}
        model = cls(spec.pop("name"), left=left, right=right, **spec)
        model.load_state_dict(weights)
        return model


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is corrupt ({error}); use another checkpoint or copy the file again") from None
