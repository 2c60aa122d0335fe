"""A bundle: everything that the app needs of some systems, in one folder with a manifest. Reading one needs no torch.

manifest.json       schema, splits, systems, control (the baseline), unlisted ("irrelevant": what is not in a query's
                    list counts as judged; or "unjudged"), opening (split -> a query row where the first system beats
                    the baseline, "win", and one where it loses, "loss"), metrics and glossary (name -> meaning),
                    sha256 of every other file
items.parquet       product_id, text fields, position of the picture in thumbnails.bin; each split is a range of rows
queries.parquet     split, query_id, division, text fields; each split is a range of rows
qrels.parquet       query and item (row numbers), score
slices.parquet      one row per query, one column per way of slicing (score sum, judged, words, category)
thumbnails.bin      small pictures, one after the other
systems/<name>/     ranking.npy (item rows of every query, best first, int32, padded with -1); of a model also
                    history.parquet (one row per step), <field>.npy (items x D, float16, L2-normalised, zero where
                    missing), gram.npy (cosines between the fields of a product), queries.npy, map.npy (positions in the
                    plane, of the products, then of the queries) and, if included, weights/ (model.json,
                    model.safetensors)
"""

from gcl_toolkit.views.bundle.reading import (
    Bundle,
    System,
    Vectors,
    best_first,
    field_cosines,
    fused_cosines,
    read_bundle,
)

__all__ = ["Bundle", "System", "Vectors", "best_first", "field_cosines", "fused_cosines", "read_bundle"]
