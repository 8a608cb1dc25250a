"""Encode a large batch in chunks, with the exact gradient.

Activations are not stored: each chunk is encoded again when the gradient of its embeddings is known (cached gradients:
Gao et al., RepL4NLP 2021).

BatchNorm needs statistics of the whole batch, which no chunk has. Its layers are sorted into levels: the inputs of a
level depend on BatchNorm layers of earlier levels alone. One pass over the chunks adds up the summaries of a level,
with gradient and without storing activations; then the next level can be computed. The step equals that of the whole
batch. It costs one more pass for each level, forwards and backwards: three in 3SHNet's image side, none in its text
side.

`torch.utils.checkpoint` drops activations too, but in the mode that DDP needs (not reentrant) it keeps the graph: a GRU
over 73 tokens is two thousand nodes of 2 kB, more than the embeddings of the chunk. `recomputed` leaves one node. For
DDP, gradient scaling and clipping it is an ordinary backward pass: autograd adds up the gradients of all nodes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from threeshnet.nn.collectives import process_count
from threeshnet.nn.synchronized_batchnorm import Exchange, SharedStatistics

Summaries = Mapping[SharedStatistics, Tensor]  # of the whole batch
Function = Callable[..., tuple[Tensor, ...]]


class ChunkedEncoder:
    """Embeddings [B, D] of a batch, at most `rows` rows at a time.

    `encoder` has been through `synchronize`. Each chunk draws its random numbers (dropout) from a seed of its own, the
    same every time it is encoded in a step.
    """

    def __init__(self, encoder: nn.Module, *, rows: int) -> None:
        self.encoder, self.rows = encoder, rows
        self.layers = {name: part for name, part in encoder.named_modules() if isinstance(part, SharedStatistics)}
        self._levels: list[list[SharedStatistics]] | None = None if self.layers else []

    def __call__(self, items: Any) -> Tensor:
        parts = [_rows(items, start, start + self.rows) for start in range(0, _count(items), self.rows)]
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        if self._levels is None:
            self._levels = self._find_levels(parts[0], seeds[0])
        merged: dict[SharedStatistics, Tensor] = {}
        for level in self._levels:
            seen = [self._see(part, seed, level, merged) for part, seed in zip(parts, seeds, strict=True)]
            for layer, summaries in zip(level, zip(*seen, strict=True), strict=True):
                merged[layer] = layer.everywhere(layer.merge(torch.stack(summaries)))
        embeddings = [self._encode(part, seed, merged) for part, seed in zip(parts, seeds, strict=True)]
        for layer in merged:
            layer.absorb()
        return torch.cat(embeddings)

    def _encode(self, part: Any, seed: int, merged: Summaries) -> Tensor:
        """The chunk's embeddings, by the statistics of the whole batch."""

        def encode(*summaries: Tensor) -> tuple[Tensor]:
            whole = dict(zip(merged, summaries, strict=True))
            with self._exchanging(lambda layer, summary: whole.get(layer, summary)), _seeded(seed, part):
                return (self.encoder(part),)

        return recomputed(encode, list(merged.values()), self.encoder.parameters())[0]

    def _see(self, part: Any, seed: int, level: Sequence[SharedStatistics], merged: Summaries) -> tuple[Tensor, ...]:
        """Summaries of a chunk by the layers of a level; encoding stops when all of them have one."""
        before = dict(merged)  # the same when it is called again

        def see(*summaries: Tensor) -> tuple[Tensor, ...]:
            look, seen = _look(dict(zip(before, summaries, strict=True)), level)
            with self._exchanging(look), _seeded(seed, part):
                try:
                    self.encoder(part)
                except _SeenAll:
                    return tuple(seen[layer] for layer in level)
            raise RuntimeError(f"{len(level) - len(seen)} BatchNorm layers were reached in the first step, not in this")

        summaries = recomputed(see, list(before.values()), self.encoder.parameters())
        pairs = zip(level, summaries, strict=True)
        return tuple(summary if layer.has_gradient else summary.detach() for layer, summary in pairs)

    @torch.no_grad()
    def _find_levels(self, part: Any, seed: int) -> list[list[SharedStatistics]]:
        """The levels of the layers: NaN in place of a layer's statistics reaches every layer that depends on it."""
        names = {layer: name for name, layer in self.layers.items()}
        levels: list[list[str]] = []
        merged: dict[SharedStatistics, Tensor] = {}
        while len(merged) < len(self.layers):
            level: dict[SharedStatistics, Tensor] = {}
            with self._exchanging(_probe(merged, level)), _seeded(seed, part):
                self.encoder(part)
            if not level:  # the encoder does not use the others, or features hold NaN, which the loss will show
                break
            levels.append([names[layer] for layer in level])
            merged |= level
        agreed = [levels]
        if process_count() > 1:  # all agree, or processes would wait for different layers
            dist.broadcast_object_list(agreed)
        return [[self.layers[name] for name in level] for level in agreed[0]]

    @contextmanager
    def _exchanging(self, exchange: Exchange) -> Iterator[None]:
        for layer in self.layers.values():
            layer.exchange = exchange
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.exchange = None


