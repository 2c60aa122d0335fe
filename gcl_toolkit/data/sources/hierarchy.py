"""Complete grades from labels in levels (fine class, coarse class, group): every relevant product gets one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.tabular import check_columns, read_file
from gcl_toolkit.errors import DataError, counted

LEVELS = ("fine_id", "coarse_id", "top")


def complete_grades(
    splits: dict[str, RankedData], folder: str | Path, levels: tuple[str, ...] = LEVELS
) -> dict[str, RankedData]:
    """The splits with every pair of grade > 0 in the qrels (`score`, `grade`), not only the listed pairs.

    `folder` has queries_meta.parquet (query_id, levels) and products_meta.parquet (product_id, levels), the finest
    level first; negative and null mean unknown. The score of a grade is that of its listed pairs.
    """
    query_levels = _levels(Path(folder) / "queries_meta.parquet", "query_id", levels)
    product_levels = _levels(Path(folder) / "products_meta.parquet", "product_id", levels)
    grades = {
        name: grade_matrix(
            _codes(query_levels, data.query_ids, product_levels),
            _codes(product_levels, data.product_ids, product_levels),
        )
        for name, data in splits.items()
    }
    score_of = _score_of_grade(splits, grades)
    return {name: _complete(data, grades[name], score_of) for name, data in splits.items()}


def grade_matrix(query_QxL: np.ndarray, product_MxL: np.ndarray) -> np.ndarray:
    """Grades (int, Q x M) from level codes, the finest level first, -1 unknown.

    Agreeing at the query's own deepest known level is grade L; else at level l (0 is the finest) L - l; nowhere 0.
    """
    levels = query_QxL.shape[1]
    deepest_Q = (query_QxL >= 0).argmax(1)
    grade_QxM = np.zeros((len(query_QxL), len(product_MxL)), np.int64)
    for level in reversed(range(levels)):
        query_Qx1 = query_QxL[:, level, None]
        agree_QxM = (query_Qx1 == product_MxL[:, level]) & (query_Qx1 >= 0)
        grade_Q = np.where(deepest_Q == level, levels, levels - level)
        grade_QxM = np.where(agree_QxM, grade_Q[:, None], grade_QxM)
    return grade_QxM


def _levels(path: Path, key: str, levels: tuple[str, ...]) -> pd.DataFrame:
    table = read_file(path)
    check_columns(table.column_names, (key, *levels), path)
    frame = table.select([key, *levels]).to_pandas()
    frame.index = pd.Index(frame.pop(key).astype(str), name=str(path))
    return frame.apply(lambda level: level.mask(level < 0) if pd.api.types.is_numeric_dtype(level) else level)


def _codes(labels: pd.DataFrame, ids: np.ndarray, products: pd.DataFrame) -> np.ndarray:
    """Level codes (N x L) of `ids`: indices into the products' distinct labels, -1 where unknown.

    A label that no product has matches nothing, but may be a query's deepest level: it gets one more code.
    """
    absent = pd.Index(ids).difference(labels.index)
    if len(absent):
        such = counted(len(absent), "such id")
        raise DataError(f"{labels.index.name}: {absent[0]!r} is missing ({such}); add its levels")
    columns = []
    for level in labels.columns:
        known = pd.Index(products[level].dropna().unique())
        values = labels[level].reindex(ids)
        columns.append(np.where(values.isna(), -1, np.where(values.isin(known), known.get_indexer(values), len(known))))
    return np.stack(columns, 1)


def _score_of_grade(splits: dict[str, RankedData], grades: dict[str, np.ndarray]) -> dict[int, float]:
    score_of: dict[int, float] = {}
    for name, data in splits.items():
        query, product, scores = data.pairs
        listed = pd.DataFrame({"grade": grades[name][query, product], "score": scores}).drop_duplicates()
        for row, grade, score in listed.itertuples():
            if grade == 0 or score_of.setdefault(grade, score) != score:
                ids = f"query {data.query_ids[query[row]]!r}, product {data.product_ids[product[row]]!r}"
                expected = f"{score_of[grade]:g}, the score of grade {grade}" if grade else "no pair: no level agrees"
                raise DataError(
                    f"{name}: qrels row {row} ({ids}): score is {score:g}, expected {expected}; check the levels"
                )
    return score_of


def _complete(data: RankedData, grade_QxM: np.ndarray, score_of: dict[int, float]) -> RankedData:
    query, product = np.nonzero(grade_QxM)
    grade = grade_QxM[query, product]
    unscored = set(grade.tolist()) - set(score_of)
    if unscored:
        raise DataError(f"{data.name}: no listed pair has grade {min(unscored)}, so its score is unknown")
    qrels = {
        "query_id": data.query_ids[query],
        "product_id": data.product_ids[product],
        "score": [score_of[g] for g in grade.tolist()],
        "grade": grade,
    }
    return replace(data, qrels=pa.table(qrels), card={**data.card, "qrels": "complete grades by level"})
