"""Bytes on paper: of a ring, by walking around one; of a step, by the layers that talk. scaling.py counts them."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from threeshnet.nn.mlp import MLP
from threeshnet.training.synchronize import synchronize

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks" / "processes"


@pytest.fixture(scope="module")
def traffic() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        import paper
        import traffic as found

        found.paper = paper
        yield found
    finally:
        sys.path.remove(str(FOLDER))


def ring(kind: str, own: int, processes: int) -> float:
    """Bytes that one process passes on, piece by piece."""
    piece, passed = own / processes, 0.0
    rounds = {"all-reduce": 2 * (processes - 1), "all-gather": processes - 1, "broadcast": processes - 1}[kind]
    for _ in range(rounds):  # an all-gather's pieces are whole; the others' a share of the whole
        passed += own if kind == "all-gather" else piece
    return passed


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("kind", ["all-reduce", "all-gather", "broadcast"])
def test_what_a_ring_sends(traffic: ModuleType, kind: str, processes: int) -> None:
    collective = traffic.Collective("", kind, 120)
    assert traffic.sent(collective, processes) == pytest.approx(ring(kind, 120, processes))


def test_collectives_of_a_step(traffic: ModuleType) -> None:
    """A layer of 3 channels tells a count, 3 means and 3 spreads, in float64; every weight has a gradient."""
    module = synchronize(nn.Sequential(MLP(width=4, hidden=3, out=2)))
    found = traffic.collectives_of(module, processes=2, batch=10, dim=2)
    by_name = {(each.what, each.kind): each.own for each in found}
    assert by_name["BatchNorm", "all-gather"] == (1 + 3 + 3) * 8
    assert by_name["BatchNorm", "all-reduce"] == 2 * (1 + 3 + 3) * 8
    assert by_name["gradients", "all-reduce"] == 4 * sum(weight.numel() for weight in module.parameters())
    assert by_name["embeddings", "all-gather"] == 5 * 2 * 2 * 4
    assert by_name["embeddings", "all-reduce"] == 10 * 2 * 2 * 4
    assert traffic.collectives_of(module, processes=1, batch=10, dim=2) == []


def test_more_gpus_wait_longer_and_compute_less(traffic: ModuleType) -> None:
    module = synchronize(nn.Sequential(MLP(width=64, hidden=32, out=16)))
    steps = []
    for gpus in (8, 64, 512):
        collectives = traffic.collectives_of(module, processes=gpus, batch=16_384, dim=16)
        steps.append(traffic.paper.on_paper(collectives, gpus=gpus, batch=16_384, flops_of_pair=1e9, dim=16))
    assert [step.gpus for step in steps] == [8, 64, 512]
    assert steps[0].compute > steps[1].compute > steps[2].compute
    assert steps[0].waiting < steps[1].waiting < steps[2].waiting
    assert all(step.step >= 0.999 * (step.compute + step.waiting) for step in steps)


def test_the_loopback_is_read_where_there_is_one(traffic: ModuleType) -> None:
    found = traffic.loopback()
    assert found is None or found >= 0


def test_what_is_said_of_the_committed_rows_is_what_they_say() -> None:
    memory, steps = (json.loads((FOLDER / name).read_text("utf-8")) for name in ("large_batch.json", "scaling.json"))
    of = {(row["pairs"], row["chunked"]): row for row in memory["rows"]}
    both = [pairs for pairs, chunked in of if not chunked]
    slower = [of[pairs, True]["seconds"] / of[pairs, False]["seconds"] for pairs in both]
    one, two, _ = (statistics.median(row["seconds"]) for row in steps["rows"])
    prose = " ".join((FOLDER / "README.md").read_text("utf-8").split())
    for said in (
        f"**{of[4096, True]['memory']:.2f} GB, as 512 pairs do**",
        f"takes {min(slower):.1f} to {max(slower):.1f} times as long as the same batch at once",
        f"Two processes of one thread take {two / one:.2f} times as long as one of two threads",
        f"and {steps['rows'][1]['handed_over']['all-reduce'] / 1e6:.0f} MB of gradients",
    ):
        assert said in prose
    assert f"{of[512, True]['memory']:.2f}" == f"{of[4096, True]['memory']:.2f}"
