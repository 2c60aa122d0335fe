"""Encoders by name, and the only module that loads pretrained ones, by open_clip and transformers."""

import json
import logging
import math
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import isfunction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gcl_toolkit.data.pictures import fit
from gcl_toolkit.errors import UserError, first_line
from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.lite import PROJECTIONS, lite_folder
from gcl_toolkit.models.small import Encoder, SmallEncoder
from gcl_toolkit.models.texts import by_length, fast_tokenizer
from gcl_toolkit.options import checked, split_options

OPTIONS = ("dimension", "image_size", "width", "words", "dropout", "map", "rank", "features")
"""What a name may state after a colon."""


def make_encoder(name: str, *, pretrained: str | None = None, folder: Path | None = None, **options) -> Encoder:
    """An encoder by name.

    "small": a convolutional trunk and a bag-of-words tower, from scratch, for CPUs; with options after a colon, such as
    small:image_size=64,width=64.
    "vectors": maps of vectors that were computed before (gcl embed), such as vectors:map=mlp,dimension=128.
    "ViT-B-32", "ViT-B-16-SigLIP", "hf-hub:org/name", ...: open_clip's names; `pretrained` is one of its tags, a file
    (.safetensors, or .pt read with weights_only) or None for random weights.
    "lite": two small pretrained towers from packages, offline (`models.lite`); with options after a colon,
    lite:dimension=512 or lite:features=true.
    "text:org/name" or "text:folder": a Hugging Face text encoder (E5, MiniLM, ...), mean pooled.
    folder: where `Encoder.save_architecture` wrote; if it did, the encoder is built from there, without weights.
    """
    kind, given = split_options(name)
    if pretrained and (kind in ("small", "vectors", "lite") or name.startswith("text:")):
        raise UserError(f"{name} takes no checkpoint ({pretrained!r}); leave it out or name an open_clip model")
    name, folder = absolute_name(name), folder if folder and has_architecture(folder) else None
    if kind in OURS:
        given, build = options_of(name), partial(_lite_encoder, name, folder) if kind == "lite" else OURS[kind]
        try:
            return build(**options, **given)
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"encoder {name!r}: {first_line(error)}") from None
    if name.startswith("text:"):
        return TextEncoder(name, folder=folder, **options)
    return OpenClipEncoder(name, pretrained=pretrained, folder=folder, **options)


def options_of(name: str) -> dict[str, Any]:
    """The options after the colon of a name, checked without building the encoder."""
    kind, given = split_options(name)
    build: Any = OURS.get(kind, lambda: None)
    types = get_type_hints(build if isfunction(build) else build.__init__)
    return checked(given, {option: types[option] for option in OPTIONS if option in types}, f"encoder {kind}")


def has_architecture(folder: Path) -> bool:
    """Whether a folder holds the architecture of an open_clip or text encoder."""
    return (folder / CONFIG).is_file() or (folder / "tokenizer_config.json").is_file()


def absolute_name(encoder: str) -> str:
    """An encoder's name with the absolute path of a local folder."""
    kind, _, path = encoder.partition(":")
    is_local = kind in ("text", "local-dir") and Path(path).is_dir()
    return f"{kind}:{Path(path).absolute()}" if is_local else encoder


def public_name(encoder: str) -> str:
    """An encoder's name without the path of a local folder."""
    kind, colon, path = encoder.partition(":")
    is_local = kind == "local-dir" or Path(path).is_absolute()
    return f"{kind}:{Path(path).name}" if colon and is_local else encoder


# -- open_clip ---------------------------------------------------------------------------------------------------------


CONFIG = "open_clip_config.json"
PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


