"""hits.npz of a study, beside its rows: which photos and captions each run found, for intervals over photos."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from threeshnet.errors import DataError
from threeshnet.files import replacing
from threeshnet.metrics.intervals import hits_by_fold
from threeshnet.metrics.rank_files import read_ranks
from threeshnet.reports.study_rows import RECALLS, WHICH, Row

HITS = "hits.npz"
UNREADABLE = (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)
# By a row's key: [G, 6], of each photo whether it found a caption of its own, and how many of them found it, each at
# R@1, R@5 and R@10.
Hits = Mapping[str, np.ndarray]


def key_of(row: Mapping[str, str]) -> str:
    """Which row of a study: its identity is that of the same run on another machine too."""
    return "/".join(row[name] for name in WHICH)


def hits_of(ranks: Path) -> np.ndarray:
    """Of the ranks of an evaluation; photos in the split's order.  Raises DataError for a file that is none."""
    items = read_ranks(ranks)
    found = hits_by_fold(items.ranks, items.owner)[0].found
    return found.astype(np.min_scalar_type(int(found.max())))


def read_hits(file: Path) -> dict[str, np.ndarray]:
    """All that a study has, none where there is no file.  Raises DataError for a torn one."""
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read ({error}); remove it and collect again") from error


def write_hits(file: Path, hits: Hits, rows: Collection[Row]) -> None:
    """Those of the rows that have some; nothing is written where there are none."""
    kept = {name: hits[name] for name in sorted(map(key_of, rows)) if name in hits}
    if kept:
        with replacing(file) as partial, partial.open("wb") as opened:
            np.savez_compressed(opened, **kept)  # pyright: ignore[reportArgumentType]


def rsum_by_photo(row: Row, hits: Hits) -> np.ndarray | None:
    """What each photo brings to a row's rsum, [G], so that their mean is rsum; None where the run has no hits.

    Raises DataError when it is another number: hits of another run.
    """
    found = hits.get(key_of(row))
    if found is None:
        return None
    half = len(RECALLS) // 2
    by_photo = 100.0 * (found[:, :half].sum(axis=1) + found[:, half:].sum(axis=1) * len(found) / int(row["captions"]))
    if abs(by_photo.mean() - float(row["rsum"])) > 0.01:
        raise DataError(f"{row['job']}: rsum={row['rsum']}, and {HITS} makes {by_photo.mean():.2f}; collect it again")
    return by_photo


def apart_by_photo(pairs: Sequence[tuple[Row, Row]], hits: Hits) -> np.ndarray | None:
    """Of pairs of rows, one a seed, the differences [seeds, photos]; None where hits are lacking."""
    found = []
    for one, other in pairs:
        sides = rsum_by_photo(one, hits), rsum_by_photo(other, hits)
        if sides[0] is None or sides[1] is None or len(sides[0]) != len(sides[1]):
            return None
        found.append(sides[0] - sides[1])
    return np.stack(found) if len(found) > 1 else None
