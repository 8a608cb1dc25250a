"""progress.json: where a run is, for those who look at it from outside while it trains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from threeshnet.files import write_json

PROGRESS = "progress.json"
RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"


def mark(folder: Path, state: str) -> None:
    """Changes the state in a run directory's progress.json; nothing where there is none."""
    content = read(folder)
    if content:
        left = {"seconds_left": 0.0} if state == FINISHED else {}
        write_json(folder / PROGRESS, content | {"state": state, "updated": time.time()} | left)


def read(folder: Path) -> dict[str, Any]:
    """What a run directory's progress.json says; nothing where there is none."""
    try:
        return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a reader may come before the run does, or find a half-copied folder
        return {}
