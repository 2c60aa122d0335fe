import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from gcl_toolkit import DataError, UserError, cli, load
from gcl_toolkit.data.formats import read_trec_qrels
from gcl_toolkit.data.sources.clicks import ClickConfig, Ubi, agreement, as_splits, grades, read_clicks
from gcl_toolkit.data.sources.clicks.log import read_log
from gcl_toolkit.data.sources.clicks.simulate import Visitors, simulate

ROW = {"query": "red mug", "product_id": "p1", "position": 1, "clicks": 0}


def write(path, rows):
    frame = pd.DataFrame([ROW | row for row in rows])
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def scored(path, rows, columns=None, **config):
    table = read_clicks(write(path, rows), columns, ClickConfig(propensity="none", **config)).table
    return table.set_index("product_id")


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_a_log_is_added_up(tmp_path, ending):
    rows = [
        {"clicks": 1},
        {"query": " Red  MUG ", "position": 2, "clicks": 0},
        {"product_id": "p2", "position": 2, "clicks": 0},
    ]
    table = scored(tmp_path / f"log{ending}", rows)
    assert table["query"].unique().tolist() == ["red mug"]
    assert table.loc["p1", ["interactions", "impressions", "rate"]].tolist() == [1, 2, 0.5]
    assert table.loc["p2", ["interactions", "impressions", "rate"]].tolist() == [0, 1, 0]
    assert table["score"]["p1"] == 100 > table["score"]["p2"] >= 1
    assert table["position"].tolist() == [1, 2]
    assert table.index.tolist() == ["p1", "p2"]


def test_carts_purchases_and_counted_impressions(tmp_path):
    rows = [
        {"clicks": 3, "carts": 2, "purchases": 1, "impressions": 50},
        {"product_id": "p2", "clicks": 1, "carts": 0, "purchases": 0, "impressions": 10},
    ]
    table = scored(tmp_path / "log.csv", rows, click=1, cart=4, purchase=10)
    assert table.loc["p1", ["interactions", "impressions"]].tolist() == [21, 50]
    assert table.loc["p2", ["interactions", "impressions"]].tolist() == [1, 10]


def test_own_column_names(tmp_path):
    frame = pd.DataFrame({"term": ["a", "a"], "sku": [7, 8], "rank": [1, 2], "clicked": [True, False]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    columns = {"query": "term", "product_id": "sku", "position": "rank", "clicks": "clicked"}
    table = read_clicks(tmp_path / "log.csv", columns, ClickConfig(propensity="none")).table
    assert table["product_id"].tolist() == ["7", "8"]


def test_a_session_counts_a_product_once_where_it_saw_it_first(tmp_path):
    rows = [
        {"session": "s", "timestamp": "2026-01-01 10:05:00", "position": 5, "clicks": 1},
        {"session": "s", "timestamp": "2026-01-01 10:00:00", "position": 2, "clicks": 0},
        {"session": "s", "timestamp": "2026-01-01 10:06:00", "position": 5, "clicks": 1},
        {"session": "t", "timestamp": "2026-01-01 10:00:00", "position": 3, "clicks": 0},
        {"session": None, "timestamp": "2026-01-01 10:00:00", "position": 3, "clicks": 0},
        {"session": None, "timestamp": "2026-01-01 10:00:00", "position": 3, "clicks": 0},
    ]
    found = read_clicks(write(tmp_path / "log.csv", rows), config=ClickConfig(propensity="1"))
    assert found.table[["interactions", "impressions"]].to_numpy().tolist() == [[1, 4]]
    assert found.rows["repeated in a session"] == 2
    assert found.table["relevance"][0] == pytest.approx(1 / (1 / 2 + 3 / 3), rel=0.01)  # looks at positions 2, 3, 3, 3


def test_bots_are_left_out(tmp_path):
    crowd = [{"session": f"s{n}", "product_id": f"p{n % 5}", "clicks": int(n % 5 == 0)} for n in range(50)]
    zealot = [{"session": "all", "product_id": f"p{n}", "clicks": 1} for n in range(20)]
    busy = [{"session": "busy", "product_id": f"p{n}", "clicks": 0} for n in range(31)]
    found = read_clicks(
        write(tmp_path / "log.csv", [*crowd, *zealot, *busy]), config=ClickConfig(propensity="none", session_rows=30)
    )
    assert found.rows["of bots"] == 51
    assert found.table["impressions"].sum() == 50


def test_old_clicks_count_less(tmp_path):
    rows = [
        {"timestamp": "2026-01-31", "clicks": 1},
        {"timestamp": "2026-01-21", "product_id": "p2", "clicks": 1},
        {"timestamp": "2026-01-11", "product_id": "p3", "clicks": 1},
    ]
    table = scored(tmp_path / "log.csv", rows, half_life=10, support=0.2)
    assert table["interactions"].to_dict() == pytest.approx({"p1": 1, "p2": 0.5, "p3": 0.25})
    assert table["impressions"].to_dict() == pytest.approx({"p1": 1, "p2": 0.5, "p3": 0.25})


def test_support_depth_and_dead_queries(tmp_path):
    rows = [
        *[{"clicks": 1}] * 3,
        {"product_id": "p2"},
        {"product_id": "p3", "position": 9, "clicks": 1},
        *[{"query": "nobody", "product_id": "p4"}] * 3,
    ]
    found = read_clicks(
        write(tmp_path / "log.csv", rows), config=ClickConfig(propensity="none", support=2, positions=5)
    )
    assert found.table["product_id"].tolist() == ["p1"]
    assert found.rows == {"read": 8, "below position 5": 1, "of bots": 0, "repeated in a session": 0}
    assert found.left_out == {"below the support": 1, "of queries nobody used": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"position": 0}, r"log.csv line 4: position is not an integer from 1 \(1 such row\); correct or remove"),
        ({"position": "top"}, "line 4: position is not an integer"),
        ({"clicks": -1}, "line 4: clicks is not a number >= 0"),
        ({"clicks": None}, "line 4: clicks is not a number >= 0"),
        ({"query": "  "}, "line 4: query is not a text"),
        ({"product_id": None}, "line 4: product_id is not an id"),
        ({"timestamp": "yesterday"}, "timestamp is not a date and time"),
    ],
)
def test_a_bad_row_is_one_clear_line(tmp_path, row, words):
    with pytest.raises(DataError, match=words):
        read_clicks(write(tmp_path / "log.csv", [{}, {}, row]))


