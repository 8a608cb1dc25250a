"""The experiment on nothing matches: its questions, its numbers, and its committed files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from experiments.nothing_matches import questions, run

from threeshnet.files import read_rows
from threeshnet.metrics.answerability import Calibration

FOLDER = Path(__file__).parents[2] / "experiments/nothing_matches"
PHOTOS, CAPTIONS, WIDTH = 60, 2, 24


@pytest.fixture(scope="module")
def seen() -> questions.Encoded:
    """Photos of dogs (the first half) and of cats, and captions near theirs."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(PHOTOS, WIDTH))
    images[: PHOTOS // 2, 0] += 4
    owners = np.repeat(np.arange(PHOTOS), CAPTIONS)
    captions = images[owners] + generator.normal(size=(len(owners), WIDTH))
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (images, captions)]
    texts = [f"A {'dog' if owner < PHOTOS // 2 else 'cat'} runs" for owner in owners]
    return questions.Encoded(units[0], units[1], owners, texts, [f"photo {number}" for number in range(PHOTOS)])


@pytest.fixture(scope="module")
def calibration(seen: questions.Encoded) -> Calibration:
    return Calibration.fit(seen.images, seen.captions, seen.owners)


def test_a_photo_that_is_taken_out_is_gone_and_all_others_stay(
    calibration: Calibration, seen: questions.Encoded
) -> None:
    for count in (1, 7):
        asked = questions.taken_out(calibration, seen, count)
        assert sum(each.photos[0] for each in asked) == PHOTOS
        assert sum(len(each.present) for each in asked) == PHOTOS * CAPTIONS
    (whole,) = questions.taken_out(calibration, seen, 1)
    scores = seen.captions @ seen.images.T
    for number in (0, 37, 119):
        own = seen.owners[number]
        expected = np.sort(np.delete(scores[number], own))[::-1]
        np.testing.assert_allclose(whole.absent[number], expected)
        assert whole.first[number] == (scores[number].argmax() == own)
    assert whole.photos == (PHOTOS, PHOTOS - 1)


def test_a_topic_that_is_removed_leaves_no_photo_of_it(calibration: Calibration, seen: questions.Encoded) -> None:
    ((shows, names),) = questions.topics_of(seen, None)  # cats are no topic of Flickr8k
    assert shows.tolist() == [True] * (PHOTOS // 2) + [False] * (PHOTOS // 2)
    assert names.tolist() == list(range(PHOTOS))  # two captions of each of the first half
    found = {kind: asked for kind, _, asked in questions.all_questions(calibration, seen, [(shows, names)], None)}
    (asked,) = found[questions.TOPIC]
    best = (seen.captions[names] @ seen.images[PHOTOS // 2 :].T).max(axis=1)
    np.testing.assert_allclose(asked.absent[:, 0], best)
    assert asked.photos == (PHOTOS, PHOTOS // 2)
    rows = {row["method"]: row for row in run.rows_of(calibration, [asked], run.scores_of(calibration, [asked]))}
    assert float(rows[run.FLAT]["auroc"]) > 0.9  # cats are far from dogs
    assert float(rows[run.FULL]["auroc"]) > 0.9


def test_a_run_has_its_rows_once_and_the_committed_rows_give_the_committed_figure(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "page")
    run.main([], tmp_path / "page")
    assert (tmp_path / "page" / run.FIGURE).read_bytes() == (FOLDER / run.FIGURE).read_bytes()
    rows = read_rows(FOLDER / run.RESULTS)
    keys = [tuple(row[name] for name in (*run.RUN, *run.QUESTION, "method")) for row in rows]
    assert len(set(keys)) == len(keys) > 0
    assert list(rows[0]) == run.COLUMNS
