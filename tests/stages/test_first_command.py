"""experiments/benchmarks/first_command: seconds between files, and what of the output is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from experiments.benchmarks.first_command import run


def test_stages_lie_between_the_files_that_appear(tmp_path: Path) -> None:
    """Nothing is rendered where the shards lie already: that stage takes no time."""
    files = [".venv/set-up-train", "data/shards/demo/manifest.json", "runs/demo/now/config.yaml"]
    files += ["runs/demo/now/checkpoints/last.ckpt", "runs/demo/now/metrics.json"]
    for file, seconds in zip(files, (1030, 1050, 1051, 1200, 1204), strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        os.utime(tmp_path / file, (seconds, seconds))
    found = run.stages(tmp_path, 1000, 1210)
    assert list(found.values()) == [30, 0, 20, 1, 149, 4, 6, 210]
    assert set(found) == set(run.COLUMNS) & set(found)


def test_of_pip_nothing_is_kept_and_of_a_bar_its_last_state(tmp_path: Path) -> None:
    said = ["set-up: making .venv", "Collecting torch", "1 photo\r2 photos", ".venv/bin/python -m threeshnet train"]
    text = "\n".join([*said, "bar 1\rbar 2"])
    program = f"import sys; sys.stdout.write({text!r})"
    kept = list(run.output([sys.executable, "-c", program], tmp_path))
    assert kept == ["set-up: making .venv", ".venv/bin/python -m threeshnet train", "bar 2"]
    with pytest.raises(SystemExit, match="exit code 3"):
        list(run.output([sys.executable, "-c", "raise SystemExit(3)"], tmp_path))
