"""Ranks and recalls against naive loops, the golden numbers, and every refusal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.evaluation.table import results_table
from threeshnet.metrics import recall
from threeshnet.metrics.protocols import Scored, describe, score
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import fold_ranks, mean_of_folds
from threeshnet.metrics.similarity import EmbeddingSimilarity, MatrixSimilarity, MeanSimilarity

PRECOMP = Path(__file__).parents[1] / "golden" / "precomp"


def naive_ranks(similarity: Tensor, owner: Tensor) -> tuple[list[int], list[int]]:
    """The definition, query by query."""
    images, captions = similarity.shape
    i2t = []
    for image in range(images):
        best = max(similarity[image, caption].item() for caption in range(captions) if owner[caption] == image)
        wrong = [similarity[image, caption].item() for caption in range(captions) if owner[caption] != image]
        i2t.append(1 + sum(value >= best for value in wrong))
    t2i = []
    for caption in range(captions):
        right = similarity[owner[caption], caption].item()
        wrong = [similarity[image, caption].item() for image in range(images) if image != owner[caption]]
        t2i.append(1 + sum(value >= right for value in wrong))
    return i2t, t2i


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A matrix with many ties and one to seven captions an image, in any order."""
    images = draw(st.integers(1, 9))
    counts = draw(st.lists(st.integers(1, 7), min_size=images, max_size=images))
    owner = torch.tensor([image for image, count in enumerate(counts) for _ in range(count)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    owner = owner[torch.randperm(len(owner), generator=generator)] if draw(st.booleans()) else owner
    levels = draw(st.sampled_from([1, 2, 4, 1_000]))
    return torch.randint(levels, (images, len(owner)), generator=generator).float() / levels, owner


@settings(deadline=None, max_examples=150)
@given(case=scored(), block_cells=st.sampled_from([1, 7, 50, 1 << 20]))
def test_ranks_equal_the_definition(case: tuple[Tensor, Tensor], block_cells: int) -> None:
    similarity, owner = case
    found = rank_similarity(similarity, owner, block_cells=block_cells)
    assert (found.i2t.tolist(), found.t2i.tolist()) == naive_ranks(similarity, owner)


@pytest.mark.parametrize(("images", "each", "width"), [(37, 5, 16), (101, 3, 33), (64, 7, 1)])
@pytest.mark.parametrize("block_cells", [97, 999, 1 << 20])
def test_duplicates_among_embeddings_are_exact_ties(images: int, each: int, width: int, block_cells: int) -> None:
    generator = torch.Generator().manual_seed(images)
    vectors = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    vectors[-1] = vectors[0]
    owner = torch.arange(images).repeat_interleave(each)
    captions = vectors[owner]
    found = rank_similarity(EmbeddingSimilarity(vectors, captions), owner, block_cells=block_cells)
    assert found.i2t[0] >= 1 + each
    assert found.i2t[-1] >= 1 + each
    assert found.t2i[0] >= 2
    assert found.t2i[-1] >= 2


def test_no_number_is_no_rank() -> None:
    similarity = torch.eye(3)
    similarity[1, 2] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        recall(similarity, torch.arange(3))
    with pytest.raises(DataError, match="NaN"):
        rank_similarity(EmbeddingSimilarity(torch.full((2, 2), torch.nan), torch.ones(2, 2)), torch.arange(2))


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (torch.tensor([0, 0, 1]), "1 images have no caption and so no rank: 2"),
        (torch.tensor([0, 1, 3]), "reach from 0 to 3; expected 0 to 2"),
        (torch.tensor([0, 1]), r"shape \[2\]"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32; expected"),
    ],
)
def test_owners_that_do_not_fit_are_refused(owner: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        recall(torch.eye(3), owner)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \[3\]"):
        MatrixSimilarity(torch.zeros(3))
    with pytest.raises(DataError, match=r"\[2, 3\] and \[2, 4\]"):
        EmbeddingSimilarity(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="same data"):
        MeanSimilarity([torch.zeros(2, 2), torch.zeros(2, 3)])
    with pytest.raises(DataError, match="nothing to rank"):
        recall(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64))


def test_recall_takes_arrays_and_returns_plain_numbers() -> None:
    found = recall(np.eye(3), np.arange(3, dtype=np.int32))
    json.dumps(found)
    assert found["rsum"] == 600.0
    assert type(found["i2t"]["median_rank"]) is float
    assert set(found["t2i"]) == {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}


# --- golden


@pytest.mark.parametrize("name", ["precomp", "metric_similarity", "metric_similarity_5fold_mean", "ensemble_of_both"])
def test_golden_recalls_are_exact(name: str) -> None:
    expected = json.loads((PRECOMP / "expected_metrics.json").read_text())
    tensors = load_file(PRECOMP / "expected.safetensors")
    one, other = tensors["metric_similarity"], tensors["metric_similarity_2"]
    five_each = torch.arange(200).repeat_interleave(5)
    found = {
        "precomp": lambda: recall(tensors["similarity"], torch.arange(25).repeat_interleave(5)),
        "metric_similarity": lambda: recall(one, five_each),
        "metric_similarity_5fold_mean": lambda: mean_of_folds(fold_ranks(one, five_each), five_each),
        "ensemble_of_both": lambda: recall(MeanSimilarity([one, other]), five_each),
    }[name]()
    for side in ("i2t", "t2i"):
        assert [found[side][number] for number in expected["order"]] == expected[name][side]


# --- folds, ensembles, protocols, tags


def of(data: str, split: str, images: int, each: int) -> Scored:
    return Scored(data, split, images, torch.arange(images).repeat_interleave(each))


def test_five_fold_is_for_coco_testall_alone() -> None:
    wrong = [of("coco", "test", 1_000, 5), of("coco", "dev", 5_000, 5), of("demo", "testall", 5_000, 5)]
    shuffled = of("coco", "testall", 5_000, 5)
    wrong.append(shuffled._replace(owner=shuffled.owner.flip(0)))  # pyright: ignore
    wrong.append(shuffled._replace(owner=shuffled.owner[:-1]))
    reasons = (
        "the split is 'test'; 1,000 images and not 5,000; 5,000 captions and not 25,000 or 25,010",
        "source's order: the split is 'dev'",
        "the data set is called 'demo' and not coco, mscoco, coco_precomp",
        "source's order: captions do not stand image by image",
        "source's order: 24,999 captions and not 25,000 or 25,010",
    )
    for case, reason in zip(wrong, reasons, strict=True):
        with pytest.raises(ConfigError, match=rf"{reason}.*; take protocol=full"):
            score("five_fold_1k", [torch.zeros(1, 1)], case)


def test_well_known_names_are_said_of_those_splits_only() -> None:
    assert "(COCO 5K)" in describe("full", of("coco", "testall", 5_000, 5))
    folds = describe("five_fold_1k", of("coco", "testall", 5_000, 5))
    assert "(COCO 1K, mean of 5 folds, images in the order of the shards)" in folds
    assert "(Flickr30K 1K)" in describe("full", of("f30k", "test", 1_000, 5))
    # `make import RAW=…/coco_precomp` names its shards after SCAN's folder
    assert "(COCO 5K)" in describe("full", of("coco_precomp", "testall", 5_000, 5))
    assert "(Flickr30K 1K)" in describe("full", of("f30k_precomp", "test", 1_000, 5))
    for case in (of("coco", "testall", 4_999, 5), of("f30k", "dev", 1_000, 5), of("flickr8k", "test", 1_000, 5)):
        assert "(" not in describe("full", case)


# --- the table


def test_the_table_says_what_was_scored() -> None:
    metrics = recall(torch.eye(4), torch.arange(4)) | {"protocol": "full", "data": "demo", "split": "test"}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results_table(metrics | {"images": 4, "captions": 4, "seed": 0}, seconds=75))
    text = console.export_text()
    for part in ("demo", "protocol full", "4 images, 4 captions", "rsum 600.0", "seed 0", "1 min 15 s", "100.0"):
        assert part in text