def test_a_bad_file_or_column_is_one_clear_line(tmp_path):
    path = write(tmp_path / "log.csv", [{}])
    for columns, words in (
        ({"query": "term"}, "column 'term' is missing; it has query, product_id.*; name yours, as in --columns"),
        ({"qury": "query"}, "'qury' is not a column of a log; known: query"),
    ):
        with pytest.raises(UserError, match=words):
            read_clicks(path, columns)
    pd.DataFrame({"query": ["a"], "product_id": ["p"], "position": [1]}).to_csv(tmp_path / "bare.csv", index=False)
    with pytest.raises(DataError, match="column 'clicks or carts or purchases' is missing"):
        read_clicks(tmp_path / "bare.csv")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut.parquet: can't be read"):
        read_clicks(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="no such file"):
        read_clicks(tmp_path / "none.csv")
    for propensity in ("none", "harvest"):
        with pytest.raises(DataError, match=r"log.csv: no row has an interaction \(clicks\); a log with clicks"):
            read_clicks(path, config=ClickConfig(propensity=propensity))
    (tmp_path / "head.csv").write_text("query,product_id,position,clicks\n")
    with pytest.raises(DataError, match=r"head.csv: the log has no rows"):
        read_clicks(tmp_path / "head.csv")
    with pytest.raises(DataError, match="needs a column 'timestamp'"):
        read_clicks(path, config=ClickConfig(half_life=3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"propensity": "guess"}, "propensity is 'guess'; harvest, none or a number >= 0"),
        ({"propensity": "-1"}, "propensity is '-1'"),
        ({"propensity": "nan"}, "propensity is 'nan'"),
        ({"positions": 100_000}, "positions is 100,000; 1 to 32,767"),
        ({"cart": float("nan")}, "click, cart and purchase"),
        ({"half_life": float("nan")}, "half_life is nan"),
        ({"memory": "lots"}, "memory is 'lots'; a size such as 2GB"),
    ],
)
def test_a_wrong_setting_is_an_error(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        read_clicks(write(tmp_path / "log.csv", [{"clicks": 1}]), config=ClickConfig(**settings))


# -- the truth comes back ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop():
    return load("shop", products=300, queries=60, per_query=25, size=16, seed=3)["in_domain"]


def truth_of(data):
    query = np.array(data.queries["query"].to_pylist(), object)[data.pairs.query]
    return pd.DataFrame({"query": query, "product_id": data.product_ids[data.pairs.product], "score": data.pairs.score})


@pytest.mark.parametrize("model", ["positions", "cascade"])
def test_the_true_order_comes_back(tmp_path, shop, model):
    """A poor ranker, two seeds: debiased scores agree with the truth clearly better than click-through rates."""
    taus = []
    for seed in range(2):
        log = simulate(shop, Visitors(visits=400, ranker=1.0, shown=15, model=model, seed=seed))
        parquet.write_table(log, tmp_path / "log.parquet")
        found = read_clicks(tmp_path / "log.parquet")
        taus.append([agreement(found.table, truth_of(shop), column) for column in ("relevance", "rate")])
        if model == "positions":
            assert np.abs(found.propensities.value_K - 1 / np.arange(1, 16.0)).max() < 0.02
    debiased, raw = np.array(taus).T
    assert (debiased > raw + 0.1).all(), taus
    assert debiased.min() > 0.5


def test_the_simulation_is_seeded_and_clicks_as_it_says(shop):
    visitors = Visitors(visits=2000, shown=5, exploration=5.0, eta=1.0, appeal=0.9)
    log = simulate(shop, visitors)
    assert log.equals(simulate(shop, visitors))
    frame = log.to_pandas()
    rate = frame.groupby("position")["clicks"].mean()
    assert (rate / rate[1]).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], rel=0.05)
    assert (frame.groupby("session").size() == 5).all()
    cascade = simulate(shop, Visitors(visits=500, shown=5, model="cascade")).to_pandas()
    assert cascade.groupby("session")["clicks"].sum().max() <= 5


