"""Public data sets, as a table: where the files are, how they are read, and a data card.

Each is a source: `load("wands")`, `load("sqid:queries=500,fields=title+image_clip")`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import as_text, numbers, put
from gcl_toolkit.data.findings import pair_codes
from gcl_toolkit.data.sources.download import downloaded, local_or_hub, rows_of_queries
from gcl_toolkit.data.sources.marqo_gs.rows import choose
from gcl_toolkit.data.sources.rows import Tables, first_values, usable_fields
from gcl_toolkit.data.tabular import read_file
from gcl_toolkit.errors import DataError, counted

_OF_PAIR = ("query_id", "product_id", "label", "position", "score")


@dataclass(frozen=True)
class Card:
    """What `gcl data list` shows. checked: what was read in the set's own documentation or files, and when."""

    about: str
    size: str
    licence: str
    scores: str
    checked: str = ""


@dataclass(frozen=True)
class Files:
    """Files with the same columns. place: a data set on the hub, or an http address. names: glob patterns, separated by
    spaces; those of the first that matches are read. columns: "theirs=ours, both"; no others are read."""

    place: str
    names: str
    columns: str

    def renamed(self) -> dict[str, str]:
        """Their name -> ours."""
        pairs = [name.strip().partition("=") for name in self.columns.split(",")]
        return {theirs: ours or theirs for theirs, _, ours in pairs}


