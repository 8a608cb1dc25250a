"""Near-duplicates among results: shown once, and named."""

from __future__ import annotations

import numpy as np

DISTANCE, LEAST_BITS = 4, 24  # as in `shards.leakage`, which gives their reasons; importing it would load torch


def folded(hashes: np.ndarray) -> list[list[int]]:
    """Places of results [n], grouped: each first one with the later ones that look like it.

    hashes: [n] uint64 of the photos, 0 where unknown; those of plain pictures and unknown ones are like nothing.

    >>> folded(np.array([2**40 - 1, 2**63, 2**40 - 2], np.uint64))
    [[0, 2], [1]]
    """
    groups = []
    taken = np.zeros(len(hashes), bool)
    telling = np.bitwise_count(hashes) >= LEAST_BITS
    for place in range(len(hashes)):
        if taken[place]:
            continue
        group = [place]
        if telling[place]:
            later = np.flatnonzero(telling[place + 1 :] & ~taken[place + 1 :]) + place + 1
            like = later[np.bitwise_count(hashes[later] ^ hashes[place]) <= DISTANCE]
            taken[like] = True
            group += like.tolist()
        groups.append(group)
    return groups