def test_a_score_is_a_share_of_the_best(tmp_path):
    """10,000 impressions each, counted in one row, so that next to nothing is shrunk; 1 is the lowest score."""
    rows = [
        {"query": query, "product_id": f"p{n}", "clicks": clicks, "impressions": 10_000}
        for query, all_clicks in (("red mug", (4000, 2000, 10)), ("blue mug", (800, 600, 200)))
        for n, clicks in enumerate(all_clicks)
    ]
    found = read_clicks(write(tmp_path / "log.csv", rows), config=ClickConfig(propensity="none"))
    graded = {"red mug": {"p0": 4, "p1": 2, "p2": 0}, "blue mug": {"p0": 4, "p1": 3, "p2": 1}}
    assert grades(found) == graded
    assert grades(found, {"Blue  MUG": "q1", "rug": "q2"}) == {"q1": graded["blue mug"]}
    scores = found.table.set_index(["query", "product_id"])["score"]
    assert scores["red mug"].tolist() == pytest.approx([100, 50, 1], rel=0.01)
    assert scores["blue mug"].tolist() == pytest.approx([100, 75, 25], rel=0.01)


def test_a_ranker_with_a_taste_misplaces_the_same_products_for_all_queries(shop):
    def spread(taste):
        """Standard deviation over products of their mean position."""
        log = simulate(shop, Visitors(visits=20, shown=25, ranker=1.0, taste=taste)).to_pandas()
        seen = log.groupby("product_id")["position"].agg(["mean", "size"])
        return seen["mean"][seen["size"] > 60].std()

    assert spread(1.0) > 1.5 * spread(0.0)
    with pytest.raises(UserError, match="taste 2: numbers from 0 to 1 are expected"):
        Visitors(taste=2.0)


# -- out again ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_splits_that_can_be_trained_on(tmp_path, shop, capsys):
    csv.write_csv(simulate(shop, Visitors(visits=200, shown=10, ranker=1.0)), tmp_path / "log.csv")
    titles = shop.corpus.select(["product_id", "title"])
    parquet.write_table(titles, tmp_path / "products.parquet")
    truth_of(shop).to_csv(tmp_path / "judged.csv", index=False)
    options = ["--products", tmp_path / "products.parquet", "--judgements", tmp_path / "judged.csv"]
    cli.main([str(a) for a in ("clicks", tmp_path / "log.csv", "--out", tmp_path / "out", *options)])
    out = capsys.readouterr().out
    assert "how likely a position is looked at" in out
    assert "Kendall's tau of scores with the judgements: 0." in out
    splits = load(tmp_path / "out")
    assert list(splits) == ["in_domain", "novel_query", "novel_document", "zero_shot"]
    assert splits["in_domain"].pairs.score.max() == 100
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["propensities"][0]["value"] == 1
    assert len(pd.read_parquet(tmp_path / "out" / "scores.parquet")) == report["pairs"]


