"""A bundle: all that the app needs of a study, in one folder with a manifest. Reading one needs no torch.

manifest.json       schema, splits, models, metrics, sha256 of every other file
items.parquet       product_id, the text fields, where the picture lies in thumbnails.bin; each split is a range of rows
queries.parquet     split, query_id, division, the text fields; each split is a range of rows
qrels.parquet       query and item (row numbers), score
slices.parquet      a row a query, a column a way of slicing (traffic, judged, words, category)
thumbnails.bin      small pictures, one after the other
models/<name>/      <field>.npy (items x D, float16, L2-normalised, zero where missing), gram.npy (the fields' cosines
                    with each other), queries.npy, map.npy (places on a plane, of the products, then of the queries),
                    metrics.parquet (a row a query), history.parquet (a row a step) and, where they were put in,
                    weights/ (model.json, model.safetensors)
"""

from gcl_toolkit.bundle.reading import SCHEMA, Bundle, Ranker, best_first, field_cosines, fused_cosines, read_bundle

__all__ = ["SCHEMA", "Bundle", "Ranker", "best_first", "field_cosines", "fused_cosines", "read_bundle"]
