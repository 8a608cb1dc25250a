"""The JSON API answers as the command line does, and hostile requests get neither a file nor the server."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from threeshnet.app.api import Limits, mask_of
from threeshnet.app.guard import HEADERS
from threeshnet.app.pictures import PictureCache, heat_png
from threeshnet.app.serve import bound
from threeshnet.errors import CheckpointError
from threeshnet.index.index import Index
from threeshnet.index.query import Answer, Query

from .app_server import ask, send, serving
from .hostile_requests import REQUESTS, SECRET, Hostile


@pytest.fixture(scope="module")
def index(photo_index: Path) -> Index:
    return Index.open(photo_index)


@pytest.fixture(scope="module")
def port(index: Index) -> Iterator[int]:
    with serving(index, examples=["a red ball"], limits=Limits(seconds=20)) as port:
        yield port


def first(index: Index) -> str:
    """The id of a photo without a twin."""
    return next(str(name) for name in index.column("id") if "single" in name)


# ---- answers


def test_a_search_is_that_of_the_index(port: int, index: Index) -> None:
    name = index.classes[0][0]
    words: dict[str, Any] = {"without": ["a dog"], "filter": [f"has:{name}"]}
    (expected,) = index.search([Query("a red ball", without=("a dog",), filters=(f"has:{name}",))], 7)
    reply = ask(port, "/api/search", q="a red ball", top=7, **words)
    assert reply.status == 200
    assert {key: reply.json[key] for key in expected.to_json()} | {"results": []} == expected.to_json() | {
        "results": []
    }
    for result, other in zip(reply.json["results"], expected.to_json()["results"], strict=True):
        assert result["id"] == other["id"]
        assert result["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_photo_finds_itself_sent_or_named(port: int, index: Index) -> None:
    file = index.photo_path(first(index))
    reply = ask(port, "/api/search", body=file.read_bytes(), headers={"Content-Type": "image/png"}, top=1)
    assert reply.json["results"][0]["id"] == first(index)
    reply = ask(port, "/api/search", like=first(index), top=1)
    assert reply.json["results"][0]["id"] == first(index)


def test_a_photo_that_is_sent_is_known_by_its_bytes(port: int, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of annotated segmentation cannot encode it."""

    def refusing(*_: Any, **__: Any) -> Any:
        raise CheckpointError("it needs a mask")

    monkeypatch.setattr(index.retriever, "encode_photos", refusing)
    photo, headers = index.photo_path(first(index)).read_bytes(), {"Content-Type": "image/png"}
    assert ask(port, "/api/search", body=photo, headers=headers, top=1).json["results"][0]["id"] == first(index)
    reply = ask(port, "/api/search", body=photo + b"more", headers=headers)
    assert (reply.status, reply.json["error"]) == (
        400,
        "it needs a mask; a photo that is in the index is found without",
    )


def test_filters_alone_list_photos(port: int, index: Index) -> None:
    name, count = index.classes[0]
    results = ask(port, "/api/search", filter=f"has:{name}", top=200).json["results"]
    assert len(results) == count
    assert all(result["score"] is None for result in results)


def test_many_at_once_get_their_own_answers(port: int, index: Index) -> None:
    sentences = [f"a {name} beside {number} others" for number, (name, _) in enumerate(index.classes * 3)]
    expected = [index.search([Query(text)], 5)[0] for text in sentences]
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda text: ask(port, "/api/search", q=text, top=5).json, sentences))
    for reply, answer in zip(replies, expected, strict=True):
        assert reply["query"] == answer.query
        assert [result["id"] for result in reply["results"]] == [result.id for result in answer.results]


def test_pictures_are_made_anew_and_small(port: int, index: Index) -> None:
    for kind, side in (("thumbnail", 384), ("photo", 1600)):
        reply = ask(port, f"/api/{kind}/{first(index)}")
        assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")
        assert max(Image.open(io.BytesIO(reply.body)).size) <= side


def test_an_explanation_has_its_map(port: int, index: Index) -> None:
    reply = ask(port, "/api/explain", id=first(index), q="a red ball").json
    assert reply["sentence"] == "a red ball"
    assert reply["heat"].startswith("data:image/png;base64,")
    assert {"shown_as", "remark", "places", "classes"} <= set(reply)


