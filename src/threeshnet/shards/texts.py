"""Texts of the rows of a split, read from its shards when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import SupportsIndex, overload

import numpy as np


class ShardTexts(Sequence[str]):
    """One text a row through all shards, as a list would hold them; in memory is the shard that was asked last.

    >>> texts = ShardTexts([2, 1], read=lambda shard: [["a", "b"], ["c"]][shard])
    >>> texts[-1], texts[0:2], list(texts), texts == ["a", "b", "c"]
    ('c', ['a', 'b'], ['a', 'b', 'c'], True)
    """

    def __init__(self, counts: Sequence[int], *, read: Callable[[int], list[str]]) -> None:
        """`counts`: texts of each shard; `read` gives all texts of one."""
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._read = read
        self._last: tuple[int, list[str]] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, place: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: SupportsIndex | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = operator.index(place)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"text {place} of {len(self)}")
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._shard(shard)[int(number - self._starts[shard])]

    def __iter__(self) -> Iterator[str]:
        for shard in range(len(self._starts) - 1):
            yield from self._shard(shard)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]  (as of a list)

    def _shard(self, shard: int) -> list[str]:
        if self._last is None or self._last[0] != shard:
            self._last = shard, self._read(shard)
        return self._last[1]

    def __getstate__(self) -> Mapping[str, object]:
        return self.__dict__ | {"_last": None}
