"""Attacks: paths, requests to other hosts, invalid or huge pictures, odd parameters, other sites' requests."""

import http.server
import io
import pickle
import re
import struct
import threading
import zlib
from html import unescape
from urllib.parse import parse_qsl

import httpx
import pytest
import small_bundle
from PIL import Image

from gcl_toolkit.app import limits
from gcl_toolkit.app.service import Service
from gcl_toolkit.errors import UserError
from gcl_toolkit.views.bundle import read_bundle

OURS = {"X-GCL": "1"}
"""What the page's script sends with every POST."""
pytest.importorskip("gradio", reason="gradio is not installed; pip install -e '.[app]'")


@pytest.fixture(scope="module")
def folder(small_study):
    return small_study / "bundle"


@pytest.fixture(scope="module")
def url(small_app):
    return small_app


@pytest.fixture(scope="module")
def client():
    with httpx.Client(timeout=120, follow_redirects=False) as opened:
        yield opened


# -- paths and requests to elsewhere -----------------------------------------------------------------------------------

UP = (
    "../" * 8 + "etc/passwd",
    "..%2f" * 8 + "etc%2fpasswd",
    "%2e%2e/" * 8 + "etc/passwd",
    "/etc/passwd",
    "..\\" * 8 + "etc",
)


@pytest.mark.parametrize("way", UP)
@pytest.mark.parametrize(
    "place",
    [
        *("gcl/picture/", "gcl/upload/", "gcl/points/", "gcl/point/", "gcl/", "static/", "assets/", "svelte/", "file="),
        *("gradio_api/file=", "gradio_api/file/", "gradio_api/proxy=", "custom_component/a/b/c/"),
    ],
)
def test_no_path_leads_out(client, url, place, way):
    request = client.build_request("GET", url)
    request.url = httpx.URL(url + place).copy_with(raw_path=f"/{place}{way}".encode())  # as it is, not made tidy
    answer = client.send(request)
    assert answer.status_code >= 300, answer.text[:200]
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text


def test_there_is_no_mcp_server_unless_asked_for(client, url):
    assert client.get(f"{url}gradio_api/mcp/schema").status_code == 404


@pytest.mark.parametrize("name", ["app/app.py", "tests/small_bundle.py", "pyproject.toml", "manifest.json"])
@pytest.mark.parametrize("place", ["gradio_api/file=", "file=", "gcl/", "static/"])
def test_no_file_of_the_project_is_served(client, url, folder, place, name):
    for path in (name, str(folder / name), f"./{name}"):
        assert client.get(f"{url}{place}{path}").status_code >= 300


@pytest.fixture
def elsewhere():
    """A server that must not be asked: its address, and who asked."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_the_server_asks_nobody_else(client, url, elsewhere):
    address, asked = elsewhere
    for path in (
        f"gradio_api/proxy={address}/a",
        f"proxy={address}/a",
        f"gradio_api/file={address}/a",
        f"gcl/upload/{address}",
    ):
        assert "secret" not in client.get(url + path).text
    for lie in (f'{{"path": "{address}/b"}}', address + "/c", "/etc/passwd"):
        answer = client.post(url + "gcl/upload", content=lie, headers=OURS)
        assert answer.status_code == 400
        assert "secret" not in answer.text
    assert asked == []


def test_a_site_that_points_its_name_at_this_machine_can_send_nothing(client, url):
    picture = small_bundle.png(5, 40)
    for host, status in (("evil.example:80", 403), ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:7", 200)):
        answer = client.post(url + "gcl/upload", content=picture, headers=OURS | {"Host": host})
        assert answer.status_code == status, host
    assert client.post(url + "gcl/upload", content=picture).status_code == 403


# -- pictures ----------------------------------------------------------------------------------------------------------


def png_of(width, height):
    """The head of a PNG that says it is so large; a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def gif():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "GIF")
    return out.getvalue()


class Bad:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (png_of(100_000, 100_000), "too many pixels; at most 20,000,000"),
        (png_of(5_000, 4_001), "5000 x 4001 pixels; at most 20,000,000"),
        (png_of(40, 40), "can't be read as a picture"),
        (b"\0" * (limits.MAX_UPLOAD + 1), "5,000,001 bytes; at most"),
        (pickle.dumps(Bad()), "can't be read as a picture"),
        (gif(), "a JPEG, PNG or WebP file is expected"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "can't be read as a picture"),
        (b"", "no picture was sent"),
        ("/etc/passwd", "no picture was sent"),
        (None, "no picture was sent"),
    ],
)
def test_invalid_and_large_pictures_are_refused_before_they_are_decoded(data, wrong):
    with pytest.raises(UserError, match=wrong):
        limits.picture(data)


