"""Probabilities that a gallery answers: properties, a slow twin, what a fit recovers, and where they are stored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from threeshnet import Retriever
from threeshnet.errors import CheckpointError
from threeshnet.metrics.answerability import LARGEST_BANK, Bank, Calibration
from threeshnet.metrics.answerability_fit import asked, auroc, calibration_error
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

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
    if level is not None:
        level = min(max(level, calibration.levels[0]), calibration.levels[1])
    evidence = np.log(sum(weights) / len(scores)) - (level or 0.0)
    by = calibration.plain if level is None else calibration.with_bank
    odds = np.exp(by.constant + by.evidence * evidence + by.level * (level or 0.0))
    some = odds / (1 + odds)
    return some, [some * weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("with_level", [False, True])
def test_it_equals_the_sum_over_the_whole_gallery(calibration: Calibration, with_level: bool) -> None:
    seen = world(40, 5)
    scores, _, queries = sides(seen, 37)
    level = calibration.level(queries) if with_level else None
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
    level = calibration.level(queries) if with_level else None
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
    found = found.model_copy(update={"levels": [0.0, 9.0]})
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
    bank = Bank.of(np.arange(2000.0)[:, None])
    assert (bank.photos, bank.width, len(bank.embeddings)) == (LARGEST_BANK, 1, LARGEST_BANK)
    assert (bank.embeddings[0, 0], bank.embeddings[-1, 0]) == (0, 1999)
    assert Bank.model_validate(Bank.of(np.eye(3)).model_dump()).embeddings.tolist() == np.eye(3).tolist()


def test_a_level_is_what_the_bank_makes_of_a_query(calibration: Calibration) -> None:
    queries = world(5, 9).captions
    found = calibration.level(queries)
    similar = queries[3] @ calibration.bank.embeddings.T
    assert found[3] == pytest.approx(np.log(np.exp(calibration.sharpness * similar).mean()), rel=1e-4)
    unusual = calibration.levels[0] - np.array([0.0, 9.0])
    one, other = calibration.answerable(falling([[0.3, 0.2]] * 2), 50, unusual)
    assert one == other
    with pytest.raises(ValueError, match="shape \\[15, 47\\]: expected \\[queries, 48\\]"):
        calibration.level(queries[:, 1:])


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
    torn = {"bank": plain["bank"] | {"width": 7}}
    for change in (torn, {"sharpness": -1.0}, {"below": [1.0, 0.0]}, {"format": 2}, {"other": 1}):
        with pytest.raises(ValidationError):
            Calibration.model_validate(plain | change)
    assert calibration.matches([0.0, 1.0]).tolist() == [False, True]


def test_search_needs_neither_torch_nor_scipy_for_it() -> None:
    code = "import sys, threeshnet.metrics.answerability; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- where it is stored


@pytest.fixture(scope="module")
def run(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the undisturbed run."""
    return shutil.copytree(whole, tmp_path_factory.mktemp("calibrated") / "run")


def card(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["threeshnet"]


def test_the_scored_checkpoint_carries_it(run: Path) -> None:
    """The one that was scored, and no other: the scores name its hash."""
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["selection"] == "best"
    assert scores["checkpoint"] == checkpoint_hash(best)
    stored = Retriever.load(run, device="cpu").calibration
    assert stored is not None
    assert stored == Calibration.model_validate(card(best)["calibration"])
    assert (stored.bank.photos, stored.bank.width) == (8, 32)
    assert "calibration" not in card(last)


def test_a_run_that_is_scored_again_keeps_its_checkpoint(run: Path, train, tmp_path: Path) -> None:
    """Of a run that was cut between its calibration and its scores, byte for byte."""
    out = shutil.copytree(run, tmp_path / "run")
    before = (out / "checkpoints" / "best.ckpt").read_bytes()
    (out / "metrics.json").unlink()
    train(out, "resume=true")
    assert (out / "checkpoints" / "best.ckpt").read_bytes() == before
    train(out, "resume=true", "selection=last", "trainer.max_epochs=3")
    last = out / "checkpoints" / "last.ckpt"
    assert card(last)["calibration"] != card(out / "checkpoints" / "best.ckpt")["calibration"]


def test_evaluate_adds_it_to_an_older_checkpoint(run: Path, synthetic_shards: Path, command, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    expected = content["threeshnet"].pop("calibration")
    file = tmp_path / "older.ckpt"
    torch.save(content, file)
    assert Retriever.load(file, device="cpu").calibration is None
    words = [f"checkpoint={file}", f"shards={synthetic_shards}", "calibrate=true", "workers=0", "accelerator=cpu"]
    refused = command("evaluate", *words, "perturb=swap_words", f"out={tmp_path}")
    assert refused.code == 1
    for part in ("calibrate=true with split=test", "calibrate=true with perturb=swap_words", "split=dev"):
        assert part in refused.err
    ended = command("evaluate", *words, "split=dev", f"out={tmp_path / 'scores'}")
    assert ended.code == 0, ended.err
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores["checkpoint"] == [checkpoint_hash(file)]
    found = card(file)["calibration"]
    assert found["sharpness"] == pytest.approx(expected["sharpness"], rel=1e-3)
    assert found["plain"] == pytest.approx(expected["plain"], rel=1e-3)
    state = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], weight) for name, weight in content["state_dict"].items())


def test_a_damaged_calibration_is_refused(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["threeshnet"]["calibration"]["sharpness"] = -1.0
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(CheckpointError, match=r"calibration: sharpness=-1\.0: expected greater than 0"):
        read_checkpoint(tmp_path / "damaged.ckpt")
