"""Pictures from untrusted addresses: limits on everything, and no access to the local network."""

import io
import ipaddress
import socket
import time
import warnings
from functools import partial

import httpx2
from PIL import Image, ImageOps

from gcl_toolkit.curate.ledger import Answer, Bad, Fault, Ledger, Request

MOST_BYTES = 8_000_000
MOST_PIXELS = 40_000_000
LEAST_SIDE = 16
MOST_SECONDS = 30.0
TIMEOUT = 10.0
REDIRECTS = 3
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
_REDIRECT = b"moved to "
_NAT64 = ipaddress.ip_network("64:ff9b::/32")


class Pictures:
    """Fetches pictures through the ledger. own: an address that the user named; its host may be private."""

    def __init__(self, ledger: Ledger, own: str, size: int):
        self._ledger, self._own, self._size = ledger, _origin(httpx2.URL(own)) if "://" in own else "", size
        self._client = httpx2.Client(
            trust_env=False,  # a proxy would look the host up again
            follow_redirects=False,
            timeout=TIMEOUT,
            limits=httpx2.Limits(max_keepalive_connections=0),  # hosts at one address have different certificates
        )

    def close(self) -> None:
        self._client.close()

    def fetch(self, address: str) -> Answer:
        """A JPEG of at most `size` pixels a side, upright, without metadata; or the reason why there is none."""
        url = None
        for _ in range(REDIRECTS + 1):
            try:
                url = url.join(address) if url else httpx2.URL(address)
            except httpx2.InvalidURL:
                return Answer(None, "not an address")
            if url.scheme not in ("http", "https") or not url.host or url.userinfo:
                return Answer(None, "not a plain http address")
            what = [str(url).removeprefix(self._own), self._size]  # the same pictures where the shop's port changes
            request = Request("picture", what, url.netloc.decode(), optional=True)
            answer = self._ledger.ask(request, partial(self._get, url), self._read)
            if not (answer.body or b"").startswith(_REDIRECT):
                return answer
            address = (answer.body or b"").removeprefix(_REDIRECT).decode("utf-8", "replace")
        return Answer(None, f"more than {REDIRECTS} redirects")

    def _get(self, url: httpx2.URL) -> tuple[bytes, float]:
        """The body at a URL, from the same IP address that was checked."""
        checked = url if _origin(url) == self._own else url.copy_with(host=_public_address(url))
        headers = {"host": url.netloc.decode(), "accept-encoding": "identity"}
        extensions = {"sni_hostname": url.raw_host.decode()}
        try:
            with self._client.stream("GET", checked, headers=headers, extensions=extensions) as response:
                if response.has_redirect_location:
                    return _REDIRECT + response.headers["location"].encode(), 0.0
                if response.status_code != 200:
                    raise Fault.of_status(response)
                return _body(response), 0.0
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise Fault(f"no answer ({type(error).__name__})") from None

    def _read(self, body: bytes) -> bytes:
        return body if body.startswith(_REDIRECT) else as_jpeg(body, self._size)


def _body(response: httpx2.Response) -> bytes:
    if response.headers.get("content-type", "").split(";")[0].strip().lower() not in TYPES:
        raise Fault("not of a picture type", "never")
    body, start = bytearray(), time.monotonic()
    for part in response.iter_raw():
        body += part
        if len(body) > MOST_BYTES:
            raise Fault(f"more than {MOST_BYTES:,} bytes", "never")
        if time.monotonic() - start > MOST_SECONDS:
            raise Fault("too slow")
    return bytes(body)


def as_jpeg(body: bytes, size: int) -> bytes:
    """The picture decoded and encoded again, so that a file the decoder refuses gets no further."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(body), formats=[kind.split("/")[1] for kind in TYPES])
        if min(image.size) < LEAST_SIDE or image.width * image.height > MOST_PIXELS:
            raise Bad(f"a side below {LEAST_SIDE} pixels, or more than {MOST_PIXELS:,} pixels")
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    except Bad:
        raise
    except Exception:  # a decoder may raise anything for a broken file
        raise Bad("can't be decoded") from None
    upright.thumbnail((size, size))
    out, white = io.BytesIO(), Image.new("RGB", upright.size, "white")
    white.paste(upright, mask=upright.getchannel("A"))
    white.save(out, "JPEG", quality=90)
    return out.getvalue()


def _origin(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}"


def _public_address(url: httpx2.URL) -> str:
    """One of a host's IP addresses, if all of them are public and the port is the standard one."""
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    if port not in (80, 443):
        raise Fault("an unusual port", "never")
    try:
        infos = socket.getaddrinfo(url.raw_host.decode(), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Fault("unknown host") from None
    addresses = {str(info[4][0]) for info in infos}
    if not addresses or not all(map(_is_public, addresses)):
        raise Fault("a private address", "never")
    return min(addresses)


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip.sixtofour or ip.teredo or ip in _NAT64):
        return False  # each hides an IPv4 address
    return ip.is_global and not ip.is_multicast
