"""A local server that answers as the Hugging Face hub does, for the real `huggingface_hub` and `datasets` clients.

    with Hub(folder) as hub:      # folder/datasets/OWNER/NAME, folder/models/OWNER/NAME, folder/spaces/OWNER/NAME
        subprocess.run([...], env=hub.env(cache))
        hub.bytes, hub.served     # what it sent: bytes of all bodies, and (path, bytes) of each answer

Repository info, tree (in pages), paths-info and resolve, with ETag, commit, HEAD and Range. Large files redirect to
another host, as to the hub's CDN. A commit writes into the folder. Files are read at each request, so a test may change
them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS = {".parquet", ".bin", ".safetensors", ".pt", ".tar", ".npy", ".zip", ".gz", ".jpg", ".png"}
"""Files with these suffixes are stored by LFS: their ETag is a sha256, and `resolve` redirects."""
CODES = {401: "GatedRepo", 403: "GatedRepo", 404: "EntryNotFound"}
"""X-Error-Code of a status, by which the clients tell what is wrong."""
DATE = "2026-01-01T00:00:00.000Z"


class Hub:
    """The server, running inside a `with`. `page`: entries in one answer about a tree."""

    def __init__(self, folder: str | Path, page: int = 1000):
        self.folder, self.page = Path(folder), page
        self.served: list[tuple[str, int]] = []
        self.requests: list[str] = []
        self.delay = 0.0
        """Seconds before each answer with a file's bytes."""
        self.uploads: dict[str, bytes] = {}
        self._faults: list[list] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def bytes(self) -> int:
        return sum(count for _, count in self.served)

    def reset(self) -> None:
        """Forget what was served and which requests shall fail."""
        with self._lock:
            self.served, self.requests, self._faults = [], [], []

    def fail(self, pattern: str, status: int | str, times: int = 1, code: str | None = None, after: int = 0) -> None:
        """Answer the next `times` requests whose "METHOD path" the pattern matches, after letting `after` pass, with a
        status; "drop" sends half of the body and closes the connection, "cut" half of it as if it were whole."""
        self._faults.append([pattern, status, times, code, after])

    def env(self, cache: str | Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process whose clients use this server and keep their files in `cache`."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        ours |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
        ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "*"}
        return ours | ({"HF_TOKEN": token} if token else {})

    def use(self, monkeypatch, cache: str | Path) -> None:
        """Point `huggingface_hub` in this process at the server, until the test ends. `datasets` needs a process of its
        own, with `env`."""
        import huggingface_hub
        from huggingface_hub import constants, hf_api, hf_file_system
        from huggingface_hub.utils import _cache_assets

        for name, value in self.env(cache).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        monkeypatch.setattr(constants, "HF_HOME", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(cache) / "hub"))
        for module in (constants, _cache_assets):
            monkeypatch.setattr(module, "HF_ASSETS_CACHE", str(Path(cache) / "assets"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(Path(cache) / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for client in (hf_api.api, hf_file_system.hffs):
            monkeypatch.setattr(client, "endpoint", self.endpoint)
        monkeypatch.setattr(hf_file_system.hffs._api, "endpoint", self.endpoint)
        huggingface_hub.HfFileSystem.clear_instance_cache()

    # -- what the handler asks -----------------------------------------------------------------------------------------

    def fault(self, request: str) -> tuple[int | str, str | None] | None:
        """The status and code that this request shall get, if any."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if re.search(fault[0], request):
                    fault[4] -= 1
                    if fault[4] < 0 and fault[2] > 0:
                        fault[2] -= 1
                        return fault[1], fault[3]
        return None

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.served.append((path, size))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *_) -> None:
        pass

    def _answer(self, body: bytes = b"") -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.fault, code = self.hub.fault(f"{self.command} {self.route}") or (None, None)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if isinstance(self.fault, int):
                self._error(self.fault, code or CODES.get(self.fault, ""))
            elif match := re.fullmatch(r"/cdn/(.+)", self.route):
                self._file(self.hub.folder / match[1])
            elif match := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.route):
                self._resolve(match[1] or "models", match[2], match[4])
            elif self.route.endswith(".git/info/lfs/objects/batch"):
                self._uploads(json.loads(body))
            elif match := re.fullmatch(r"/uploads/(\w+)", self.route):
                self.hub.uploads[match[1]] = body
                self._send(200, b"")
            elif match := re.fullmatch(
                r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([\w-]+)(?:/(.*))?)?", self.route
            ):
                self._repository(match[1], match[2], match[3] or "info", match[4] or "", body)
            elif self.route.startswith("/api/") or self.command == "POST":
                self._account(body)
            else:
                self._error(404, "EntryNotFound")

    def _account(self, body: bytes) -> None:
        if self.route == "/api/whoami-v2":
            if not self.headers.get("Authorization"):
                return self._error(401, "")
            return self._json({"name": "tester", "type": "user", "orgs": [], "auth": {"type": "access_token"}})
        if self.route == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            kind = f"{asked.get('type') or 'model'}s"
            folder = self.hub.folder / kind / name
            exists = folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            prefix = "" if kind == "models" else f"{kind}/"
            return self._json({"url": f"{self.hub.endpoint}/{prefix}{name}", "id": name}, 409 if exists else 200)
        if self.route == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        return self._error(404, "EntryNotFound")

    def _repository(self, kind: str, name: str, what: str, rest: str, body: bytes) -> None:
        folder = self.hub.folder / kind / name
        if not folder.is_dir():
            return self._error(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        self.commit = commit_of(folder)
        revision, _, path = rest.partition("/")
        if what in ("info", "revision", "tree", "paths-info") and (revision or "main") not in ("main", self.commit):
            return self._error(404, "RevisionNotFound")
        if what in ("info", "revision"):
            return self._json(_info(folder, name, self.commit))
        if what == "tree":
            return self._tree(folder, path)
        if what == "paths-info":
            paths = _form(body, self.headers.get("Content-Type", ""))["paths"]
            paths = [paths] if isinstance(paths, str) else paths
            return self._json([_entry(folder, folder / path) for path in paths if (folder / path).exists()])
        if what == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.commit}
            return self._json({"branches": [main], "tags": [], "converts": []})
        if what == "commits":
            commit = {"id": self.commit, "authors": [], "date": DATE, "title": "commit", "message": ""}
            return self._json([commit])
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if Path(file["path"]).suffix in LFS else "regular" for file in asked}
            named = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._json({"files": named})
        if what == "commit":
            _commit(folder, body, self.hub.uploads)
            commit = commit_of(folder)
            url = f"{self.hub.endpoint}/{kind}/{name}/commit/{commit}"
            return self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
        return self._error(404, "EntryNotFound")

    def _uploads(self, asked: dict) -> None:
        actions = {
            each["oid"]: {"upload": {"href": f"{self.hub.endpoint}/uploads/{each['oid']}"}} for each in asked["objects"]
        }
        objects = [each | {"actions": actions[each["oid"]]} for each in asked["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _tree(self, folder: Path, path: str) -> None:
        root = folder / path
        if not root.is_dir():
            return self._error(404, "EntryNotFound")
        files = root.rglob("*") if self.query.get("recursive", "").lower() in ("true", "1") else root.iterdir()
        entries = [_entry(folder, file) for file in sorted(files)]
        start = int(self.query.get("cursor", 0))
        end, link = start + self.hub.page, {}
        if end < len(entries):
            others = "&".join(f"{name}={value}" for name, value in self.query.items() if name != "cursor")
            link = {"Link": f'<{self.hub.endpoint}{urlsplit(self.path).path}?{others}&cursor={end}>; rel="next"'}
        return self._json(entries[start:end], **link)

    def _resolve(self, kind: str, name: str, path: str) -> None:
        folder = self.hub.folder / kind / name
        if not folder.is_dir():
            return self._error(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        self.commit, file = commit_of(folder), folder / path
        if not file.is_file():
            return self._error(404, "EntryNotFound")
        if file.suffix not in LFS:
            return self._file(file)
        size = str(file.stat().st_size)
        linked = {"X-Linked-Size": size, "X-Linked-Etag": f'"{digest_of(file)}"', "ETag": f'"{digest_of(file)}"'}
        place = f"http://localhost:{self.hub.port}/cdn/{file.relative_to(self.hub.folder).as_posix()}"
        return self._send(302, b"", Location=place, **linked)

    def _file(self, file: Path) -> None:
        if not file.is_file():
            return self._error(404, "")
        time.sleep(self.hub.delay)
        size, headers, status = file.stat().st_size, {"ETag": f'"{digest_of(file)}"', "Accept-Ranges": "bytes"}, 200
        start, end = 0, size
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start, end = _range(match[1], match[2], size)
            if start >= size:
                return self._send(416, b"", **{"Content-Range": f"bytes */{size}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
        with file.open("rb") as opened:
            opened.seek(start)
            content = b"" if self.command == "HEAD" else opened.read(end - start)
        return self._send(status, content, length=end - start, **headers)

    def _json(self, value: object, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    def _error(self, status: int, code: str) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": f"{code or status} of {self.route}"}
        later = {"Retry-After": "0"} if status == 429 else {}
        self._json({"error": named["X-Error-Message"]}, status, **named, **later)

    def _send(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        """A body that shall be dropped or cut is sent by half."""
        half = self.fault in ("drop", "cut")
        size = len(content) if length is None else length
        self.send_response(status)
        for name, value in ({"X-Repo-Commit": getattr(self, "commit", "")} | headers).items():
            self.send_header(name, value)
        content = content[: len(content) // 2] if half else content
        self.send_header("Content-Length", str(len(content) if self.fault == "cut" else size))
        self.end_headers()
        if self.command != "HEAD":
            self.hub.count(self.route, len(content))
            self.wfile.write(content)
        if self.fault == "drop":
            self.wfile.flush()
            self.close_connection = True


# -- repositories ------------------------------------------------------------------------------------------------------


def commit_of(folder: Path) -> str:
    """A commit's name, of the repository as it is now."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    state = [(file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha1(repr(state).encode()).hexdigest()


def digest_of(file: Path) -> str:
    return _digest(file, file.stat().st_size, file.stat().st_mtime_ns)


@cache
def _digest(file: Path, size: int, _: int) -> str:
    """As git counts it; of an LFS file, its sha256."""
    if file.suffix in LFS:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    return hashlib.sha1(f"blob {size}\0".encode() + file.read_bytes()).hexdigest()


def _entry(folder: Path, file: Path) -> dict:
    path, oid = file.relative_to(folder).as_posix(), hashlib.sha1(str(file).encode()).hexdigest()
    if file.is_dir():
        return {"type": "directory", "path": path, "size": 0, "oid": oid}
    size = file.stat().st_size
    entry = {"type": "file", "path": path, "size": size, "oid": oid if file.suffix in LFS else digest_of(file)}
    return entry | ({"lfs": {"oid": digest_of(file), "size": size, "pointerSize": 134}} if file.suffix in LFS else {})


def _info(folder: Path, name: str, commit: str) -> dict:
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    card, readme = {}, folder / "README.md"
    if readme.is_file() and (front := re.match(r"---\n(.*?)\n---", readme.read_text(), re.DOTALL)):
        card = yaml.safe_load(front[1]) or {}
    stated = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
    ids = {"_id": "0", "id": name, "modelId": name, "author": name.split("/")[0], "sha": commit}
    named = [{"rfilename": file, "size": (folder / file).stat().st_size} for file in files]
    return stated | ids | {"lastModified": DATE, "createdAt": DATE, "siblings": named, "cardData": card}


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _form(body: bytes, kind: str) -> dict:
    if "json" in kind:
        return json.loads(body)
    return parse_qs(body.decode())


def _commit(folder: Path, body: bytes, uploads: dict[str, bytes]) -> None:
    for line in body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] in ("file", "lfsFile"):
            file, is_lfs = folder / value["path"], operation["key"] == "lfsFile"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(uploads[value["oid"]] if is_lfs else base64.b64decode(value["content"]))
        elif operation["key"] == "deletedFile":
            (folder / value["path"]).unlink()
        elif operation["key"] == "deletedFolder":
            shutil.rmtree(folder / value["path"])
