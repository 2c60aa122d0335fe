"""gcl search."""

import gc
from pathlib import Path

import tyro

from gcl_toolkit.cli.common import app, data_of, model_folder, print_table, splits_of
from gcl_toolkit.errors import UserError


@app.command(name="search")
def search_command(
    run: tyro.conf.Positional[Path],
    query: tyro.conf.Positional[str],
    data: str | None = None,
    split: str = "zero_shot",
    k: int = 10,
) -> None:
    """The best products for a text, by default from the held-out documents of the data.

    The first search embeds the products and keeps their vectors in the folder `products` of the run.

    Args:
        run: folder of a run, a model, or a study (its model with the default method).
        query: the text to search for.
        data: as in gcl train; by default what the run was trained on.
        split: whose products.
        k: how many.
    """
    gc.disable()  # imports leave no garbage, and looking for it takes a seventh of their time
    import numpy as np
    import pyarrow as pa

    from gcl_toolkit.measure.search import top_k
    from gcl_toolkit.serving.stored import stored_products
    from gcl_toolkit.training.runs import load_model

    gc.enable()
    folder, text = model_folder(run), _encoded(query)
    model, source = load_model(folder), data_of(run, data)
    # pa.array would import pandas
    column = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(text)], np.int32)), pa.py_buffer(text))
    queries = model.embed(pa.Table.from_arrays([column], names=[next(iter(model.left))]), "left")
    products, vectors = stored_products(folder, model, source, split, lambda: splits_of(source, [split])[split].corpus)
    scores, rows = top_k(queries, vectors, k, device=model.device)
    columns = ["product_id", *(name for name in products.column_names if name in ("title", "category"))]
    ranked = [
        (rank, f"{score:.3f}", *(products[name][int(row)].as_py() or "" for name in columns))
        for rank, (score, row) in enumerate(zip(scores[0], rows[0], strict=True), start=1)
    ]
    print_table(("rank", "cosine", *columns), ranked)


def _encoded(query: str) -> bytes:
    if not query.strip():
        raise UserError("the text to search for is empty; give some words, such as 'red mug'")
    return query.encode()
