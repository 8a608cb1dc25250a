"""Many users for a minute: each opens the page, searches, loads the thumbnails, looks at a photo, and asks why.

    python -m experiments.benchmarks.serving.users --url http://127.0.0.1:8000 --out experiments/benchmarks/serving

The server runs in a process of its own (`make demo`). A user thinks for one to three seconds between two searches, and
has six connections, as a browser. Users start within five seconds. Appends to rows.csv (a row a kind of request) and
writes why_<share>.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from experiments.benchmarks.common import add_row

PAGE = ("/", "/page/style.css", "/page/page.js", "/page/icon.svg", "/api/model")
COLUMNS = ("why", "request", "requests", "errors", "p50_ms", "p95_ms", "max_ms")
CONNECTIONS, START_SECONDS, THOUGHT = 6, 5.0, (1.0, 3.0)
MEMORY = "process_resident_memory_bytes"


class Taken:
    """Seconds of each kind of request, and its errors; filled by all users."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: dict[str, list[str]] = defaultdict(list)
        self.lock = threading.Lock()

    def add(self, kind: str, seconds: float, error: str) -> None:
        with self.lock:
            self.seconds[kind].append(seconds)
            if error:
                self.errors[kind].append(error)

    def rows(self) -> Iterator[dict[str, Any]]:
        for kind, seconds in self.seconds.items():
            middle, high = np.percentile(seconds, [50, 95]) * 1000
            counts = {"request": kind, "requests": len(seconds), "errors": len(self.errors[kind])}
            yield counts | {
                "p50_ms": round(middle, 1),
                "p95_ms": round(high, 1),
                "max_ms": round(max(seconds) * 1000, 1),
            }


class User:
    """One browser."""

    def __init__(self, address: str, taken: Taken, sentences: list[str], why: float, seed: int) -> None:
        self.address, self.taken, self.sentences, self.why = address, taken, sentences, why
        self.random = random.Random(seed)
        self.own, self.images = threading.local(), ThreadPoolExecutor(CONNECTIONS)

    def get(self, kind: str, path: str) -> bytes:
        """The body of an answer; every connection is kept, as a browser keeps it."""
        started, error, body = time.perf_counter(), "", b""
        try:
            if not hasattr(self.own, "connection"):
                self.own.connection = http.client.HTTPConnection(self.address, timeout=60)
            self.own.connection.request("GET", path)
            answer = self.own.connection.getresponse()
            body = answer.read()
            error = "" if answer.status == 200 else f"{answer.status} {body[:200]!r}"
        except (OSError, http.client.HTTPException) as reason:
            error = repr(reason)
            self.own.__dict__.clear()
        self.taken.add(kind, time.perf_counter() - started, error)
        return b"" if error else body

    def live(self, until: float) -> None:
        """Search until the time is up."""
        time.sleep(self.random.uniform(0, START_SECONDS))
        for path in PAGE:
            self.get("page", path)
        while time.perf_counter() < until:
            sentence = self.random.choice(self.sentences)
            found = json.loads(
                self.get("search", f"/api/search?{urlencode({'q': sentence, 'top': 24})}") or '{"results": []}'
            )
            ids = [quote(result["id"], safe="") for result in found["results"]]
            list(self.images.map(lambda name: self.get("thumbnail", f"/api/thumbnail/{name}"), ids))
            if ids and self.random.random() < self.why:
                self.get("photo", f"/api/photo/{ids[0]}")
                self.get("explain", f"/api/explain?{urlencode({'id': found['results'][0]['id'], 'q': sentence})}")
            time.sleep(self.random.uniform(*THOUGHT))
        self.images.shutdown()


def memory(address: str) -> float:
    """Resident memory of the server, MB."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/api/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return round(next(float(line.split()[1]) for line in lines if line.startswith(MEMORY)) / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--captions", type=Path, required=True, help="a file of sentences to search for, one a line")
    parser.add_argument("--why", type=float, default=0.05, help="share of the searches that are explained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    address, taken = urlsplit(asked.url).netloc, Taken()
    sentences = asked.captions.read_text(encoding="utf-8").splitlines()
    resident, started = [memory(address)], time.perf_counter()
    users = [User(address, taken, sentences, asked.why, asked.seed * 1000 + number) for number in range(asked.users)]
    threads = [threading.Thread(target=user.live, args=(started + asked.seconds,)) for user in users]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(5)
        resident.append(memory(address))
    facts = {"users": asked.users, "seconds": round(time.perf_counter() - started, 1), "seed": asked.seed}
    asked.out.mkdir(parents=True, exist_ok=True)
    for row in taken.rows():
        add_row(asked.out / "rows.csv", COLUMNS, {"why": asked.why} | row)
    first_errors = {kind: errors[:3] for kind, errors in taken.errors.items() if errors}
    content = facts | {"why": asked.why} | {"resident_mb_every_5_s": resident, "first_errors": first_errors}
    (asked.out / f"why_{asked.why}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
