"""Probabilities that a gallery answers: properties, a slow twin, what a fit recovers, and where they are stored."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from threeshnet.metrics.answerability import LARGEST_BANK, Calibration, bank_of
from threeshnet.metrics.answerability_fit import asked, auroc, calibration_error

WIDTH, CAPTIONS = 48, 3


class World(NamedTuple):
    """Photos in random directions, and sentences that lean towards theirs."""

    images: Any
    captions: Any
    owners: Any


def world(photos: int, seed: int, *, lean: float = 0.5) -> World:
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(photos, WIDTH))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    owners = np.repeat(np.arange(photos), CAPTIONS)
    captions = lean * images[owners] + generator.normal(size=(len(owners), WIDTH)) / np.sqrt(WIDTH)
    return World(images, captions / np.linalg.norm(captions, axis=1, keepdims=True), owners)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.fit(*world(300, 1))


def falling(rows: Any) -> Any:
    return -np.sort(-np.asarray(rows, float), axis=1)


def sides(seen: World, gallery: int) -> tuple[Any, Any, Any]:
    """Similarities of the sentences about the first photos, falling: photo present, taken out; and the sentences."""
    chosen = seen.owners < gallery
    scores = seen.captions[chosen] @ seen.images[:gallery].T
    without = scores.copy()
    without[np.arange(len(scores)), seen.owners[chosen]] = -9
    return falling(scores), falling(without)[:, :-1], seen.captions[chosen]


# ---- properties

SCORES = st.lists(st.floats(-1, 1), min_size=1, max_size=8)
LEVELS = st.one_of(st.none(), st.floats(-5, 20))


@given(scores=SCORES, extra=st.integers(0, 10**7), level=LEVELS)
def test_probabilities_are_probabilities(
    calibration: Calibration, scores: list[float], extra: int, level: float | None
) -> None:
    rows, levels = falling([scores]), None if level is None else [level]
    some = calibration.answerable(rows, len(scores) + extra, levels)
    each = calibration.probability(rows, len(scores) + extra, levels)
    assert 0 <= some[0] <= 1
    assert ((each >= 0) & (each <= 1)).all()
    assert each.sum() <= some[0] * (1 + 1e-9)
    assert (np.diff(each[0]) <= 1e-12).all()
    if not extra:
        assert each.sum() == pytest.approx(some[0])  # nothing is left for photos beyond


@given(scores=SCORES, place=st.integers(0, 7), rise=st.floats(0, 0.5), extra=st.integers(0, 1000), level=LEVELS)
def test_a_higher_score_makes_an_answer_likelier(
    calibration: Calibration, scores: list[float], place: int, rise: float, extra: int, level: float | None
) -> None:
    levels, gallery = None if level is None else [level], len(scores) + extra
    raised = list(scores)
    raised[place % len(scores)] += rise
    before, after = (calibration.answerable(falling([row]), gallery, levels)[0] for row in (scores, raised))
    assert after >= before - 1e-12
    first = [max(scores) + rise, *falling([scores])[0][1:]]
    one, other = (calibration.probability(falling([row]), gallery, levels)[0, 0] for row in (scores, first))
    assert other >= one - 1e-12


@given(scores=SCORES, extra=st.integers(0, 1000), more=st.integers(1, 10**6), level=LEVELS)
def test_more_absent_photos_make_an_answer_less_likely(
    calibration: Calibration, scores: list[float], extra: int, more: int, level: float | None
) -> None:
    levels, gallery = None if level is None else [level], len(scores) + extra
    rows = falling([scores])
    assert calibration.answerable(rows, gallery + more, levels) <= calibration.answerable(rows, gallery, levels) + 1e-12


# ---- a slow twin, and what the results leave out


def slow(calibration: Calibration, scores: Any, level: float | None) -> tuple[float, list[float]]:
    """Of all similarities of one query, term by term."""
    weights = [np.exp(calibration.sharpness * score) for score in scores]
    evidence = np.log(sum(weights) / len(scores)) - (level or 0.0)
    by = calibration.plain if level is None else calibration.with_bank
    odds = np.exp(by.constant + by.evidence * evidence + by.level * (level or 0.0))
    some = odds / (1 + odds)
    return some, [some * weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("with_level", [False, True])
def test_it_equals_the_sum_over_the_whole_gallery(calibration: Calibration, with_level: bool) -> None:
    seen = world(40, 5)
    scores, _, queries = sides(seen, 37)
    level = calibration.level(queries, bank_of(world(70, 6).images)) if with_level else None
    some, each = calibration.answerable(scores, 37, level), calibration.probability(scores, 37, level)
    for number in range(0, len(scores), 10):
        expected = slow(calibration, scores[number], None if level is None else float(level[number]))
        assert some[number] == pytest.approx(expected[0])
        assert each[number] == pytest.approx(expected[1])


def test_ten_results_do_almost_as_well_as_the_whole_gallery(calibration: Calibration) -> None:
    scores, _, _ = sides(world(400, 2), 400)
    whole, ten = calibration.answerable(scores, 400), calibration.answerable(scores[:, :10], 400)
    assert np.abs(whole - ten).max() < 0.05
    each = calibration.probability(scores, 400)[:, :10]
    np.testing.assert_allclose(calibration.probability(scores[:, :10], 400), each, atol=0.05)


# ---- the fit


@pytest.mark.parametrize("gallery", [400, 100, 40])
@pytest.mark.parametrize("with_level", [False, True])
def test_a_fit_holds_for_other_photos_and_other_sizes(calibration: Calibration, gallery: int, with_level: bool) -> None:
    """Fitted on galleries of 150 and 37."""
    present, absent, queries = sides(world(400, 2), gallery)
    level = calibration.level(queries, bank_of(world(200, 3).images)) if with_level else None
    one = calibration.answerable(present[:, :10], gallery, level)
    other = calibration.answerable(absent[:, :10], gallery - 1, level)
    assert calibration_error(one, other) < 0.03 + 0.6 / np.sqrt(len(one))  # tenths of few queries vary
    assert auroc(one, other) > auroc(present[:, 0], absent[:, 0]) - 0.005  # than by the highest score
    first = calibration.probability(present[:, :10], gallery, level)[:, 0] / one
    assert first.mean() == pytest.approx((present[:, 0] > absent[:, 0]).mean(), abs=0.08)


def test_the_fit_recovers_the_probabilities_that_made_the_data() -> None:
    """Scores of unit variance whose answers are shifted by the sharpness: evidence b s - b²/2 is the exact one."""
    generator, sharpness = np.random.default_rng(0), 3.0
    photos, queries = 300, 900
    scores = generator.normal(size=(queries, photos))
    owners = np.repeat(np.arange(photos), 3)
    scores[np.arange(queries), owners] += sharpness
    # embeddings with exactly these similarities: sentences are rows, photos unit vectors
    found = Calibration.fit(np.eye(photos), scores, owners)
    assert found.sharpness == pytest.approx(sharpness, rel=0.1)
    fresh = generator.normal(size=(2000, 100))
    with_answer = fresh.copy()
    with_answer[:, 0] += sharpness
    exact = [1 / (1 + 1 / np.exp(sharpness * s - sharpness**2 / 2).mean(axis=1)) for s in (with_answer, fresh)]
    usual = np.full(2000, sharpness**2 / 2)  # log(mean exp(b s)) of a bank of many photos
    made = [found.answerable(falling(s), 100, usual) for s in (with_answer, fresh)]
    for one, other in zip(made, exact, strict=True):
        assert np.abs(one - other).mean() < 0.05


def test_a_caption_is_never_asked_with_its_photo_in_the_bank() -> None:
    seen = world(21, 4)
    scores = seen.captions @ seen.images.T
    for each in asked(seen.images, seen.captions, seen.owners, np.random.default_rng(0)):
        own = each.own
        assert np.isclose(own[:, None], scores[np.arange(len(scores)), seen.owners]).any(axis=1).all()
        assert not np.isclose(each.bank, own[:, None]).any()
        assert each.without.shape == (len(own), each.scores.shape[1] - 1)


def test_a_bank_is_small_and_evenly_spaced() -> None:
    bank = bank_of(np.arange(2000.0)[:, None])
    assert (len(bank), bank.dtype) == (LARGEST_BANK, np.float16)
    assert (bank[0, 0], bank[-1, 0]) == (0, 1999)
    assert len(bank_of(np.eye(3))) == 3


# ---- bad input, and the record


@pytest.mark.parametrize(
    ("scores", "gallery", "message"),
    [
        ([0.3, 0.2], 5, "expected \\[queries, results\\]"),
        ([[0.3, 0.2]], 1, "2 scores of a gallery of 1"),
        ([[0.2, 0.3]], 5, "fall from result to result"),
        ([[float("nan"), 0.3]], 5, "finite"),
    ],
)
def test_scores_that_are_none_are_refused(calibration: Calibration, scores: Any, gallery: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration.answerable(scores, gallery)


def test_too_few_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images, 9 captions: a calibration takes 4 images or more"):
        Calibration.fit(*world(3, 0))


def test_the_record_is_plain_numbers(calibration: Calibration) -> None:
    plain = calibration.model_dump(mode="json")
    assert Calibration.model_validate(plain) == calibration
    for change in ({"sharpness": -1.0}, {"below": [1.0, 0.0]}, {"format": 2}, {"other": 1}):
        with pytest.raises(ValidationError):
            Calibration.model_validate(plain | change)
    assert calibration.matches([0.0, 1.0]).tolist() == [False, True]


def test_search_needs_neither_torch_nor_scipy_for_it() -> None:
    code = "import sys, threeshnet.metrics.answerability; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
