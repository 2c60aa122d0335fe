"""Logs in the schema of User Behavior Insights (UBI 1.0 to 1.3, https://github.com/o19s/ubi): queries and events.

A query's document has query_id, user_query and query_response_hit_ids; an event's has action_name, query_id and
event_attributes.object.object_id. Files mix them freely: JSON lines (OpenSearch's bulk form, or documents under
`_source`), a JSON list, the answer of `_search`, or parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcl_toolkit.errors import DataError, UserError

ACTIONS = {
    "impression": "impressions",
    "click": "clicks",
    "click_through": "clicks",
    "add_to_cart": "carts",
    "purchase": "purchases",
}
"""action_name -> what it counts as; of any case."""
KINDS = tuple(dict.fromkeys(ACTIONS.values()))

PATHS = {
    "action": ("action_name",),
    "id": ("query_id",),
    "text": ("user_query",),
    "session": ("session_id", "event_attributes.session_id"),
    "client": ("client_id",),
    "stamp": ("timestamp",),
    "hits": ("query_response_hit_ids",),
    "product": ("event_attributes.object.object_id", "event_attributes.object.internal_id"),
    "place": (
        "event_attributes.position.ordinal",
        "event_attributes.position.ordinal.index",  # schema 1.0
        "event_attributes.rank",  # the generator of OpenSearch's plugin
    ),
}
LARGEST = 1 << 28
"""Bytes of one JSON document, such as an answer of `_search`."""


@dataclass(frozen=True)
class Ubi:
    """Files with the documents of ubi_queries and ubi_events, in any order."""

    files: Sequence[Path]
    actions: Mapping[str, str] = field(default_factory=dict)
    """Further values of action_name, and what each counts as: impressions, clicks, carts or purchases."""

    def __post_init__(self):
        for name, kind in self.actions.items():
            if kind not in KINDS:
                raise UserError(f"actions: {name!r} is {kind!r}; one of {', '.join(KINDS)} is expected")

    def __str__(self) -> str:
        return ", ".join(map(str, self.files))


def load(engine, ubi: Ubi) -> tuple[list[str], dict[str, int]]:
    """Make the table `log` in a DuckDB connection: a row for each product that a query showed.

    Positions are places in the query's hits (pages that share a query_id follow each other by time), or the ordinals of
    its impressions where it has no hits. The session is the query's session_id, or a day of its client_id. Returns the
    columns, and how many documents were read and left out for each reason.
    """
    _read(engine, ubi)
    engine.execute(
        """create temp table asked as select id, first(text order by action is not null, time) as query,
        first(session order by action is not null, time) as session, min(time) as time
        from docs where id is not null and text is not null group by id"""
    )
    zero = one_row(engine, "select count(*) from docs where kind is not null and place = 0")[0] > 0
    engine.execute(
        f"""create temp table shown as
        with hit as (select id, time, unnest(hits) as product, generate_subscripts(hits, 1) as nth from docs
                     where action is null and id is not null),
        ranked as (select id, product, row_number() over (partition by id order by time, nth) as place from hit),
        listed as (select id, product, min(place) as position from ranked
                   where trim(product) <> '' group by id, product)
        from listed union all
        select id, product, min(place) + {int(zero)} from docs where kind = 'impressions' and product is not null
        and place >= 0 and id is not null and id not in (select id from listed) group by id, product"""
    )
    rows = _counts(engine, ubi) | ({"positions counted from 0": 1} if zero else {})
    flags = ", ".join(f"max((kind = '{kind}')::int) as {kind}" for kind in KINDS[1:])
    columns = ", ".join(f"coalesce({kind}, 0)::double as {kind}" for kind in KINDS[1:])
    engine.execute(
        f"""create temp table log as
        with acted as (select id, product, {flags} from docs where kind <> 'impressions' group by id, product)
        select query, product as product_id, position::double as position, {columns}, session,
        make_timestamp((time * 1e6)::bigint) as timestamp
        from shown join asked using (id) left join acted using (id, product)"""
    )
    (undated,) = one_row(engine, "select count(*) from log where timestamp is null")
    dated = [] if undated else ["timestamp"]
    return ["query", "product_id", "position", *KINDS[1:], "session", *dated], rows


def _read(engine, ubi: Ubi) -> None:
    """Make the table `docs`: the fields of `PATHS` of every document; kind: what its action counts as."""
    paths = [path for paths in PATHS.values() for path in paths]
    fields, at = [], 1
    for name, names in PATHS.items():
        values = ", ".join(f"nullif(trim(v[{n}]), '')" for n in range(at, at + len(names)))
        numbers = ", ".join(f"try_cast(v[{n}] as integer)" for n in range(at, at + len(names)))
        fields.append(f"coalesce({numbers if name == 'place' else values}) as {name}")
        at += len(names)
    documents = " union all ".join(_documents(path) for path in ubi.files)
    kinds = {name.lower(): kind for name, kind in {**ACTIONS, **ubi.actions}.items()}
    engine.execute(
        f"""create temp table docs as
        with field as (select {", ".join(fields)} from (
            select json_extract_string(doc, {[f"$.{path}" for path in paths]}) as v from (
            select coalesce(doc->'_source', doc) as doc from ({documents})))),
        timed as (select * exclude (stamp, hits, session), from_json(hits, '["VARCHAR"]') as hits, session as visit,
            coalesce(try_cast(stamp as bigint) / 1e3, epoch(try_cast(stamp as timestamptz))) as time from field
            where action is not null or id is not null or text is not null)
        select * exclude visit, map($names, $kinds)[lower(action)] as kind,
        coalesce(visit, client || coalesce(' ' || floor(time / 86400)::bigint, '')) as session from timed""",
        {"names": [*kinds], "kinds": [*kinds.values()]},
    )


def _documents(path: Path) -> str:
    """A query for the JSON documents of a file, each in the column `doc`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    name = str(path).replace("'", "''")
    if path.suffix.lower() == ".parquet":
        return f"select to_json(t) as doc from read_parquet('{name}') as t"
    return f"""select unnest(case when json_exists(json, '$.hits.hits') then json->'$.hits.hits[*]' else [json] end)
    as doc from read_json_objects('{name}', maximum_object_size = {LARGEST})"""


