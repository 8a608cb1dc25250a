"""How an index is served: checks, the address, and a server that ends at the first signal."""

from __future__ import annotations

import importlib.util
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from threeshnet.app.guard import LOOPBACK, is_loopback
from threeshnet.errors import ConfigError, DataError, IndexFault, Problems
from threeshnet.index.index import Index
from threeshnet.settings import ServerSettings, ServeSettings

log = logging.getLogger(__name__)

EXTRA = ("fastapi", "uvicorn", "prometheus_client")
BACKLOG = 256
CONNECTIONS = 1000  # at once; more are answered with status 503
KEEP_ALIVE = 75  # seconds that an idle connection stays open: a browser uses it for the next search
LAST_SECONDS = 5  # that requests have when the server ends


def serve(settings: ServeSettings) -> None:
    """Serve an index until a signal comes."""
    check(settings)
    masks = None if settings.masks is None else Path(settings.masks)
    if masks is not None and not masks.is_dir():
        raise DataError(f"masks={masks}: no such folder")
    run_server(Index.open(settings.index, checkpoint=settings.checkpoint), settings, settings.examples, masks)


def check(settings: ServerSettings) -> None:
    """Raises ConfigError, once, for limits and addresses that cannot be, and where the extra is not installed."""
    problems = Problems("serve")
    if absent := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        problems.add(f"{', '.join(absent)} not installed: pip install 'threeshnet[serve]'")
    if not 0 <= settings.port < 65536:
        problems.add(f"port={settings.port}: expected 1 to 65535, or 0 for any that is free")
    for name in ("megabytes", "seconds", "queue"):
        if not (value := getattr(settings, name)) > 0:
            problems.add(f"{name}={value}: expected more than 0")
    problems.raise_as(ConfigError)


def run_server(index: Index, settings: ServerSettings, examples: Sequence[str], masks: Path | None) -> None:
    """Serve on the address of the settings.  Raises ConfigError when it is taken."""
    import uvicorn

    from threeshnet.app.api import Limits
    from threeshnet.app.server import create_app

    check_photos(index)
    listening = bound(settings.host, settings.port)
    console, port = Console(), listening.getsockname()[1]
    local = is_loopback(settings.host)
    if not local:
        log.warning("host=%s: everybody who reaches this machine can search and see the photos; there is no password "
                    "and no TLS. Put a proxy with both before it, or leave host= out", settings.host)  # fmt: skip
    app = create_app(
        index,
        hosts=[*settings.hosts, *LOOPBACK] if local or settings.hosts else None,
        examples=examples,
        masks=masks,
        limits=Limits(settings.megabytes, settings.seconds, settings.queue),
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="h11",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    console.print(
        f"{len(index):,} photos on http://{address}:{port}/  (Ctrl-C ends it)", highlight=False, soft_wrap=True
    )
    with listening, signals_end_it():
        uvicorn.Server(config).run([listening])


def check_photos(index: Index) -> None:
    """Raises IndexFault for an index without photos to show."""
    if index.manifest.source.kind == "captions":
        raise IndexFault(f"{index.folder} is an index of captions; the page shows photos: make index RAW=<photos>")
    raw = index.manifest.raw
    if not raw or not Path(raw).is_dir():
        raise IndexFault(
            f"{index.folder}: its photos are not there ({raw or 'their folder is not known'}); index again"
        )


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises ConfigError that says why there is none."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listening.close()
        raise ConfigError(f"host={host} port={port}: {error}; another port may be free: port=0") from error
    return listening


@contextmanager
def signals_end_it() -> Iterator[None]:
    """uvicorn ends at a signal and then raises it again, which would say *interrupted* of work that is done."""
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
