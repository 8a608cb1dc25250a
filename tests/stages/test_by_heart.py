"""The script that asks what models know by heart: its scores are those of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from threeshnet.errors import DataError
from threeshnet.runs.run import Run

from ..scripts import loaded

SCRIPT = Path(__file__).parents[2] / "experiments/options/by_heart.py"


@pytest.fixture(scope="module")
def by_heart() -> Any:
    return loaded(SCRIPT)


def test_scores_are_those_of_the_run(by_heart: Any, whole: Path, synthetic_shards: Path) -> None:
    train, held_out = by_heart.rows_of(Run(whole), synthetic_shards, ["train", "testall"])
    scored = json.loads((whole / "metrics.json").read_text())
    assert held_out["photos"] == train["photos"] == scored["images"]  # as many as the smaller split has
    assert held_out["rsum"] == f"{scored['rsum']:.1f}"
    assert held_out["i2t_r1"] == f"{scored['i2t']['R@1']:.1f}"
    assert held_out["checkpoint"] == scored["checkpoint"]
    assert (train["split"], train["seed"], train["objective"]) == ("train", 0, "triplet")
    assert train["rsum"] != held_out["rsum"]
    assert set(by_heart.COLUMNS) == train.keys()


def test_a_folder_without_runs_is_named(
    by_heart: Any, tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["by_heart.py", str(tmp_path), "--shards", str(synthetic_shards)])
    with pytest.raises(DataError, match=f"no finished run in or below {tmp_path}"):
        by_heart.main()
