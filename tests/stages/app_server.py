"""A server of an index in a thread of the test's process, and requests to it as bytes."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import uvicorn

from threeshnet.app.serve import bound
from threeshnet.app.server import create_app
from threeshnet.index.index import Index

NAMES = ("127.0.0.1", "localhost")
PATIENCE = 20.0  # seconds for an answer


class Reply(NamedTuple):
    status: int  # 0 where the server hung up
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(index: Index, **options: Any) -> Iterator[int]:
    """Serves the index; gives the port."""
    listening = bound("127.0.0.1", 0)
    app = create_app(index, hosts=NAMES, **options)
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server has not started"
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def ask(
    port: int, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None, **query: Any
) -> Reply:
    """GET, or POST with a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    target = f"{path}?{urlencode(query, doseq=True)}" if query else path
    connection.request("POST" if body is not None else "GET", target, body, headers or {})
    answer = connection.getresponse()
    reply = Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
    connection.close()
    return reply


def send(port: int, data: bytes, *, hang_up: bool = False) -> Reply:
    """Bytes as they are; what comes back until the server hangs up. `hang_up`: say that no more will come."""
    chunks: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has answered before it had read everything
            pass
        try:
            while chunk := connection.recv(1 << 16):
                chunks.append(chunk)
        except ConnectionResetError:
            pass
    head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
    return Reply(status, {}, body)
