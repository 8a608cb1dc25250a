"""Finished runs as rows of a study's results.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.files import replacing
from threeshnet.metrics.protocols import folds_of
from threeshnet.metrics.rank_files import RANKS
from threeshnet.reports.study_hits import HITS, hits_of, key_of, read_hits, write_hits
from threeshnet.reports.study_rows import HOW, RECALLS, REQUIRED, Row, columns, lacking, read_rows
from threeshnet.reports.table import named_protocol
from threeshnet.studies.folders import record
from threeshnet.studies.running import METRICS
from threeshnet.training import progress

KEY = ("experiment", "setting", "job")  # of which a study has one row
FROM_METRICS = ("data", "split", "images", "captions", "rsum", "epochs", "steps", "selection", "minutes")
FROM_METRICS += ("resumed_at_step", "parameters", "precision")


def row_of(folder: Path, setting: str | None = None) -> Row:
    """A finished run as a row; what it does not say is empty. `setting` is another name for its setting."""
    own, found = record(folder), json.loads((folder / METRICS).read_text(encoding="utf-8"))
    facts: dict[str, Any] = {name: found.get(name) for name in FROM_METRICS}
    facts |= {f"{side}_r{cutoff}": found[side][f"R@{cutoff}"] for side, cutoff in RECALLS}
    facts |= {key: own.get(key) for key in ("experiment", "recipe", "seed", "machine", "fingerprint", "identity")}
    facts |= {"job": own.get("job_name"), "setting": setting or own.get("setting"), "commit": found.get("commit")}
    facts["protocol"] = named_protocol(found)
    facts["batch"] = found.get("batch_size") or own.get("batch_size")
    facts["selection"] = found.get("selection") or own.get("selection")
    trained = [found, *found.get("trained", [])]  # a derived row has what the models it is made of say of themselves
    facts["features"] = (
        " + ".join(dict.fromkeys(model["features"] for model in trained if model.get("features"))) or None
    )
    facts["dev_rsum"] = progress.read(folder).get("best_dev_rsum" if facts["selection"] == "best" else "dev_rsum")
    checkpoint = found.get("checkpoint")
    facts["checkpoint"] = " ".join(checkpoint) if isinstance(checkpoint, list) else checkpoint
    facts["derived_from"] = " ".join(own.get("derived_from", []))
    factors = own.get("factors", {})
    # A study's level is more than the setting that it is called after: `recommended_corrected` is a `recipe` too.
    written = {key: value for key, value in facts.items() if value is not None and not (key in HOW and key in factors)}
    return {key: _text(value) for key, value in (factors | written).items()}


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def gather(folders: Iterable[Path], setting: str | None = None) -> tuple[list[Row], list[str], list[str]]:
    """Rows of the finished runs, what is not finished yet, and why other rows are refused."""
    rows, unfinished, refused = [], [], []
    for folder in folders:
        if not (folder / METRICS).exists():
            unfinished.append(f"{folder.name}: {_how_far(folder)}")
            continue
        row = row_of(folder, setting)
        missing = lacking(row)
        if missing:
            refused.append(f"{folder.name}: does not say {', '.join(missing)}")
        else:
            rows.append(row)
    return rows, unfinished, refused


def merge(earlier: Sequence[Row], found: Sequence[Row], *, replace: bool) -> list[Row]:
    """Rows of other jobs stay. A job's row gives way to another run of the same job only when `replace` says so.

    Raises ConfigError with the jobs whose row is of a run with other settings or data.
    """
    rows = {_key(row): row for row in earlier}
    problems = Problems("rows of other runs")
    for row in found:
        there = rows.get(_key(row))
        if there and there["identity"] != row["identity"] and not replace:
            problems.add(
                f"{', '.join(_key(row))}: the row is of run {there['identity'][:12]}, not {row['identity'][:12]}"
            )
        rows[_key(row)] = row
    both = "Settings or data differ: keep both by setting_name=<another name>, or say replace=true."
    problems.raise_as(ConfigError, both)
    return [rows[key] for key in sorted(rows)]


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row.get(name, "") for name in KEY)


def write_rows(file: Path, rows: Sequence[Row], factors: Sequence[str]) -> None:
    """A CSV file, written aside and renamed."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns(rows, factors), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def collect(
    folders: Sequence[Path], file: Path, *, factors: Sequence[str], setting: str | None, replace: bool
) -> tuple[int, list[str]]:
    """Copies finished runs into `file`; how many, and what is not finished.  Raises DataError with rows it refuses."""
    rows, unfinished, refused = gather(folders, setting)
    if rows:
        merged = merge(read_rows(file), rows, replace=replace)
        found = _hits(folders, setting)
        earlier = {key: hits for key, hits in read_hits(file.parent / HITS).items() if key not in map(key_of, rows)}
        write_hits(file.parent / HITS, earlier | found, merged)
        write_rows(file, merged, factors)
    problems = Problems("incomplete rows")
    problems.extend(refused)
    problems.raise_as(DataError, f"A row needs {', '.join(REQUIRED)}: train these jobs again; {len(rows)} were copied.")
    return len(rows), unfinished


def _hits(folders: Iterable[Path], setting: str | None) -> dict[str, np.ndarray]:
    """What finished runs found, by their rows' keys; means of folds have none, nor have runs without ranks."""
    found = {}
    for folder in folders:
        if (folder / METRICS).exists() and (folder / RANKS).exists():
            row = row_of(folder, setting)
            protocol = json.loads((folder / METRICS).read_text(encoding="utf-8"))["protocol"]
            if folds_of(protocol) == 1:
                found[key_of(row)] = hits_of(folder / RANKS)
    return found


def _how_far(folder: Path) -> str:
    found = progress.read(folder)
    return f"{found['state']}, epoch {found['epoch']} of {found['epochs']}" if found else "not started"
