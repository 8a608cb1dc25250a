"""The page of what recall does not say: rows from evaluations, and the committed tables from the committed rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from threeshnet.errors import DataError
from threeshnet.files import read_rows
from threeshnet.metrics.extended import Bank, beyond_recall
from threeshnet.metrics.groups import by_length
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity

from ..scripts import loaded

PAGE = Path(__file__).parents[2] / "experiments/beyond_recall"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return loaded(PAGE / "collect.py")


def unit(rows: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def evaluated(folder: Path, seed: int, guidance: list[str]) -> dict[str, Any]:
    """What `make evaluate` leaves of 12 images with extended=true bank=train."""
    source, owner = EmbeddingSimilarity(unit(12, seed), unit(36, seed + 1)), torch.arange(36) % 12
    ranks = rank_similarity(source, owner)
    lengths = {"length": by_length(["a dog"] * 30 + ["a dog " * 9] * 6)}
    bank = Bank(unit(20, 7), unit(30, 8))
    facts = {"data": "demo", "split": "dev", "images": 12, "captions": 36, "protocol": "full", "machine": "2 CPU cores"}
    facts |= {"fingerprint": "f", "commit": "c", "checkpoint": ["abc"], "seed": seed, "selection": "last"}
    extended = beyond_recall(source, ranks, owner, caption_groups=lengths, bank=bank)
    found = {**recall_of_ranks(ranks), **facts, "extended": extended, "trained": [{"guidance": guidance}]}
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(found))
    return found


def collect(page: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["collect.py", *map(str, words)])
    page.main()


def test_a_model_has_a_row_for_each_correction_and_each_group(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [evaluated(tmp_path / str(seed), seed, ["semantic"] if seed < 2 else []) for seed in range(3)]
    (tmp_path / "out").mkdir()
    collect(page, monkeypatch, *(tmp_path / str(seed) for seed in range(3)), "--out", tmp_path / "out")
    rows = read_rows(tmp_path / "out/results.csv")
    assert [(row["seed"], row["guidance"]) for row in rows[::4]] == [
        ("0", "semantic"),
        ("1", "semantic"),
        ("2", "none"),
    ]
    assert [row["correction"] for row in rows[:4]] == ["none", *found[0]["extended"]["corrections"]]
    csls = found[0]["extended"]["corrections"]["csls"]
    assert float(rows[3]["t2i_skewness"]) == pytest.approx(csls["hubness"]["t2i"]["skewness"], rel=1e-4)
    assert (rows[3]["gap_angle"], rows[0]["machine"]) == ("", "2 CPU cores")
    groups = read_rows(tmp_path / "out/groups.csv")
    assert {(row["side"], row["queries"]) for row in groups if row["group"] == "1-7 words"} == {("t2i", "30")}


def test_an_evaluation_without_corrections_is_named(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/metrics.json").write_text("{}")
    with pytest.raises(DataError) as error:
        collect(page, monkeypatch, tmp_path / "plain", tmp_path / "nothing", "--out", tmp_path)
    assert all(
        f"{tmp_path / name} has no metrics.json with corrections" in str(error.value) for name in ("plain", "nothing")
    )
