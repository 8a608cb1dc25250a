"""Several runs of two real processes each: by a study, and by Hydra's multirun."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from ..forks import Forks

ROOT = Path(__file__).parents[2]
STEPS = ["trainer.devices=2", "trainer.max_steps=2", "highlights=0", "experiment=region_coco"]


def test_a_multirun_of_two_processes_a_job(synthetic_shards: Path, small: list[str], tmp_path: Path) -> None:
    """One folder a job, the one that fails is named with the reason, and the other one is whole."""
    jobs = ["-m", "batches.batch_size=16,-3", f"hydra.sweep.dir={tmp_path / 'sweep'}", f"shards={synthetic_shards}"]
    words = [*jobs, *STEPS, *[word for word in small if "batch_size" not in word]]
    ended = subprocess.run(
        [sys.executable, "-m", "threeshnet", "train", *words],
        cwd=tmp_path,
        env=os.environ | {"THREESHNET_CONF": str(ROOT / "conf"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "1 of 2 jobs failed" in ended.stderr
    assert "batch_size=-3" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "torch/distributed" not in ended.stderr
    metrics = json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert json.loads((tmp_path / "sweep" / "0" / "progress.json").read_text())["state"] == "finished"
    assert not (tmp_path / "sweep" / "1" / "metrics.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]


def test_a_study_from_jobs_to_rows(
    forks: Forks, synthetic_shards: Path, small: list[str], tmp_path: Path, command
) -> None:
    """Two processes a job; called again nothing is run; its rows and report are the same each time."""
    words = ["study=activation", "activation=softmax", "seed=0", f"shards={synthetic_shards}", "out=runs", "reuse=[]"]
    outputs = []
    for _ in range(2):
        ended = forks.run("sweep", [*words, *STEPS, *small], folder=tmp_path, seconds=600)
        assert ended.code == 0, ended.out + ended.err
        outputs.append(ended.out)
    assert "finished before" not in outputs[0]
    assert "[1/1] activation=softmax,seed=0: finished before" in outputs[1]
    folder = tmp_path / "runs" / "activation=softmax,seed=0"
    assert (folder / "output.log").read_text().count("rsum ") == 1
    record = json.loads((folder / "job.json").read_text())
    assert (record["study"], record["factors"]) == ("activation", {"activation": "softmax"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err.txt", "out.txt", "runs"]
    files = []
    for _ in range(2):
        for name, *more in (("collect", f"out={tmp_path / 'runs'}"), ("report",)):
            ended = command(name, "study=activation", f"into={tmp_path / 'study'}", *more)
            assert ended.code == 0, ended.err
        files.append({file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()})
    assert files[0] == files[1]
    kept = {"README.md", "README.md.j2", "figure.png", "results.csv", "rsum_by_photo.npz", ".results.lock"}
    assert set(files[0]) == kept
    assert b'region_coco,coco,"activation=softmax,seed=0",softmax,0,synthetic' in files[0]["results.csv"]


def test_a_study_that_carries_models_over(
    forks: Forks, two_worlds: Path, small: list[str], tmp_path: Path, command
) -> None:
    """Trained on one world, scored on it and on the other one, which the rows and the report say."""
    words = ["experiment=region_demo", "trainer.max_epochs=1", "highlights=0", f"shards={two_worlds}", "seed=0"]
    only = "only='guidance=unguided*'"
    asked = ["study=transfer", only, "out=runs", "reuse=[]", *words, *small]
    ended = forks.run("sweep", asked, folder=tmp_path, seconds=600)
    assert ended.code == 0, ended.out + ended.err
    for name, *more in (("collect", f"out={tmp_path / 'runs'}"), ("report",)):
        ended = command(name, "study=transfer", f"into={tmp_path / 'study'}", *more)
        assert ended.code == 0, ended.err
    with (tmp_path / "study" / "results.csv").open(newline="") as stream:
        rows = {row["scored_on"]: row for row in csv.DictReader(stream)}
    assert {place: (row["data"], row["protocol"]) for place, row in rows.items()} == {
        "home": ("demo", "full"),
        "elsewhere": ("demo_dusk", "transfer"),
    }
    assert rows["elsewhere"]["checkpoint"] == rows["home"]["checkpoint"]
    text = (tmp_path / "study" / "README.md").read_text()
    assert all(f"{data}, split `test`, 12 images, 60 captions" in text for data in ("demo", "demo_dusk"))
