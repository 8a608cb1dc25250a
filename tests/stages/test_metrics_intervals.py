"""Intervals and comparisons against loops, scipy, and cases whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.comparisons import compare, difference, over_seeds
from threeshnet.metrics.intervals import bootstrap_recalls, drawn_recalls
from threeshnet.metrics.ranks import Ranks
from threeshnet.metrics.recalls import consecutive_folds, recall_of_ranks

DRAWS = 60


def ranks_of(images: int, *, seed: int, easy: float = 0.3) -> tuple[Ranks, torch.Tensor]:
    """Ranks 1 to 14, more ones the easier, of images with one to six captions each."""
    generator = np.random.default_rng(seed)
    owner = np.arange(images).repeat(np.arange(images) % 6 + 1)
    drawn = [np.where(generator.random(n) < easy, 1, generator.integers(1, 15, n)) for n in (images, len(owner))]
    return Ranks(torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1])), torch.from_numpy(owner)


def naive_draws(ranks: Ranks, owner: torch.Tensor, folds: int, draws: int, seed: int) -> np.ndarray:
    """Draw by draw: take the images, put their captions in a list, count."""
    generator = np.random.default_rng(seed)
    found = np.zeros((draws, 7))
    for fold in consecutive_folds(len(ranks.i2t), owner, folds):
        numbers = fold.images.tolist()
        picks = generator.integers(len(numbers), size=(draws, len(numbers)))
        for draw in range(draws):
            images = [numbers[pick] for pick in picks[draw]]
            captions = [caption for image in images for caption in torch.nonzero(owner == image).flatten().tolist()]
            found[draw, :3] += [100 * np.mean([ranks.i2t[i] <= k for i in images]) / folds for k in (1, 5, 10)]
            found[draw, 3:6] += [100 * np.mean([ranks.t2i[c] <= k for c in captions]) / folds for k in (1, 5, 10)]
    found[:, 6] = found[:, :6].sum(axis=1)
    return found


@pytest.mark.parametrize("folds", [1, 3])
def test_draws_equal_the_loop(folds: int) -> None:
    ranks, owner = ranks_of(21, seed=0)
    found = drawn_recalls(ranks, owner, folds=folds, draws=9, seed=5)
    np.testing.assert_allclose(found, naive_draws(ranks, owner, folds, 9, 5))


def test_the_number_of_draws_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, owner = ranks_of(21, seed=0)
    whole = drawn_recalls(ranks, owner, draws=DRAWS)
    monkeypatch.setattr("threeshnet.metrics.intervals.CELLS", 100)
    np.testing.assert_array_equal(drawn_recalls(ranks, owner, draws=DRAWS), whole)
    assert not np.array_equal(drawn_recalls(ranks, owner, draws=DRAWS, seed=1), whole)


def test_intervals_are_plain_and_hold_the_recall() -> None:
    ranks, owner = ranks_of(60, seed=1)
    found = json.loads(json.dumps(bootstrap_recalls(ranks, owner, level=0.9, draws=200, seed=3)))
    point = recall_of_ranks(ranks)
    for side in ("i2t", "t2i"):
        for name, (low, high) in found[side].items():
            assert low <= point[side][name] <= high
    assert found["rsum"][0] < point["rsum"] < found["rsum"][1]
    assert (found["level"], found["draws"], found["seed"], found["unit"]) == (0.9, 200, 3, "image")


def test_settings_that_give_no_interval_are_refused() -> None:
    ranks, owner = ranks_of(6, seed=0)
    with pytest.raises(ConfigError, match="level=95"):
        bootstrap_recalls(ranks, owner, level=95, draws=3)
    with pytest.raises(ConfigError, match="draws=1"):
        bootstrap_recalls(ranks, owner, draws=1)
    with pytest.raises(DataError, match="expected"):
        bootstrap_recalls(ranks, owner[:-1])


# --- two models on the same items


def test_a_model_does_not_differ_from_itself() -> None:
    ranks, owner = ranks_of(50, seed=0)
    for found in compare(ranks, ranks, owner, draws=DRAWS).values():
        assert (found.value, tuple(found.interval), found.p) == (0.0, (0.0, 0.0), 1.0)
        assert found.verdict == "no difference shown"


def test_values_are_differences_of_the_recalls() -> None:
    one, owner = ranks_of(30, seed=0)
    other, _ = ranks_of(30, seed=1)
    found = compare(one, other, owner, draws=DRAWS)
    first, second = recall_of_ranks(one), recall_of_ranks(other)
    for name, one_found in found.items():
        side, _, number = name.partition(" ")
        parts = (first[side][number], second[side][number]) if number else (first["rsum"], second["rsum"])
        assert one_found.value == pytest.approx(parts[0] - parts[1])
    apart = naive_draws(one, owner, 1, DRAWS, 0) - naive_draws(other, owner, 1, DRAWS, 0)
    low, high = np.quantile(apart[:, 6], [0.025, 0.975])
    assert found["rsum"].interval == pytest.approx((low, high))


def test_the_permutation_test_equals_all_exchanges_counted() -> None:
    """Ten images: all 1,024 exchanges can be tried, and the drawn ones must come near their share."""
    one, owner = ranks_of(10, seed=0, easy=0.6)
    other, _ = ranks_of(10, seed=3, easy=0.2)
    found = compare(one, other, owner, draws=20_000)["rsum"]
    reached = 0
    for number in range(1_024):
        swap = torch.tensor([bool(number >> image & 1) for image in range(10)])
        of_captions = swap[owner]
        first = Ranks(torch.where(swap, other.i2t, one.i2t), torch.where(of_captions, other.t2i, one.t2i))
        second = Ranks(torch.where(swap, one.i2t, other.i2t), torch.where(of_captions, one.t2i, other.t2i))
        reached += abs(recall_of_ranks(first)["rsum"] - recall_of_ranks(second)["rsum"]) >= abs(found.value) - 1e-6
    assert found.p == pytest.approx(reached / 1_024, abs=0.015)


def test_a_clear_difference_is_called_one_and_noise_is_not() -> None:
    good, owner = ranks_of(300, seed=0, easy=0.6)
    bad, _ = ranks_of(300, seed=1, easy=0.2)
    clear = compare(good, bad, owner, draws=400)["rsum"]
    assert clear.verdict == "difference"
    assert clear.p < 0.01
    called = [
        compare(ranks_of(100, seed=2 * n)[0], ranks_of(100, seed=2 * n + 1)[0], ranks_of(100, seed=0)[1], draws=300)
        for n in range(40)
    ]
    assert sum(found["rsum"].verdict == "difference" for found in called) <= 6  # 2 expected of 40 at 95%


@pytest.mark.parametrize(("deciding", "verdict"), [(4, "no difference shown"), (8, "difference")])
def test_a_few_images_are_no_difference_though_the_interval_says_so(deciding: int, verdict: str) -> None:
    """Four coins that fall on one side prove nothing (p = 1/8), and eight do (p = 1/128)."""
    every, owner = torch.ones(40).long(), torch.arange(40)
    worse = torch.where(owner < deciding, 99, 1)
    found = compare(Ranks(every, every), Ranks(worse, every), owner)["i2t R@1"]
    assert found.interval.excludes(0.0)
    assert found.p == pytest.approx(2 * 0.5**deciding, abs=0.02)
    assert found.verdict == verdict


def test_other_items_are_refused() -> None:
    one, owner = ranks_of(12, seed=0)
    with pytest.raises(DataError, match="same items"):
        compare(one, Ranks(one.i2t[:-1], one.t2i), owner)


# --- seeds


def test_seeds_equal_scipy() -> None:
    values = [213.2, 210.7, 215.3, 214.7]
    found = over_seeds(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found.interval == pytest.approx(expected)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert str(found) == "213.5 ± 2.1 (4 seeds)"


def test_differences_over_seeds_equal_scipy() -> None:
    one, other = [213.2, 210.7, 215.3], [206.4, 209.7, 207.0, 208.8]
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert difference(one, other).interval == pytest.approx((welch.low, welch.high))
    pairs = stats.ttest_rel(one, other[:3]).confidence_interval(0.95)
    assert difference(one, other[:3], paired=True).interval == pytest.approx((pairs.low, pairs.high))


def test_one_seed_shows_no_spread_and_no_difference() -> None:
    found = over_seeds([3.0])
    assert (found.deviation, found.interval, str(found)) == (None, None, "3.0 (1 seed)")
    with pytest.raises(DataError, match="run more seeds"):
        difference([1.0], [2.0, 3.0])
    with pytest.raises(DataError, match="as many on both sides"):
        difference([1.0, 2.0], [2.0, 3.0, 4.0], paired=True)
    with pytest.raises(DataError, match="one finite number"):
        over_seeds([1.0, float("nan")])
