"""Finished runs become rows of experiments/<study>/results.csv."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.evaluation.compare import read_evaluation
from threeshnet.evaluation.table import named_protocol
from threeshnet.files import write_rows
from threeshnet.installation import experiments_folder
from threeshnet.runs.find import jobs
from threeshnet.runs.run import Run
from threeshnet.settings import CollectSettings
from threeshnet.studies.by_photo import BY_PHOTO, key_of, read_by_photo, rsum_by_photo, write_by_photo
from threeshnet.studies.columns import HOW, RECALLS, REQUIRED, RESULTS, WHICH, Row, columns, device, lacking, read_rows
from threeshnet.studies.study import load_study

LOCK = ".results.lock"
FROM_METRICS = ("data", "split", "images", "captions", "rsum", "epochs", "steps", "selection", "minutes")
FROM_METRICS += ("resumed_at_step", "parameters", "precision", "devices")


def collect_rows(settings: CollectSettings) -> None:
    """A study's finished runs become rows."""
    study = load_study(settings.study)
    out = Path(settings.out or f"runs/{study.name}")
    folders = [run.folder for run in jobs(out)]
    if not folders:
        raise DataError(f"{out} holds no <job>/job.json; run it first: make sweep STUDY={study.name} EXP=<experiment>")
    file = into(settings, study.name) / RESULTS
    kept = {"setting": settings.setting_name, "replace": settings.replace}
    count, unfinished = collect(folders, file, factors=list(study.factors), **kept)
    console = Console()
    for line in unfinished:
        console.print(f"not finished: {line}", markup=False, highlight=False, soft_wrap=True)
    rows = f"{count} rows in {file}; now: make report STUDY={study.name}" if count else "nothing is finished yet"
    console.print(rows, markup=False, highlight=False, soft_wrap=True)


def into(settings: CollectSettings, study: str) -> Path:
    """The study's folder of committed results."""
    return Path(settings.into) if settings.into else experiments_folder() / study


def row_of(folder: Path, setting: str | None = None) -> Row:
    """A finished run as a row; what it does not say is empty. `setting` is another name for its setting."""
    run = Run(folder)
    own, found, progress = run.job.content(), run.metrics, run.progress
    facts: dict[str, Any] = {name: found.get(name) for name in FROM_METRICS}
    facts |= {f"{side}_r{cutoff}": found[side][f"R@{cutoff}"] for side, cutoff in RECALLS}
    facts |= {key: own.get(key) for key in ("experiment", "recipe", "seed", "fingerprint", "identity")}
    facts["machine"] = found.get("machine") or own.get("machine")  # job.json of a derived run says the sweep's
    facts |= {"job": own.get("job_name"), "setting": setting or own.get("setting"), "commit": found.get("commit")}
    facts["protocol"] = named_protocol(found)
    facts["batch"] = found.get("batch_size") or own.get("batch_size")
    facts["selection"] = found.get("selection") or own.get("selection")
    trained = [found, *found.get("trained", [])]  # a derived row has what the models it is made of say of themselves
    facts["features"] = (
        " + ".join(dict.fromkeys(model["features"] for model in trained if model.get("features"))) or None
    )
    facts["dev_rsum"] = progress.best_dev_rsum if facts["selection"] == "best" else progress.dev_rsum
    checkpoint = found.get("checkpoint")
    facts["checkpoint"] = " ".join(checkpoint) if isinstance(checkpoint, list) else checkpoint
    facts["derived_from"] = " ".join(own.get("derived_from", []))
    factors = own.get("factors", {})
    # A study's level is more than the setting that it is called after: `recommended_corrected` is a `recipe` too.
    written = {key: value for key, value in facts.items() if value is not None and not (key in HOW and key in factors)}
    return {key: _text(value) for key, value in (factors | written).items()}


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def gather(folders: Iterable[Path], setting: str | None = None) -> tuple[dict[Path, Row], list[str], list[str]]:
    """Rows of the finished runs by folder, what is not finished yet, and why other rows are refused."""
    rows, unfinished, refused = {}, [], []
    for folder in folders:
        if not Run(folder).is_finished:
            unfinished.append(f"{folder.name}: {_how_far(folder)}")
            continue
        row = row_of(folder, setting)
        missing = lacking(row)
        if missing:
            refused.append(f"{folder.name}: does not say {', '.join(missing)}")
        else:
            rows[folder] = row
    return rows, unfinished, refused