def _counts(engine, ubi: Ubi) -> dict[str, int]:
    """How many documents there are, and what is left out. Raises DataError if no interaction is left."""
    queries, events, nameless, empty = one_row(
        engine,
        """select count_if(action is null), count_if(action is not null),
        count_if(action is null and (id is null or text is null)),
        (select count(*) from asked where id not in (select id from shown)) from docs""",
    )
    actions = engine.execute(
        "select action, count(*) from docs where action is not null and kind is null group by 1 order by 2 desc, 1"
    ).fetchall()
    others = ", ".join(f"{name} {count:,}" for name, count in actions[:3])
    acted, *reasons, example, shown = one_row(
        engine,
        """select count(*), count_if(id is null), count_if(id is not null and query is null),
        count_if(query <> '' and product is null), count_if(query <> '' and product <> '' and place is null),
        any_value(product) filter (query <> '' and place is null), (select any_value(product) from shown)
        from (select id, product from docs where kind <> 'impressions') left join asked using (id)
        left join (select id, product, position as place from shown) using (id, product)""",
    )
    names = ("without query_id", "of unknown queries", "without object_id", "with products that weren't shown")
    left_out = {f"interactions {name}": count for name, count in zip(names, reasons, strict=True)}
    if not acted:
        known = f"it has the actions {others}; name what they count as with actions" if others else "it has no event"
        raise DataError(f"{ubi}: no click, cart or purchase; {known}")
    if acted == sum(reasons):
        why = ", ".join(f"{count:,} {name}" for name, count in left_out.items() if count)
        ids = f"; they name products such as {example!r}, queries show {shown!r}: is it the same object_id_field?"
        raise DataError(f"{ubi}: no interaction can be used ({why}){ids if example else ''}")
    rows = {
        f"events of other actions ({others})": sum(count for _, count in actions),
        "queries without id or text": nameless,
        "queries without hits or impressions": empty,
    }
    kept = {name: count for name, count in (rows | left_out).items() if count}
    return {"queries": queries, "events": events, **kept}


def one_row(engine, question: str) -> tuple:
    return engine.execute(question).fetchall()[0]
