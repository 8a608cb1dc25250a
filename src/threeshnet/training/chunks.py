"""A large batch a chunk at a time, with the exact gradient.

Only embeddings are kept: a chunk of the batch is encoded without its activations being stored, and encoded again when
the gradient of its embeddings is there (cached gradients: Gao et al., RepL4NLP 2021).

BatchNorm looks at the whole batch, which no chunk sees. Its layers are taken in levels, those of a level looking only
through layers of earlier ones: a pass over the chunks adds up what the layers of a level see, with gradient and without
storing activations, and the next level is computed with that. So the step is that of the whole batch, with one pass
more for each level (three in 3SHNet's image side, none in its text side), forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from threeshnet.nn.collectives import process_count
from threeshnet.nn.synchronized_batchnorm import Exchange, SharedStatistics
from threeshnet.training.recompute import recomputed

Known = Mapping[SharedStatistics, Tensor]  # summaries of the whole batch


class ChunkedEncoder:
    """Embeddings [B, D] of a batch, at most `rows` rows of it at a time.

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
        known: dict[SharedStatistics, Tensor] = {}
        for level in self._levels:
            found = [self._see(part, seed, level, known) for part, seed in zip(parts, seeds, strict=True)]
            for layer, summaries in zip(level, zip(*found, strict=True), strict=True):
                known[layer] = layer.everywhere(layer.merge(torch.stack(summaries)))
        embeddings = [self._encode(part, seed, known) for part, seed in zip(parts, seeds, strict=True)]
        for layer in known:
            layer.absorb()
        return torch.cat(embeddings)

    def _encode(self, part: Any, seed: int, known: Known) -> Tensor:
        """The chunk's embeddings, by the statistics of the whole batch."""

        def encode(*summaries: Tensor) -> tuple[Tensor]:
            whole = dict(zip(known, summaries, strict=True))
            with self._asking(lambda layer, summary: whole.get(layer, summary)), _seeded(seed, part):
                return (self.encoder(part),)

        return recomputed(encode, list(known.values()), self.encoder.parameters())[0]

    def _see(self, part: Any, seed: int, level: Sequence[SharedStatistics], known: Known) -> tuple[Tensor, ...]:
        """Summaries of what the layers of a level see of a chunk; the chunk is left when all have seen it."""
        before = dict(known)  # the levels behind are not known yet when it is called again, either

        def see(*summaries: Tensor) -> tuple[Tensor, ...]:
            look, seen = _look(dict(zip(before, summaries, strict=True)), level)
            with self._asking(look), _seeded(seed, part):
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
        """Which layers look through which: NaN instead of a layer's statistics reaches every layer behind it."""
        names = {layer: name for name, layer in self.layers.items()}
        levels: list[list[str]] = []
        known: dict[SharedStatistics, Tensor] = {}
        while len(known) < len(self.layers):
            level: dict[SharedStatistics, Tensor] = {}
            with self._asking(_probe(known, level)), _seeded(seed, part):
                self.encoder(part)
            if not level:  # the rest is not used by the encoder, or the features hold NaN, which the loss will tell
                break
            levels.append([names[layer] for layer in level])
            known |= level
        agreed = [levels]
        if process_count() > 1:  # one opinion, or processes would wait for different layers
            dist.broadcast_object_list(agreed)
        return [[self.layers[name] for name in level] for level in agreed[0]]

    @contextmanager
    def _asking(self, exchange: Exchange) -> Iterator[None]:
        for layer in self.layers.values():
            layer.exchange = exchange
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.exchange = None


class _SeenAll(Exception):
    """Raised to leave an encoder of which nothing more is needed."""


def _look(known: Known, level: Sequence[SharedStatistics]) -> tuple[Exchange, dict[SharedStatistics, Tensor]]:
    """An exchange that answers from `known`, and what it was asked by the layers of `level`."""
    seen: dict[SharedStatistics, Tensor] = {}

    def look(layer: SharedStatistics, summary: Tensor) -> Tensor:
        if layer in known:
            return known[layer]
        seen[layer] = summary
        if all(each in seen for each in level):
            raise _SeenAll
        return summary

    return look, seen


def _probe(known: Known, level: dict[SharedStatistics, Tensor]) -> Exchange:
    def look(layer: SharedStatistics, summary: Tensor) -> Tensor:
        if layer in known:
            return known[layer]
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