def merge(earlier: Sequence[Row], found: Iterable[Row], *, replace: bool) -> list[Row]:
    """Rows of other jobs stay. A job's row gives way to another run of the same job only when `replace` says so.

    Raises ConfigError with the jobs whose row is of a run with other settings or data, or on another kind of device.
    """
    rows = {key_of(row): row for row in earlier}
    problems = Problems("rows of other runs")
    for row in found:
        there = rows.get(key_of(row))
        if there and not replace:
            problems.extend(f"{', '.join(row[name] for name in WHICH)}: {said}" for said in _another(there, row))
        rows[key_of(row)] = row
    both = "Settings, data or device differ: keep both by setting_name=<another name>, or say replace=true."
    problems.raise_as(ConfigError, both)
    return [rows[key] for key in sorted(rows, key=lambda key: [rows[key][name] for name in WHICH])]


def _another(there: Row, row: Row) -> Iterator[str]:
    if there["identity"] != row["identity"]:
        yield f"the row is of run {there['identity'][:12]}, not {row['identity'][:12]}"
    elif device(there) != device(row):
        yield f"the row is of a run on {device(there)}, not on {device(row)}"
    elif "" not in (known := (there.get("devices", ""), row.get("devices", ""))) and known[0] != known[1]:
        yield f"the row is of a run in {known[0]} processes, not in {known[1]}"


def collect(
    folders: Sequence[Path], file: Path, *, factors: Sequence[str], setting: str | None, replace: bool
) -> tuple[int, list[str]]:
    """Copies finished runs into `file`; how many, and what is not finished. What their photos brought goes beside it.

    Raises DataError with the rows that it refuses, and with ranks that are damaged or of other scores, after the others
    were copied. One process collects into a study at a time; others wait.
    """
    rows, unfinished, refused = gather(folders, setting)
    by_photo, damaged = _by_photo(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    if rows:
        with FileLock(file.with_name(LOCK)):
            merged = merge(read_rows(file), rows.values(), replace=replace)
            beside, new = file.with_name(BY_PHOTO), {key_of(row) for row in rows.values()}
            earlier = {key: found for key, found in read_by_photo(beside).items() if key not in new}
            write_by_photo(beside, earlier | by_photo, merged)
            write_rows(file, columns(merged, factors), merged)
    problems = Problems("incomplete rows")
    problems.extend(refused)
    problems.extend(damaged)
    again = f"A row needs {', '.join(REQUIRED)}: train these jobs again; {len(rows)} were copied."
    problems.raise_as(
        DataError, again if refused else "The rows were copied; those without whole ranks go without photos."
    )
    return len(rows), unfinished


def _by_photo(rows: Mapping[Path, Row]) -> tuple[dict[str, np.ndarray], list[str]]:
    """What photos brought, by the rows' keys, and what is wrong with ranks; runs of before there were any have none."""
    found, damaged = {}, []
    for folder, row in rows.items():
        if not Run(folder).ranks_file.exists():
            continue
        try:
            found[key_of(row)] = rsum_by_photo(read_evaluation(folder))
        except DataError as error:
            damaged.append(f"{folder.name}: {error}")
    return found, damaged


def _how_far(folder: Path) -> str:
    progress = Run(folder).progress
    return f"{progress.state}, epoch {progress.epoch} of {progress.epochs}" if progress.state else "not started"
