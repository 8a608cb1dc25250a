"""Images of COCO's testall in another order are other folds."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from threeshnet.errors import ConfigError
from threeshnet.metrics import coco_order
from threeshnet.metrics.coco_order import FIRST, digest, image_order
from threeshnet.metrics.protocols import Scored, describe, score, why_not_coco_5k
from threeshnet.metrics.similarity import EmbeddingSimilarity

NUMBERS = [391895, 60623, 483108, 384213, 9]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Five numbers as if they were all of COCO's, in the source's order."""
    monkeypatch.setattr(coco_order, "SOURCE", digest(NUMBERS))
    monkeypatch.setattr(coco_order, "ASCENDING", digest(sorted(NUMBERS)))
    return NUMBERS


def test_the_order_is_that_of_the_published_list() -> None:
    found = importlib.util.find_spec("eccv_caption")
    if found is None or not found.submodule_search_locations:
        pytest.skip("eccv-caption, whose list this is held to, is not installed")
    folder = Path(next(iter(found.submodule_search_locations))) / "data"
    owners = json.loads((folder / "original_caption_to_image.json").read_text(encoding="utf-8"))
    names = [str(owners[str(number)][0]) for number in np.load(folder / "coco_test_ids.npy")[::5]]
    assert names[0] == str(FIRST)
    assert image_order(names) == "source"
    assert image_order(sorted(names, key=int)) == "other"
    assert image_order(names[:-1]) == "unknown"


@given(seed=st.integers(0, 2**32))
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", ["{}", "COCO_val2014_{:012d}", "COCO_val2014_{:012d}.jpg", "{:012d}.jpg"])
def test_any_other_order_is_seen(form: str, seed: int) -> None:
    shuffled = random.Random(seed).sample(NUMBERS, len(NUMBERS))
    expected = "source" if shuffled == NUMBERS else "other"
    assert image_order([form.format(number) for number in shuffled]) == expected


@pytest.mark.usefixtures("small")
def test_ids_that_are_no_numbers_of_coco_say_nothing() -> None:
    for names in (["a", "b"], ["0", "1", "2", "3", "4"], [], [str(number) for number in NUMBERS[1:]]):
        assert image_order(names) == "unknown"
    assert image_order([*map(str, NUMBERS[1:]), "x391895"]) == "unknown"


def test_other_photos_of_coco_are_not_its_test() -> None:
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(5_000)]
    assert image_order(names) == "other images"
    assert image_order([*names[1:], "9"]) == "unknown"  # a file that counts in its own way
    owner = torch.arange(5_000).repeat_interleave(5)
    case = Scored("coco", "testall", 5_000, owner, image_ids=names)
    assert "COCO" not in describe("full", case)
    part = case._replace(images=1_000, owner=owner[:5_000], image_ids=names[:1_000], split="test")
    assert "by their names" not in "".join(why_not_coco_5k(part))  # too few is all there is to say
    with pytest.raises(ConfigError, match=r"but not those that dataset_coco.json holds out; take protocol=full"):
        score("five_fold_1k", [torch.zeros(1, 1)], case)


def test_folds_of_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = random.Random(0).sample(range(10**6), 5_000)
    monkeypatch.setattr(coco_order, "SOURCE", digest(numbers))
    monkeypatch.setattr(coco_order, "ASCENDING", digest(sorted(numbers)))
    owner = torch.arange(5_000).repeat_interleave(5)
    vectors = normalize(torch.randn(5_000, 4, generator=torch.Generator().manual_seed(0)))
    similarity = EmbeddingSimilarity(vectors, vectors[owner])
    case = Scored("coco", "testall", 5_000, owner, image_ids=[str(number) for number in numbers])
    assert score("five_fold_1k", [similarity], case)["rsum"] == 600.0
    assert describe("five_fold_1k", case).endswith("(COCO 1K, mean of 5 folds)")
    sorted_case = case._replace(image_ids=[str(number) for number in sorted(numbers)])
    with pytest.raises(ConfigError, match=r"whose first test image is 391895: folds of another order are other folds"):
        score("five_fold_1k", [similarity], sorted_case)
    assert "(COCO 5K)" in describe("full", sorted_case)  # which no order changes