def test_what_the_server_says_of_itself(port: int, index: Index) -> None:
    assert ask(port, "/api/health").json == {"status": "ok", "photos": len(index)}
    about = ask(port, "/api/model").json
    assert (about["examples"], about["photo_refused"]) == (["a red ball"], "")
    assert about["classes"][0] == {"name": index.classes[0][0], "photos": index.classes[0][1]}
    assert about["scores"]["rsum"] > 0
    routes = ask(port, "/openapi.json").json["paths"]
    assert {"/api/search", "/api/explain", "/api/health", "/api/model", "/api/metrics"} <= set(routes)
    assert "image/*" in routes["/api/search"]["post"]["requestBody"]["content"]
    text = ask(port, "/api/metrics").body.decode()
    assert 'threeshnet_requests_total{route="/api/health",status="200"}' in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/api/health", "/api/photo/none", "/nothing"])
def test_every_answer_has_the_headers(port: int, path: str) -> None:
    headers = ask(port, path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in headers["content-security-policy"]


def test_the_page_loads_nothing_from_elsewhere(port: int) -> None:
    for path in ("/", "/page/style.css", "/page/page.js"):
        text = ask(port, path).body.decode()
        assert "http://" not in text
        assert "https://" not in text


# ---- hostile requests


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.name[:40].encode("ascii", "replace").decode())
def test_a_hostile_request(port: int, request_: Hostile) -> None:
    reply = send(port, request_.data, hang_up=not request_.answers)
    assert reply.status in request_.answers or (reply.status == 0 and not request_.answers)
    for leak in (SECRET, b"root:", b"Traceback", b"import ", b"/site-packages/"):
        assert leak not in reply.body
    assert ask(port, "/api/health").status == 200


def test_there_are_two_hundred() -> None:
    assert len({each.data for each in REQUESTS}) >= 200


def test_a_photo_that_was_replaced_by_something_else(index: Index, port: int) -> None:
    """The file of an indexed photo is no longer one: it is not given away."""
    name = str(index.column("id")[-1])
    file = index.photo_path(name)
    kept = file.with_name("kept")
    file.rename(kept)
    try:
        assert ask(port, f"/api/photo/{name}").status == 404
        file.symlink_to("/etc/passwd")
        assert ask(port, f"/api/photo/{name}").status == 404
        file.unlink()
        file.write_bytes(SECRET)
        reply = ask(port, f"/api/photo/{name}")
        assert reply.json == {"error": "the photo has changed or is gone since it was indexed"}
    finally:
        file.unlink(missing_ok=True)
        kept.rename(file)


# ---- limits


class Slow(Index):
    """An index whose search waits until it is told to go on."""

    def search(self, queries: Any, top: int = 10, **options: Any) -> list[Answer]:
        self.sizes = [*getattr(self, "sizes", []), len(queries)]
        self.go_on.wait(10)
        return super().search(queries, top, **options)


def test_a_full_queue_is_said_and_what_waits_goes_together(photo_index: Path) -> None:
    index = Slow.open(photo_index)
    index.go_on = threading.Event()
    with serving(index, limits=Limits(queue=4)) as port, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, port, "/api/search", q="a ball")]
        while not hasattr(index, "sizes"):
            time.sleep(0.01)
        asked += [pool.submit(ask, port, "/api/search", q=f"a ball {number}") for number in range(1, 5)]
        while "threeshnet_waiting 4.0" not in ask(port, "/api/metrics").body.decode():
            time.sleep(0.01)
        refused = ask(port, "/api/search", q="one too many")
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        index.go_on.set()
        assert [future.result().status for future in asked] == [200] * 5
        assert index.sizes == [1, 4]


def test_a_request_that_takes_too_long_is_ended(photo_index: Path) -> None:
    index = Slow.open(photo_index)
    index.go_on = threading.Event()
    with serving(index, limits=Limits(seconds=1)) as port:
        reply = ask(port, "/api/search", q="a ball")
        assert (reply.status, reply.json) == (504, {"error": "no answer within 1 s"})
        assert ask(port, "/api/health").status == 200
        index.go_on.set()
        deadline = time.monotonic() + 30  # on a busy machine the next one may take too long as well
        while ask(port, "/api/search", q="a ball").status != 200:
            assert time.monotonic() < deadline


