"""The only door to pretrained models: open_clip, transformers, and a small encoder trained from scratch.

An encoder turns pictures and texts into vectors of one space. Pictures come as uint8 (3 x S x S, cropped by `pixels`),
so that they can be cached; texts come as token ids. Vectors are not normalised; `fields.fuse` does that.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gcl_toolkit.errors import UserError, first_line
from gcl_toolkit.pictures import fit
from gcl_toolkit.texts import fast_tokenizer


class Encoder(nn.Module):
    """What a model needs of an encoder. `spec` holds the arguments that build it again through `make_encoder`."""

    spec: dict[str, Any]
    dimension: int
    image_size: int | None = None  # None: this encoder reads no pictures
    initial_logit_scale: float = 1 / 0.07
    learning_rate: float = 1e-5  # the peak that suits fine-tuning
    image_parts: tuple[str, ...] = ()  # how the names of the image tower's parameters begin
    image_mean: Tensor
    image_std: Tensor

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """A picture (or its H x W x 3 bytes) as uint8, 3 x S x S: short side resized to S, centre cropped."""
        raise UserError(f"{self.spec['name']} reads no pictures; leave image fields out or take a CLIP model")

    @property
    def crop_key(self) -> str:
        """What `pixels` depends on; equal keys give equal pixels."""
        return f"{self.spec['name']} {self.image_size}"

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        """Token ids, N x L; `side` is "left" for queries, "right" for products."""
        raise NotImplementedError

    def drop_words(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Augmentation of texts; pretrained encoders leave them as they are."""
        return tokens

    def encode_images(self, pixels: Tensor) -> Tensor:
        """N x 3 x S x S (uint8, or float 0..255) -> N x D."""
        raise NotImplementedError

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """N x L -> N x D."""
        raise NotImplementedError

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        """Called once before training with the training texts; pretrained encoders have their vocabulary."""

    def checkpoint_gradients(self) -> None:
        """Keep fewer activations and compute them again in the backward pass."""
        raise UserError(f"{self.spec['name']} can't recompute its activations; leave recompute out")

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """Write weights, config and tokenizer as the encoder's own library loads them; False if it has none."""
        return False

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - self.image_mean) / self.image_std

    def _set_image_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for name, values in (("image_mean", mean), ("image_std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)


def make_encoder(name: str, *, pretrained: str | None = None, **options) -> Encoder:
    """An encoder by name.

    "small": a convolutional trunk and a bag-of-words tower, from scratch, for CPUs.
    "ViT-B-32", "ViT-B-16-SigLIP", "hf-hub:org/name", ...: open_clip's names; `pretrained` is one of its tags, a file
    (.safetensors, .pt read with weights_only) or None for random weights.
    "text:org/name" or "text:folder": a Hugging Face text encoder (E5, MiniLM, ...), mean pooled.
    """
    if pretrained and (name == "small" or name.startswith("text:")):
        raise UserError(f"{name} takes no checkpoint ({pretrained!r}); leave it out, or name an open_clip model")
    if name == "small":
        return SmallEncoder(**options)
    if name.startswith("text:"):
        return TextEncoder(name, **options)
    return OpenClipEncoder(name, pretrained=pretrained, **options)


# -- small -------------------------------------------------------------------------------------------------------------


class SmallEncoder(Encoder):
    """About 0.4 M parameters: four strided convolutions for pictures, averaged word vectors for texts.

    The vocabulary is learnt from the training texts (`learn_vocabulary`); unknown words are skipped.
    """

    initial_logit_scale = 10.0
    learning_rate = 4e-3
    image_parts = ("trunk.", "image_head.")

    def __init__(
        self,
        *,
        dimension: int = 128,
        image_size: int = 64,
        width: int = 64,
        vocabulary: Sequence[str] = (),
        words: int = 32,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.dimension, self.width, self.words = dimension, width, words
        self.dropout = nn.Dropout(dropout)
        self.image_size: int = image_size
        self._set_image_statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 6, stride=4, padding=1), _ChannelNorm(width), nn.GELU()]
        for channels in (width, 2 * width, 2 * width):
            blocks += [nn.Conv2d(channels, 2 * width, 3, stride=2, padding=1), _ChannelNorm(2 * width), nn.GELU()]
        self.trunk = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.image_head = nn.Linear(2 * width, dimension)
        self.text_tower = nn.Sequential(nn.LayerNorm(dimension), nn.Linear(dimension, 2 * dimension), nn.GELU())
        self.text_head = nn.Linear(2 * dimension, dimension)
        self._set_vocabulary(vocabulary)

    @property
    def spec(self) -> dict[str, Any]:  # type: ignore[override]
        names = ("dimension", "image_size", "width", "words")
        options = {name: getattr(self, name) for name in names} | {"dropout": self.dropout.p}
        return {"name": "small", **options, "vocabulary": self.vocabulary}

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        if not self.vocabulary:
            counts = Counter(word for text in texts for word in _words(text))
            self._set_vocabulary([word for word, _ in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:50_000]])

    def _set_vocabulary(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = list(vocabulary)
        self._index = {word: i for i, word in enumerate(self.vocabulary, start=1)}
        self.word_vectors = nn.Embedding(len(self.vocabulary) + 1, self.dimension, padding_idx=0)
        nn.init.normal_(self.word_vectors.weight[1:], std=self.dimension**-0.5)  # row 0, the padding, stays zero

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        size = self.image_size
        image = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
        if image.size != (size, size):
            scale = size / min(image.size)
            image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
            left, top = ((side - size) // 2 for side in image.size)
            image = image.crop((left, top, left + size, top + size))
        return np.asarray(image).transpose(2, 0, 1)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        if not self.vocabulary:
            raise UserError("the small encoder has no vocabulary yet; train the model or load a trained one")
        rows = [[self._index[w] for w in _words(text) if w in self._index][: self.words] for text in texts]
        ids_NxL = torch.zeros(len(rows), self.words, dtype=torch.long)
        for i, row in enumerate(rows):
            ids_NxL[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return ids_NxL

    def drop_words(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.1, 0)

    def encode_images(self, pixels: Tensor) -> Tensor:
        maps_NxCxHxW = self.trunk(self.normalised(pixels).contiguous(memory_format=torch.channels_last))
        return self.image_head(self.dropout(maps_NxCxHxW.mean((2, 3))))

    def encode_texts(self, tokens: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():  # a graph takes all places; those of padding are zero
            used = (tokens > 0).any(0).nonzero()
            tokens = tokens[:, : int(used.max()) + 1 if len(used) else 1]
        words_N = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        mean_NxD = self.word_vectors(tokens).sum(1) / words_N.sqrt()
        return self.text_head(self.text_tower(self.dropout(mean_NxD)))


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of N x C x H x W; unlike batch norm, a picture's vector is its own."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# -- open_clip ---------------------------------------------------------------------------------------------------------


PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


class OpenClipEncoder(Encoder):
    """Any open_clip model, by its name and checkpoint. `preprocess` is how pictures are prepared where the checkpoint
    doesn't say: mean, std, interpolation, resize_mode."""

    image_parts = ("model.visual.",)

    def __init__(self, name: str, *, pretrained: str | None = None, preprocess: Mapping[str, Any] | None = None):
        super().__init__()
        import open_clip

        if not name.startswith(("hf-hub:", "local-dir:")) and name not in open_clip.list_models():
            raise UserError(f"unknown model {name!r}; 'small', 'text:...', 'hf-hub:...' or one of open_clip's names")
        if pretrained and Path(pretrained).suffix and not Path(pretrained).is_file():
            raise UserError(f"checkpoint {pretrained!r} is not a file; give a path or one of open_clip's tags")
        try:
            said = {f"image_{key}": value for key, value in (preprocess or {}).items()}
            model, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, weights_only=True, **said
            )
            self._tokenize = fast_tokenizer(open_clip.get_tokenizer(name))
        except Exception as error:  # the hub, a torn file, a wrong tag: one clear line
            raise UserError(
                f"{name} ({pretrained or 'no checkpoint'}) could not be loaded: {first_line(error)}"
            ) from error
        self.preprocess = {key: model.visual.preprocess_cfg[key] for key in PREPROCESS}
        self.spec = {"name": name, "preprocess": self.preprocess}
        self.model = model
        size = transform.transforms[0].size
        self.image_size = size if isinstance(size, int) else max(size)
        self.dimension = int(model.encode_text(self._tokenize(["a"])).shape[1])
        self.initial_logit_scale = float(model.logit_scale.detach().exp())
        crop = [t for t in transform.transforms if type(t).__name__ not in ("MaybeToTensor", "ToTensor", "Normalize")]
        self._crop, self._fit = crop, _fit_of(crop)
        self._set_image_statistics(model.visual.image_mean, model.visual.image_std)

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        if self._fit:
            if isinstance(image, Image.Image):
                image = np.asarray(image.convert("RGB"))
            return fit(image, *self._fit)
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        cropped: Any = image
        for transform in self._crop:
            cropped = transform(cropped)
        return np.asarray(cropped.convert("RGB")).transpose(2, 0, 1)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        return self._tokenize(list(texts))

    def checkpoint_gradients(self) -> None:
        self.model.set_grad_checkpointing()

    def encode_images(self, pixels: Tensor) -> Tensor:
        # Contiguous: torch 2.15's backward of MobileCLIP's convolutions (CPU) corrupts memory in channels-last order.
        return self.model.encode_image(self.normalised(pixels).contiguous())

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """open_clip_config.json and open_clip_model.safetensors, for `local-dir:FOLDER` and the hub."""
        import open_clip

        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        state["logit_scale"] = logit_scale.log().reshape(state["logit_scale"].shape)  # the one that was trained
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        config = {"model_cfg": open_clip.get_model_config(self.spec["name"]), "preprocess_cfg": self.preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
        if hasattr(self._tokenize, "save_pretrained"):  # of Hugging Face; CLIP's own comes with open_clip
            self._tokenize.save_pretrained(folder)
        return True


def _fit_of(transforms: Sequence[Any]) -> tuple | None:
    """Arguments of `pictures.fit` that do what open_clip's transforms do; None if they are others."""
    names = [name for t in transforms if (name := type(t).__name__) != "MaybeConvertMode"]
    mode = {"bicubic": "bicubic", "bilinear": "bilinear"}.get(getattr(transforms[0].interpolation, "value", ""))
    if names not in (["Resize"], ["Resize", "CenterCrop"]) or not mode:
        return None
    size = transforms[0].size
    crop = tuple(transforms[1].size) if names[1:] else None
    return (size if isinstance(size, int) else tuple(size)), crop, mode


# -- transformers ------------------------------------------------------------------------------------------------------


class TextEncoder(Encoder):
    """A Hugging Face text encoder with mean pooling. `prefix` is put before every query, `product_prefix` (the same if
    None) before every product; a name with "e5" in it has "query: " and "passage: " unless told otherwise."""

    def __init__(self, name: str, *, prefix: str | None = None, product_prefix: str | None = None, length: int = 77):
        super().__init__()
        try:
            import transformers

            path = name.removeprefix("text:")
            self.model = transformers.AutoModel.from_pretrained(path)
            self._tokenize = transformers.AutoTokenizer.from_pretrained(path)
        except Exception as error:
            raise UserError(f"{name} could not be loaded: {first_line(error)}") from error
        if prefix is None:
            is_e5 = re.search(r"\be5\b", Path(path).name, re.IGNORECASE)
            prefix, product_prefix = ("query: ", product_prefix or "passage: ") if is_e5 else ("", product_prefix)
        self.prefixes = {"left": prefix, "right": prefix if product_prefix is None else product_prefix}
        said = {"prefix": self.prefixes["left"], "product_prefix": self.prefixes["right"], "length": length}
        self.spec, self.length = {"name": name, **said}, length
        self.dimension = self.model.config.hidden_size
        self.initial_logit_scale = math.exp(3.0)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        texts = [self.prefixes[side] + text for text in texts]
        made = self._tokenize(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        return torch.where(made["attention_mask"].bool(), made["input_ids"], -1)  # -1: padding

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """What transformers' AutoModel and AutoTokenizer load."""
        self.model.save_pretrained(folder)
        self._tokenize.save_pretrained(folder)
        return True

    def checkpoint_gradients(self) -> None:
        new = hasattr(self.model, "activation_checkpointing_enable")  # its name since transformers 5
        (self.model.activation_checkpointing_enable if new else self.model.gradient_checkpointing_enable)()

    def encode_texts(self, tokens: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            tokens = tokens[:, : max(1, int((tokens >= 0).sum(1).max()))]
        mask_NxL = (tokens >= 0).long()
        hidden_NxLxD = self.model(input_ids=tokens.clamp(min=0), attention_mask=mask_NxL).last_hidden_state
        return (hidden_NxLxD * mask_NxL[..., None]).sum(1) / mask_NxL.sum(1, keepdim=True)
