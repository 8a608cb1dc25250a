"""The exact sides of experiments/where say the truth, and its program adds rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.where import run
from experiments.where.sides import ExactClaims, ExactImages, Sentences, facts

from threeshnet.demo.captions import Claims, Mention, Place, Relation
from threeshnet.files import read_rows


@pytest.fixture(scope="module")
def part() -> run.Part:
    return run.Part.of("train", 16)


def test_facts_are_what_is_claimed() -> None:
    claims = Claims(
        (Mention("ball", "red"), Mention("vase", size="small")),
        (Place(1, "column", "left"),),
        (Relation(0, "above", 1),),
        ("wall",),
    )
    assert facts(claims) == [
        *(("wall",), ("ball",), ("ball", "red"), ("vase",), ("vase", "small"), ("vase", "column", "left")),
        *(("ball", "above", "something"), ("something", "above", "vase")),
    ]


def test_a_scene_is_a_token_for_each_thing_and_one_for_the_stuff(part: run.Part) -> None:
    scenes = [entry.scene for entry in part.entries]
    images = ExactImages(scenes)
    assert images.mask.sum(dim=1).tolist() == [len(scene.things) + 1 for scene in scenes]
    ones = [value.sum().item() for value in images.values[0, : len(scenes[0].things)]]
    assert ones == [len(ExactImages.VALUES)] * len(scenes[0].things)  # one word for each kind of fact
    assert images.values[0, len(scenes[0].things)].sum() == len(scenes[0].stuff)


@pytest.mark.parametrize("text", ["exact", "bert", "bigru", "convolution"])
def test_sides_make_unit_vectors_that_learn(part: run.Part, text: str) -> None:
    made = ExactClaims(part.captions, part.captions) if text == "exact" else Sentences(part.captions, text)
    vectors = made(np.arange(6))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    vectors.sum().backward()
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in made.parameters())


def test_claims_that_training_never_made_have_no_vector(part: run.Part) -> None:
    made = ExactClaims(part.captions, part.captions[:1])
    assert not made.facts[0].eq(0).all()
    assert made.vectors.num_embeddings == len({*facts(part.captions[0].claims)}) + 1


def test_rows_are_added_replaced_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TEST", 16)
    out = ["--photos", "16", "--epochs", "1", "--out", str(tmp_path / "results.csv")]
    for seed in ("0", "1", "0"):
        run.main([*out, "--seed", seed])
    rows = read_rows(tmp_path / "results.csv")
    assert [(row["seed"], row["steps"]) for row in rows] == [("0", "1"), ("1", "1")]
    assert all(0 <= float(row[tag]) <= 100 for row in rows for tag in run.TAGS)
    run.main(["--figure", "--out", str(tmp_path / "results.csv")])
    assert (tmp_path / "figure.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        run.main(["--image", "regions"])
