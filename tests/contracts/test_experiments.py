"""All twelve experiments take real steps through the command, on arrays that stand in for the data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import threeshnet

from ..forks import Forks

ROOT = Path(__file__).parents[2]
KINDS, DATA = ("region", "grid", "hybrid"), ("demo", "flickr8k", "f30k", "coco")
EXPERIMENTS = [f"{kind}_{data}" for kind in KINDS for data in DATA]
RANKS = {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}
PROMISED = {"protocol": "full", "data": "synthetic", "split": "testall", "images": 8, "captions": 40}


def check_run_directory(out: Path) -> None:
    """What the outside is promised of a run (design, section 7)."""
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["i2t"]) == set(metrics["t2i"]) == RANKS
    recalls = [metrics[side][name] for side in ("i2t", "t2i") for name in ("R@1", "R@5", "R@10")]
    assert all(0 <= value <= 100 for value in recalls)
    assert metrics["rsum"] == pytest.approx(sum(recalls))
    assert {name: metrics[name] for name in PROMISED} == PROMISED
    assert (metrics["seed"], metrics["resumed_at_step"], metrics["steps"]) == (3, 0, 2)
    assert metrics["trained"][0]["selection"] == metrics["selection"]
    config = OmegaConf.load(out / "config.yaml")
    assert config.seed == 3
    assert "${" not in (out / "config.yaml").read_text()
    assert "???" not in str(OmegaConf.to_container(config.model))
    rows = list(csv.DictReader((out / "log" / "metrics.csv").open()))
    assert any(row.get("train/loss") for row in rows)
    assert list((out / "highlights").glob("*.png"))
    model = threeshnet.load_model(out / "checkpoints" / "last.ckpt")
    assert model.encode_texts(["a dog in the snow"]).shape == (1, 32)


def test_the_twelve_are_there() -> None:
    assert sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml")) == sorted(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_takes_real_steps(
    experiment: str, command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    steps = ["trainer.max_steps=2", "trainer.log_every_n_steps=1", "highlights=1", "seed=3", f"out={out}"]
    ended = command("train", f"experiment={experiment}", f"shards={synthetic_shards.parent}", *small, *steps)
    assert ended.code == 0, ended.err
    assert "rsum" in ended.out
    assert f"no shards of {experiment.split('_')[1]}" in ended.out  # never taken in silence
    check_run_directory(out)


def test_an_experiment_as_a_process(forks: Forks, synthetic_shards: Path, small: list[str], tmp_path: Path) -> None:
    steps = ["trainer.max_steps=2", "trainer.log_every_n_steps=1", "highlights=1", "seed=3", "out=a run"]
    words = ["experiment=hybrid_coco", f"shards={synthetic_shards}", *small, *steps]
    ended = forks.run("train", words, folder=tmp_path, seconds=300)
    assert ended.code == 0, ended.err
    check_run_directory(tmp_path / "a run")


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if not name.endswith("demo")])
def test_missing_data_say_what_where_and_how(experiment: str, command, tmp_path: Path) -> None:
    data, shards = experiment.split("_")[1], tmp_path / "none"
    ended = command("train", f"experiment={experiment}", f"shards={shards}", f"out={tmp_path / 'run'}")
    assert ended.code == 1
    message = next(line for line in ended.err.splitlines() if line.startswith(f"No shards of {data}"))
    assert f"{shards / data / 'manifest.json'}" in message
    assert f"make data DATA={data} OUT={shards}" in message
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


def test_missing_data_as_a_process(forks: Forks, tmp_path: Path) -> None:
    ended = forks.run("train", ["experiment=grid_f30k"], folder=tmp_path)
    assert ended.code == 1
    assert "make data DATA=f30k" in ended.err
    assert "Traceback" not in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err.txt", "out.txt"]


@pytest.mark.parametrize("starter", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_are_started_together_are_told_their_folder(
    starter: str, command, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(starter, "2")
    ended = command("train", "experiment=region_coco", f"shards={synthetic_shards.parent}")
    assert ended.code == 1
    assert f"{starter}=2 processes need one folder: give it as out=<folder>" in ended.err


def test_shards_that_lack_a_field_are_refused(command, small: list[str], tmp_path: Path) -> None:
    grid_only = tmp_path / "shards"
    sizes = ["images=12", "data.extractor.grid_width=8", "data.extractor.classes=3", "fields=[grid,seg]"]
    made = command("data", "data=synthetic", *sizes, f"out={grid_only}", "progress=false", "workers=0")
    assert made.code == 0, made.err
    ended = command("train", "experiment=hybrid_coco", f"shards={grid_only}", *small, f"out={tmp_path / 'run'}")
    assert ended.code == 1
    assert "'region' is not in these shards, which hold grid, seg" in ended.err
