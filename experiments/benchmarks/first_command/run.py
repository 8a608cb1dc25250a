"""How long does a newcomer wait?  python -m experiments.benchmarks.first_command.run --out <folder>

A commit is cloned into an empty folder, and `make train` runs there as on a fresh machine: pip's cache of wheels is not
used. The times of files that appear divide the seconds into stages, so commits of any age can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from threeshnet.threads import cores

from ..common import ROOT, add_row, processor

STAGES = {  # and the file that each ends with
    "set-up": ".venv/set-up*",
    "rendering": "data/raw/*/dataset_*.json",  # with the libraries' import
    "features": "data/shards/*/manifest.json",
    "model": "runs/*/*/config.yaml",
    "training": "runs/*/*/checkpoints/last.ckpt",
    "scores": "runs/*/*/metrics.json",
}
LAST = "pictures"  # until the command ends
COLUMNS = ("commit", "experiment", *STAGES, LAST, "total", "rsum", "machine", "load_before")
OF_PYTHON = ("PYTHONPATH", "VIRTUAL_ENV", "ENV_PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")
SAID_IN_SET_UP = ("set-up:", ".venv/bin/python")  # the rest is pip's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--experiment", default="hybrid_demo")
    parser.add_argument("--args", default="", help="ARGS of make")
    parser.add_argument("--out", type=Path, required=True, help="folder of stages.csv and <commit>.txt")
    options = parser.parse_args()
    commit = git("rev-parse", "--short", options.commit)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "fresh"
        git("clone", "--quiet", str(ROOT), str(fresh))
        git("-C", str(fresh), "checkout", "--quiet", commit)
        command = ["make", "train", f"EXP={options.experiment}", *([f"ARGS={options.args}"] if options.args else [])]
        begun, lines = time.time(), []
        for line in output(command, fresh):
            lines.append(f"{time.time() - begun:6.1f}  {line.replace(str(fresh), fresh.name)}")
            sys.stdout.write(lines[-1] + "\n")
        ended = time.time()
        (file,) = fresh.glob("runs/*/*/metrics.json")
        facts = {"commit": commit, "experiment": " ".join([options.experiment, options.args]).strip()}
        facts |= {"rsum": round(json.loads(file.read_text())["rsum"], 1), "load_before": round(load, 2)}
        facts["machine"] = f"{cores()} CPU cores, {processor()}"
        seconds = stages(fresh, begun, ended)
    options.out.mkdir(parents=True, exist_ok=True)
    add_row(options.out / "stages.csv", COLUMNS, facts | {name: round(value, 1) for name, value in seconds.items()})
    (options.out / f"{commit}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def output(command: list[str], folder: Path) -> Iterator[str]:
    """The lines of a command that newcomers see; of a progress bar the last state of each.

    Raises SystemExit when it fails.
    """
    clean = {name: value for name, value in os.environ.items() if name not in OF_PYTHON and "MALLOC" not in name}
    environment = clean | {"PIP_NO_CACHE_DIR": "1", "COLUMNS": "120"}
    streams: Mapping[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        assert process.stdout is not None
        in_set_up = True
        for line in process.stdout:  # bytes: as text, each state of a bar would be a line
            said = line.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            in_set_up &= "-m threeshnet" not in said
            if said and (not in_set_up or said.startswith(SAID_IN_SET_UP)):
                yield said
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")


def stages(folder: Path, begun: float, ended: float) -> dict[str, float]:
    """Seconds of each stage of a run in a fresh folder, and their total."""
    seconds, since = {}, begun
    for name, pattern in STAGES.items():
        until = max((file.stat().st_mtime for file in folder.glob(pattern)), default=since)
        seconds[name], since = until - since, until
    return seconds | {LAST: ended - since, "total": ended - begun}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
