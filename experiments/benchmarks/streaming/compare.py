"""Reads the same samples in every way, cold and warm, and writes what each run took: rows.csv beside this file.

    python -m experiments.benchmarks.streaming.bench --images 20000 --repeats 5 --folder <empty folder with 40 GB>

Runs that have a row are not repeated, so the command goes on where it was cut. Afterwards it rewrites the tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threeshnet.files import read_rows

from ..common import add_row, proportional_bytes
from .formats import IMAGE_BYTES, evict, made, missing, size_of
from .readers import ways
from .tables import rewrite

HERE = Path(__file__).parent
COLUMNS = ["way", "order", "cache", "repeat", "images", "seconds", "cpu_seconds", "anonymous_mb", "disk_bytes", "note"]
SAMPLED = 0.25  # seconds between looks at the memory: each walks the page tables and holds the reading up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="of 147,456 bytes each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True, help="for the samples in every format; kept")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of rows.csv, README.md and the figure")
    parser.add_argument("--only", default="", help="ways whose name holds this")
    given = parser.parse_args()
    file = given.out / "rows.csv"
    done = {(row["way"], row["cache"], int(row["repeat"]), int(row["images"])) for row in read_rows(file)}
    # Every repeat goes through all ways, so that a slow hour of the machine is shared by them.
    for repeat in range(given.repeats):
        for name, (kind, order, read) in ways().items():
            for cache in ("cold", "warm"):
                if given.only in name and (name, cache, repeat, given.images) not in done:
                    facts = {"way": name, "order": order, "cache": cache, "repeat": repeat, "images": given.images}
                    add(file, facts | measured(kind, read, given.folder, given.images, cold=cache == "cold"))
    rewrite(given.out)


def measured(kind: str, read: Callable[[Path], int], folder: Path, images: int, *, cold: bool) -> dict[str, Any]:
    """One run in a process of its own; only a note where it cannot be."""
    if reason := missing(kind):
        return {"note": reason}
    source = made(kind, folder, images)
    if cold:
        evict(source)
    else:
        warm(source)
    answer = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=run, args=(read, source, answer))
    child.start()
    found = answer.get()
    child.join()
    if found.pop("seen") != images:
        raise RuntimeError(f"{kind}: not every sample was read once")
    return found | {"disk_bytes": size_of(source)}


def run(read: Callable[[Path], int], source: Path, answer: Any) -> None:
    """Read everything, watched: seconds, processor seconds with all workers, peak anonymous memory above the start."""
    watch = Watch()
    started, used = time.perf_counter(), cpu_seconds()
    seen = read(source)
    seconds = time.perf_counter() - started
    answer.put({"seen": seen, "seconds": seconds, "cpu_seconds": cpu_seconds() - used, "anonymous_mb": watch.end()})


def cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Watch:
    """The most anonymous memory that this process and its workers take together, beyond what it had."""

    def __init__(self) -> None:
        self.start = anonymous_bytes()
        self.peak, self.running = self.start, True
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def end(self) -> float:
        """MB."""
        self.running = False
        self.thread.join()
        return (self.peak - self.start) / 1e6

    def _look(self) -> None:
        while self.running:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(SAMPLED)


def anonymous_bytes() -> int:
    """Anonymous memory of this process and its workers: pages that they share count once."""
    return proportional_bytes("Pss_Anon:", "Pss_Shmem:")


def warm(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 20):
                    pass


def add(file: Path, row: dict[str, Any]) -> None:
    add_row(file, COLUMNS, {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})
    if "seconds" in row:
        speed = row["images"] * IMAGE_BYTES / 1e6 / row["seconds"]
        print(f"{row['way']}, {row['cache']}, {row['repeat']}: {speed:,.0f} MB/s", flush=True)


if __name__ == "__main__":
    main()