@dataclass(frozen=True)
class PublicSet:
    """pairs: with ids, a label or position, and perhaps fields; those of queries are named query...
    queries, products: files with further fields, which are read if they exist.
    grades: first letter of a label -> score. Without labels, positions from 1 become scores, from 100 down to 1.
    only: column -> the value of the rows that belong to the set.
    unjudged: whether products without a pair belong to it, too."""

    card: Card
    pairs: Files
    queries: tuple[Files, ...] = ()
    products: tuple[Files, ...] = ()
    grades: Mapping[str, float] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)
    unjudged: bool = False

    @property
    def __name__(self) -> str:
        """As a module's: the last part is the source."""
        return next(f"{__name__}.{name}" for name, public in SETS.items() if public is self)

    def recognizes(self, path: Path) -> bool:
        """Whether a folder has its files, if they have names of their own."""
        names = [files.names.split()[0] for files in (self.pairs, *self.queries)]
        return "*" not in "".join(names) and all((path / name).exists() for name in names)

    def tables(
        self,
        path: str | Path | None = None,
        queries: int | None = None,
        seed: int = 0,
        fields: str | None = None,
        whole: bool = True,
    ) -> dict[str, Tables]:
        """One split, zero_shot, for evaluation; or, with whole=false, a set to divide into the four.

        path:    a folder with the files; default: they are downloaded into the cache of huggingface_hub.
        queries: keep this many queries, drawn by a seeded hash of their text, and their products; of a set whose files
                 are one table on the hub, only these rows are fetched.
        fields:  the product fields to read, as "title+image"; default: all.
        """
        wanted, notes = fields.split("+") if fields else None, list[str]()
        few = (queries, seed) if queries is not None and path is None and not self.queries else None
        rows = self._read(self.pairs, path, wanted, notes, few)
        more = [self._read(files, path, wanted, notes) for files in (*self.queries, *self.products)]
        if not rows.num_columns:
            raise DataError(f"{path}: no {self.pairs.names.replace(' ', ' or ')}, as {self.card.about} has it")
        rows = self._with_ids_and_scores(rows)
        left = [name for name in rows.column_names if name.startswith("query") and name != "query_id"]
        right = [name for name in rows.column_names if name not in (*left, *_OF_PAIR)]
        asked = _one_row_each("query_id", [rows.select(["query_id", *left]), *more[: len(self.queries)]])
        if "query" not in asked.column_names:
            raise DataError(f"{path}: no {self.queries[0].names.split()[0]}, which has the texts of the queries")
        if queries is not None:
            asked = asked.filter(pc.is_in(asked["query"], value_set=choose([asked["query"]], queries, seed)))
            rows = rows.filter(pc.is_in(rows["query_id"], value_set=asked["query_id"].combine_chunks()))
        products = [rows.select(["product_id", *right]), *more[len(self.queries) :]]
        corpus = _one_row_each("product_id", products, self.unjudged and queries is None)
        if absent := [name for name in wanted or () if name not in corpus.column_names]:
            raise DataError(f"{self.card.about}: no field {absent[0]!r}; it has {', '.join(corpus.column_names[1:])}")
        qrels, again = _once(rows.select([name for name in _OF_PAIR if name in rows.column_names]))
        notes += [f"pairs repeated in {counted(again, 'row')}; the best score is kept"] if again else []
        card = {"source": self.card.about, **asdict(self.card)}
        part = Tables(asked, corpus, qrels, "zero_shot", card, notes=(*dict.fromkeys(notes),))
        return {"zero_shot" if whole else "": part}

    def _read(
        self,
        files: Files,
        path: str | Path | None,
        fields: list[str] | None,
        notes: list[str],
        few: tuple[int, int] | None = None,
    ) -> pa.Table:
        """By our names, the rows that belong to the set; no columns if no field is wanted or the files don't exist.
        few: a number of queries and a seed; only their rows are fetched from the hub."""
        columns = {
            theirs: ours
            for theirs, ours in files.renamed().items()
            if fields is None or ours in (*fields, *_OF_PAIR, *self.only) or ours.startswith("query")
        }
        if not {*columns.values()} - {"query_id", "product_id", *self.only}:  # nothing but ids
            return pa.table({})
        names = files.names.split()
        if few:
            found = [rows_of_queries(files.place, names[0], [*columns], *few)]
        else:
            is_web = path is None and "://" in files.place
            folder = downloaded(files.place, names) if is_web else local_or_hub(path or files.place, names)
            found = next((found for name in names if (found := sorted(folder.glob(name)))), [])
        read = [self._part(file, columns) for file in found]
        notes += [note for _, of_file in read for note in of_file]
        return pa.concat_tables([table for table, _ in read], promote_options="permissive") if read else pa.table({})

    def _part(self, file: Path, columns: dict[str, str]) -> tuple[pa.Table, tuple[str, ...]]:
        table = read_file(file, columns)
        missing = {*columns.values()} - {columns[name] for name in table.column_names}
        if missing & {"product_id", "label", "position"} or {"query_id", "query"} <= missing:
            raise DataError(
                f"{file}: columns {', '.join(columns)} are expected; it has {', '.join(table.column_names)}"
            )
        table = table.rename_columns([columns[name] for name in table.column_names])
        for name, value in self.only.items():
            if name in table.column_names:
                table = table.filter(pc.equal(as_text(table[name]), value)).drop_columns([name])
        for name in {"query_id", "product_id"} & {*table.column_names}:
            table = put(table, name, as_text(table[name]).cast(pa.string()))
        return usable_fields(table, file.parent, raw=_OF_PAIR)

    def _with_ids_and_scores(self, rows: pa.Table) -> pa.Table:
        if "query_id" not in rows.column_names:
            rows = put(rows, "query_id", rows["query"])
        if self.grades:
            score = np.array([self.grades.get((label or " ")[0], np.nan) for label in rows["label"].to_pylist()])
        else:
            score = np.maximum(101 - numbers(rows["position"]), 1)
        return put(rows, "score", pa.chunked_array([score]))


def _once(pairs: pa.Table) -> tuple[pa.Table, int]:
    """Each pair once, at its best score, and how many rows that drops."""
    code = pair_codes(pairs)
    order = np.lexsort((-pairs["score"].to_numpy(), code))
    first = np.sort(order[np.diff(code[order], prepend=-1) != 0])
    return pairs.take(pa.array(first)), len(code) - len(first)


def _one_row_each(key: str, parts: list[pa.Table], every: bool = False) -> pa.Table:
    """The columns of all parts, a row for each id of the first part; `every`: of any part."""
    parts = [first_values(part, key)[0] for part in parts if part.num_columns]
    ids = pa.chunked_array([chunk for part in parts[: None if every else 1] for chunk in part[key].chunks]).unique()
    table = pa.table({key: ids})
    for part in parts:
        rows = pc.index_in(ids, value_set=part[key].combine_chunks())
        for name in part.column_names:
            if name not in table.column_names:
                table = table.append_column(name, part[name].take(rows))
    return table


# -- the sets ----------------------------------------------------------------------------------------------------------

