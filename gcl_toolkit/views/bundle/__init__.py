"""A bundle: everything that the app needs of a study, in one folder with a manifest. Reading one needs no torch.

manifest.json       schema, splits, models, metrics, sha256 of every other file
items.parquet       product_id, text fields, position of the picture in thumbnails.bin; each split is a range of rows
queries.parquet     split, query_id, division, text fields; each split is a range of rows
qrels.parquet       query and item (row numbers), score
slices.parquet      one row per query, one column per way of slicing (traffic, judged, words, category)
thumbnails.bin      small pictures, one after the other
models/<name>/      <field>.npy (items x D, float16, L2-normalised, zero where missing), gram.npy (cosines between the
                    fields of a product), queries.npy, map.npy (positions in the plane, of the products, then of the
                    queries), metrics.parquet (one row per query), history.parquet (one row per step) and, if included,
                    weights/ (model.json, model.safetensors)
"""

from gcl_toolkit.views.bundle.reading import Bundle, Ranker, best_first, field_cosines, fused_cosines, read_bundle

__all__ = ["Bundle", "Ranker", "best_first", "field_cosines", "fused_cosines", "read_bundle"]
