"""Several runs of two real processes each: by a study, and by Hydra's multirun."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ..forks import Forks

STEPS = ["trainer.max_steps=2", "highlights=0"]


def test_a_multirun_of_two_processes_a_job(
    forks: Forks, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    """One folder a job, the one that fails is named with the reason, and the other one is whole."""
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    two, wrong = "batches: {batch_size: 16}\ntrainer: {devices: 2}", "batches: {batch_size: -3}"
    for name, more in {"two": two, "wrong": wrong}.items():
        (own / f"{name}.yaml").write_text(f"# @package _global_\ndefaults: [region_coco]\n{more}\n")
    jobs = ["-m", "experiment=two,wrong", f"hydra.sweep.dir={tmp_path / 'sweep'}", f"shards={synthetic_shards}"]
    words = [*jobs, *STEPS, *[word for word in small if "batch_size" not in word]]
    ended = forks.run("train", words, folder=tmp_path, seconds=600)
    assert ended.code == 1, ended.err
    assert "1 of 2 jobs failed" in ended.err
    assert "batch_size=-3" in ended.err
    assert "Traceback" not in ended.err
    assert "torch/distributed" not in ended.err
    metrics = json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert json.loads((tmp_path / "sweep" / "0" / "progress.json").read_text())["state"] == "finished"
    assert not (tmp_path / "sweep" / "1" / "metrics.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "err.txt", "out.txt", "sweep"]


def test_a_study_from_jobs_to_rows(forks: Forks, two_worlds: Path, small: list[str], tmp_path: Path, command) -> None:
    """Two processes a job, and its model scored on a second world; called again nothing is run.

    The rows and the report are the same each time and say on what the model was scored.
    """
    words = ["study=transfer", "only='guidance=unguided*'", "experiment=region_demo", f"shards={two_worlds}", "seed=0"]
    jobs = ["out=runs", "reuse=[]", "trainer.devices=2", "trainer.max_epochs=1", "highlights=0"]
    outputs = []
    for _ in range(2):
        ended = forks.run("sweep", [*words, *jobs, *small], folder=tmp_path, seconds=600)
        assert ended.code == 0, ended.out + ended.err
        outputs.append(ended.out)
    name = "guidance=unguided,scored_on=home,seed=0"
    assert "finished before" not in outputs[0]
    assert f"{name}: finished before" in outputs[1]
    folder = tmp_path / "runs" / name
    assert (folder / "output.log").read_text().count("rsum ") == 1
    record = json.loads((folder / "job.json").read_text())
    assert (record["study"], record["factors"]) == ("transfer", {"guidance": "unguided", "scored_on": "home"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err.txt", "out.txt", "runs"]
    files = []
    for _ in range(2):
        for verb, *more in (("collect", f"out={tmp_path / 'runs'}"), ("report",)):
            ended = command(verb, "study=transfer", f"into={tmp_path / 'study'}", *more)
            assert ended.code == 0, ended.err
        files.append({file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()})
    assert files[0] == files[1]
    kept = {"README.md", "README.md.j2", "figure.png", "results.csv", "rsum_by_photo.npz", ".results.lock"}
    assert set(files[0]) == kept
    with (tmp_path / "study" / "results.csv").open(newline="") as stream:
        rows = {row["scored_on"]: row for row in csv.DictReader(stream)}
    assert {world: (row["data"], row["protocol"]) for world, row in rows.items()} == {
        "home": ("demo", "full"),
        "elsewhere": ("demo_dusk", "transfer"),
    }
    assert rows["home"]["job"] == name
    assert rows["elsewhere"]["checkpoint"] == rows["home"]["checkpoint"]
    text = files[0]["README.md"].decode()
    assert all(f"{data}, split `test`, 12 images, 60 captions" in text for data in ("demo", "demo_dusk"))
