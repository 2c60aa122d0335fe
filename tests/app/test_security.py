"""Attacks: paths, requests to other hosts, invalid or huge pictures, forged events."""

import http.server
import io
import json
import pickle
import struct
import threading
import time
import zlib

import httpx
import pytest
import small_bundle
from PIL import Image

from gcl_toolkit.app import limits
from gcl_toolkit.app.service import Service
from gcl_toolkit.errors import UserError
from gcl_toolkit.views.bundle import read_bundle

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


def events(client, url, target):
    """(fn_index, how many inputs) of the events of the kind, such as "click"."""
    config = client.get(url + "config").json()
    return [
        (d["id"], len(d["inputs"])) for d in config["dependencies"] if any(event == target for _, event in d["targets"])
    ]


def send(client, url, event, data, **more):
    """One event as the page sends it; the last message about it."""
    session = f"probe{time.monotonic_ns()}"
    options = {"data": data, "fn_index": event, "session_hash": session, **more}
    joined = client.post(url + "gradio_api/queue/join", json=options)
    if joined.status_code != 200:
        return {"refused": joined.status_code}
    with client.stream("GET", f"{url}gradio_api/queue/data?session_hash={session}") as lines:
        for line in lines.iter_lines():
            reply = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if reply.get("msg") in ("process_completed", "unexpected_error", "close_stream"):
                return reply
    return {}


def test_the_server_asks_nobody_else(client, url, elsewhere):
    address, asked = elsewhere
    for path in (
        f"gradio_api/proxy={address}/a",
        f"proxy={address}/a",
        f"gradio_api/file={address}/a",
        f"gcl/upload/{address}",
    ):
        assert "secret" not in client.get(url + path).text
    (upload, inputs), *_ = events(client, url, "upload")
    for lie in (
        {"path": address + "/b", "meta": {"_type": "gradio.FileData"}},
        {"path": "x", "url": address + "/c", "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/passwd", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}},
        address + "/d",
    ):
        reply = send(client, url, upload, [lie, *[None] * (inputs - 1)])
        assert "secret" not in json.dumps(reply)
        assert "root:" not in json.dumps(reply)
        assert not reply.get("success"), reply
    assert asked == []


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


def test_a_large_upload_is_refused_by_the_server(client, url):
    big = {"files": ("a.png", b"\0" * (limits.MAX_UPLOAD + 100_000), "image/png")}
    assert client.post(url + "gradio_api/upload", files=big).status_code == 413


# -- events ------------------------------------------------------------------------------------------------------------

LIES = (
    *(None, "x", [], {"tab": "x"}, {"__class__": "x"}, {"ask": "__class__"}, {"image": "../../etc/passwd"}),
    *({"query": None}, {"query": ["a"]}, {"query": "x" * 100_000}, {"item": "-1"}, {"item": {"a": 1}}, {"item": "1e9"}),
    *({"lasso": "a:" + "1,1;" * 100_000}, {"lasso": 3}),
)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:30])
def test_forged_events_are_refused_without_a_traceback(client, url, lie):
    (click, inputs), *_ = events(client, url, "click")
    reply = send(client, url, click, [None] * inputs, event_data=lie)
    assert "Traceback" not in json.dumps(reply)
    assert "root:" not in json.dumps(reply)
    assert client.get(url).status_code == 200


@pytest.mark.parametrize("values", [["x"] * 50, [{}] * 50, [1e308] * 50, ["9" * 10_000] * 50, [[[]]] * 50], ids=str)
def test_forged_control_values_change_nothing(client, url, values):
    for event, inputs in events(client, url, "input")[:6]:
        reply = send(client, url, event, values[:inputs])
        assert "Traceback" not in json.dumps(reply)
    assert client.get(url).status_code == 200


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
