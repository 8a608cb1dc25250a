"""A stage at one size: the same work by the suite, by a plain twin, and the part of it that nothing can spare."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import flop_registry

from .made_up import Setting

Work = Callable[[], Any]
OURS, NAIVE = "ours", "naive"
LOWERED = 0.3  # difference of the worst number of a deep network in bfloat16, which has 8 bits
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
PRODUCTS = {*flop_registry, *(getattr(torch.ops.aten, name) for name in ATTENTION)}
if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # lite0's in bfloat16
    PRODUCTS.add(torch.ops.mkldnn._convolution_pointwise)


class Case(NamedTuple):
    """One size of a stage: what is timed in turns, after ours and the twin have given the same results."""

    items: int  # photos, pairs, queries, … of one call
    ours: Work
    naive: Work | None
    floor: Work
    floor_name: str  # what it does: products, copy, raw read, …
    tolerance: float = 1e-4  # of the twin's results, as a share of the largest number
    same: Callable[[], tuple[Any, Any]] | None = None  # the results to compare; None calls both
    lower: bool = False  # whether ours ran in the precision that was asked for


class World(NamedTuple):
    """What stages are made from."""

    settings: Mapping[str, Setting]
    folder: Path  # for their files; removed at the end
    quick: bool = False
    precision: torch.dtype = torch.float32

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def in_precision(self, work: Work) -> Work:
        """`work` as Lightning runs it in this precision, by the key `precision` of commands."""
        if self.precision == torch.float32:
            return work

        def lowered() -> Any:
            with torch.autocast("cpu", self.precision):
                return work()

        return lowered


class Stage(NamedTuple):
    """How a case is made, and the names of its sizes."""

    make: Callable[[World, str], Case]
    sizes: Collection[str]


def check(case: Case, *, lowered: bool) -> None:
    """Raises AssertionError when the twin gives other results."""
    if case.naive is None:
        return
    apart = difference(*(case.same() if case.same else (case.ours(), case.naive())))
    allowed = max(case.tolerance, LOWERED if lowered and case.lower else 0.0)
    assert apart <= allowed, f"the twin's results differ by {apart:.2g} of the largest, {allowed} at most"


def turns(case: Case, *, seconds: float, least: int, most: int) -> Iterator[tuple[str, int, float]]:
    """Way, turn and its seconds: `least` turns, and more while `seconds` last. Each turn begins at the other end."""
    ways = {OURS: case.ours, NAIVE: case.naive, case.floor_name: case.floor}
    ways = {name: work for name, work in ways.items() if work is not None}
    case.floor()  # the first call of the others was for `check`
    began = time.perf_counter()
    for turn in range(most):
        if turn >= least and time.perf_counter() - began > seconds:
            return
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            started = time.perf_counter()
            ways[name]()
            yield name, turn, time.perf_counter() - started


def difference(one: Any, other: Any) -> float:
    """The largest difference of two results, as a share of the largest number; infinity where their forms differ.

    >>> difference({"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([2.0, 4.0])})
    0.25
    """
    (mine, form), (others, other_form) = tree_flatten(one), tree_flatten(other)
    if form != other_form:
        return float("inf")
    return max(itertools.starmap(_apart, zip(mine, others, strict=True)), default=0.0)


def _apart(one: Any, other: Any) -> float:
    if isinstance(one, str | None):
        return 0.0 if one == other else float("inf")
    mine, others = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in (one, other))
    if mine.shape != others.shape:
        return float("inf")
    if not mine.numel():
        return 0.0
    mine, others = mine.detach().double(), others.detach().double()
    return ((mine - others).abs().max() / others.abs().max().clamp(min=1e-30)).item()


# ---- floors


def products(work: Work) -> Work:
    """The matrix products, convolutions and attentions that `work` does, alone, on numbers in the same shapes."""
    with _Recorder() as recorder:
        work()

    def bare() -> None:
        with torch.no_grad():
            for function, args, kwargs in recorder.calls:
                function(*args, **kwargs)

    return bare


class _Recorder(TorchDispatchMode):
    """Keeps every product with operands of its own; operands of one shape share their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []
        self.pool: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in PRODUCTS:
            is_sum = func.overloadpacket == torch.ops.aten.addmm  # of which the product alone is kept
            bare = (torch.ops.aten.mm.default, args[1:3], {}) if is_sum else (func, args, kwargs)
            self.calls.append((bare[0], *tree_map(self._like, bare[1:])))
        elif torch.is_inference_mode_enabled():  # where a linear layer arrives whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return func(*args, **kwargs)

    def _like(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = value.shape, value.stride(), value.dtype
        if key not in self.pool:
            length = 1 + sum((size - 1) * stride for size, stride in zip(*key[:2], strict=True)) if value.numel() else 0
            numbers = torch.randn(length) if value.is_floating_point() else torch.zeros(length)
            self.pool[key] = numbers.to(value.dtype).as_strided(value.shape, value.stride())
        return self.pool[key]


def copies(tensors: Any) -> Work:
    """A copy of each tensor into memory that is there."""
    sources = [tensor.detach() for tensor in tree_flatten(tensors)[0] if isinstance(tensor, Tensor)]
    targets = [torch.empty_like(source) for source in sources]

    def copy() -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)

    return copy
