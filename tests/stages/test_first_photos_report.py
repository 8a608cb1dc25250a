"""The first experiment: its script runs what is not there yet, and its report comes from results.csv alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..scripts import loaded

GENERATED = ("results.csv", "demo.png")


@pytest.fixture(scope="module")
def report(root: Path) -> ModuleType:
    return loaded(root / "experiments" / "first_photos" / "report.py")


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """The experiment without results."""
    there = root / "experiments" / "first_photos"
    return Path(shutil.copytree(there, tmp_path / "first_photos", ignore=shutil.ignore_patterns(*GENERATED)))


def metrics_of(data: str, features: str, seed: int, rsum: float, **more: Any) -> dict[str, Any]:
    recalls = {"R@1": 10.0, "R@5": 20.0, "R@10": 30.0, "median_rank": 3.0, "mean_rank": 5.0}
    facts = {"protocol": "full", "data": data, "split": "test", "images": 500, "captions": 2500, "seed": seed}
    facts |= {"selection": "best", "batch_size": 64, "epochs": 8, "steps": 900, "resumed_at_step": 0}
    facts |= {"minutes": 5.0 + seed, "peak_memory_gb": 1.5, "checkpoint": "abc", "commit": "def"}
    facts |= {"i2t": recalls, "t2i": recalls, "rsum": rsum, "experiment": f"{features}_{data}"}
    return facts | more


def write_run(runs: Path, job: str, metrics: dict[str, Any]) -> None:
    (runs / job).mkdir(parents=True)
    (runs / job / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def tags(pair: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"R@1": 5.0, "R@5": 25.0}
    return {
        tag: found | ({} if pair is None else {"pair_accuracy": pair}) for tag in ("what", "where", "both", "plain")
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for seed, rsum in enumerate((100.0, 102.0, 104.0)):
        write_run(runs, f"demo-hybrid-{seed}", metrics_of("demo", "hybrid", seed, rsum, by_tag=tags(60.0 + seed)))
    for seed in (0, 1):
        write_run(runs, f"demo-vse-{seed}", metrics_of("demo", "hybrid", seed, 90.0, by_tag=tags()))
    write_run(runs, "flickr8k-grid-proxy-0", metrics_of("flickr8k", "grid", 0, 206.86, resumed_at_step=7))
    return runs


def test_runs_become_rows_tables_and_a_figure(report: ModuleType, folder: Path, runs: Path) -> None:
    report.main(["--collect", str(runs)], folder)
    rows = {row["job"]: row for row in report.read_csv(folder / "results.csv")}
    assert rows["demo-hybrid-1"]["where_pair"] == "61"
    assert rows["demo-vse-0"]["variant"] == "vse"
    assert rows["demo-vse-0"]["features"] == "hybrid"
    assert rows["flickr8k-grid-proxy-0"]["what_r1"] == ""
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| hybrid, guided | 0 1 2 | 10.0 ± 0.0 |" in text
    assert "| 102.0 ± 2.0 |" in text
    assert "| guided against no guidance | +11.0 ± 1.4 |" in text  # of seeds 0 and 1, which both have
    assert "| grid, proxy | threeshnet | copies | 0 |" in text
    assert "| grid, proxy | authors' modules | originals | 2 | 19.1 |" in text
    assert "| flickr8k: grid, proxy | 64 | 8 | 900 | resumed |" in text
    assert report.NOTHING not in text
    assert (folder / "demo.png").stat().st_size > 1000


def test_the_report_needs_the_committed_rows_alone(report: ModuleType, folder: Path, runs: Path) -> None:
    report.main(["--collect", str(runs)], folder)
    first = (folder / "README.md").read_bytes()
    shutil.rmtree(runs)
    report.main([], folder)
    assert (folder / "README.md").read_bytes() == first


def test_collecting_again_replaces_a_row_and_keeps_the_others(
    report: ModuleType, folder: Path, runs: Path, tmp_path: Path
) -> None:
    report.main(["--collect", str(runs)], folder)
    write_run(tmp_path / "other", "demo-vse-0", metrics_of("demo", "hybrid", 0, 95.0))
    report.main(["--collect", str(tmp_path / "other")], folder)
    rows = {row["job"]: row["rsum"] for row in report.read_csv(folder / "results.csv")}
    assert rows["demo-vse-0"] == "95"
    assert len(rows) == 6


def test_without_results_it_says_so(report: ModuleType, folder: Path) -> None:
    report.main([], folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.count(report.NOTHING) == 4  # the authors' rows are always there
    assert not (folder / "demo.png").exists()


def test_what_does_not_fit_is_refused(report: ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"run\.sh first"):
        report.main(["--collect", str(tmp_path / "none")], folder)
    write_run(tmp_path / "runs", "demo-hybrid-1", metrics_of("demo", "hybrid", 0, 100.0))
    with pytest.raises(SystemExit, match=r"demo-hybrid-1.*seed 0"):
        report.main(["--collect", str(tmp_path / "runs")], folder)


def test_the_committed_tables_are_those_of_the_committed_rows(report: ModuleType, root: Path, tmp_path: Path) -> None:
    there = root / "experiments" / "first_photos"
    copy = Path(shutil.copytree(there, tmp_path / "copy"))
    report.main([], copy)
    text = (there / "README.md").read_text(encoding="utf-8")
    assert (copy / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell on this machine")
def test_the_script_runs_what_is_missing_and_resumes_what_was_begun(root: Path, tmp_path: Path) -> None:
    fake = tmp_path / "make"
    fake.write_text(
        '#!/bin/sh\nprintf "%s|" "$@" >> "$CALLS"; echo >> "$CALLS"\ncase "$*" in *demo-vse-1*) exit 1;; esac\n'
    )
    fake.chmod(0o755)
    runs, calls = tmp_path / "my runs", tmp_path / "calls"
    (runs / "demo-grid-1" / "checkpoints").mkdir(parents=True)
    (runs / "demo-grid-1" / "checkpoints" / "last.ckpt").touch()
    write_run(runs, "demo-region-1", {})
    given = {"MAKE": str(fake), "RUNS": str(runs), "SHARDS": "s", "SEEDS": "1", "CALLS": str(calls)}
    command = [str(root / "experiments" / "first_photos" / "run.sh"), "demo"]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    lines = calls.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "data|DATA=demo|OUT=s|ARGS=|"
    assert f"train|EXP=hybrid_demo|OUT={runs}/demo-hybrid-1|SHARDS=s|RESUME=0|ARGS=seed=1|" in lines
    assert f"train|EXP=grid_demo|OUT={runs}/demo-grid-1|SHARDS=s|RESUME=1|ARGS=seed=1|" in lines
    assert not any("demo-region-1" in line for line in lines)
    assert any("SHARDS=s-shuffled" in line for line in lines)
    assert done.returncode == 1
    assert "failed: demo-vse-1" in done.stderr