class OpenClipEncoder(Encoder):
    """Any open_clip model, by its name and checkpoint.

    preprocess: how pictures are prepared (mean, std, interpolation, resize_mode) unless the checkpoint is a tag or a
    hub model, which say it themselves; for a checkpoint file, by default as most of the model's tags do.
    weights: whether those in `folder` are loaded.
    """

    image_parts = ("model.visual.",)

    def __init__(
        self,
        name: str,
        *,
        pretrained: str | None = None,
        preprocess: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        weights: bool = False,
    ):
        super().__init__()
        if folder is None:
            _check_known(name, pretrained)
        if preprocess is None and pretrained and Path(pretrained).suffix:
            preprocess = _usual_preprocess(name)
        options: dict[str, Any] = {f"image_{key}": value for key, value in (preprocess or {}).items()}
        try:
            options["load_weights"] = weights or folder is None
            model, transform = self._load(name, pretrained, folder, options)
        except Exception as error:  # the hub, a corrupt file, a wrong tag: one clear line
            checkpoint = pretrained or "no checkpoint"
            raise UserError(f"{name} ({checkpoint}) could not be loaded: {_reason(error, checkpoint)}") from error
        self.preprocess = {key: model.visual.preprocess_cfg[key] for key in PREPROCESS}
        self.spec = {"name": name, "preprocess": self.preprocess}
        self.model = model
        size = model.visual.image_size
        self.image_shape = (size, size) if isinstance(size, int) else tuple(size)
        self.dimension = int(model.encode_text(self._tokenize(["a"])).shape[1])
        self.initial_logit_scale = float(model.logit_scale.detach().exp())
        self._crop = [t for t in transform.transforms if type(t).__name__ not in ("MaybeToTensor", "Normalize")]
        self._fit = _fit_of(self._crop)
        self._set_image_statistics(model.visual.image_mean, model.visual.image_std)

    def _load(self, name: str, pretrained: str | None, folder: Path | None, options: dict[str, Any]) -> tuple[Any, Any]:
        """The model and its transform of pictures, and as attributes its configuration and tokenizer."""
        import open_clip

        source = f"local-dir:{folder}" if folder else name
        self._config = open_clip.get_model_config(source)
        place, text = folder or Path(name.removeprefix("local-dir:")), self._config["text_cfg"]
        if "hf_model_name" in text and (folder or _is_text_tower(place)):  # its configuration is in the folder too
            options["text_cfg"] = {**text, "hf_model_name": str(place), "hf_model_pretrained": False}
        before = logging.root.manager.disable
        logging.disable(logging.WARNING if folder else before)  # "initialized randomly": the weights come later
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                source, pretrained=pretrained, weights_only=True, **options
            )
        finally:
            logging.disable(before)
        self._tokenize = fast_tokenizer(open_clip.get_tokenizer(source))
        return model, transform

    @property
    def crop_key(self) -> str:
        return f"{self.preprocess} {self.image_shape}"

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        if self._fit:
            return fit(np.asarray(image), *self._fit)
        return self.pillow_pixels(Image.fromarray(np.asarray(image)))

    def pillow_pixels(self, image: Image.Image) -> np.ndarray:
        for transform in self._crop:
            image = transform(image)
        return np.asarray(image).transpose(2, 0, 1)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        return self._tokenize(list(texts))

    def checkpoint_gradients(self) -> None:
        self.model.set_grad_checkpointing()

    def encode_images(self, pixels: Tensor) -> Tensor:
        # Contiguous: torch 2.15's backward of MobileCLIP's convolutions (CPU) corrupts memory in channels-last order.
        return self.model.encode_image(self.normalised(pixels).contiguous())

    def encode_texts(self, tokens: Tensor) -> Tensor:
        if "hf_model_name" in self._config["text_cfg"]:
            return by_length(self.model.encode_text, tokens, self.model.text.config.pad_token_id, self.training)
        return self.model.encode_text(tokens)

    def save_architecture(self, folder: Path) -> None:
        config = {"model_cfg": self._config, "preprocess_cfg": self.preprocess}
        (folder / CONFIG).write_text(json.dumps(config, indent=1))
        if hasattr(self._tokenize, "save_pretrained"):  # Hugging Face's; CLIP's own comes with open_clip
            self._tokenize.save_pretrained(folder)
        if "hf_model_name" in self._config["text_cfg"]:
            self.model.text.config.save_pretrained(folder)

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """open_clip_config.json and open_clip_model.safetensors, for `local-dir:FOLDER` and the hub."""
        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        state["logit_scale"] = logit_scale.log().reshape(state["logit_scale"].shape)  # the trained one
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        self.save_architecture(folder)
        return True


def _check_known(name: str, pretrained: str | None) -> None:
    import open_clip

    if not name.startswith(("hf-hub:", "local-dir:")) and name not in open_clip.list_models():
        raise UserError(f"unknown model {name!r}; 'small', 'text:...', 'hf-hub:...' or one of open_clip's names")
    if pretrained and Path(pretrained).suffix and not Path(pretrained).is_file():
        raise UserError(f"checkpoint {pretrained!r} is not a file; give a path or one of open_clip's tags")


def _is_text_tower(folder: Path) -> bool:
    """Whether a folder's config.json is that of a text tower of transformers, not of a model converted to them."""
    from open_clip.hf_configs import arch_dict

    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("model_type") in arch_dict


def _lite_encoder(
    name: str, folder: Path | None, *, dimension: int = 256, features: bool = False, **options
) -> OpenClipEncoder:
    """The pair of `models.lite`, its projections drawn by torch's generator. features: without projections, so that
    pictures become 1,280 numbers and texts 384."""
    encoder = OpenClipEncoder(name, folder=folder or lite_folder(dimension), weights=folder is None, **options)
    visual, text = encoder.model.visual, encoder.model.text
    if features:
        visual.head, text.proj, encoder.dimension = nn.Identity(), nn.Identity(), text.config.hidden_size
    else:
        visual.head.proj.reset_parameters()
        text.proj.reset_parameters()
        encoder.new_parts = PROJECTIONS
    return encoder


