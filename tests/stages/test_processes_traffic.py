"""Expected traffic: of a ring, by walking around it; of a step, by its layers. scaling.py counts it in real steps."""

from __future__ import annotations

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
