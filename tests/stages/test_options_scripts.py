"""Scripts of experiments/options, which score runs again in other ways: their scores are those of the evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from threeshnet.errors import DataError
from threeshnet.runs.run import Run

from ..scripts import loaded

OPTIONS = Path(__file__).parents[2] / "experiments/options"


def test_what_models_know_by_heart_is_scored_as_the_run_was(whole: Path, synthetic_shards: Path) -> None:
    by_heart = loaded(OPTIONS / "by_heart.py")
    train, held_out = by_heart.rows_of(Run(whole), synthetic_shards, ["train", "testall"])
    scored = json.loads((whole / "metrics.json").read_text())
    assert held_out["photos"] == train["photos"] == scored["images"]  # as many as the smaller split has
    assert held_out["rsum"] == f"{scored['rsum']:.1f}"
    assert held_out["i2t_r1"] == f"{scored['i2t']['R@1']:.1f}"
    assert held_out["checkpoint"] == scored["checkpoint"]
    assert (train["split"], train["seed"], train["objective"]) == ("train", 0, "triplet")
    assert train["rsum"] != held_out["rsum"]
    assert set(by_heart.COLUMNS) == train.keys()


def test_views_and_corrections_are_scored_as_by_evaluate(
    whole: Path, synthetic_shards: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views_scored = loaded(OPTIONS / "views_scored.py")
    name = json.loads((synthetic_shards / "manifest.json").read_text())["dataset"]
    shutil.copytree(synthetic_shards, tmp_path / name)
    for number in views_scored.VIEWS:
        shutil.copytree(synthetic_shards, tmp_path / f"{name}_view{number}")
        for file in (tmp_path / f"{name}_view{number}").glob("*.h5"):
            with h5py.File(file, "r+") as opened:
                stored = opened["region/features"]
                stored[...] = -np.roll(stored[...], number, axis=0)  # pyright: ignore
    monkeypatch.setattr(views_scored, "SCORED", "testall")
    found = {(row["way"], row["beta"]): row for row in views_scored.rows_of(Run(whole), tmp_path / name)}
    assert all(set(views_scored.COLUMNS) == row.keys() for row in found.values())
    assert len(found) == len(views_scored.WAYS) * len(views_scored.BETAS)
    (file,) = (whole / "checkpoints").glob(f"{json.loads((whole / 'metrics.json').read_text())['selection']}.ckpt")
    for beta, more in (("", []), ("20", ["correction=inverted_softmax", "bank=train"])):
        out = tmp_path / f"scored{beta}"
        words = [f"checkpoint={file}", f"shards={tmp_path / name}", "split=testall", f"out={out}", *more]
        scored = {}
        for way, views in (("photo", "[]"), ("photo and a view", "[1]"), ("photo and three views", "[1,2,3]")):
            ended = command("evaluate", *words, "workers=0", "accelerator=cpu", f"views={views}")
            assert ended.code == 0, ended.err
            scored[way] = f"{json.loads((out / 'metrics.json').read_text())['rsum']:.1f}"
        assert {way: found[way, beta]["rsum"] for way in scored} == scored
        assert len(set(scored.values())) > 1


def test_a_kernel_branch_without_weight_is_the_run_as_it_was(
    whole: Path, synthetic_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_after = loaded(OPTIONS / "kernel_after.py")
    name = json.loads((synthetic_shards / "manifest.json").read_text())["dataset"]
    for folder in (name, *(f"{name}_view{number}" for number in kernel_after.VIEWS)):
        shutil.copytree(synthetic_shards, tmp_path / folder)
    monkeypatch.setattr(kernel_after, "SCORED", "testall")
    found = {row["weight"]: row for row in kernel_after.rows_of(Run(whole), tmp_path / name)}
    assert all(set(kernel_after.COLUMNS) == row.keys() for row in found.values())
    assert found["0"]["rsum"] == f"{json.loads((whole / 'metrics.json').read_text())['rsum']:.1f}"
    assert all(row["rsum"] == row["rsum_in_views"] for row in found.values())  # the views are the photos here
    assert found["alone"]["rsum"] != found["0"]["rsum"]


@pytest.mark.parametrize("name", ["by_heart", "views_scored", "kernel_after"])
def test_a_folder_without_runs_is_named(
    name: str, tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", str(tmp_path), "--shards", str(synthetic_shards)])
    with pytest.raises(DataError, match=f"no finished run in or below {tmp_path}"):
        loaded(OPTIONS / f"{name}.py").main()
