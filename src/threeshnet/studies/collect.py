"""Finished runs become rows of experiments/<study>/results.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console

from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.evaluation.compare import read_evaluation
from threeshnet.evaluation.table import named_protocol
from threeshnet.files import check_writable, read_rows, write_rows
from threeshnet.installation import experiments_folder
from threeshnet.runs.find import jobs
from threeshnet.runs.run import JOB, METRICS, Run
from threeshnet.settings import CollectSettings
from threeshnet.studies.by_photo import BY_PHOTO, key_of, read_by_photo, rsum_by_photo, write_by_photo
from threeshnet.studies.columns import HOW, RECALLS, REQUIRED, RESULTS, WHICH, Row, columns, device, lacking
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
        raise DataError(
            f"out={out} holds no <job>/job.json; run it first: make sweep STUDY={study.name} EXP=<experiment>"
        )
    file = into(settings, study.name) / RESULTS
    check_writable("into", file.parent)
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
    """A finished run as a row, empty where a fact is missing. `setting` renames its setting."""
    run = Run(folder)
    job, metrics, progress = run.job.content(), run.metrics, run.progress
    facts: dict[str, Any] = {name: metrics.get(name) for name in FROM_METRICS}
    facts |= {f"{side}_r{cutoff}": metrics[side][f"R@{cutoff}"] for side, cutoff in RECALLS}
    facts |= {key: job.get(key) for key in ("experiment", "recipe", "seed", "fingerprint", "identity")}
    facts |= {"job": job.get("job_name"), "setting": setting or job.get("setting"), "commit": metrics.get("commit")}
    facts["machine"] = metrics.get("machine") or job.get("machine")  # job.json of a derived run names the sweep's
    facts["protocol"] = named_protocol(metrics)
    facts["batch"] = metrics.get("batch_size") or job.get("batch_size")
    facts["selection"] = metrics.get("selection") or job.get("selection")
    models = [metrics, *metrics.get("trained", [])]  # a derived row takes these facts from its models
    facts["features"] = " + ".join(dict.fromkeys(filter(None, (model.get("features") for model in models)))) or None
    facts["dev_rsum"] = progress.best_dev_rsum if facts["selection"] == "best" else progress.dev_rsum
    checkpoint = metrics.get("checkpoint")
    facts["checkpoint"] = " ".join(checkpoint) if isinstance(checkpoint, list) else checkpoint
    facts["derived_from"] = " ".join(job.get("derived_from", []))
    factors = job.get("factors", {})
    # A level may have the name of a fact and say more: `recommended_corrected` is a level of `recipe`.
    kept = {key: value for key, value in facts.items() if value is not None and not (key in HOW and key in factors)}
    return {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in (factors | kept).items()}


def gather(folders: Iterable[Path], setting: str | None = None) -> tuple[dict[Path, Row], list[str], list[str]]:
    """Rows of the finished runs by folder, the unfinished runs, and why other rows are refused."""
    rows, unfinished, refused = {}, [], []
    for folder in folders:
        run = Run(folder)
        if not run.is_finished:
            at = run.progress
            state = f"{at.state}, epoch {at.epoch} of {at.epochs}" if at.state else "not started"
            unfinished.append(f"{folder.name}: {state}")
        elif missing := lacking(row := row_of(folder, setting)):
            refused.append(f"{folder.name}: does not say {', '.join(missing)} ({folder / JOB}, {METRICS})")
        else:
            rows[folder] = row
    return rows, unfinished, refused


def merge(earlier: Sequence[Row], new: Iterable[Row], *, replace: bool) -> list[Row]:
    """Earlier rows with the new ones. A new row of the same job takes the place of the earlier one.

    Raises ConfigError with the jobs whose earlier row has other settings, data or devices, unless `replace` is true.
    """
    rows = {key_of(row): row for row in earlier}
    problems = Problems("rows of other runs")
    for row in new:
        there = rows.get(key_of(row))
        if there and not replace and (difference := _difference(there, row)):
            problems.add(f"{', '.join(row[name] for name in WHICH)}: {difference}")
        rows[key_of(row)] = row
    both = "Settings, data or device differ: keep both by setting_name=<another name>, or say replace=true."
    problems.raise_as(ConfigError, both)
    return [rows[key] for key in sorted(rows, key=lambda key: [rows[key][name] for name in WHICH])]


def _difference(there: Row, row: Row) -> str | None:
    if there["identity"] != row["identity"]:
        return f"the row is of run {there['identity'][:12]}, not {row['identity'][:12]}"
    if device(there) != device(row):
        return f"the row is of a run on {device(there)}, not on {device(row)}"
    before, now = there.get("devices", ""), row.get("devices", "")
    return f"the row is of a run in {before} processes, not in {now}" if before and now and before != now else None


def collect(
    folders: Sequence[Path], file: Path, *, factors: Sequence[str], setting: str | None, replace: bool
) -> tuple[int, list[str]]:
    """Copies finished runs into `file`, and rsum by photo beside it; returns how many, and the unfinished ones.

    One process collects into a study at a time; others wait.  Raises DataError with refused rows and damaged ranks,
    after the other rows were copied.
    """
    rows, unfinished, refused = gather(folders, setting)
    by_photo, damaged = _by_photo(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    if rows:
        with FileLock(file.with_name(LOCK)):
            merged = merge(read_rows(file), rows.values(), replace=replace)
            beside, new = file.with_name(BY_PHOTO), {key_of(row) for row in rows.values()}
            earlier = {key: values for key, values in read_by_photo(beside).items() if key not in new}
            write_by_photo(beside, earlier | by_photo, merged)
            write_rows(file, columns(merged, factors), merged)
    problems = Problems("incomplete rows")
    problems.extend([*refused, *damaged])
    again = f"A row needs {', '.join(REQUIRED)}: train these jobs again; {len(rows)} were copied."
    whole = "The rows were copied; those without whole ranks go without photos."
    problems.raise_as(DataError, again if refused else whole)
    return len(rows), unfinished


def _by_photo(rows: Mapping[Path, Row]) -> tuple[dict[str, np.ndarray], list[str]]:
    """rsum by photo of the runs that have ranks, by the rows' keys, and the damaged ranks."""
    by_photo, damaged = {}, []
    for folder, row in rows.items():
        if Run(folder).ranks_file.exists():
            try:
                by_photo[key_of(row)] = rsum_by_photo(read_evaluation(folder))
            except DataError as error:
                damaged.append(f"{folder.name}: {error}")
    return by_photo, damaged
