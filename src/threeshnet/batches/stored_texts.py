"""The captions of a data set on the disk, a place of each in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import numpy as np

WRITTEN_AT_ONCE = 4096  # texts


class StoredTexts:
    """Texts that take 12 bytes each in memory, whatever their length: they lie in a nameless temporary file.

    A million captions as Python strings are 100 MB, and every worker would copy them as soon as it counts references.
    One text is one read from the page cache. In a process that did not inherit the file it is written again.

    >>> texts = StoredTexts(["a dog"], ["größe", ""])
    >>> len(texts), texts[1], texts.lengths.tolist()
    (3, 'größe', [5, 5, 0])
    """

    def __init__(self, *parts: Sequence[str]) -> None:
        """`parts`: sequences that are gone through once, one after another."""
        self.parts = parts
        self._file: BinaryIO | None = None
        self.lengths, self._ends = self._write()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> str:
        if self._file is None:
            self._write()
        start = int(self._ends[number - 1]) if number else 0
        file = cast("BinaryIO", self._file)
        return os.pread(file.fileno(), int(self._ends[number]) - start, start).decode("utf-8")

    def _write(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of characters of each text [texts] int32, and where each ends in the file [texts] int64."""
        file = cast("BinaryIO", tempfile.TemporaryFile(prefix="threeshnet-captions-"))  # noqa: SIM115  (stays open)
        lengths, sizes = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for part in parts_of(self.parts):
            encoded = [text.encode("utf-8") for text in part]
            file.write(b"".join(encoded))
            lengths.append(np.array([len(text) for text in part], np.int32))
            sizes.append(np.array([len(text) for text in encoded], np.int64))
        file.flush()
        self._file = file
        return np.concatenate(lengths), np.cumsum(np.concatenate(sizes))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # an open file cannot cross to another process


def parts_of(sequences: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The texts of all sequences, some thousands at a time."""
    waiting: list[str] = []
    for sequence in sequences:
        for text in sequence:
            waiting.append(text)
            if len(waiting) == WRITTEN_AT_ONCE:
                yield waiting
                waiting = []
    yield waiting
