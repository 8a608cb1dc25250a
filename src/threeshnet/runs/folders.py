"""What lies in the folder of a job: nothing yet, a run to go on with, a finished one, or another run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from threeshnet.errors import DataError
from threeshnet.files import write_json
from threeshnet.runs.identity import differing
from threeshnet.studies.scheduler import METRICS

JOB, CONFIG, LAST = "job.json", "config.yaml", "checkpoints/last.ckpt"
OF_THE_SOURCE = ("commit", "machine")  # what ran it, wherever it is looked at
DEPTH = 4  # folders below a root where runs are looked for
SHOWN = 5


def record(folder: Path) -> dict[str, Any]:
    """job.json; nothing where there is none."""
    try:
        return json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def is_finished(folder: Path, identity: str) -> bool:
    return (folder / METRICS).exists() and record(folder).get("identity") == identity


def other_run(folder: Path, identity: str, settings: Mapping[str, Any]) -> str | None:
    """Why a job cannot go on in its folder: a run with checkpoints and other settings or data lies there."""
    found = record(folder)
    if not found or found["identity"] == identity or not (folder / LAST).exists():
        return None
    apart: list[str] = []
    if (folder / CONFIG).exists():
        there: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        apart = differing(there, settings)
    shown = "; ".join(apart[:SHOWN]) + (f"; and {len(apart) - SHOWN} more" if len(apart) > SHOWN else "")
    return f"{folder} holds another run ({shown or 'of other data'})"


def finished_runs(roots: Iterable[Path]) -> dict[str, Path]:
    """The finished runs below the roots by their identity; those that only point at others do not count."""
    found: dict[str, Path] = {}
    for root in roots:
        for depth in range(1, DEPTH + 1):
            for file in sorted(root.glob("/".join(["*"] * depth) + f"/{JOB}")):
                folder, name = file.parent, record(file.parent).get("identity")
                if name and (folder / METRICS).is_file() and not (folder / METRICS).is_symlink():
                    found.setdefault(name, folder.absolute())
    return found


def trainings(folders: Sequence[Path]) -> list[Path]:
    """The finished trainings in or below some folders.  Raises DataError where there is none."""
    finished = sorted(file.parent for folder in folders for file in folder.rglob(METRICS))
    found = [folder for folder in finished if (folder / LAST).parent.is_dir()]  # an evaluation has none
    if not found:
        raise DataError(f"no finished run in or below {', '.join(map(str, folders))}")
    return found


def scored_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished training was scored with."""
    selection = json.loads((folder / METRICS).read_text(encoding="utf-8"))["selection"]
    return folder / "checkpoints" / f"{selection}.ckpt"


def point_at(source: Path, folder: Path, own: Mapping[str, Any]) -> None:
    """Makes `folder` show a finished run of elsewhere: links to all that is there, and a job.json of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    let_go(folder)
    for entry in sorted(source.iterdir()):
        if entry.name not in (JOB, ".lock", METRICS):
            _link(folder / entry.name, entry)
    its = {key: value for key, value in own.items() if key not in OF_THE_SOURCE}
    written = record(source) | its | {"source": os.path.relpath(source, folder)}
    write_json(folder / JOB, written)
    _link(folder / METRICS, source / METRICS)  # last: what has metrics is finished


def let_go(folder: Path) -> None:
    """Takes away links to another run, as when that run is gone; the folder's own files stay."""
    links = [entry for entry in folder.iterdir() if entry.is_symlink()] if folder.is_dir() else []
    for link in links:
        link.unlink()
    if links:
        (folder / JOB).unlink(missing_ok=True)


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(os.path.relpath(target, link.parent))