_READ = "README on the hub, 2026-11-28"
_SQID, _ESCI = "crossingminds/shopping-queries-image-dataset", "tasksource/esci"
_WANDS = "https://raw.githubusercontent.com/wayfair/WANDS/main/dataset"


def _marqo(name: str, size: str, checked: str) -> PublicSet:
    """A set of Marqo for evaluation; all have the same columns."""
    scores = "101 - place in a shop's list for the query, a product category; at least 1"
    card = Card(f"Marqo/{name}", size, "not stated", scores, checked)
    return PublicSet(card, Files(card.about, "data/*.parquet", "query, item_ID=product_id, title, image, position"))


SETS = {
    "amazon_eval_100k": _marqo(
        "amazon-products-eval-100k",
        "100,000 pairs with pictures, about 2 GB",
        "rows by the hub's viewer, 2026-11-28; columns as in google-shopping-general-eval",
    ),
    "amazon_eval": _marqo(
        "amazon-products-eval",
        "3 million pairs with pictures, 105 files",
        "file names on the hub, 2026-11-28; item_ID, title and image by the authors' evaluation",
    ),
    "google_shopping_eval": _marqo("google-shopping-general-eval", "982,700 pairs with pictures, 22 GB", _READ),
    "sqid": PublicSet(
        Card(
            "SQID: ESCI's US test queries (small version), with CLIP ViT-L-14 vectors and addresses of pictures",
            "164,900 products; .7 GB, 1.7 GB with vectors",
            "MIT, ESCI Apache-2.0",
            "grades by people: Exact 1, Substitute .1, Complement .01, Irrelevant 0 (gains of ESCI's task 1)",
            f"{_READ}; columns of {_ESCI} by code that reads it",
        ),
        Files(
            _ESCI,
            "shopping_queries_dataset_examples.parquet data/test-*.parquet",
            "query_id, query, product_id, esci_label=label, product_locale, small_version, split, product_title=title, "
            "product_brand=brand, product_color=color",
        ),
        (
            Files(
                _SQID, "query_features.parquet data/query_features.parquet", "query_id, clip_text_features=query_clip"
            ),
        ),
        (
            Files(
                _ESCI,
                "shopping_queries_dataset_products.parquet",
                "product_id, product_locale, product_title=title, product_brand=brand, product_color=color",
            ),
            Files(_SQID, "product_image_urls.csv data/product_image_urls.parquet", "product_id, image_url"),
            Files(
                _SQID,
                "product_features.parquet data/product_features.parquet",
                "product_id, clip_text_features=title_clip, clip_image_features=image_clip",
            ),
        ),
        {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0},
        {"product_locale": "us", "small_version": "1", "split": "test"},
    ),
    "wands": PublicSet(
        Card(
            "WANDS: Wayfair's annotated product search",
            "480 queries, 42,994 products, 233,448 pairs, no pictures",
            "MIT",
            "grades by people: Exact 2, Partial 1, Irrelevant 0",
            "README and query.csv of github.com/wayfair/WANDS, 2026-11-28",
        ),
        Files(_WANDS, "label.csv", "query_id, product_id, label"),
        (Files(_WANDS, "query.csv", "query_id, query, query_class"),),
        (
            Files(
                _WANDS,
                "product.csv",
                "product_id, product_name=title, product_class, category hierarchy=category, "
                "category_hierarchy=category, product_description=description, product_features=features",
            ),
        ),
        {"E": 2.0, "P": 1.0, "I": 0.0},
        unjudged=True,
    ),
}

CARDS = {
    "shop": Card(
        "generated shop with pictures", "6,000 products, 1,000 queries", "Apache-2.0", "101 - position in a ranked list"
    ),
    "marqo_gs": Card(
        "Marqo/marqo-GS-10M, or its tars", "10 million pairs, 200 GB", "Apache-2.0", "101 - position in Google Shopping"
    ),
    "beir": Card("BEIR, MTEB and M-BEIR: corpus, queries, qrels", "yours", "the set's own", "grades of the qrels"),
    "folder": Card("pictures in folders", "yours", "yours", "number of shared folders"),
    "table": Card("CSV, TSV, JSONL or parquet", "yours", "yours", "a column that you name"),
} | {name: public.card for name, public in SETS.items()}
"""Source -> card."""
