"""Step time and traffic of more processes than are at hand, on paper: a ring, links from data sheets, one assumption.

- A ring sends 2 (N-1)/N of the bytes of an all-reduce, (N-1) times the own bytes of an all-gather, and waits for N-1
  neighbours once or twice. NCCL takes trees where those are faster, so latencies of many processes are an upper bound.
- Compute is FLOPs (counted by torch) over peak times UTILISATION, which is assumed: no GPU was measured. Every process
  computes the loss of all B pairs, in float32.
- Gradients travel while the backward pass runs; the rest of the step waits for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from traffic import Collective, sent

GPUS_IN_A_NODE = 8
# NVIDIA A100 80GB data sheet (2021): 312 TFLOP/s dense bf16, 19.5 TFLOP/s float32, NVLink 600 GB/s in both directions.
HALF_PEAK, FLOAT_PEAK = 312e12, 19.5e12
NVLINK = 300e9  # bytes a second, one direction
# DGX A100 data sheet: a 200 Gb/s InfiniBand port a GPU.
INFINIBAND = 25e9
NVLINK_LATENCY, INFINIBAND_LATENCY = 3e-6, 6e-6  # seconds a hop, of the order that nccl-tests print for small messages
UTILISATION = 0.3  # assumed


class OnPaper(NamedTuple):
    """A step of one of many GPUs."""

    gpus: int
    batch: int
    gradients: float  # MB sent
    others: float  # MB sent
    compute: float  # ms
    waiting: float  # ms for collectives that the step waits for
    hidden: float  # ms of gradients, beside the backward pass
    step: float  # ms


def on_paper(
    collectives: Sequence[Collective], *, gpus: int, batch: int, flops_of_pair: float, dim: int, overlap: float = 2 / 3
) -> OnPaper:
    """`overlap`: the share of a step's compute that is backward pass, behind which gradients travel."""
    speed, latency = (NVLINK, NVLINK_LATENCY) if gpus <= GPUS_IN_A_NODE else (INFINIBAND, INFINIBAND_LATENCY)
    loss = 3 * 2 * batch * batch * dim / FLOAT_PEAK  # similarities, and their gradient to both sides
    compute = batch / gpus * flops_of_pair / (HALF_PEAK * UTILISATION) + loss
    of_gradients = [each for each in collectives if each.what == "gradients"]
    others = [each for each in collectives if each.what != "gradients"]
    seconds = [
        sum(sent(each, gpus) / speed + hops(each, gpus) * latency for each in some) for some in (of_gradients, others)
    ]
    shown = max(0.0, seconds[0] - overlap * compute)
    amounts = [sum(sent(each, gpus) for each in some) / 1e6 for some in (of_gradients, others)]
    return OnPaper(
        gpus, batch, *amounts, compute * 1e3, seconds[1] * 1e3, seconds[0] * 1e3, (compute + seconds[1] + shown) * 1e3
    )


def hops(collective: Collective, processes: int) -> int:
    return (processes - 1) * (2 if collective.kind == "all-reduce" else 1)


def rows(found: Sequence[OnPaper]) -> list[list[Any]]:
    return [
        [
            f"{each.gpus}",
            f"{each.batch:,}",
            f"{each.gradients:,.0f}",
            f"{each.others:,.1f}",
            f"{each.compute:.1f}",
            f"{each.waiting:.1f}",
            f"{each.hidden:.1f}",
            f"{each.step:.1f}",
            f"{each.batch / each.step * 1e3:,.0f}",
        ]
        for each in found
    ]
