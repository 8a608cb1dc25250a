"""Intervals over seeds and photos: what each photo brought is kept with the rows, and the variance is taken apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from threeshnet.errors import DataError
from threeshnet.metrics.comparisons import Difference, over_seeds_and_photos
from threeshnet.metrics.intervals import Interval
from threeshnet.metrics.rank_files import RANKS, RankedItems, write_ranks
from threeshnet.metrics.ranks import Ranks
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.reports.study_hits import HITS, read_hits, rsum_by_photo
from threeshnet.reports.study_report import tables, value_of, verdict
from threeshnet.reports.study_rows import read_rows
from threeshnet.studies.rows import collect

from .test_study_report import COMPARISON, write_run

PHOTOS, CAPTIONS = 40, 100  # two or three captions a photo
OWNER = torch.arange(CAPTIONS) % PHOTOS


def run(folder: Path, level: str, seed: int, better: float) -> None:
    """Ranks by chance, lower where a model is better, with the metrics that are theirs."""
    generator = torch.Generator().manual_seed(1000 * seed + len(level))
    i2t, t2i = (1 + (torch.rand(n, generator=generator) * 20 / better).long() for n in (PHOTOS, CAPTIONS))
    ranks = Ranks(i2t, t2i)
    write_run(folder, level, seed, 1.0)
    found = recall_of_ranks(ranks)
    metrics = json.loads((folder / "metrics.json").read_text()) | found | {"images": PHOTOS, "captions": CAPTIONS}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_ranks(folder / RANKS, RankedItems(ranks, OWNER, [str(number) for number in range(PHOTOS)]))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for level, better in (("sigmoid", 1.0), ("softmax", 3.0)):
        for seed in range(3):
            run(tmp_path / "runs" / f"activation={level},seed={seed}", level, seed, better)
    return sorted((tmp_path / "runs").iterdir())


def gathered(folders: list[Path], file: Path, setting: str | None = None) -> list[dict[str, str]]:
    collect(folders, file, factors=["activation"], setting=setting, replace=True)
    return read_rows(file)


def test_photos_make_up_the_rsum_of_their_row(folders: list[Path], tmp_path: Path) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    hits = read_hits(tmp_path / HITS)
    assert len(hits) == len(rows) == 6
    for row in rows:
        by_photo = rsum_by_photo(row, hits)
        assert by_photo is not None
        assert by_photo.mean() == pytest.approx(float(row["rsum"]), abs=1e-3)
    with pytest.raises(DataError, match="collect it again"):
        rsum_by_photo(rows[0] | {"rsum": "3"}, hits)


def test_the_same_run_in_two_settings_has_its_own_hits_in_each(folders: list[Path], tmp_path: Path) -> None:
    """As of two machines: the identities are equal, the numbers are not."""
    gathered(folders[:1], tmp_path / "results.csv")
    run(folders[0], "sigmoid", 0, 2.0)
    rows = gathered(folders[:1], tmp_path / "results.csv", setting="another")
    hits = read_hits(tmp_path / HITS)
    assert len(rows) == len(hits) == 2
    assert all(rsum_by_photo(row, hits) is not None for row in rows)


def test_a_run_without_ranks_takes_the_hits_of_its_row_away(folders: list[Path], tmp_path: Path) -> None:
    gathered(folders[:2], tmp_path / "results.csv")
    (folders[0] / RANKS).unlink()
    gathered(folders[:1], tmp_path / "results.csv")
    assert [name.rpartition("/")[2] for name in read_hits(tmp_path / HITS)] == [folders[1].name]


def test_hits_are_the_same_bytes_again_and_torn_ones_are_named(folders: list[Path], tmp_path: Path) -> None:
    file = tmp_path / HITS
    gathered(folders, tmp_path / "results.csv")
    first = file.read_bytes()
    gathered(folders, tmp_path / "results.csv")
    assert file.read_bytes() == first
    file.write_bytes(first[: len(first) // 2])
    with pytest.raises(DataError, match="collect again"):
        read_hits(file)


def test_the_table_and_the_prose_have_the_wider_interval(folders: list[Path], tmp_path: Path) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    wider = replace(COMPARISON, hits=read_hits(tmp_path / HITS))
    sides = [
        np.stack([by_hand(folder) for folder in folders if level in folder.name]) for level in ("softmax", "sigmoid")
    ]
    found = over_seeds_and_photos(sides[0] - sides[1])
    text = tables(rows, wider)
    said = f"| [{found.interval.low:+.1f}, {found.interval.high:+.1f}] |"
    assert [line.endswith(said) for line in text.splitlines() if line.startswith("| softmax")] == [True]
    assert "over seeds and photos" in text
    assert "over seeds and photos" not in tables(rows, COMPARISON)  # nothing is known of the photos
    low = value_of("region_demo, softmax, rsum, low_with_photos", rows, wider)
    assert low == pytest.approx(found.interval.low)
    with pytest.raises(DataError, match=r"hits\.npz"):
        value_of("region_demo, softmax, rsum, high_with_photos", rows, COMPARISON)
    with pytest.raises(DataError, match=r"hits\.npz"):
        value_of("region_demo, softmax, i2t_r1, high_with_photos", rows, wider)


def test_a_difference_needs_both_intervals() -> None:
    seeds, photos = (Difference(-4.0, Interval(*ends), 0.95) for ends in ((-6.0, -2.0), (-9.0, 1.0)))
    assert verdict(seeds, seeds) == verdict(seeds, None) == "difference"
    assert verdict(seeds, photos) == "difference on these photos"
    assert verdict(photos, seeds) == verdict(photos, None) == "no difference shown"


def by_hand(folder: Path) -> np.ndarray:
    """What each photo brings to rsum, by loops over the ranks."""
    with np.load(folder / RANKS) as ranks:
        brought = np.zeros(PHOTOS)
        for photo, rank in enumerate(ranks["i2t"]):
            brought[photo] += sum(rank <= cutoff for cutoff in (1, 5, 10)) * 100
        for owner, rank in zip(ranks["owner"], ranks["t2i"], strict=True):
            brought[owner] += sum(rank <= cutoff for cutoff in (1, 5, 10)) * 100 * PHOTOS / CAPTIONS
    return brought


# ---- the analysis of variance


def test_it_is_that_of_the_textbook() -> None:
    """Sums of squares by loops over the cells; here both seeds and photos vary by more than what is left."""
    generator = np.random.default_rng(0)
    apart = generator.normal(size=(4, 1)) + generator.normal(size=(1, 30)) + 0.1 * generator.normal(size=(4, 30))
    mean = sum(apart[s, p] for s in range(4) for p in range(30)) / 120
    seeds = [sum(apart[s]) / 30 for s in range(4)]
    photos = [sum(apart[:, p]) / 4 for p in range(30)]
    of_seeds = 30 * sum((one - mean) ** 2 for one in seeds) / 3
    of_photos = 4 * sum((one - mean) ** 2 for one in photos) / 29
    rest = sum((apart[s, p] - seeds[s] - photos[p] + mean) ** 2 for s in range(4) for p in range(30)) / 87
    variance = of_seeds + of_photos - rest
    freedom = variance**2 / (of_seeds**2 / 3 + of_photos**2 / 29 + rest**2 / 87)

    half = stats.t.ppf(0.975, freedom) * (variance / 120) ** 0.5
    found = over_seeds_and_photos(apart)
    assert found.value == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - half, mean + half))


@pytest.mark.parametrize(("of_seeds", "of_photos"), [(0.0, 1.0), (1.0, 0.0), (1.0, 5.0), (0.0, 0.0)])
def test_95_of_100_intervals_hold_the_truth(of_seeds: float, of_photos: float) -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        apart = 3.0 + of_seeds * generator.normal(size=(3, 1)) + of_photos * generator.normal(size=(1, 60))
        held += not over_seeds_and_photos(apart + 5 * generator.normal(size=(3, 60))).interval.excludes(3.0)
    assert 0.91 <= held / 400 <= 0.99


def test_without_any_chance_it_is_a_point_and_one_seed_is_refused() -> None:
    assert over_seeds_and_photos(np.full((3, 5), 2.0)).interval == (2.0, 2.0)
    for shape in ((1, 5), (3, 1), (4,)):
        with pytest.raises(DataError, match="two seeds and two photos"):
            over_seeds_and_photos(np.ones(shape))
