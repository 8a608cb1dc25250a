"""The script that asks what views and corrections are worth when a model is scored: its scores are the evaluation's."""

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

SCRIPT = Path(__file__).parents[2] / "experiments/options/views_scored.py"


@pytest.fixture(scope="module")
def views_scored() -> Any:
    return loaded(SCRIPT)


def test_scores_are_those_of_the_evaluation(
    views_scored: Any,
    whole: Path,
    synthetic_shards: Path,
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = json.loads((synthetic_shards / "manifest.json").read_text())["dataset"]
    shutil.copytree(synthetic_shards, tmp_path / name)
    for number in views_scored.VIEWS:
        shutil.copytree(synthetic_shards, tmp_path / f"{name}_view{number}")
        for file in (tmp_path / f"{name}_view{number}").glob("*.h5"):
            with h5py.File(file, "r+") as opened:
                stored = opened["region/features"]
                stored[...] = np.roll(stored[...], number, axis=0)  # pyright: ignore
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


def test_a_folder_without_runs_is_named(
    views_scored: Any, tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["views_scored.py", str(tmp_path), "--shards", str(synthetic_shards)])
    with pytest.raises(DataError, match=f"no finished run in or below {tmp_path}"):
        views_scored.main()
