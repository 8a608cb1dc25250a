"""Real processes over gloo against one with the whole batch: one launch for all tests here."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch

from threeshnet.objectives.gather import gather_pairs, gather_rows

from ..forks import Forks

PROGRAM = "experiments.benchmarks.processes.equality"
SEVERAL = ("N=2", "N=4")
EXACT = 1e-5  # relative, in float64; what is measured is below 1e-9
NAIVE_LENGTHS = {"gathered without gradient": lambda n: 1 / n, "gathered, loss times N": float}


@pytest.fixture(scope="module")
def found(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("equality")
    ended = forks.run(PROGRAM, ["--quick", f"--out={out}"], folder=out, seconds=900)
    assert ended.code == 0, ended.err[-5000:]
    return json.loads((out / "result.json").read_text())


def rows_of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for count in SEVERAL for row in found[count][kind]]


def test_alone_nothing_is_gathered() -> None:
    images, captions, owners = torch.rand(3, 2), torch.rand(3, 2), torch.arange(3)
    gathered = gather_pairs(images, captions, owners, [3])
    assert all(torch.equal(one, other) for one, other in zip(gathered, (images, captions, owners), strict=True))
    assert gather_rows(owners) is owners
    halves = gather_pairs(images.bfloat16(), captions.bfloat16(), owners, [3])
    assert halves[0].dtype == torch.float32


def test_the_batches_are_what_they_are_said_to_be(found: dict[str, Any]) -> None:
    """One has an image twice, in different processes too; the other does not divide by 2 or 4."""
    even, uneven = found["owners"]["8 pairs"], found["owners"]["7 pairs, uneven"]
    assert (len(even), len(uneven)) == (8, 7)
    assert max(Counter(uneven).values()) > 1
    assert set(even[:4]) & set(even[4:]), "no image in both processes: choose another batch"


def test_loss_and_every_gradient_are_those_of_one_process(found: dict[str, Any]) -> None:
    rows = rows_of(found, "steps")
    cases = {(row["objective"], row["masked"], row["batch"], row["chunk"]) for row in rows}
    assert len(cases) == 3 * 2 * 2 + 3
    assert len(rows) == len(SEVERAL) * len(cases)
    for row in rows:
        assert max(row[number] for number in ("loss", "gradient", "buffers")) < EXACT, row


@pytest.mark.parametrize("way", NAIVE_LENGTHS)
def test_a_naive_gathering_has_another_gradient(found: dict[str, Any], way: str) -> None:
    """The comparison can fail: all of the gradient is N times too short, or too long."""
    for count in SEVERAL:
        (row,) = (row for row in naive(found, count, way) if row["objective"] == "triplet, hardest")
        assert row["length"] == pytest.approx(NAIVE_LENGTHS[way](int(count[2:])), rel=1e-6)
        assert row["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("way", ["each process its own negatives", "BatchNorm by shares", "padded by shares"])
def test_what_is_not_shared_is_another_step(found: dict[str, Any], way: str) -> None:
    """With four processes: two happen to pad this batch to the same width."""
    rows = naive(found, "N=4", way)
    assert len(rows) == 2
    assert all(row["gradient"] > 1e-3 for row in rows), rows


def naive(found: dict[str, Any], count: str, way: str) -> list[dict[str, Any]]:
    return [row for row in found[count]["otherwise"] if row["way"] == way]


def test_whole_training_is_that_of_one_process(found: dict[str, Any]) -> None:
    """Parameters, running statistics and losses of every step, clipped and scheduled; in chunks and accumulated too."""
    rows = rows_of(found, "trainings")
    assert len(rows) == 3 * len(SEVERAL)
    for row in [*rows, *found["N=1"]["trainings"]]:
        assert row["steps"] == 6
        assert max(row[number] for number in ("loss", "parameters", "buffers")) < EXACT, row
    for row in rows:  # 13 photos in batches of 3, and a caption that every process encodes
        assert row["same_recalls"], row
        assert row["rsum"][0] > 0