def test_products_that_are_no_longer_sold_are_counted(tmp_path):
    found = read_clicks(
        write(tmp_path / "log.csv", [{"clicks": 1}, {"product_id": "gone", "clicks": 1}]),
        config=ClickConfig(propensity="none"),
    )
    parquet.write_table(pa.table({"product_id": ["p1", "p9"], "title": ["a", "b"]}), tmp_path / "p.parquet")
    splits = as_splits(found, tmp_path / "p.parquet")
    assert sum(data.qrels.num_rows for data in splits.values()) == 1
    assert next(iter(splits.values())).card["pairs with unknown products"] == 1
    parquet.write_table(pa.table({"product_id": ["x"]}), tmp_path / "other.parquet")
    (tmp_path / "twice.csv").write_text("product_id,title\np1,Mug\nb,Cup\np1,Mug\n")
    with pytest.raises(DataError, match=r"twice.csv: corpus lines 2 and 4: product_id 'p1' twice"):
        as_splits(found, tmp_path / "twice.csv")
    with pytest.raises(DataError, match="2 of 2 pairs have products that the catalogue lacks, such as"):
        as_splits(found, tmp_path / "other.parquet")


def test_a_real_log(real_data, tmp_path):
    """40,000 impressions of the Open Bandit Dataset: no query, few clicks; three positions at random."""
    log = pd.read_parquet(real_data("obd") / "impressions.parquet")
    log[log["policy"] == "random"].to_parquet(tmp_path / "random.parquet")
    columns = {"query": "campaign", "product_id": "item_id", "clicks": "click"}
    found = read_clicks(tmp_path / "random.parquet", columns)
    assert found.table["impressions"].sum() == found.rows["read"]
    theta = found.propensities
    assert ((theta.value_K > 0.4) & (theta.value_K < 2.5)).all()  # three places side by side
    assert (theta.low_K[1:] < 1).all()


# -- User Behavior Insights --------------------------------------------------------------------------------------------


def searched(query_id, text="red mug", hits=("p1", "p2", "p3"), stamp="2026-01-01T10:00:00Z", **others):
    """A document of ubi_queries, as OpenSearch's plugin writes it."""
    return {
        "timestamp": stamp,
        "query_id": query_id,
        "query_response_id": f"response to {query_id}",
        "query_response_hit_ids": list(hits),
        "user_query": text,
        "query_attributes": {"page": 1},
        "client_id": f"client of {query_id}",
        "application": "shop",
    } | others


def acted(query_id, product, action="click", ordinal=1, stamp="2026-01-01T10:00:09+00:00", **others):
    """A document of ubi_events, as the collector of a page sends it."""
    return {
        "application": "shop",
        "action_name": action,
        "query_id": query_id,
        "client_id": f"client of {query_id}",
        "timestamp": stamp,
        "message_type": None,
        "event_attributes": {
            "object": {"object_id": product, "object_id_field": "sku"},
            "position": {"ordinal": ordinal},
        },
    } | others


def write_lines(path, documents):
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return path


def counted(*files, actions=None, **config):
    """(query, product, depth, interactions, impressions) of each pair, and the counts of documents."""
    found = read_clicks(Ubi(files, actions or {}), config=ClickConfig(propensity="none", **config))
    columns = ["query", "product_id", "interactions", "impressions"]
    return found, sorted(found.table[columns].itertuples(index=False, name=None))


QUERIES = [searched("a"), searched("b", "Red  MUG", ["p2", "p1"]), searched("c", "rug", ["p9"])]
EVENTS = [
    acted("a", "p2"),
    acted("a", "p2", stamp="2026-01-01T10:00:20Z"),  # the same visitor, again
    acted("b", "p1", "add_to_cart"),
    acted("b", "p1", "Purchase"),
    acted("c", "p9", "click_through"),
]
PAIRS = [("red mug", "p1", 14, 2), ("red mug", "p2", 1, 2), ("red mug", "p3", 0, 1), ("rug", "p9", 1, 1)]


