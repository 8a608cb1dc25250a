"""The table of situations from public reports: every kind and every case has tests, which exist."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

KINDS = range(1, 10)
CASES = [f"{number:02}" for number in (1, 3, 5, 8, 9, 13, 15, 17, 18, 19, 20, 22, 24, 26, 27, 29, 31, 32, 35, 38)]


def test_every_situation_has_a_test(root: Path) -> None:
    file = root / "experiments" / "benchmarks" / "hostile_inputs" / "public_reports.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["case"] for row in rows if row["case"]) == CASES
    more = Counter(int(row["kind"]) for row in rows if not row["case"])
    assert all(more[kind] >= 3 for kind in KINDS), more
    for row in rows:
        assert all(row[name] for name in ("source", "situation", "before", "after"))
        name, _, function = row["test"].partition("::")
        assert re.search(rf"^def {function}\(", (root / name).read_text(encoding="utf-8"), re.MULTILINE), row["test"]
