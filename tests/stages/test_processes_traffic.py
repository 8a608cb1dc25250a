"""Expected traffic: of a ring, by walking around it; of a step, by its layers. scaling.py counts it in real steps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from experiments.benchmarks.processes import traffic
from torch import nn

from threeshnet.nn.mlp import MLP
from threeshnet.training.synchronize import synchronize

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks" / "processes"


def ring(kind: str, own: int, processes: int) -> float:
    """Bytes that one process passes on, piece by piece."""
    piece, passed = own / processes, 0.0
    rounds = {"all-reduce": 2 * (processes - 1), "all-gather": processes - 1, "broadcast": processes - 1}[kind]
    for _ in range(rounds):  # an all-gather's pieces are whole; the others' a share of the whole
        passed += own if kind == "all-gather" else piece
    return passed


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize("kind", ["all-reduce", "all-gather", "broadcast"])
def test_what_a_ring_sends(kind: str, processes: int) -> None:
    collective = traffic.Collective("", kind, 120)
    assert traffic.sent(collective, processes) == pytest.approx(ring(kind, 120, processes))


def test_collectives_of_a_step() -> None:
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


def test_the_loopback_is_read_where_there_is_one() -> None:
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