@pytest.mark.parametrize("form", ["lines", "bulk", "hits", "search", "list", "parquet"])
def test_queries_and_events_of_ubi_are_joined_in_every_form_that_opensearch_exports(tmp_path, form):
    files = []
    for index, documents in (("ubi_queries", QUERIES), ("ubi_events", EVENTS)):
        sources = [{"_index": index, "_id": str(n), "_source": each} for n, each in enumerate(documents)]
        path = tmp_path / f"{index}.{'parquet' if form == 'parquet' else 'json'}"
        if form == "lines":
            write_lines(path, documents)
        elif form == "bulk":
            write_lines(path, [part for each in documents for part in ({"index": {"_index": index}}, each)])
        elif form == "hits":
            write_lines(path, sources)
        elif form == "search":
            path.write_text(json.dumps({"took": 3, "hits": {"total": {"value": 3}, "hits": sources}}, indent=2))
        elif form == "list":
            path.write_text(json.dumps(documents))
        else:
            parquet.write_table(pa.Table.from_pylist(documents), path)
        files.append(path)
    found, pairs = counted(*files)
    assert pairs == PAIRS
    assert (found.rows["queries"], found.rows["events"], found.rows["read"]) == (3, 5, 6)
    assert [*found.rows] == ["queries", "events", "read", "below position 50", "of bots", "repeated in a session"]


def test_positions_are_places_in_the_hits_and_pages_follow_each_other(tmp_path):
    later = 1767261660000  # a minute after the others, in milliseconds
    pages = [
        searched("a", hits=["p3", "p4"], stamp="2026-01-01T10:02:00Z"),
        searched("a", hits=["p1", None, "p2"], stamp=later),
    ]
    file = write_lines(tmp_path / "ubi.jsonl", [*pages, acted("a", "p4", ordinal=1)])
    theta = read_clicks(Ubi([file]), config=ClickConfig(propensity="1")).table.set_index("product_id")
    assert theta.loc["p4", "rate"] == 1
    pairs = read_log(Ubi([file])).cells.position_C
    assert sorted(pairs.tolist()) == [1, 3, 4, 5]


@pytest.mark.parametrize(
    "place",
    [
        lambda n: {"position": {"ordinal": n}},
        lambda n: {"position": {"ordinal": {"index": n}}},
        lambda n: {"position": {"ordinal": n - 1}},
        lambda n: {"rank": n - 1},
    ],
    ids=["ordinal", "schema 1.0", "from 0", "the plugin's generator"],
)
def test_without_hits_the_impression_events_are_what_was_shown(tmp_path, place):
    rows = [acted("a", f"p{n}", "impression", user_query="tv") for n in (1, 2, 3)] + [acted("a", "p3", user_query="tv")]
    for row in rows:
        row["event_attributes"] = {
            "object": {"object_id": row["event_attributes"]["object"]["object_id"]},
            "session_id": "s",
            **place(int(row["event_attributes"]["object"]["object_id"][1:])),
        }
    log = read_log(Ubi([write_lines(tmp_path / "events.ndjson", rows)]))
    shown = dict(zip(log.products[log.product_of_pair[log.cells.pair_C]], log.cells.position_C.tolist(), strict=True))
    assert shown == {"p1": 1, "p2": 2, "p3": 3}
    assert log.cells.clicked_C.tolist() == [0, 0, 1]
    assert ("positions counted from 0" in log.rows) == (place(1) in ({"position": {"ordinal": 0}}, {"rank": 0}))


def test_what_cant_be_used_is_counted_and_a_client_counts_once_a_day(tmp_path):
    queries = [
        *QUERIES,
        searched("d", "rug", ["p9"], client_id="client of c"),  # once more on the same day
        searched("e", "rug", ["p9"], client_id="client of c", stamp=1767400000000),  # on another
        searched("f", " "),
        searched("g", hits=[]),
    ]
    events = [
        *EVENTS,
        acted(None, "p1"),
        acted("f", "p1"),
        acted("a", "p7"),
        acted("a", None),
        acted("a", "p1", "product_hover"),
        acted("b", "p1", "impression", 9),  # the hits say where it was
        acted("g", "p1", "impression", -1),
        acted("a", "p1", "impression", user_query="red m", stamp="2026-01-01T09:59:59Z"),
        {"action_name": "page_exit", "timestamp": "2026-01-01", "event_attributes": {"position": {}}},
    ]
    found, pairs = counted(write_lines(tmp_path / "q.jsonl", queries), write_lines(tmp_path / "e.jsonl", events))
    assert pairs == [*PAIRS[:3], ("rug", "p9", 1, 2)]
    assert {name: count for name, count in found.rows.items() if count} == {
        "queries": 7,
        "events": 14,
        "events of other actions (page_exit 1, product_hover 1)": 2,
        "queries without id or text": 1,
        "queries without hits or impressions": 1,
        "interactions without query_id": 1,
        "interactions of unknown queries": 1,
        "interactions without object_id": 1,
        "interactions with products that weren't shown": 1,
        "read": 8,
        "repeated in a session": 1,
    }