class _SeenAll(Exception):
    """Stops an encoder when nothing more is needed."""


def _look(merged: Summaries, level: Sequence[SharedStatistics]) -> tuple[Exchange, dict[SharedStatistics, Tensor]]:
    """An exchange that answers from `merged`, and the summaries that it receives from the layers of `level`."""
    seen: dict[SharedStatistics, Tensor] = {}

    def look(layer: SharedStatistics, summary: Tensor) -> Tensor:
        if layer in merged:
            return merged[layer]
        seen[layer] = summary
        if all(each in seen for each in level):
            raise _SeenAll
        return summary

    return look, seen


def _probe(merged: Summaries, level: dict[SharedStatistics, Tensor]) -> Exchange:
    def look(layer: SharedStatistics, summary: Tensor) -> Tensor:
        if layer in merged:
            return merged[layer]
        if summary.isfinite().all():
            level[layer] = summary
        return torch.full_like(summary, float("nan"))

    return look


@contextmanager
def _seeded(seed: int, part: Any) -> Iterator[None]:
    device = _first(part).device
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield


def _rows(items: Any, start: int, stop: int) -> Any:
    """Some rows of a tensor, of named tuples of them, or of None."""
    if isinstance(items, Tensor):
        return items[start:stop]
    return None if items is None else type(items)(*(_rows(item, start, stop) for item in items))


def _first(items: Any) -> Tensor:
    return items if isinstance(items, Tensor) else next(_first(item) for item in items if item is not None)


def _count(items: Any) -> int:
    return len(_first(items))


# ---- results without the graph that made them


def recomputed(function: Function, inputs: Sequence[Tensor], weights: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """function(*inputs), without its graph: the function is called again for the gradient of `inputs` and `weights`.

    Both calls must give the same. Without gradient (`torch.no_grad`) it is called once.
    """
    return _Recomputed.apply(function, len(inputs), *inputs, *weights)  # pyright: ignore[reportReturnType]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        kind = tensors[0].device.type
        ctx.function, ctx.count = function, count
        # Precision is chosen around the forward pass alone.
        ctx.precision = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return function(*tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[: ctx.count]]
        sources = [*inputs, *tensors[ctx.count :]]
        with torch.enable_grad(), torch.autocast(**ctx.precision):
            results = ctx.function(*inputs)
        used = [pair for pair in zip(results, grads, strict=True) if pair[0].requires_grad and pair[1] is not None]
        wanted = [source for source in sources if source.requires_grad]
        gradients: list[Tensor | None] = [None] * len(wanted)
        if used and wanted:
            ends, slopes = zip(*used, strict=True)
            gradients = list(torch.autograd.grad(ends, wanted, slopes, allow_unused=True))
        given = iter(gradients)
        return (None, None, *(next(given) if source.requires_grad else None for source in sources))