def test_of_many_pictures_the_last_are_kept(folder):
    encoders = Service(read_bundle(folder)).encoders
    digests = [encoders.keep(small_bundle.png(n, 8 + n)) for n in range(100)]
    assert len(set(digests)) == 100
    kept = 0
    for digest in digests:
        try:
            encoders.picture(digest)
            kept += 1
        except UserError:
            assert kept == 0
    assert kept == 64


def test_a_picture_is_kept_and_a_large_one_refused(client, url):
    answer = client.post(url + "gcl/upload", content=small_bundle.png(5, 40), headers=OURS)
    assert answer.status_code == 200
    assert client.get(f"{url}gcl/upload/{answer.text}").headers["content-type"] == "image/webp"
    big = client.post(url + "gcl/upload", content=b"\0" * (limits.MAX_UPLOAD + 100_000), headers=OURS)
    assert big.status_code == 413
    assert "at most 5,000,000 bytes" in big.text
    files = {"files": ("a.png", b"\0" * (limits.MAX_UPLOAD + 100_000), "image/png")}
    assert client.post(url + "gradio_api/upload", files=files).status_code == 413


@pytest.mark.parametrize("path", ["gcl/upload", "gcl/grade", "gcl/qrels"])
def test_other_sites_can_not_post(client, url, path):
    """A form or a script of another site can't set the header, and the server doesn't allow it to ask for it."""
    assert client.post(url + path, content=small_bundle.png(5, 40)).status_code == 403
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    answer = client.options(url + path, headers=asked | {"Access-Control-Request-Headers": "x-gcl"})
    assert answer.headers.get("access-control-allow-origin") in (None, "null") or answer.status_code >= 400


# -- odd parameters ----------------------------------------------------------------------------------------------------

ODD = (
    *("tab=nope", "tab=", "tab=%00", "tab=verdict&tab=about", "split=..", "split=%F0%9F%A6%84", "query="),
    *("query=%20", "query=%0a%0d", "query=" + "x" * 5_000, "query=%FF%FE", "query=<script>alert(1)</script>", "a=nope"),
    *(
        "a=__class__",
        "b=../../etc/passwd",
        "also=a,b,c,d,e,f",
        "also=,,,",
        "weight=nan",
        "weight=1e999",
        "weight=-1",
        "weight=abc",
    ),
    *("more=a:b:c", "more=a:9", "less=,,,,,,,,", "more=1,2,3,4,5,6", "image=../../etc/passwd", "image=0", "item=-1"),
    *("item=1e9", "item=99999999999999999999", "item=%D9%A3", "look=sideways", "metric=NDCG", "order=--a", "order=-"),
    *("division=nope", "slice=words", "slice=:", "panels=c", "colour=red", "lasso=a:1,1", "lasso=a:" + "1,1;" * 500),
    *("lasso=a:nan,0;0,nan;1,1", "weighting=?", "temperature=0", "temperature=inf", "score=0", "score=101", "given=a"),
    *("__theme=x", "&&&&", "=", "%", "tab[]=about", "unknown=1"),
)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:30])
def test_odd_parameters_get_a_message_or_a_default(client, url, odd):
    answer = client.get(f"{url}gcl/view?division=all&{odd}")
    assert answer.status_code == 200
    assert "Traceback" not in answer.text
    assert "<script>alert" not in answer.text
    shown = re.findall(r'<p class="message" role="alert">([^<]*)</p>', answer.text)
    name = odd.partition("=")[0]
    wrong = [text for text in shown if text.startswith(f"{name}: ")]
    assert len(wrong) == len(shown) <= 1
    assert all(re.search("expected|allowed|unknown|is empty|no longer kept|given|there is no", text) for text in wrong)
    if wrong:  # it is no longer in the address
        address = dict(parse_qsl(unescape(re.search('data-url="[?]([^"]*)"', answer.text)[1])))
        assert address.get(name) != dict(parse_qsl(odd))[name]


@pytest.mark.parametrize("path", ["gcl/queries.csv", "gcl/comparison.html", "gcl/selection.csv", "gcl/colours"])
@pytest.mark.parametrize("options", ["a=nope", "split=..", "item=99999", "lasso=a:1,1", "weight=nan", "tab=<script>"])
def test_routes_refuse_in_plain_text(client, url, path, options):
    answer = client.get(f"{url}{path}?{options}")
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "options",
    [
        ["mug", "", "", 2],
        ["mug", "", "", None, "", "", 10**9],
        ["", ""],
        ["mug", 3],
        ["m" * 10_000],
        ["mug", "", "clip2"],
    ],
)
def test_the_api_refuses_in_words(client, url, options):
    defaults = ["", "", "", None, "", "", 10]
    event = client.post(f"{url}gradio_api/call/search", json={"data": options + defaults[len(options) :]}).json()[
        "event_id"
    ]
    reply = client.get(f"{url}gradio_api/call/search/{event}").text
    assert "event: error" in reply
    assert any(word in reply for word in ("expected", "allowed", "unknown", "empty"))
    assert "Traceback" not in reply
