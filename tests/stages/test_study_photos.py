"""Intervals over seeds and photos: what each photo brought is kept with the rows, and the variance is taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from threeshnet.errors import ConfigError, DataError
from threeshnet.evaluation.compare import read_evaluation
from threeshnet.files import read_rows
from threeshnet.metrics.comparisons import Difference, over_seeds, over_seeds_and_photos
from threeshnet.metrics.intervals import Interval
from threeshnet.metrics.protocols import Scored, recall_by
from threeshnet.metrics.rank_files import RankedItems, write_ranks
from threeshnet.metrics.ranks import Ranks
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.reports.checks import check
from threeshnet.reports.effects import verdict_of
from threeshnet.reports.tables import study_tables
from threeshnet.studies.by_photo import BY_PHOTO, apart_by_photo, key_of, read_by_photo, rsum_by_photo
from threeshnet.studies.columns import Row

from .test_study_report import gathered, results, write_run

RANKS = "ranks.npz"

PHOTOS, CAPTIONS = 40, 100  # two or three captions a photo
OWNER = torch.arange(CAPTIONS) % PHOTOS


def run(folder: Path, level: str, seed: int, better: float, **more: Any) -> None:
    """Ranks by chance, lower where a model is better, with the metrics that are theirs."""
    generator = torch.Generator().manual_seed(1000 * seed + len(level))
    i2t, t2i = (1 + (torch.rand(n, generator=generator) * 20 / better).long() for n in (PHOTOS, CAPTIONS))
    ranks = Ranks(i2t, t2i)
    protocol = more.get("protocol", "full")
    recalls = recall_by(protocol, ranks, Scored("demo", "test", PHOTOS, OWNER))
    facts = {"images": PHOTOS, "captions": CAPTIONS, "fingerprint": "data"}
    write_run(folder, level, seed, 1.0, metrics=recalls | facts | more)
    write_ranks(folder / RANKS, RankedItems(ranks, OWNER, [str(number) for number in range(PHOTOS)]))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for level, better in (("sigmoid", 1.0), ("softmax", 3.0)):
        for seed in range(3):
            run(tmp_path / "runs" / f"activation={level},seed={seed}", level, seed, better)
    return sorted((tmp_path / "runs").iterdir())


def agree(rows: list[Row], file: Path) -> None:
    """What photos brought is that of the rows."""
    found = read_by_photo(file)
    assert set(found) == {key_of(row) for row in rows}
    for row in rows:
        assert found[key_of(row)].mean() == pytest.approx(float(row["rsum"]), abs=1e-3)


def test_photos_make_up_the_rsum_of_their_row(folders: list[Path], tmp_path: Path) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    assert len(rows) == 6
    agree(rows, tmp_path / BY_PHOTO)
    for folder in folders:
        assert rsum_by_photo(read_evaluation(folder)) == pytest.approx(by_hand(folder))


def test_a_mean_of_folds_has_its_photos_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds of 20 photos, of 60 captions and of 40."""
    run(tmp_path / "run", "sigmoid", 0, 2.0)
    evaluation = read_evaluation(tmp_path / "run")
    ranks = evaluation.items.ranks
    parts = [Ranks(ranks.i2t[start : start + 20], ranks.t2i[start // 20 == OWNER // 20]) for start in (0, 20)]
    folds = [recall_of_ranks(part) for part in parts]
    monkeypatch.setattr("threeshnet.studies.by_photo.folds_of", lambda _: 2)
    brought = rsum_by_photo(evaluation)
    assert brought.shape == (PHOTOS,)
    assert brought.mean() == pytest.approx((folds[0]["rsum"] + folds[1]["rsum"]) / 2, abs=1e-3)


def test_the_same_run_in_two_settings_has_its_own_in_each(folders: list[Path], tmp_path: Path) -> None:
    """As of two machines: the identities are equal, the numbers are not."""
    gathered(folders[:1], tmp_path / "results.csv")
    run(folders[0], "sigmoid", 0, 2.0)
    rows = gathered(folders[:1], tmp_path / "results.csv", setting="another")
    assert len(rows) == 2
    agree(rows, tmp_path / BY_PHOTO)


def test_a_run_on_another_device_takes_no_row_unasked(folders: list[Path], tmp_path: Path) -> None:
    """The identity is the same, the numbers are not; another number of cores is no other device."""
    before = gathered(folders, tmp_path / "results.csv")
    run(folders[0], "sigmoid", 0, 1.0, machine="16 CPU cores")
    assert len(gathered(folders, tmp_path / "results.csv")) == len(before)
    run(folders[0], "sigmoid", 0, 1.0, machine="1 x NVIDIA H100, 16 CPU cores")
    with pytest.raises(ConfigError, match=r"(?s)of a run on CPU, not on NVIDIA H100.*setting_name"):
        gathered(folders, tmp_path / "results.csv")
    assert read_rows(tmp_path / "results.csv")[0]["machine"] == "16 CPU cores"
    mixed = gathered(folders, tmp_path / "results.csv", replace=True)
    with pytest.raises(DataError, match="seeds of device CPU and NVIDIA H100"):
        check(results(mixed))


@pytest.mark.parametrize("others", [0, 1])
def test_a_run_without_ranks_takes_what_its_photos_brought_away(
    folders: list[Path], tmp_path: Path, others: int
) -> None:
    gathered(folders[: 1 + others], tmp_path / "results.csv")
    (folders[0] / RANKS).unlink()
    gathered(folders[:1], tmp_path / "results.csv")
    kept = [name.rpartition("/")[2] for name in read_by_photo(tmp_path / BY_PHOTO)]
    assert kept == [folder.name for folder in folders[1 : 1 + others]]


def test_a_refused_run_leaves_what_is_there(folders: list[Path], tmp_path: Path) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    run(folders[0], "sigmoid", 0, 5.0, commit="unknown")
    with pytest.raises(DataError, match="does not say commit"):
        gathered(folders, tmp_path / "results.csv")
    assert read_rows(tmp_path / "results.csv") == rows
    agree(rows, tmp_path / BY_PHOTO)


def test_damaged_ranks_are_named_and_the_others_kept(folders: list[Path], tmp_path: Path) -> None:
    (folders[0] / RANKS).write_bytes(b"torn")
    (folders[1] / RANKS).write_bytes((folders[2] / RANKS).read_bytes())
    with pytest.raises(DataError) as caught:
        gathered(folders, tmp_path / "results.csv")
    assert f"{folders[0].name}: {folders[0] / RANKS} cannot be read" in str(caught.value)
    assert f"{folders[1] / RANKS} is not of the metrics.json beside it" in str(caught.value)
    assert "The rows were copied; those without whole ranks go without photos" in str(caught.value)
    assert len(read_rows(tmp_path / "results.csv")) == 6
    assert len(read_by_photo(tmp_path / BY_PHOTO)) == 4
    for folder in folders[:2]:
        (folder / RANKS).unlink()
    assert len(gathered(folders, tmp_path / "results.csv")) == 6


def test_it_is_the_same_bytes_again_and_a_torn_one_is_named(folders: list[Path], tmp_path: Path) -> None:
    file = tmp_path / BY_PHOTO
    gathered(folders, tmp_path / "results.csv")
    first = file.read_bytes()
    gathered(folders, tmp_path / "results.csv")
    assert file.read_bytes() == first
    file.write_bytes(first[: len(first) // 2])
    with pytest.raises(DataError, match="collect again"):
        read_by_photo(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rsum": "3"}, "collect it again"), ({"fingerprint": "x"}, "fingerprint differs"), ({"images": "9"}, "images")],
)
def test_rows_of_other_photos_are_not_compared(
    folders: list[Path], tmp_path: Path, change: dict[str, str], said: str
) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    pairs = list(zip(rows[3:], rows[:3], strict=True))
    found = read_by_photo(tmp_path / BY_PHOTO)
    apart = apart_by_photo(pairs, found)
    assert apart is not None
    assert apart.shape == (3, PHOTOS)
    assert apart_by_photo(pairs[:1], found) is None
    with pytest.raises(DataError, match=said):
        apart_by_photo([(pairs[0][0] | change, pairs[0][1]), *pairs[1:]], found)


def test_the_table_and_the_page_have_the_known_interval(folders: list[Path], tmp_path: Path) -> None:
    rows = gathered(folders, tmp_path / "results.csv")
    known = results(rows, by_photo=read_by_photo(tmp_path / BY_PHOTO))
    sides = [
        np.stack([by_hand(folder) for folder in folders if level in folder.name]) for level in ("softmax", "sigmoid")
    ]
    found = over_seeds_and_photos(sides[0] - sides[1])
    text = study_tables(known)
    said = f"| [{found.interval.low:+.1f}, {found.interval.high:+.1f}] |"
    assert [line.endswith(said) for line in text.splitlines() if line.startswith("| softmax")] == [True]
    assert "| over seeds and photos |" in text
    assert "| over seeds and photos |" not in study_tables(results(rows))  # nothing is known of the photos
    effect = known.setting("region_demo").level(activation="softmax").effect
    assert effect.with_photos is not None
    assert effect.with_photos.interval == pytest.approx(found.interval)
    assert str(effect).endswith(f"{said[2:-2]} over seeds and photos: {effect.verdict})")


def test_a_difference_needs_both_intervals() -> None:
    seeds, photos = (Difference(-4.0, Interval(*ends), 0.95) for ends in ((-6.0, -2.0), (-9.0, 1.0)))
    assert verdict_of(seeds, seeds) == "difference"
    assert verdict_of(seeds, photos) == verdict_of(seeds, None) == "difference on these photos"
    assert verdict_of(photos, seeds) == verdict_of(photos, None) == "no difference shown"


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


def mean_squares(apart: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, of photos and of the rest, by loops over the cells."""
    seeds, photos = apart.shape
    mean, by_seed, by_photo = apart.mean(), apart.mean(axis=1), apart.mean(axis=0)
    rest = sum((apart[s, p] - by_seed[s] - by_photo[p] + mean) ** 2 for s in range(seeds) for p in range(photos))
    of_seeds = photos * sum((each - mean) ** 2 for each in by_seed) / (seeds - 1)
    of_photos = seeds * sum((each - mean) ** 2 for each in by_photo) / (photos - 1)
    return of_seeds, of_photos, rest / ((seeds - 1) * (photos - 1))


def test_it_is_that_of_the_textbook() -> None:
    """Here both seeds and photos vary by more than the rest."""
    generator = np.random.default_rng(0)
    apart = generator.normal(size=(4, 1)) + generator.normal(size=(1, 30)) + 0.1 * generator.normal(size=(4, 30))
    of_seeds, of_photos, rest = mean_squares(apart)
    variance = of_seeds + of_photos - rest
    freedom = variance**2 / (of_seeds**2 / 3 + of_photos**2 / 29 + rest**2 / 87)
    half = stats.t.ppf(0.975, freedom) * (variance / 120) ** 0.5
    found = over_seeds_and_photos(apart)
    assert found.value == pytest.approx(apart.mean())
    assert found.interval == pytest.approx((apart.mean() - half, apart.mean() + half))


@pytest.mark.parametrize(("of_seeds", "of_photos"), [(0.0, 1.0), (1.0, 0.0), (0.0, 5.0), (0.0, 0.0)])
def test_95_of_100_intervals_hold_the_truth(of_seeds: float, of_photos: float) -> None:
    """Three seeds. Those over seeds alone do so as well, unless photos vary: they know nothing of others."""
    generator = np.random.default_rng(1)
    both = seeds = 0
    for _ in range(400):
        apart = 3.0 + of_seeds * generator.normal(size=(3, 1)) + of_photos * generator.normal(size=(1, 60))
        apart += 5 * generator.normal(size=(3, 60))
        both += not over_seeds_and_photos(apart).interval.excludes(3.0)
        alone = over_seeds(apart.mean(axis=1).tolist()).interval
        seeds += alone is not None and not alone.excludes(3.0)
    assert 0.91 <= both / 400 <= 0.99
    assert (seeds / 400 < 0.9) == (of_photos == 5.0)


@pytest.mark.parametrize(
    ("apart", "freedom"),
    [
        ([[1, 2, 1, 2], [3, 2, 3, 2]], 1),  # photos vary less than what is left: as seeds alone
        ([[1, 5, 9, 2], [2, 4, 8, 3]], 3),  # seeds vary less: as photos alone
        ([[1, 2, 1, 2], [2, 1, 2, 1]], 3),  # both: what is left
    ],
)
def test_a_part_that_comes_out_negative_counts_as_none(apart: list[list[float]], freedom: int) -> None:
    cells = np.array(apart, dtype=float)
    parts = mean_squares(cells)
    assert freedom == dict(zip(parts, (1, 3, 3), strict=True))[max(parts)]
    half = stats.t.ppf(0.975, freedom) * (max(parts) / 8) ** 0.5
    assert over_seeds_and_photos(cells).interval == pytest.approx((cells.mean() - half, cells.mean() + half))


def test_without_any_chance_it_is_a_point_and_one_seed_is_refused() -> None:
    assert over_seeds_and_photos(np.full((3, 5), 2.0)).interval == (2.0, 2.0)
    for shape in ((1, 5), (3, 1), (4,)):
        with pytest.raises(DataError, match="two seeds and two photos"):
            over_seeds_and_photos(np.ones(shape))
