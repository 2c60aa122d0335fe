"""How an exported model is used: the lines of code in its card, by the kind of its encoder."""

from __future__ import annotations

from gcl_toolkit.encoders import OpenClipEncoder, TextEncoder
from gcl_toolkit.model import GCLModel

OPEN_CLIP = """\
Plain open_clip, without the toolkit; a query or a product with several fields is their weighted sum:

```python
import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

NAME = "local-dir:."  # this folder; "hf-hub:OWNER/NAME" once it is on the hub
model, _, preprocess = open_clip.create_model_and_transforms(NAME)
tokenize = open_clip.get_tokenizer(NAME)
model.eval()


@torch.inference_mode()
def embed(weights, **fields):
    parts = []
    for name, value in fields.items():
        is_image = isinstance(value, Image.Image)
        vector = model.encode_image(preprocess(value)[None]) if is_image else model.encode_text(tokenize([value]))
        parts.append(weights[name] * normalize(vector, dim=-1))
    return normalize(sum(parts), dim=-1)[0]


LEFT, RIGHT = {left}, {right}
query = embed(LEFT, {query}="red striped mug")
# product = embed(RIGHT, {product})
# score = query @ product
```
"""
TRANSFORMERS = """\
`transformers.AutoModel` and `AutoTokenizer` load this folder. A text's vector is the mean of its tokens' last states,
of at most {length} tokens, after the prefix {prefix!r} for queries and {product_prefix!r} for products. In Python:

```python
import pyarrow as pa
from gcl_toolkit import Fields, GCLModel

encoder = {{"prefix": {prefix!r}, "product_prefix": {product_prefix!r}, "length": {length}}}
model = GCLModel("text:.", left=Fields(**{left}), right=Fields(**{right}), **encoder)
vectors = model.embed(pa.table({{"{query}": ["red striped mug"]}}), "left")
```
"""
SMALL = """\
open_clip and transformers don't know this encoder, a small one trained from scratch: `model.json` and
`model.safetensors` are for the GCL Toolkit, and the ONNX files, where there are any, for every runtime.

```python
import pyarrow as pa
from gcl_toolkit import GCLModel

model = GCLModel.load(".")
vectors = model.embed(pa.table({{"{query}": ["red striped mug"]}}), "left")
```
"""


def library_of(model: GCLModel) -> tuple[str, list[str]]:
    """The hub's name of the library that loads it, and further tags."""
    if isinstance(model.encoder, OpenClipEncoder):
        return "open_clip", ["clip"]
    return ("transformers" if isinstance(model.encoder, TextEncoder) else "gcl-toolkit"), []


def text(model: GCLModel) -> str:
    left, right = dict(model.fields("left")), dict(model.fields("right"))
    said = {"left": left, "right": right, "query": next(iter(left))}
    if isinstance(model.encoder, OpenClipEncoder):
        values = ", ".join(f'{n}=Image.open("mug.jpg")' if "image" in n else f'{n}="A mug with stripes"' for n in right)
        code = OPEN_CLIP
        for name, value in (said | {"product": values}).items():
            code = code.replace(f"{{{name}}}", str(value))
        return code.strip()
    if isinstance(model.encoder, TextEncoder):
        prefixes = {"prefix": model.encoder.prefixes["left"], "product_prefix": model.encoder.prefixes["right"]}
        return TRANSFORMERS.format(**said, **prefixes, length=model.encoder.length).strip()
    return SMALL.format(**said).strip()


def of_onnx(model: GCLModel, differences: dict[str, float]) -> str:
    """What goes in and out of the ONNX files, and how closely they were found to follow the model."""
    length = model.encoder.tokens(["a"]).shape[1]
    tokens = "as the tokenizer gives them"
    if isinstance(model.encoder, TextEncoder):
        tokens += ", -1 for padding"
    elif not isinstance(model.encoder, OpenClipEncoder):
        tokens = "a word's place in the vocabulary of model.json, counted from 1, unknown words skipped; 0 for padding"
    lines = [f"- `text.onnx`: `tokens`, int64, N x {length} ({tokens}), to `vectors`, N x {model.dimension}"]
    if size := model.encoder.image_size:
        lines.append(
            f"- `image.onnx`: `pixels`, uint8, N x 3 x {size} x {size} (RGB, resized and cropped, not normalised), to "
            f"`vectors`, N x {model.dimension}"
        )
    found = ", ".join(f"{name} {difference:.0e}" for name, difference in differences.items())
    return "\n".join([f"ONNX, vectors of length 1; largest difference from the model: {found}.", "", *lines])
