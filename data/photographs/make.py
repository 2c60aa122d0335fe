"""Make the three tables of this folder from Tux Paint's stamps, as Debian has unpacked them:

apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
python data/photographs/make.py stamps/usr/share/tuxpaint/stamps
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from gcl_toolkit.data.sources.table import read_table
from gcl_toolkit.data.vectors import ORIGIN
from gcl_toolkit.models.embed import embed_field, tower

SIDE = 112
ENCODER = {"name": "lite:features=true"}
LABELS = """
animals/birds/parrot: adelaide-rosella rainbow-lorikeet; blackbird; chicken: chicken_profile hen rooster; crow; crane:
crowned_crane; cuckoo; duck: drake duck; goose: gander; guinea fowl: guineafowl; lark; penguin: little-penguin
magellanic_penguin penguin; magpie; rhea: nandou; ostrich; owl; peacock: albino_peahen peacock; pigeon; flamingo:
pink_flamingo; quetzal; gull: seagull silver-gull; toucan: tucan; turkey; vulture
animals/fish/groper: bluegroper; butterflyfish; clownfish; coral trout: coraltrout; dolphinfish; lionfish; wrasse:
moonwrasse; stripey fish: stripedfish; seahorse
animals/shellfish/lobster; shrimp; abalone; mussel: murray-mussel
animals/sea mammals/dolphin; orca; sea lion: sea_lion; whale; otter
animals/insects/grasshopper; hornet; hoverfly; mantis; moth: xanthia
animals/reptiles/frog: frog-1 frog; iguana
animals/apes/chimpanzee: chimp; gorilla; tamarin: tamarin_emperor
animals/cattle/bison; bull; cow: cow cow_white; gnu: gnu-baby-stand gnu-baby gnu-sitting gnu-stand; goat; antelope:
indian_blackbuck; mountain goat: mountaingoat; sheep: ram sheep sheep_lamb; yak; zebu
animals/cats/lion: lion-2 lion; tiger: tiger tiger_sumatran
animals/deer/caribou; deer: deer doe; wapiti
animals/dogs/dingo; dog; fox
animals/horses/donkey: donkey donkey_eating; horse; zebra
animals/rodents/beaver; capybara; marmot; mouse; rat; squirrel; rabbit: rabbit-2 rabbit rabbit_little
animals/pigs/pig: pig pig_golden pig_golden2; wild boar: wildboar
animals/marsupials/kangaroo; koala; wombat
animals/large mammals/elephant; giraffe; hippopotamus; rhino: rhino_black; camel: camel dromedary; bear: bear
european-bear
animals/weasels/badger; ferret
food/fruit/apple: apple_fuji apple_granny_smith apple_green apple_red apple_sierra_beauty; avocado; banana; cherimoya;
kiwi; lemon; mandarin: mandarine; mango; orange: orange orange_seville; pear; pomegranate; raspberry; strawberry
food/nuts/almond; pecan; walnut: walnut walnut_shelled
food/vegetables/broccoli; carrot; chili pepper: chilepepper; corn; eggplant; garlic: garlic garlics; lettuce: lettuce
redlettuce; mushroom; onion; squash: pattypan_squash; bell pepper: pepper yellowpepper; potato; pumpkin: pumpkin_small;
tomato; yam; ginger
things/tools/cement mixer: cementmixer; hammer; mallet: mallet_metal; measuring tape: measuring_tape; paintbrush:
paintbrush_large; pliers: plyers; saw; spade; toolbox; wrench: wrench wrench_adjustable wrench_plumbers
things/kitchenware/mug; jug: pitcher_small; teapot; kettle; nutcracker; pepper mill: pepper_grinder
things/household/dustbin: garbagecan home_compost_bin wheelie_bin; key; toilet; gas cylinder: cylinder; clothespin:
clothespin_new clothespin_old
things/stationery/pen: highlighter pen_dryerase; scissors: scissors_small_closed scissors_small_open
things/instruments/binoculars; camera: camera_35mm; stethoscope; syringe; thermometer: mercurythermometer; bandage:
bandage_adhesive
things/toys/rubber duck: rubberduck; teddy bear: edward_bear; doll: grannysmith; ball: football soccer
plants/flowers/flower: flower1 flower2 flower3 flower4 flower5 flower6 flower7 flower8 flower9 yellow-flower; hibiscus:
flower10; anemone: anemone_red; daffodil; iris; marigold; pigface; gazania: red-gazania; rose; petunia:
whitestar-petunia
plants/herbs/lavender; thyme
plants/mushrooms/cep: cep-1 cep-2 cep
plants/trees/birch; oak: holm_oak; palm: liberia-palm; pili nut: tree336; pine cone: pinecone; holly: holly_leaves
vehicles/road/sedan; sports car: sportscar2; pickup truck: truck; race car: indycar; beetle; bus: green_korean_bus;
garbage truck: garbagetruck; dumper; tricycle: pink_tricycle; wheel: 7spoke256 wheel_tractor
vehicles/air/airplane: 747; balloon: balloon360
vehicles/water/sailing ship: chineseJunk; sailboat: walnutBoat
"""
"""top/group/kind: files, labelled by us from the files' descriptions and folders. Left out are drawings, and pictures
for which the list of changes names another source or licence (Wikipedia, GFDL, Creative Commons, stock photographs)."""


def labels() -> list[tuple[str, str]]:
    """(file, label) of each photograph; a label is top/group/kind."""
    rows = []
    for line in re.split(r"\n(?=[a-z ]+/)", LABELS.strip()):
        top, group, kinds = line.replace("\n", " ").split("/")
        for entry in kinds.split(";"):
            kind, _, files = entry.strip().partition(": ")
            rows += [(file, f"{top}/{group}/{kind}") for file in (files or kind).split()]
    return rows


def jpeg(path: Path) -> bytes:
    """On white, with the longer side at most SIDE."""
    picture = Image.open(path).convert("RGBA")
    picture.thumbnail((SIDE, SIDE))
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    file = io.BytesIO()
    white.save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue()


def grade(a: str, b: str) -> int:
    """Levels in common: 3 the same kind, 2 the same group, 1 the same top, 0 none."""
    same = [x == y for x, y in zip(a.split("/"), b.split("/"), strict=True)]
    return 3 if all(same) else 2 if all(same[:2]) else int(same[0])


def main(stamps: str, out: Path = Path(__file__).parent) -> None:
    paths = [path for path in Path(stamps).rglob("*.png") if not {"cartoon", "seasonal"} & {*path.parts}]
    files = {path.stem: path for path in sorted(paths, reverse=True)}  # the first of each name
    products = [
        {"product_id": name, "title": title(files[name]), "label": label, "image": jpeg(files[name])}
        for name, label in labels()
    ]
    kinds = {label.split("/")[2]: label for _, label in labels()}
    pairs = [
        {"query_id": kind, "product_id": product["product_id"], "score": score}
        for kind, label in kinds.items()
        for product in products
        if (score := grade(label, product["label"]))
    ]
    tables = {"queries": [{"query_id": kind, "query": kind} for kind in kinds], "corpus": products, "qrels": pairs}
    for name, rows in tables.items():
        parquet.write_table(pa.Table.from_pylist(rows), out / f"{name}.parquet", compression="zstd")
    data = read_table(out)
    for name, side, fields in (("queries", "left", ["query"]), ("corpus", "right", ["title", "image"])):
        table = pa.Table.from_pylist(tables[name])
        for field in fields:
            table = with_vectors(table, field, embed_field(tower(ENCODER), getattr(data, name), field, side))
        split = {"use_dictionary": False, "use_byte_stream_split": [f"{f}_vector.list.element" for f in fields]}
        parquet.write_table(table, out / f"{name}.parquet", compression="zstd", compression_level=19, **split)


def with_vectors(table: pa.Table, field: str, vectors: np.ndarray) -> pa.Table:
    """The table with a column of float16 that names the encoder, as `gcl embed` does."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
    origin = json.dumps({"of": field, "encoder": ENCODER}).encode()
    return table.append_column(pa.field(f"{field}_vector", column.type, metadata={ORIGIN: origin}), column)


def title(path: Path) -> str:
    return path.with_suffix(".txt").read_text("utf8").split("\n")[0].strip()


if __name__ == "__main__":
    main(sys.argv[1])