def test_an_error_of_the_server_says_nothing_of_it(photo_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.open(photo_index)
    with serving(index) as port:
        monkeypatch.setattr(index, "photo_path", lambda _: 1 / 0)
        reply = ask(port, "/api/photo/a")
        assert (reply.status, reply.json) == (500, {"error": "an error of the server; its log has the details"})


def test_kept_thumbnails_take_bounded_memory(photo_index: Path) -> None:
    index = Index.open(photo_index)
    files = [index.photo_path(name) for name in index.column("id")]
    sizes = [len(PictureCache().jpeg(file, 64)) for file in files]
    cache = PictureCache(most_bytes=3 * max(sizes))
    for file in files * 2:
        cache.jpeg(file, 64)
        assert cache.bytes == sum(map(len, cache.jpegs.values())) <= cache.most_bytes
    assert cache.jpeg(files[-1], 64) is cache.jpeg(files[-1], 64)


# ---- parts


def test_heat_is_clear_where_it_is_cold() -> None:
    image = Image.open(io.BytesIO(heat_png(np.array([[0.0, 1.0], [np.nan, 0.25]]))))
    assert image.mode == "RGBA"
    assert [image.getpixel(place)[3] for place in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 255, 0, 127]


def test_a_mask_lies_under_the_end_of_the_photos_path(tmp_path: Path) -> None:
    (tmp_path / "masks" / "b").mkdir(parents=True)
    (mask := tmp_path / "masks" / "b" / "c.png").touch()
    assert mask_of(tmp_path / "masks", Path("/raw/a/b/c.jpg")) == mask
    assert mask_of(tmp_path / "masks", Path("/raw/a/c.jpg")) is None
    assert mask_of(None, Path("/raw/a/c.jpg")) is None


# ---- the verbs


def test_what_serve_refuses(command, photo_index: Path, tmp_path: Path) -> None:
    ended = command("serve", f"index={tmp_path}")
    assert ended.code == 1
    assert "no index is there" in ended.err
    ended = command("serve", f"index={photo_index}", "port=99999", "queue=0", "seconds=-1.0")
    assert ended.code == 1
    assert all(text in ended.err for text in ("port=99999", "queue=0", "seconds=-1.0"))
    ended = command("serve", f"index={photo_index}", "masks=nowhere")
    assert "masks=nowhere: no such folder" in ended.err


def test_the_demo_without_a_run_says_what_to_run(command, tmp_path: Path) -> None:
    ended = command("demo", f"runs={tmp_path}")
    assert ended.code == 1
    assert "make train EXP=hybrid_demo" in ended.err


def test_the_demo_serves_its_newest_run_and_ends_at_a_signal(command, photo_run: Path, tmp_path: Path) -> None:
    """The command runs in this process, and so in the main thread; its user is another thread."""
    for name in ("old", "new"):
        shutil.copytree(photo_run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("index"))
        (tmp_path / "runs" / name / "metrics.json").touch()
    with bound("127.0.0.1", 0) as free:
        port = free.getsockname()[1]

    def use() -> dict[str, Any]:
        try:
            while True:
                with suppress(OSError):
                    about = ask(port, "/api/model").json
                    question = about["examples"][0]
                    (photo,) = ask(port, "/api/search", q=question, top=1).json["results"]
                    return about | {"why": ask(port, "/api/explain", id=photo["id"], q=question).status}
                time.sleep(0.05)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        used = pool.submit(use)
        ended = command("demo", f"runs={tmp_path / 'runs'}", f"port={port}")
    assert ended.code == 0, ended.err
    assert f"20 photos on http://127.0.0.1:{port}/" in ended.out
    about = used.result()
    assert (about["photos"], len(about["examples"]), about["why"]) == (20, 5, 200)
    assert [(tmp_path / "runs" / name / "index").is_dir() for name in ("old", "new")] == [False, True]
