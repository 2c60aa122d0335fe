"""What an encoder is, and the small one that is trained from scratch.

An encoder maps pictures and texts into one vector space. Pictures arrive as uint8 (3 x H x W, cropped by `pixels`), so
that they can be cached; texts as token ids. Vectors are not normalised; `fields.fuse` does that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from gcl_toolkit.data.fields import Fields
from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.models.texts import words


class Encoder(nn.Module):
    """What a model needs of an encoder. `spec` holds the arguments that build it again through `make_encoder`."""

    spec: dict[str, Any]
    dimension: int
    image_shape: tuple[int, int] | None = None  # height, width; None: this encoder reads no pictures
    initial_logit_scale: float = 1 / 0.07
    learning_rate: float = 1e-5  # the peak that suits fine-tuning
    image_parts: tuple[str, ...] = ()  # prefixes of the names of the image tower's parameters
    new_parts: tuple[str, ...] = ()  # prefixes of parameters that are not pretrained: never locked, faster learnt
    image_mean: Tensor
    image_std: Tensor

    @property
    def block(self) -> int:
        """How many rows to embed at once: fewer where large pictures would fill a CPU's memory."""
        height, width = self.image_shape or (0, 0)
        return 32 if height * width > 1 << 14 and next(self.parameters()).device.type == "cpu" else 128

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """An RGB picture, or its H x W x 3 bytes, resized and cropped to 3 x `image_shape`, uint8."""
        raise UserError(f"{self.spec['name']} reads no pictures; use text fields only or choose a CLIP model")

    def pillow_pixels(self, image: Image.Image) -> np.ndarray:
        """As `pixels`, by Pillow alone, for a picture of any mode: what the encoder's own library does."""
        return self.pixels(image.convert("RGB"))

    @property
    def crop_key(self) -> str:
        """Encoders with equal keys crop pictures alike."""
        return f"{self.spec['name']} {self.image_shape}"

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        """Token ids, N x L; `side` is "left" for queries, "right" for products, "" for texts without a prefix."""
        raise NotImplementedError

    def drop_words(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Augmentation of texts; pretrained encoders have none."""
        return tokens

    def encode_images(self, pixels: Tensor) -> Tensor:
        """N x 3 x H x W (uint8, or float 0..255) -> N x D."""
        raise NotImplementedError

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """N x L -> N x D."""
        raise NotImplementedError

    def encode_vectors(self, vectors: Tensor, side: str, field: str) -> Tensor:
        """N x d -> N x D, for encoders of vectors; they depend on the side ("left", "right") and the field."""
        raise UserError(f"{self.spec['name']} reads no vectors; {field!r} holds some, which --encoder vectors adapts")

    def encode(self, values: Tensor, side: str, field: str) -> Tensor:
        """Pixels, token ids or vectors of a field, by their shape and type -> N x D."""
        if values.dim() == 4:
            return self.encode_images(values)
        return self.encode_vectors(values, side, field) if values.is_floating_point() else self.encode_texts(values)

    def column(self, table: pa.Table, name: str, side: str) -> pa.ChunkedArray:
        """The column that a field is read from."""
        if name not in table.column_names:
            option = {"left": "--left", "right": "--right"}.get(side, "--right")
            has = ", ".join(table.column_names)
            raise DataError(
                f"field {name!r} is not a column of the table; name its fields with {option} (it has {has})"
            )
        return table[name]

    def learn_vectors(self, sides: Mapping[str, tuple[pa.Table, Fields]]) -> None:
        """Called once before training with the training queries ("left") and products ("right") and their fields."""

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        """Called once before training with the training texts; pretrained encoders have their vocabulary."""

    def checkpoint_gradients(self) -> None:
        """Keep fewer activations and recompute them in the backward pass."""
        raise UserError(f"{self.spec['name']} can't recompute its activations; leave recompute out")

    def save_architecture(self, folder: Path) -> None:
        """Write what `spec` leaves to other libraries: configuration and tokenizer, for `make_encoder(folder=...)`."""

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """Write weights, config and tokenizer in the format of the encoder's own library; False if it has none."""
        return False

    def normalised(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(-self.image_mean / self.image_std, pixels.float(), 1 / (255 * self.image_std))

    def _set_image_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for name, values in (("image_mean", mean), ("image_std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)


class SmallEncoder(Encoder):
    """About 0.3 M parameters: four strided convolutions for pictures, averaged word vectors for texts.

    channels: those of the four convolutions' outputs; a `width` w stands for (w, 2 w, 2 w, 2 w), as in version 0.2.
    The vocabulary is learnt from the training texts (`learn_vocabulary`). Unknown words are skipped; of a text's known
    words the first `words` (32) are read.
    """

    initial_logit_scale = 10.0
    learning_rate = 4e-3
    image_parts = ("trunk.", "image_head.")

    def __init__(
        self,
        *,
        dimension: int = 128,
        image_size: int = 48,
        channels: Sequence[int] = (32, 64, 96, 128),
        width: int | None = None,
        vocabulary: Sequence[str] = (),
        words: int = 32,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.dimension, self.words = dimension, words
        self.channels = list(channels) if width is None else [width, 2 * width, 2 * width, 2 * width]
        self.image_size, self.image_shape = image_size, (image_size, image_size)
        self.dropout = nn.Dropout(dropout)
        self._set_image_statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        blocks: list[nn.Module] = []
        for before, after in pairwise([3, *self.channels]):
            stride, size, padding = (2, 3, 1) if blocks else (4, 6, 1)
            blocks += [nn.Conv2d(before, after, size, stride, padding), _ChannelNorm(after), nn.GELU()]
        self.trunk = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.image_head = nn.Linear(self.channels[-1], dimension)
        self.text_tower = nn.Sequential(nn.LayerNorm(dimension), nn.Linear(dimension, 2 * dimension), nn.GELU())
        self.text_head = nn.Linear(2 * dimension, dimension)
        self._set_vocabulary(vocabulary)

    @property
    def spec(self) -> dict[str, Any]:  # type: ignore[override]
        options = {name: getattr(self, name) for name in ("dimension", "image_size", "channels", "words")}
        return {"name": "small", **options, "dropout": self.dropout.p, "vocabulary": self.vocabulary}

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        if not self.vocabulary:
            counts = Counter(word for text in texts for word in words(text))
            self._set_vocabulary([word for word, _ in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:50_000]])

    def _set_vocabulary(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = list(vocabulary)
        self._index = {word: i for i, word in enumerate(self.vocabulary, start=1)}
        self.word_vectors = nn.Embedding(len(self.vocabulary) + 1, self.dimension, padding_idx=0)
        nn.init.normal_(self.word_vectors.weight[1:], std=self.dimension**-0.5)  # row 0, the padding, stays zero

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        size, picture = self.image_size, Image.fromarray(np.asarray(image))
        if picture.size != (size, size):
            scale = size / min(picture.size)
            sides = [max(size, round(side * scale)) for side in picture.size]
            left, top = ((side - size) // 2 for side in sides)
            picture = picture.resize(sides, Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
        return np.asarray(picture).transpose(2, 0, 1)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        if not self.vocabulary:
            raise UserError("the small encoder has no vocabulary yet; train the model or load a trained one")
        ids_NxL = np.zeros((len(texts), self.words), np.int64)
        for ids_L, text in zip(ids_NxL, texts, strict=True):
            known = [self._index[word] for word in words(text) if word in self._index][: self.words]
            ids_L[: len(known)] = known
        return torch.from_numpy(ids_NxL)

    def drop_words(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.1, 0)

    def encode_images(self, pixels: Tensor) -> Tensor:
        maps_NxCxHxW = self.trunk(self.normalised(pixels).contiguous(memory_format=torch.channels_last))
        return self.image_head(self.dropout(maps_NxCxHxW.mean((2, 3))))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        if self.training and tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            # elsewhere the length must not depend on the batch, and reading it would wait for the device
            used = (tokens > 0).any(0).nonzero()
            tokens = tokens[:, : int(used.max()) + 1 if len(used) else 1]
        words_N = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        mean_NxD = self.word_vectors(tokens).sum(1) / words_N.sqrt()
        return self.text_head(self.text_tower(self.dropout(mean_NxD)))


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of N x C x H x W; unlike batch norm it doesn't mix the pictures of a batch."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