def test_own_actions_and_wrong_ubi_files(tmp_path):
    hovers = write_lines(tmp_path / "e.jsonl", [*QUERIES, acted("a", "p1", "Hover"), acted("a", "p2", "seen")])
    with pytest.raises(DataError, match=r"no click, cart or purchase; it has the actions (Hover|seen) 1, \w+ 1; name"):
        counted(hovers)
    assert counted(hovers, actions={"hover": "carts"})[1][0] == ("red mug", "p1", 4, 2)
    with pytest.raises(UserError, match="'hover' is 'likes'; one of impressions, clicks, carts, purchases"):
        Ubi([], {"hover": "likes"})
    eans = write_lines(tmp_path / "eans.jsonl", [*QUERIES, acted("a", "4006381"), acted("z", "p1")])
    with pytest.raises(DataError, match=r"1 .* weren't shown\); .* such as '4006381', queries show 'p\d': is it"):
        counted(eans)
    cut = tmp_path / "cut.jsonl"
    cut.write_text('{"query_id": "a"}\n{"query_id": "b", "user')
    with pytest.raises(DataError, match=r"cut.jsonl: can't be read \(.*unexpected end of data"):
        counted(cut)
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such file"):
        counted(tmp_path / "nowhere.jsonl")


def test_a_log_in_either_form_gives_the_same_scores(tmp_path, shop):
    """A simulated log as columns and as UBI: sessions are queries, the list shown is its hits."""
    log = simulate(shop, Visitors(visits=40, shown=10)).to_pandas()
    log.to_parquet(tmp_path / "log.parquet")
    visits = log.sort_values(["session", "position"]).groupby("session")
    stamps = visits["timestamp"].first().astype(str)
    lists = visits["product_id"].agg(list)
    queries = [
        searched(str(n), text, hits, stamps[n], session_id=str(n))
        for (n, text), hits in zip(visits["query"].first().items(), lists, strict=True)
    ]
    clicked = log[log["clicks"] > 0]
    events = [
        acted(str(n), p, session_id=str(n)) for n, p in zip(clicked["session"], clicked["product_id"], strict=True)
    ]
    files = write_lines(tmp_path / "q.jsonl", queries), write_lines(tmp_path / "e.jsonl", events)
    ours, theirs = read_clicks(tmp_path / "log.parquet"), read_clicks(Ubi(files))
    pd.testing.assert_frame_equal(ours.table, theirs.table)


def test_the_command_reads_ubi_and_writes_qrels(tmp_path, capsys):
    files = write_lines(tmp_path / "q.jsonl", QUERIES), write_lines(tmp_path / "e.jsonl", EVENTS)
    pd.DataFrame({"query_id": ["q1", "q7"], "query": ["Red mug", "mat"]}).to_csv(tmp_path / "ids.csv", index=False)

    def run(*options):
        arguments = ("clicks", "--ubi", *files, "--propensity", "none", "--out", tmp_path / "out", *options)
        return cli.main([str(argument) for argument in arguments])

    run("--qrels", tmp_path / "qrels.txt", "--queries", tmp_path / "ids.csv")
    assert "qrels.txt: grades of 1 query; 1 have no id" in capsys.readouterr().out
    graded = read_trec_qrels(tmp_path / "qrels.txt")
    assert graded.keys() == {"q1"}
    assert graded["q1"]["p1"] == 4
    run("--qrels", tmp_path / "qrels.csv")
    assert (tmp_path / "qrels.csv").read_text().splitlines()[:2] == ["query_id,product_id,grade", "red mug,p1,4"]
    with pytest.raises(SystemExit):
        run("--qrels", tmp_path / "again.txt")
    assert "TREC ids can't contain spaces; give --queries with ids, or a .csv file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["clicks"])
    assert "give a log or --ubi FILES" in capsys.readouterr().err
