"""Texts of the rows of a split."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """Texts as one array of UTF-8 bytes, which all workers share.

    A million captions are 100 MB of Python strings, and every worker would copy them when it counts references to them.

    >>> texts = Texts(["a dog"], ["größe", ""])
    >>> texts[-2], texts[0:2], texts == ["a dog", "größe", ""], texts.lengths.tolist()
    ('größe', ['a dog', 'größe'], True, [5, 5, 0])
    """

    def __init__(self, *parts: Iterable[str]) -> None:
        """`parts` follow each other. `lengths` [texts] int32 counts characters."""
        content, ends, lengths = bytearray(), array("q", [0]), array("i")
        for text in chain.from_iterable(parts):
            content += text.encode("utf-8")
            ends.append(len(content))
            lengths.append(len(text))
        self._content, self._ends = np.frombuffer(content, np.uint8), np.array(ends, np.int64)
        self.lengths = np.array(lengths, np.int32)

    @classmethod
    def joined(cls, parts: Sequence[Iterable[str]]) -> Texts:
        """The texts of all parts; a single one is not copied."""
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Texts) else cls(*parts)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        numbers = range(len(self))[row]  # IndexError as of a list
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return self._content[self._ends[numbers] : self._ends[numbers + 1]].tobytes().decode("utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]  (as of a list)
