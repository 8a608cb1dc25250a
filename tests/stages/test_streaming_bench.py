"""The streaming benchmark compares what it says: every way reads every sample, and measures of order are right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from experiments.benchmarks.streaming import compare, formats, order, readers, tables

IMAGES = 7


def test_every_way_reads_every_sample(tmp_path: Path) -> None:
    ways = readers.ways()
    assert len(ways) == 20
    for name, (kind, _, read) in ways.items():
        if "workers" not in name and formats.missing(kind) is None:
            folder = formats.made(kind, tmp_path, IMAGES)
            formats.evict(folder)
            assert read(folder) == IMAGES, name
    assert {folder.name for folder in tmp_path.iterdir()} >= {"shards-7", "npy-an-image-7", "one-npy-7"}


def test_measures_of_an_order_tell_what_they_say() -> None:
    batches = np.array([[0, 0, 9, 0], [400, 800, 1200, 1200]])
    assert order.same_pairs(batches) == (3 + 1) / 2
    assert order.neighbours(batches) == pytest.approx((6 + 1) / 12)
    assert order.runs(np.concatenate([np.arange(order.READS - 1), [99_999]])) == 2
    rng = np.random.default_rng(0)
    assert order.spread(rng.permutation(40_000).reshape(-1, 40)) == pytest.approx(1, abs=0.15)
    assert order.spread(np.arange(40_000).reshape(-1, 40)) == pytest.approx(40, rel=0.01)
    assert order.kolmogorov(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6])) == 0.5


def test_the_page_and_the_figure_are_those_of_the_rows(tmp_path: Path) -> None:
    row = {"way": "raw read", "order": "sequential", "repeat": 0, "images": 1000}
    for cache, seconds in (("cold", 0.5), ("warm", 0.1)):
        facts = {"seconds": seconds, "cpu_seconds": 0.1, "anonymous_mb": 1.0, "disk_bytes": 10**9}
        compare.add(tmp_path / "rows.csv", row | facts | {"cache": cache})
        compare.add(tmp_path / "rows.csv", row | {"way": "other", "cache": cache, "note": "not installed"})
    for name in ("README.md.j2", "memory.csv", "order.json", "waiting.csv"):
        shutil.copy(Path(tables.__file__).with_name(name), tmp_path)
    tables.rewrite(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| raw read | sequential | cold | 1 | 295 | 295 to 295 | 2,000 | 1.00 |" in text
    assert "| other | sequential | cold | 0 | not installed |" in text
    assert (tmp_path / "speed.png").is_file()
