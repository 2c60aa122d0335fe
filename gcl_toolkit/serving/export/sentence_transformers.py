"""What sentence-transformers reads beside the files of transformers: the pooling, the length, the prefixes."""

from pathlib import Path
from typing import Any

from gcl_toolkit.files import write_json
from gcl_toolkit.models.encoders import TextEncoder

MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
"""Class in sentence_transformers.models -> folder of its settings."""


def write_modules(encoder: TextEncoder, folder: Path) -> None:
    """Write modules.json and the settings of its modules, so that `SentenceTransformer(folder)` embeds as `encoder`."""
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (kind, path) in enumerate(MODULES.items())
    ]
    prompts = {"query": encoder.prefixes["left"], "document": encoder.prefixes["right"]}
    files: dict[str, Any] = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": encoder.length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": encoder.dimension, "pooling_mode_mean_tokens": True},
        "2_Normalize/config.json": {},
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, value)
