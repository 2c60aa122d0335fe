"""How an exported model is used: a section of its card, by the kind of its encoder."""

from pathlib import Path
from string import Template
from typing import Any

from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.encoders import OpenClipEncoder, TextEncoder
from gcl_toolkit.models.model import GCLModel


def template(name: str, /, **values: Any) -> str:
    """A Markdown file of this folder with its $names filled in."""
    return Template((Path(__file__).parent / f"{name}.md").read_text()).substitute(values).strip()


def library_of(model: GCLModel) -> str:
    """The library that loads it, by the hub's name."""
    if isinstance(model.encoder, OpenClipEncoder):
        return "open_clip"
    return "transformers" if isinstance(model.encoder, TextEncoder) else "gcl-toolkit"


def code(model: GCLModel) -> str:
    """Text and code that embed a query."""
    left, right, encoder = dict(model.fields("left")), dict(model.fields("right")), model.encoder
    values: dict[str, Any] = {"left": left, "right": right, "query": next(iter(left))}
    if isinstance(encoder, OpenClipEncoder):
        example = {name: 'Image.open("mug.jpg")' if "image" in name else '"A mug with stripes"' for name in right}
        product = ", ".join(f"{name}={value}" for name, value in example.items())
        return template("usage_open_clip", **values, product=product)
    if isinstance(encoder, TextEncoder):
        prefixes = {"prefix": repr(encoder.prefixes["left"]), "product_prefix": repr(encoder.prefixes["right"])}
        return template("usage_transformers", **values, **prefixes, length=encoder.length)
    if isinstance(encoder, VectorEncoder):
        return template("usage_vectors", **values, near=[key for key, one in encoder.maps.items() if one.near])
    return template("usage_small", **values)


def merged(model: GCLModel, differences: dict[str, float]) -> str:
    """How the merged models are used, and how far they differ from the adapter."""
    return template(
        "usage_merged",
        query=next(iter(model.fields("left"))),
        right=dict(model.fields("right")),
        differences=", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()),
    )


def onnx(model: GCLModel, differences: dict[str, float]) -> str:
    """Inputs and outputs of the ONNX files, and how far they differ from the model."""
    encoder, output = model.encoder, f"`vectors`, N x {model.dimension}"
    compared = "ONNX, vectors of length 1; largest difference from the model: " + ", ".join(
        f"{name} {difference:.0e}" for name, difference in differences.items()
    )
    if isinstance(encoder, VectorEncoder):
        sizes = [
            f"- `{key}.onnx`: `inputs`, float32, N x {a['dimension']}, to {output}" for key, a in encoder.inputs.items()
        ]
        return "\n".join([f"{compared}.\n", *sizes])
    tokens = "from the tokenizer"
    if isinstance(encoder, TextEncoder):
        tokens += ", -1 for padding"
    elif not isinstance(encoder, OpenClipEncoder):
        tokens = "a word's number in the vocabulary of model.json, from 1, unknown words skipped; 0 for padding"
    lines = [
        f"{compared}.\n",
        f"- `text.onnx`: `tokens`, int64, N x {encoder.tokens(['a']).shape[1]} ({tokens}), to {output}",
    ]
    if shape := encoder.image_shape:
        pixels = f"uint8, N x 3 x {shape[0]} x {shape[1]} (RGB, resized and cropped, not normalised)"
        lines.append(f"- `image.onnx`: `pixels`, {pixels}, to {output}")
    return "\n".join(lines)
