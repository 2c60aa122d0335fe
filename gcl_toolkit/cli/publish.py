"""A model for others: gcl export, gcl push, gcl index."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gcl_toolkit.cli.common import app, command, console, data_of, model_folder, splits_of
from gcl_toolkit.files import writable_folder, write_json
from gcl_toolkit.machine import machine


@app.command(name="export")
def export_command(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    onnx: bool = True,
    merge: bool = False,
    embeddings: str | None = None,
    license: str | None = None,
) -> None:
    """Export a trained model for open_clip, transformers or ONNX runtimes, with a model card.

    Args:
        run: folder of a finished run, of a model, or of a study (its model with the default method).
        out: a new or empty folder.
        onnx: also both towers as ONNX, compared with the model's own vectors.
        merge: of a linear adapter, also OUT/left and OUT/right: the open_clip model that made its vectors, with the
            adapter in its projections.
        embeddings: also the fused vectors of the products of this data: "shop", or a file or folder.
        license: license of the model, for its card, such as apache-2.0.
    """
    from gcl_toolkit.data.sources import load
    from gcl_toolkit.serving.export import export

    data = load(embeddings) if embeddings else None
    with console.status(f"exporting {run}"):
        manifest = export(model_folder(run), out, onnx=onnx, merge=merge, data=data, license=license)
    _print_files(out, manifest["files"])
    for name, difference in manifest["onnx"].items():
        console.print(f"{name}.onnx differs from the model by at most {difference:.1e}")
    for name, difference in manifest["merged"].items():
        console.print(f"{name}: the merged model differs from the adapter by at most {difference:.1e}")
    encoder, usage = manifest["encoder"]["name"], f"open_clip.create_model_and_transforms('local-dir:{out}')"
    if encoder in ("small", "vectors"):
        usage = f"GCLModel.load({str(out)!r}) (open_clip doesn't know the encoder {encoder})"
    elif encoder.startswith("text:"):
        usage = f"transformers.AutoModel.from_pretrained({str(out)!r})"
    console.print(f"load it with {usage}")
    console.print(f"next: read {out}/README.md; gcl push {out} OWNER/NAME --dry-run")


@app.command(name="push")
def push_command(
    folder: tyro.conf.Positional[Path], repo: tyro.conf.Positional[str], private: bool = True, dry_run: bool = False
) -> None:
    """Upload an exported model to the Hugging Face hub, with the token in HF_TOKEN.

    Args:
        folder: made by gcl export.
        repo: OWNER/NAME; created if needed.
        private: whether a new repository is private.
        dry_run: list what would be uploaded, without any request.
    """
    from huggingface_hub import get_token

    from gcl_toolkit.serving.export import hub

    if not dry_run:
        with console.status(f"uploading {folder}"):
            address = hub.push(folder, repo, private=private)
        console.print(address)
        return
    files = hub.exported_files(folder)
    hub.check_name(repo)
    _print_files(folder, files)
    kind = "private" if private else "public"
    console.print(f"destination: {repo} ({kind} if it is new); nothing was uploaded")
    if not get_token():
        console.print("there is no token yet: set HF_TOKEN, or log in with hf auth login")


@dataclass(frozen=True)
class Store:
    """The vector store of gcl index."""

    kind: str = "FLAT"
    """FLAT (exact), IVF_FLAT, HNSW; DISKANN on a cluster only."""
    uri: str | None = None
    """Of a Milvus cluster, such as http://host:19530, instead of the embedded store."""
    token: str = ""
    """user:password or API key of the cluster."""
    collection: str = "products"
    """Name in the store; an existing one is replaced."""
    columns: tuple[str, ...] | None = None
    """Product columns to filter by; by default all but pictures."""
    also: tuple[Literal["faiss", "parquet", "parquet16"], ...] = ()
    """Further files: a FAISS index, parquet of the vectors as float32 or float16."""


@app.command(name="index")
def index_command(
    run: tyro.conf.Positional[Path],
    data: str | None = None,
    out: Path = Path("runs/index"),
    split: str = "zero_shot",
    store: Annotated[Store, tyro.conf.arg(name="")] = Store(),
) -> None:
    """Embed a split's products, write them to a vector store and compare it with exact search.

    Args:
        run: folder of a run, a model, or a study (its model with the default method).
        data: as in gcl train; by default what the run was trained on.
        out: folder of products.db (Milvus Lite), parity.json and what `also` names.
        split: which split's products and queries.
    """
    from gcl_toolkit.serving.index import write_faiss, write_vectors
    from gcl_toolkit.serving.parity import build_and_compare
    from gcl_toolkit.training.runs import load_model

    writable_folder(out)
    part, model = splits_of(data_of(run, data), [split])[split], load_model(model_folder(run))
    place, options = store.uri or out / "products.db", asdict(store)
    with console.status(f"embedding {part.corpus.num_rows:,} products and writing {place}"):
        products = model.embed(part.corpus, "right")
        names = ("kind", "columns", "collection", "token")
        report = build_and_compare(place, model, part, products, **{name: options[name] for name in names})
    for name in store.also:
        if name == "faiss":
            write_faiss(products, out / "products.faiss", store.kind)
        else:
            dtype = "float16" if name == "parquet16" else "float32"
            write_vectors(products, part.product_ids, out / "vectors.parquet", dtype)
    write_json(out / "parity.json", {"command": command(), "machine": machine(), **asdict(report)})
    console.print(str(report))
    console.print(f"{place}, {out / 'parity.json'}")


def _print_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        console.print(f"  {name}, {(folder / name).stat().st_size:,} bytes")
