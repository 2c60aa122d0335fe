"""A model for others: gcl export, gcl push."""

from __future__ import annotations

from pathlib import Path

import tyro

from gcl_toolkit.cli.common import app, console, model_folder
from gcl_toolkit.sources import load


@app.command(name="export")
def export_command(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    onnx: bool = True,
    embeddings: str | None = None,
    license: str | None = None,
) -> None:
    """Write a trained model as others load it: open_clip's layout, ONNX, and a model card.

    Args:
        run: folder of a finished run, a model, or a study (its gcl-matrix model is taken).
        out: a new or empty folder.
        onnx: also both towers as ONNX, held to the model's own vectors.
        embeddings: also the fused vectors of the products of this data: "shop", or a file or folder.
        license: of the model, for its card, such as apache-2.0.
    """
    from gcl_toolkit.export import export

    data = load(embeddings) if embeddings else None
    with console.status(f"exporting {run}"):
        manifest = export(model_folder(run), out, onnx=onnx, data=data, license=license)
    for name in manifest["files"]:
        console.print(f"  {name}, {(out / name).stat().st_size:,} bytes", highlight=False, markup=False)
    for name, difference in manifest["onnx"].items():
        console.print(f"{name}.onnx differs from the model by {difference:.1e} at most", highlight=False)
    console.print(_loads(manifest["encoder"]["name"], out), highlight=False, markup=False, soft_wrap=True)
    console.print(f"next: read {out}/README.md; gcl push {out} OWNER/NAME --dry-run", highlight=False, soft_wrap=True)


def _loads(encoder: str, out: Path) -> str:
    if encoder == "small":
        return (
            f"the small encoder is none of open_clip's: GCLModel.load({str(out)!r}) and ONNX runtimes read it, "
            "open_clip doesn't"
        )
    if encoder.startswith("text:"):
        return f"transformers.AutoModel.from_pretrained({str(out)!r}) reads it"
    return f"open_clip.create_model_and_transforms('local-dir:{out}') reads it"


@app.command(name="push")
def push_command(
    folder: tyro.conf.Positional[Path], repo: tyro.conf.Positional[str], private: bool = True, dry_run: bool = False
) -> None:
    """Upload an exported model to the Hugging Face hub; the token is HF_TOKEN, or that of hf auth login.

    Args:
        folder: made by gcl export.
        repo: OWNER/NAME; made when it isn't there.
        private: whether a repository that is made here is private.
        dry_run: say what would be uploaded, and ask nobody.
    """
    from gcl_toolkit.export import hub

    if not dry_run:
        with console.status(f"uploading {folder}"):
            address = hub.push(folder, repo, private=private)
        console.print(address, highlight=False, soft_wrap=True)
        return
    files = hub.files_of(folder)
    hub.check_name(repo)
    for name in files:
        console.print(f"  {name}, {(folder / name).stat().st_size:,} bytes", highlight=False, markup=False)
    kind = "private" if private else "public"
    console.print(f"would go to {repo} ({kind} if it is new); nothing was sent", highlight=False, soft_wrap=True)
    if not hub.has_token():
        console.print("there is no token yet: set HF_TOKEN, or log in with hf auth login")
