"""What a training step says to other processes, in bytes: counted on paper, and as it happens.

On paper: `collectives_of` lists every collective of a step from the module alone. As it happens: `Counter` stands
between the suite and `torch.distributed`, and in DDP's way of sending gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from threeshnet.nn.synchronized_batchnorm import SharedStatistics, SynchronizedBatchNorm
from threeshnet.training.module import RetrievalModule
from threeshnet.training.synchronize import SynchronizedPlaces

FLOAT, DOUBLE, INTEGER = 4, 8, 8  # bytes
COUNTS = 4  # numbers that processes tell each other first: pairs, and three widths
LOOPBACK = Path("/proc/net/dev")


class Collective(NamedTuple):
    """One exchange: `own` bytes are what a process hands over; what it is for, and whether a step waits for it."""

    what: str
    kind: str  # all-reduce, all-gather, broadcast
    own: int


def collectives_of(module: RetrievalModule, *, processes: int, batch: int, dim: int) -> list[Collective]:
    """Of a step of `batch` pairs in all, encoded whole.  Dropout, padding and loss do not matter."""
    if processes == 1:
        return []
    share = batch // processes
    found = [
        Collective("counts and widths", "all-gather", COUNTS * INTEGER),
        Collective("embeddings", "all-gather", share * 2 * dim * FLOAT),
        Collective("embeddings", "all-reduce", batch * 2 * dim * FLOAT),  # their gradients, of all pairs
        Collective("owners", "all-gather", share * INTEGER),
        Collective("gradients", "all-reduce", sum(p.numel() for p in module.parameters() if p.requires_grad) * FLOAT),
        Collective("buffers", "broadcast", sum(b.numel() * b.element_size() for b in module.buffers())),
    ]
    for layer in module.modules():
        if isinstance(layer, SynchronizedBatchNorm):
            own = (1 + 2 * layer.num_features) * DOUBLE
            found += [
                Collective("BatchNorm", "all-gather", own),
                Collective("BatchNorm", "all-reduce", processes * own),
            ]
        elif type(layer) is SynchronizedPlaces:  # class vectors have a gradient on the way back, too
            neighbours = layer.conv.kernel_size[0] * layer.conv.kernel_size[1]
            places = layer.positions[0, 0].numel()
            moments = 1 + places * neighbours + neighbours**2
            found.append(Collective("BatchNorm", "all-reduce", moments * DOUBLE))
        else:
            assert not isinstance(layer, SharedStatistics), f"nobody has counted {type(layer).__name__}"
    return found


def sent(collective: Collective, processes: int) -> float:
    """Bytes that leave a process, in a ring: the least that any way of doing it needs."""
    share = (processes - 1) / processes
    if collective.kind == "all-reduce":
        return 2 * share * collective.own
    return (processes - 1) * collective.own if collective.kind == "all-gather" else share * collective.own


class Counter:
    """Bytes that this process hands over, by kind of collective; buffers are broadcast in C++ and not seen."""

    def __init__(self) -> None:
        self.bytes = {"all-reduce": 0, "all-gather": 0}

    @contextmanager
    def counting(self) -> Iterator[None]:
        plain = dist.all_reduce, dist.all_gather

        def all_reduce(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.bytes["all-reduce"] += tensor.numel() * tensor.element_size()
            return plain[0](tensor, *arguments, **options)

        def all_gather(parts: list[Tensor], tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.bytes["all-gather"] += tensor.numel() * tensor.element_size()
            return plain[1](parts, tensor, *arguments, **options)

        dist.all_reduce, dist.all_gather = all_reduce, all_gather
        try:
            yield
        finally:
            dist.all_reduce, dist.all_gather = plain

    @staticmethod
    def see_gradients(wrapped: nn.parallel.DistributedDataParallel) -> None:
        """Lets DDP average gradients from Python, where they are counted; what comes of it stays the same."""
        wrapped.register_comm_hook(None, allreduce_hook)


def loopback() -> int | None:
    """Bytes that went over this machine's loopback since it started, of whatever program; None where no one counts."""
    if not LOOPBACK.is_file():
        return None
    (line,) = [line for line in LOOPBACK.read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split(":", 1)[1].split()[0])
