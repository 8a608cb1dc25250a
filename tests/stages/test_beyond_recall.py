"""The page of what recall does not say: rows from evaluations, and the committed tables from the committed rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from threeshnet.errors import DataError
from threeshnet.metrics.comparisons import difference
from threeshnet.metrics.extended import Bank, beyond_recall
from threeshnet.metrics.groups import by_length
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.studies.columns import read_rows

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
    (tmp_path / "out/README.md").write_text(
        "".join(f"<!-- {n} --><!-- /{n} -->" for n in ("hubs", "precisions", "groups"))
    )
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
    text = (tmp_path / "out/README.md").read_text()
    mean = sum(each["rsum"] for each in found[:2]) / 2
    assert f"| semantic | none | 0 1 | {mean:.1f} ± " in text
    assert f"| none | none | 2 | {found[2]['rsum']:.1f} |" in text
    assert "| t2i | length | 1-7 words | 30 |" in text


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


def test_the_committed_tables_are_those_of_the_committed_rows(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(PAGE, tmp_path / "page")
    collect(page, monkeypatch, "--out", copy)
    assert (copy / "README.md").read_bytes() == (PAGE / "README.md").read_bytes()


def test_the_verdict_is_what_the_rows_say() -> None:
    rows = {(row["guidance"], row["correction"], row["seed"]): row for row in read_rows(PAGE / "results.csv")}
    guided = "semantic and spatial"

    def apart(name: str, one: tuple[str, str], other: tuple[str, str], digits: int = 1) -> str:
        sides = [[float(rows[*side, seed][name]) for seed in "012"] for side in (one, other)]
        found = difference(*sides, paired=True)
        return f"{found.value:.{digits}f} [{found.interval.low:.{digits}f}, {found.interval.high:.{digits}f}]"

    prose = " ".join((PAGE / "README.md").read_text(encoding="utf-8").split())
    for guidance, where in ((guided, "with guidance"), ("none", "without")):
        assert f"{apart('rsum', (guidance, 'inverted_softmax'), (guidance, 'none'))} {where}" in prose
    largest = [
        sum(float(rows[guided, correction, seed]["t2i_largest"]) for seed in "012") / 3
        for correction in ("inverted_softmax", "none")
    ]
    assert "is in the lists of {:.0f} captions instead of {:.0f}".format(*largest) in prose
    found = [row for row in read_rows(PAGE / "groups.csv") if (row["side"], row["guidance"]) == ("t2i", guided)]
    short, long = (
        sum(float(row["R@10"]) for row in found if row["group"] == f"{words} words") / 3 for words in ("1-7", "12-15")
    )
    assert f"{short:.1f}% of those of up to seven words against {long:.1f}% of those of 12 to 15" in prose
    assert f"skewness +{apart('i2t_skewness', (guided, 'none'), ('none', 'none'), 2)}, no difference shown" in prose