OURS: dict[str, Any] = {"small": SmallEncoder, "vectors": VectorEncoder, "lite": _lite_encoder}


def _reason(error: Exception, checkpoint: str) -> str:
    """Why a checkpoint was not read. torch's own messages advise options that don't exist here."""
    if "GLOBAL " in str(error):
        safe = Path(checkpoint).with_suffix(".safetensors").as_posix()
        code = (
            "import torch, safetensors.torch as st; "
            f"c = torch.load({checkpoint!r}, 'cpu', weights_only=False); c = c.get('state_dict', c); "
            f"st.save_file({{k.removeprefix('module.'): v.clone().contiguous() for k, v in c.items()}}, {safe!r})"
        )
        return (
            f"it holds Python objects besides tensors, and loading them can run any code; if you trust its source, "
            f'convert it once and give {safe}: python -c "{code}"'
        )
    if "TorchScript" in str(error):
        return "it is a TorchScript archive; save the state_dict of its model with torch.save or as safetensors"
    if isinstance(error, pickle.UnpicklingError):
        return "it is corrupt or was not written by torch.save; copy the file again"
    return first_line(error)


def _usual_preprocess(name: str) -> dict[str, Any]:
    """How most of an open_clip model's tags prepare pictures; empty for a model without tags."""
    import open_clip

    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    kinds = Counter(tuple((key, tag[key]) for key in PREPROCESS if tag.get(key)) for tag in tags)
    return dict(kinds.most_common(1)[0][0]) if kinds else {}


def _fit_of(transforms: Sequence[Any]) -> tuple | None:
    """Arguments with which `pictures.fit` does what open_clip's transforms do; None if it can't."""
    names = [name for t in transforms if (name := type(t).__name__) != "MaybeConvertMode"]
    mode = getattr(transforms[0].interpolation, "value", "")
    if names not in (["Resize"], ["Resize", "CenterCrop"]) or mode not in ("bicubic", "bilinear"):
        return None
    size = transforms[0].size
    return size if isinstance(size, int) else tuple(size), tuple(transforms[1].size) if names[1:] else None, mode


# -- transformers ------------------------------------------------------------------------------------------------------


class TextEncoder(Encoder):
    """A Hugging Face text encoder with mean pooling.

    prefix, product_prefix: put before every query and every product (by default the same). For a name with "e5" in it
    the defaults are "query: " and "passage: ".
    """

    def __init__(
        self,
        name: str,
        *,
        prefix: str | None = None,
        product_prefix: str | None = None,
        length: int = 77,
        folder: Path | None = None,
    ):
        super().__init__()
        path = name.removeprefix("text:")
        try:
            import transformers

            if folder:
                self.model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
            else:
                self.model = transformers.AutoModel.from_pretrained(path)
            self._tokenize = transformers.AutoTokenizer.from_pretrained(folder or path)
        except Exception as error:
            raise UserError(f"{name} could not be loaded: {first_line(error)}") from error
        if prefix is None:
            is_e5 = re.search(r"\be5\b", Path(path).name, re.IGNORECASE)
            prefix, product_prefix = ("query: ", product_prefix or "passage: ") if is_e5 else ("", product_prefix)
        self.prefixes = {"left": prefix, "right": prefix if product_prefix is None else product_prefix}
        self.length = length
        options = {"prefix": self.prefixes["left"], "product_prefix": self.prefixes["right"], "length": length}
        self.spec = {"name": name, **options}
        self.dimension = self.model.config.hidden_size
        self.initial_logit_scale = math.exp(3.0)

    def tokens(self, texts: Sequence[str], side: str = "left") -> Tensor:
        texts = [self.prefixes.get(side, "") + text for text in texts]
        batch = self._tokenize(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return torch.where(batch["attention_mask"].bool(), batch["input_ids"], -1)  # -1: padding

    def save_architecture(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self._tokenize.save_pretrained(folder)

    def publish(self, folder: Path, logit_scale: Tensor) -> bool:
        """What transformers' AutoModel and AutoTokenizer load."""
        self.model.save_pretrained(folder)
        self._tokenize.save_pretrained(folder)
        return True

    def checkpoint_gradients(self) -> None:
        new = hasattr(self.model, "activation_checkpointing_enable")  # its name since transformers 5
        (self.model.activation_checkpointing_enable if new else self.model.gradient_checkpointing_enable)()

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return by_length(self._mean_pooled, tokens, -1, self.training)

    def _mean_pooled(self, tokens: Tensor) -> Tensor:
        mask_NxL = (tokens >= 0).long()
        hidden_NxLxD = self.model(input_ids=tokens.clamp(min=0), attention_mask=mask_NxL).last_hidden_state
        return (hidden_NxLxD * mask_NxL[..., None]).sum(1) / mask_NxL.sum(1, keepdim=True)
