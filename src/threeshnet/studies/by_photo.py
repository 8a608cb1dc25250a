"""rsum_by_photo.npz of a study, beside its rows: what each photo brought to every run, for intervals over photos."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from threeshnet.errors import DataError
from threeshnet.evaluation.compare import Evaluation
from threeshnet.files import replacing
from threeshnet.metrics.intervals import NAMES, hits_by_fold
from threeshnet.metrics.protocols import folds_of
from threeshnet.metrics.rank_files import UNREADABLE
from threeshnet.studies.columns import WHICH, Row

BY_PHOTO = "rsum_by_photo.npz"
ByPhoto = Mapping[str, np.ndarray]  # by a row's key: [G] float32, whose mean is rsum
ROUNDING = 0.01  # of rsum, which its row gives in six digits, and of float32
OF_THE_PHOTOS = ("fingerprint", "split", "images")


def key_of(row: Mapping[str, str]) -> str:
    """Which row of a study: its identity is that of the same run on another machine too."""
    return "/".join(row[name] for name in WHICH)


def rsum_by_photo(evaluation: Evaluation) -> np.ndarray:
    """What each photo brings to rsum by its own rank and by its captions', [G] float32; their mean is rsum.

    Of a mean of folds as well: they are of equal size, and photos stand in their order.
    """
    half, brought = len(NAMES) // 2, []
    for fold in hits_by_fold(evaluation.items.ranks, evaluation.items.owner, folds_of(evaluation.metrics["protocol"])):
        own, captions = fold.hits[:, :half].sum(axis=1), fold.hits[:, half:].sum(axis=1)
        brought.append(100.0 * (own + captions * len(own) / fold.captions.sum()))
    return np.concatenate(brought).astype(np.float32)


def read_by_photo(file: Path) -> dict[str, np.ndarray]:
    """All that a study has, none where there is no file.  Raises DataError for a torn one."""
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read ({error}); remove it and collect again") from error


def write_by_photo(file: Path, by_photo: ByPhoto, rows: Collection[Row]) -> None:
    """Those of the rows that have some; no file where none has."""
    kept = {name: by_photo[name] for name in sorted(map(key_of, rows)) if name in by_photo}
    if not kept:
        file.unlink(missing_ok=True)
        return
    with replacing(file) as partial, partial.open("wb") as opened:
        np.savez_compressed(opened, **kept)  # pyright: ignore[reportArgumentType]


def apart_by_photo(pairs: Sequence[tuple[Row, Row]], by_photo: ByPhoto) -> np.ndarray | None:
    """Of pairs of rows, one a seed, the differences [seeds, photos]; None with fewer than two, or where some have none.

    Raises DataError for rows of other photos, and where a row's rsum is another number than its photos make.
    """
    rows = [row for pair in pairs for row in pair]
    if len(pairs) < 2 or any(key_of(row) not in by_photo for row in rows):
        return None
    for name in OF_THE_PHOTOS:
        if len({row[name] for row in rows}) > 1:
            raise DataError(f"{rows[0]['job']} and {rows[1]['job']}: {name} differs, so their photos are not the same")
    return np.stack([_of_row(one, by_photo) - _of_row(other, by_photo) for one, other in pairs])


def _of_row(row: Row, by_photo: ByPhoto) -> np.ndarray:
    brought = by_photo[key_of(row)].astype(np.float64)
    if len(brought) != int(row["images"]) or abs(brought.mean() - float(row["rsum"])) > ROUNDING:
        raise DataError(
            f"{row['job']}: rsum={row['rsum']} of {row['images']} images, and {BY_PHOTO} makes {brought.mean():.2f} of "
            f"{len(brought)}; collect it again, or take its row and {BY_PHOTO} from the same commit"
        )
    return brought
