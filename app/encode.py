"""Query vectors of texts and pictures that are not in the bundle. The first one loads torch and the model."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from gcl_toolkit.app import limits
from gcl_toolkit.errors import UserError
from gcl_toolkit.views.bundle import System

KEPT = 64
"""Uploaded pictures that are kept in memory; the oldest is dropped first."""


class Encoders:
    """The bundle's models, loaded when first needed."""

    def __init__(self):
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._vectors = lru_cache(maxsize=512)(self._vector)

    def keep(self, data: Any) -> str:
        """Check and keep an uploaded picture; returns its digest, the key for `picture`."""
        small = limits.picture(data)
        digest = hashlib.sha256(small).hexdigest()[:24]
        with self._lock:
            self._pictures[digest] = small
            self._pictures.move_to_end(digest)
            if len(self._pictures) > KEPT:
                self._pictures.popitem(last=False)
        return digest

    def picture(self, digest: str) -> bytes:
        data = self._pictures.get(digest)
        if data is None:
            raise UserError(f"this picture is no longer kept (only the last {KEPT} uploads are); upload it again")
        return data

    def text(self, text: str, system: System) -> np.ndarray:
        """D, L2-normalised."""
        return self._vectors(system, text, "")

    def image(self, digest: str, system: System) -> np.ndarray:
        """D, L2-normalised."""
        self.picture(digest)
        return self._vectors(system, "", digest)

    def _vector(self, system: System, text: str, digest: str) -> np.ndarray:
        if system.vectors is None or system.vectors.weights is None:
            raise UserError(f"the bundle holds no weights of {system.name}; choose one of the stored queries")
        with self._lock:
            if system.name not in self._models:
                from gcl_toolkit.models.model import GCLModel

                self._models[system.name] = GCLModel.load(system.vectors.weights).eval()
            model = self._models[system.name]
            return _embed_image(model, self._pictures[digest]) if digest else _embed_text(model, text, system.name)


def _on_gpu(function: Callable) -> Callable:
    """Mark a function for Hugging Face's ZeroGPU, which gives it a GPU; elsewhere nothing changes."""
    if importlib.util.find_spec("spaces") is None:
        return function
    import spaces

    return spaces.GPU(function)


@_on_gpu
def _embed_text(model: Any, text: str, name: str) -> np.ndarray:
    if len(model.left) != 1:
        raise UserError(
            f"queries of {name} have the fields {model.left}, not one text; choose one of the stored queries"
        )
    import pyarrow as pa

    if getattr(model.encoder, "vocabulary", None) is not None and not model.encoder.tokens([text]).any():
        raise UserError(f"{name} knows none of the words in “{text}”; its vocabulary is that of its training data")
    return model.embed(pa.table({next(iter(model.left)): [text]}), "left")[0]


@_on_gpu
def _embed_image(model: Any, data: bytes) -> np.ndarray:
    import torch
    from torch.nn.functional import normalize

    from gcl_toolkit.models.embed import embed_picture

    with torch.inference_mode(), Image.open(io.BytesIO(data)) as image:
        return normalize(embed_picture(model.encoder, image.convert("RGB")), dim=-1).cpu().numpy()
