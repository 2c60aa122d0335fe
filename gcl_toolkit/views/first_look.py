"""A first look at data, before anything is trained: what BM25 finds."""

from pathlib import Path

import numpy as np
from PIL import Image

from gcl_toolkit.data.pictures import open_image
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.measure.baselines import BM25, oracle_top_k, texts
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.studies.study import StudyConfig

SHOWN, SIDE = 10, 96
"""Products in a row; pixels of a picture."""


def first_look(data: RankedData, config: StudyConfig, path: Path) -> list[str]:
    """Lines about BM25 on the test queries, and the pictures of its first products for a query, above the best ones, as
    an image file. The query is the median by NDCG@10."""
    tested = data.only("test")
    found_QxK = BM25(texts(data.corpus, config.right)).top_k(texts(tested.queries, config.left), SHOWN)
    values_Q = measure_ranking(found_QxK, tested, [NDCG @ 10])["NDCG@10"].to_numpy()
    query = int(np.argsort(values_Q)[len(values_Q) // 2])
    sheet = Image.new("RGB", (SHOWN * SIDE, 2 * SIDE), "white")
    for line, row_K in enumerate((found_QxK[query], oracle_top_k(tested, SHOWN)[query])):
        for column, product in enumerate(row_K[row_K >= 0]):
            picture = open_image(data.corpus["image"][int(product)].as_py())
            sheet.paste(picture.resize((SIDE, SIDE)), (column * SIDE, line * SIDE))
    sheet.save(path)
    titles = [data.corpus["title"][int(product)].as_py() for product in found_QxK[query][:3]]
    return [
        f"BM25 over titles: NDCG@10 {values_Q.mean():.3f} on {len(values_Q)} in-domain test queries",
        f'its first products for "{tested.queries["query"][query].as_py()}": {"; ".join(titles)}',
        f"their pictures, and below them those of the best products: {path}",
    ]
