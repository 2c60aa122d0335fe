"""The site's links; `make docs` builds the whole of it."""

from docs import build


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "there.html").write_text('<a href="gone.html#x">a</a> <a href="https://example.org">b</a>')
    (tmp_path / "index.html").write_text('<a href="there.html#part">a</a> <img src="img/none.png">')
    assert build.broken_links(tmp_path) == ["index.html: img/none.png", "there.html: gone.html"]


def test_links_of_the_documents_lead_somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SITE", tmp_path)
    for notebook in (build.ROOT / "notebooks").glob("*.ipynb"):
        build.write(notebook, "")
    build.write(build.ROOT / "api" / "gcl_toolkit.md", "")
    for source in build.documents():
        build.write(source, build.document(source))
    assert build.broken_links(tmp_path) == []


def test_links_to_documents_lead_to_their_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SITE", tmp_path)
    build.write(
        build.ROOT / "docs" / "x.md", '<a href="../notebooks/README.md#a"> <a href="LOG.md"> <a href="../LICENSE">'
    )
    page = (tmp_path / "docs" / "x.html").read_text()
    assert page == '<a href="../notebooks/index.html#a"> <a href="LOG.html"> <a href="../LICENSE">'
    assert (tmp_path / "LICENSE").is_file()
