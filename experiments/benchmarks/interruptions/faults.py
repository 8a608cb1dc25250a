"""Injects every fault for real, and writes down what was printed and what was lost.

    make faults                                            # all of them, and the table in README.md
    python -m experiments.benchmarks.interruptions.faults --only "a second run" "SIGTERM" --out <folder>

Each is a run of its own (kills.py describes it) that something happens to. When the cause is mended, the run goes on
with `resume=true`, and its last weights, its best weights, its optimizer and its scores are compared with those of a
run that was left alone. Full and read-only disks are mounts, for which this has to be root on Linux; without, those
rows say so. Exit code 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeshnet.cli import main as threeshnet

from ..common import finish, write_page
from . import (
    by_damage,  # noqa: F401  (registers what it can bring about)
    by_signals,  # noqa: F401
)
from .runs import SHARDS, digest, start, step_of
from .scene import FAULTS, Fault, NotPermitted, Scene


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "faults.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        length = [f"trainer.max_epochs={options.epochs}"]
        plain = Scene(Path(scratch) / "undisturbed", length)
        if finish(start(plain.folder, threeshnet, "data", [*SHARDS, "out=."])) or finish(plain.begin()):
            raise SystemExit(plain.printed())
        expected = digest(plain.out)
        for number, name in enumerate(options.only or [name for name in FAULTS if name not in rows]):
            scene = Scene(Path(scratch) / str(number), [*length])
            shutil.copytree(plain.folder / "synthetic", scene.folder / "synthetic")
            rows[name] = happened(FAULTS[name], scene, expected)
            rows = {fault: rows[fault] for fault in FAULTS if fault in rows}
            file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(options.out)
    return int(any(row["lost"] not in ("nothing", "not run") for row in rows.values()))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), help="anew, whatever faults.json holds")
    parser.add_argument("--epochs", type=int, default=6, help="of each run, of seven steps")
    parser.add_argument("--out", type=Path, required=True, help="folder of faults.json and of README.md with the table")
    return parser.parse_args(arguments)


def happened(cause: Fault, scene: Scene, expected: str) -> dict[str, Any]:
    """What was printed, how the run ended, and what was lost when it had gone on to its end."""
    try:
        code = cause(scene)
    except NotPermitted as reason:
        return {"code": None, "printed": f"{reason} is not permitted here", "kept_step": None, "lost": "not run"}
    said, kept = short(scene.log_without_table()), step_of(scene.folder)
    if code or not (scene.out / "metrics.json").exists():
        ended = finish(scene.begin("resume=true"))
        if ended:
            return {"code": code, "printed": said, "kept_step": kept, "lost": f"it does not go on: {scene.printed()}"}
    lost = "nothing" if digest(scene.out) == expected else "another result"
    return {"code": code, "printed": said, "kept_step": kept, "lost": lost}


def short(text: str) -> str:
    """Without the long command line that is printed for going on."""
    return re.sub(r"(To go on: threeshnet train) .*(out=)", r"\1 … \2", text.strip())


if __name__ == "__main__":
    sys.exit(main())
