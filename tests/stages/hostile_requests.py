"""Two hundred requests that nobody well-meaning makes, as bytes, each under a name."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

HOST = b"Host: 127.0.0.1\r\n"
SECRET = b"nobody may read this"  # in files beside the indexed photos


class Hostile(NamedTuple):
    """A request; `answers` are the statuses that it may get, none where the server may just hang up."""

    name: str
    data: bytes
    answers: tuple[int, ...]


def get(path: str | bytes, answers: tuple[int, ...] = (400, 404, 422), name: str = "") -> Hostile:
    """The path as it is, without a client that would tidy it up."""
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    data = b"GET " + raw + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    return Hostile(name or raw[:60].decode("latin-1"), data, answers)


def post(
    name: str, body: bytes, answers: tuple[int, ...] = (400,), headers: str = "Content-Type: image/jpeg"
) -> Hostile:
    head = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n"
    return Hostile(name, f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body, answers)


def raw(name: str, data: bytes, answers: tuple[int, ...] = ()) -> Hostile:
    return Hostile(name, data, answers)


def paths() -> list[Hostile]:
    """Ways out of the folder of photos and of the folder of the page."""
    up = (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "....//",
        "..%252f",
        "..;/",
        "%c0%ae%c0%ae/",
        "./../",
    )
    ends = ("secret.txt", "etc/passwd")
    found = [get(f"/api/{kind}/{step * 6}{end}") for kind, step, end in product(("photo", "thumbnail"), up, ends)]
    found += [
        get(f"/page/{step * depth}{end}") for step, depth, end in product(up, (1, 8), ("server.py", "etc/passwd"))
    ]
    whole = (
        "/etc/passwd",
        "file:///etc/passwd",
        "C:\\boot.ini",
        "\\\\host\\share",
        "secret.txt",
        "unindexed.png",
        "",
        ".",
    )
    whole += (
        "~/.ssh/id_rsa",
        "photo\0.png",
        "%00",
        "secret.txt%00.png",
        "a" * 5000,
        "/dev/zero",
        "/proc/self/environ",
        "*",
    )
    whole += ("index/manifest.json", "%F0%9F%90%B6", "\u202egnp.txt", "%", "%zz", "//", "photos/../secret.txt")
    found += [get(f"/api/photo/{quote(name, safe='%/') if name.isascii() else quote(name)}") for name in whole]
    return [
        *found,
        get("/api/photo", (404, 307)),
        get("/.git/config"),
        get("/page", (404, 307)),
        get("/docs"),
        get("/redoc"),
    ]


def queries() -> list[Hostile]:
    """Long, strange and impossible searches; an odd sentence is a sentence and gets an answer."""
    sentences = ("a" * 1001, "a " * 5000, "x" * 40_000)
    found = [get(f"/api/search?q={quote(text)}", (422, 414, 431, 400), f"{len(text)} characters") for text in sentences]
    odd = (
        "\0",
        "\ud800",
        "' OR 1=1 --",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "<script>alert(1)</script>",
        "\u202e\u200d" * 50,
    )
    odd += (
        "🐶" * 200,
        "%s%n%x",
        "[MASK] [SEP] [CLS]",
        "[PAD]" * 100,
        "١٢٣",
        "ﷺ" * 300,
        "\r\nSet-Cookie: a=b",
        "a" * 999,
    )
    found += [get(f"/api/search?q={quote(text, errors='surrogatepass')}", (200, 400), repr(text[:20])) for text in odd]
    found += [get("/api/search?q=%ff%fe%80", (200, 400)), get("/api/search?q=%zz", (200,)), get("/api/search?q=%20%20")]
    bad = ("top=0", "top=-1", "top=201", "top=9e99", "top=nan", "top=a", "top=", "text_weight=nan", "text_weight=-1")
    bad += (
        "text_weight=inf",
        "nothing=1",
        "__proto__=1",
        "without=",
        "filter=",
        "like=../secret.txt",
        "like=unindexed.png",
    )
    bad += (
        "filter=has:nothing",
        "filter=(((((",
        "filter=has:",
        "filter=folder:../..",
        "filter=after:never",
        "filter=!!!!",
    )
    bad += ("filter=count:ball>=a", "filter=" + "a" * 201, "filter=larger:1e999999", "filter=share:ball>%ff")
    bad += (
        "&".join(["without=a"] * 21),
        "&".join(["filter=has:ball"] * 2000),
        "filter=count:" + "%28a%2B%29" * 20 + ">=1",
    )
    found += [
        get(f"/api/search?q=a&{text}", (400, 404, 422), text[:40])
        for text in bad
        if not text.startswith("filter=folder")
    ]
    why = (
        "id=&q=a",
        "id=secret.txt&q=a",
        "q=a",
        "id=a",
        "id=a&q=" + "a" * 1001,
        "id=%00&q=a",
        "id=../secret.txt&q=%00",
    )
    return [*found, get("/api/search"), *(get(f"/api/explain?{text}", (400, 404, 422), text[:40]) for text in why)]


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, with these chunks behind the header."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (head, *chunks)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "green").save(stream, kind)
    return stream.getvalue()


def bodies() -> list[Hostile]:
    """What is no photo, or one that is larger than it looks."""
    jpeg, flat = encoded("JPEG"), zlib.compress(bytes(10_000_000))
    found = [
        post("nothing", b""),
        post("text", SECRET),
        post("a web page", b"<!doctype html><script>alert(1)</script>"),
        post("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
        post("eps runs Ghostscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"),
        post("pdf", b"%PDF-1.7\n1 0 obj"),
        post("zip", b"PK\x03\x04" + bytes(100)),
        post("a png of 8 gigapixels", png(90_000, 90_000, (b"IDAT", flat))),
        post("a png of 51 megapixels", png(8_500, 6_000, (b"IDAT", flat))),
        post("a png of no pixels", png(0, 0)),
        post("a png of 2**31 columns", png(2**31 - 1, 1, (b"IDAT", flat))),
        post("a png whose pixels end", png(4_000, 4_000, (b"IDAT", flat[:500]))),
        post(
            "a png with a text bomb", png(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(90_000_000))), (b"IDAT", flat))
        ),
        post("a png with a wrong checksum", png(9, 9, (b"IDAT", flat))[:-6] + b"123456", (200, 400)),
        post("a jpeg of 65,535 squared", jpeg.replace(b"\x00\x1e\x00\x28", b"\xff\xff\xff\xff", 1)),
        *(
            post(f"half a {kind}", encoded(kind)[: len(encoded(kind)) // 2])
            for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
        ),
        *(
            post(f"the head of a {kind}", encoded(kind)[:12])
            for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "ICO")
        ),
        *(post(f"an unusual format, {kind}", encoded(kind)) for kind in ("ICO", "PPM", "TGA", "PCX", "SGI")),
        post("21 megabytes", bytes(21_000_000), (413,)),
        post(
            "a form",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
            (415,),
            "Content-Type: multipart/form-data",
        ),
        post("json", b'{"q": "a"}', (415,), "Content-Type: application/json"),
        post("no type", jpeg, (415,), "X-Nothing: 1"),
        post("a type of 9,000 letters", jpeg, (415,), f"Content-Type: {'a' * 9000}"),
    ]
    start = b"POST /api/search HTTP/1.1\r\nContent-Type: image/png\r\nConnection: close\r\n" + HOST
    found += [
        raw("a length of a petabyte", start + b"Content-Length: 1000000000000000\r\n\r\n", (413,)),
        raw("a negative length", start + b"Content-Length: -5\r\n\r\n", (400, 413)),
        raw("a length in letters", start + b"Content-Length: many\r\n\r\n", (400, 413)),
        raw("two lengths", start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", (400,)),
        raw("a length and chunks", start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
        raw(
            "chunks without an end",
            start + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + bytes(2**20) + b"\r\n") * 22,
            (413,),
        ),
        raw("a chunk of a bad size", start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
        raw("a body that is cut off", start + b"Content-Length: 500\r\n\r\nabc"),
    ]
    return found


def protocol() -> list[Hostile]:
    """Hosts of others, methods that are not offered, and what is no HTTP."""
    hosts = (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]",
        "0.0.0.0",
        "evil.example:80",
        "",
        "a" * 3000,
    )
    hosts += ("localhost@evil.example", "localhost\tevil", "169.254.169.254", "127.0.0.1, evil.example", "[::1", "[]")
    end = b"Connection: close\r\n\r\n"
    found = [
        raw(
            f"host {host[:30]!r}",
            f"GET /api/health HTTP/1.1\r\nHost: {host}\r\n".encode() + end,
            (421, 400, 200) if host == "[::1" else (421, 400),
        )
        for host in hosts
    ]
    methods = ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND", "GETT")
    found += [
        raw(method, method.encode() + b" /api/search?q=a HTTP/1.1\r\n" + HOST + end, (405, 400)) for method in methods
    ]
    return [
        *found,
        raw("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + end, (400, 404, 405)),
        raw("an address of another server", b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + end, (400, 404)),
        raw("no host", b"GET / HTTP/1.1\r\n\r\n", (400, 421)),
        raw("two hosts", b"GET / HTTP/1.1\r\nHost: evil.example\r\n" + HOST + end, (400, 421)),
        raw("HTTP/9.9", b"GET / HTTP/9.9\r\n" + HOST + end, (200, 400, 505)),
        raw("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), (400,)),
        raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 421)),
        raw(
            "a million bytes of header",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
            (400, 431),
        ),
        raw(
            "ten thousand headers",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 9_000 + b"Connection: close\r\n\r\n",
            (200, 400, 431),
        ),
        raw("a header folded", b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n" + end, (200, 400)),
        raw("a header with a zero byte", b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", (400,)),
        raw(
            "a websocket",
            b"GET /api/health HTTP/1.1\r\n"
            + HOST
            + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            (200, 400, 403, 404, 426),
        ),
        raw("half a request", b"GET /api/hea"),
        raw("nothing", b""),
        raw(
            "a range of everything",
            b"GET /page/page.js HTTP/1.1\r\n" + HOST + b"Range: bytes=" + b"0-," * 5000 + b"\r\n" + end,
            (200, 206, 400, 416),
        ),
        raw(
            "the page in pieces",
            b"GET /page/page.js HTTP/1.1\r\n" + HOST + b"Range: bytes=-99999999999999\r\n" + end,
            (200, 206, 400, 416),
        ),
    ]


REQUESTS = [*paths(), *queries(), *bodies(), *protocol()]
