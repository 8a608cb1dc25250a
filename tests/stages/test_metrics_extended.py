"""Numbers beyond recall against slow twins and cases whose answer is known."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.corrections import (
    CORRECTIONS,
    Corrected,
    Correction,
    Hubs,
    corrected,
    csls,
    inverted_softmax,
)
from threeshnet.metrics.extended import Bank, beyond_recall
from threeshnet.metrics.geometry import modality_gap, spread
from threeshnet.metrics.groups import by_class, by_label, by_length, by_size, of_captions, recall_by_group, typical_size
from threeshnet.metrics.hubness import hubness, k_occurrence
from threeshnet.metrics.precision import (
    Positions,
    map_at_r,
    positions_in_rows,
    r_precision,
)
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.recalls import fold_ranks, summarise
from threeshnet.metrics.similarity import EmbeddingSimilarity


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


# --- mAP@R and R-Precision


def positions(matrix: Tensor, right: list[list[int]]) -> Positions:
    return positions_in_rows(lambda start, stop: matrix[start:stop], matrix.shape[1], right)


def naive_precisions(row: list[float], right: set[int]) -> tuple[float, float, int]:
    """(MAP@R, R-Precision, first right place) of one query, from its list in order, wrong before right among ties."""
    order = sorted(range(len(row)), key=lambda item: (-row[item], item in right))
    wanted, hits, total = len(right), 0, 0.0
    for place, item in enumerate(order[:wanted], start=1):
        if item in right:
            hits += 1
            total += hits / place
    return total / wanted, hits / wanted, 1 + min(order.index(item) for item in right)


@st.composite
def judged_rows(draw: st.DrawFn) -> tuple[Tensor, list[list[int]]]:
    queries, items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 9_999)))
    levels = draw(st.sampled_from([1, 2, 5, 1_000]))
    right = [generator.permutation(items)[: generator.integers(1, items + 1)].tolist() for _ in range(queries)]
    return torch.from_numpy(generator.integers(levels, size=(queries, items)) / levels).float(), right


@settings(max_examples=120)
@given(case=judged_rows())
def test_precisions_equal_the_definition(case: tuple[Tensor, list[list[int]]]) -> None:
    similarity, right = case
    found = positions(similarity, right)
    slow = [naive_precisions(row, set(items)) for row, items in zip(similarity.tolist(), right, strict=True)]
    torch.testing.assert_close(map_at_r(found), torch.tensor([one for one, _, _ in slow]).double())
    torch.testing.assert_close(r_precision(found), torch.tensor([one for _, one, _ in slow]).double())
    assert found.ranks[:, 0].tolist() == [first for _, _, first in slow]


@pytest.mark.parametrize("right", [[[]], [[0, 0]], [[3]], [[-1]], []])
def test_right_answers_that_cannot_be_are_refused(right: list[list[int]]) -> None:
    with pytest.raises(DataError, match="right answers of"):
        positions(torch.zeros(len(right), 3), right)


def test_positions_refuse_what_is_no_number_and_take_infinity() -> None:
    assert positions(torch.full((1, 4), -torch.inf), [[0, 1]]).ranks.tolist() == [[3, 4]]
    with pytest.raises(DataError, match="NaN"):
        positions(torch.tensor([[torch.nan, 1.0]]), [[1]])


# --- hubs


def test_hubness_is_of_the_occurrences() -> None:
    images, captions = unit(13, 4), unit(37, 4, seed=1)
    found = EmbeddingSimilarity(images, captions)
    matrix = found.block(slice(13), slice(37))
    counts = k_occurrence(lambda a, b: matrix.T[a:b], 37, 13, k=3).numpy()
    side = hubness(found, k=3)["t2i"]
    assert side["skewness"] == pytest.approx(stats.skew(counts))
    assert side["never_retrieved"] == 100 * (counts == 0).mean()
    assert side["largest"] == counts.max()
    with pytest.raises(ConfigError, match="k=14"):
        k_occurrence(lambda a, b: matrix.T[a:b], 37, 13, k=14)
    with pytest.raises(DataError, match="NaN"):
        hubness(torch.tensor([[torch.nan, 0.1]]))


def naive_occurrences(matrix: np.ndarray, k: int) -> np.ndarray:
    """The mean over all orders of the items, each sorted stably."""
    orders = list(permutations(range(matrix.shape[1])))
    counts = np.zeros(matrix.shape[1])
    for order in orders:
        for row in matrix:
            counts[sorted(order, key=lambda item: -row[item])[:k]] += 1
    return counts / len(orders)


@given(st.data())
def test_tied_items_share_the_places_that_are_left(data: st.DataObject) -> None:
    queries, items = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    k, levels = data.draw(st.integers(1, items)), data.draw(st.sampled_from([1, 2, 3, 1_000_000]))
    draw = np.random.default_rng(data.draw(st.integers(0, 9_999)))
    matrix = draw.integers(levels, size=(queries, items)) / levels
    rows = torch.from_numpy(matrix)
    found = k_occurrence(lambda a, b: rows[a:b], queries, items, k=k)
    assert found.numpy() == pytest.approx(naive_occurrences(matrix, k))
    assert float(found.sum()) == pytest.approx(k * queries)
    if all(len(set(row)) == items for row in matrix.tolist()):
        assert found.equal(torch.bincount(rows.topk(k).indices.flatten(), minlength=items).double())


def naive_correction(name: str, items: Tensor, queries: Tensor, bank: Tensor) -> np.ndarray:
    """The published formulas on whole matrices of probabilities and sums, [queries, items]."""
    asked = (queries.double() @ items.double().T).float().double().numpy()
    known = (bank.double() @ items.double().T).float().double().numpy()
    if name == "csls":
        near_item = np.sort(known, axis=0)[-10:].mean(axis=0)
        near_query = np.sort(asked, axis=1)[:, -10:].mean(axis=1)
        return 2 * asked - near_query[:, None] - near_item
    normal = np.exp(20 * asked) / np.exp(20 * known).sum(axis=0)
    if name == "inverted_softmax":
        return normal
    hubs = set(known.argmax(axis=1).tolist())
    return np.stack([normal[q] if asked[q].argmax() in hubs else asked[q] for q in range(len(asked))])


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize(("bank_size", "folds"), [(11, 1), (45, 1), (25, 4)])
def test_corrections_rank_as_their_papers_formulas(name: str, bank_size: int, folds: int) -> None:
    """Who is a hub of a fold is asked within it: a bank's nearest of all may lie in another fold."""
    images, captions, owner = unit(40, 5), unit(120, 5, seed=1), torch.arange(40).repeat_interleave(3)
    photos, texts = unit(bank_size, 5, seed=3), unit(bank_size, 5, seed=2)
    source, size = EmbeddingSimilarity(images, captions), 40 // folds
    by_images, by_captions = corrected(name, source, photos, texts)
    found = Ranks(fold_ranks(by_captions, owner, folds=folds).i2t, fold_ranks(by_images, owner, folds=folds).t2i)
    for first in range(0, 40, size):
        inside, asking, own = slice(first, first + size), slice(3 * first, 3 * (first + size)), owner[: 3 * size]
        t2i = naive_correction(name, images[inside], captions[asking], texts)
        i2t = naive_correction(name, captions[asking], images[inside], photos)
        assert found.t2i[asking].tolist() == rank_similarity(t2i.T, own).t2i.tolist()
        assert found.i2t[inside].tolist() == rank_similarity(i2t, own).i2t.tolist()
    plain = fold_ranks(source, owner, folds=folds)
    assert not found.t2i.equal(plain.t2i)
    assert not found.i2t.equal(plain.i2t)


def test_blocks_change_neither_hubness_nor_corrections(monkeypatch: pytest.MonkeyPatch) -> None:
    items, bank = unit(29, 5), unit(45, 5, seed=2)
    source = EmbeddingSimilarity(items, bank)
    hubs_before = hubness(source, k=3)
    whole = {name: correct(items, bank) for name, correct in CORRECTIONS.items()}
    monkeypatch.setattr("threeshnet.metrics.precision.BLOCK_CELLS", 100)
    assert hubness(source, k=3) == hubs_before
    for name, correct in CORRECTIONS.items():
        torch.testing.assert_close(correct(items, bank).bias, whole[name].bias)
    hubs = set(source.block(slice(29), slice(45)).argmax(dim=0).tolist())
    assert set(Hubs(items, bank).among().nonzero().flatten().tolist()) == hubs


def test_corrections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="bank of a correction is empty"):
        inverted_softmax(unit(3, 2), torch.zeros(0, 2))
    with pytest.raises(ConfigError, match="k=11"):
        csls(unit(3, 2), unit(10, 2), k=11)
    with pytest.raises(ConfigError, match="beta=0"):
        inverted_softmax(unit(3, 2), unit(3, 2), beta=0)
    source = EmbeddingSimilarity(unit(3, 2), unit(4, 2))
    with pytest.raises(DataError, match="2 items for 3 images"):
        Corrected(source, Correction(torch.zeros(2)), items="images")
    with pytest.raises(ConfigError, match="items='texts' does not exist"):
        Corrected(source, Correction(torch.zeros(2)), items="texts")


# --- the gap


def test_the_gap_of_known_clouds() -> None:
    axes = torch.eye(3)
    assert modality_gap(5 * axes[:2], axes[2:]) == pytest.approx({"distance": math.sqrt(1.5), "angle": 90})
    assert modality_gap(unit(9, 4), unit(9, 4)) == {"distance": 0.0, "angle": 0.0}
    with pytest.raises(DataError, match="no direction"):
        modality_gap(torch.tensor([[1.0, 0], [-1, 0]]), axes[:, :2])


# --- the spread


@given(rows=st.integers(1, 8), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_spread_is_the_mean_over_pairs(rows: int, width: int, seed: int) -> None:
    points = torch.nn.functional.normalize(unit(rows, width, seed=seed).double(), dim=1)
    pairs = [1 - float(points[i] @ points[j]) for i in range(rows) for j in range(rows)]
    assert spread(7 * points) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


# --- groups


def test_groups_are_the_recalls_of_their_queries() -> None:
    ranks = torch.randint(1, 15, (50,), generator=torch.Generator().manual_seed(0))
    chosen = {"even": torch.arange(50) % 2 == 0, "late": torch.arange(50) >= 40, "none": torch.zeros(50).bool()}
    found = recall_by_group(ranks, chosen)
    assert set(found) == {"even", "late"}
    for name in found:
        slow = [rank for rank, inside in zip(ranks.tolist(), chosen[name].tolist(), strict=True) if inside]
        assert found[name]["queries"] == len(slow)
        assert found[name]["R@5"] == pytest.approx(100 * sum(rank <= 5 for rank in slow) / len(slow))
    with pytest.raises(DataError, match="other: 49 queries"):
        recall_by_group(ranks, chosen | {"other": torch.ones(49).bool()})


def test_every_caption_has_one_length() -> None:
    captions = [" ".join(["word"] * count) for count in range(1, 40)]
    members = torch.stack(list(by_length(captions).values()))
    assert members.sum(dim=0).tolist() == [1] * 39
    assert members.sum(dim=1).tolist() == [7, 4, 4, 24]


def test_classes_and_sizes() -> None:
    categories = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert list(by_class(categories, ["dog", "cat", "sky"])) == ["dog", "sky"]
    assert list(by_class(categories, ["dog", "cat", "sky"], least=2)) == ["dog"]
    with pytest.raises(DataError, match="3 classes with 2 names"):
        by_class(categories, ["dog", "cat"])
    maps = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    maps[0, 0, :8], maps[0, 1, :] = 3, 5  # 8 and 64 cells of 4096: the lower is small
    maps[1] = 9
    sizes = typical_size(maps)
    assert sizes[:2].tolist() == [8 / 4096, 1.0]
    groups = by_size(sizes)
    assert {name: chosen.tolist() for name, chosen in groups.items()} == {
        "small": [True, False, False],
        "medium": [False, False, False],
        "large": [False, True, False],
    }
    assert of_captions(groups, torch.tensor([1, 0, 0]))["small"].tolist() == [False, True, True]


# --- all together


def test_everything_together_is_plain_numbers() -> None:
    images, captions, owner = unit(12, 4), unit(36, 4, seed=1), torch.arange(36) % 12
    source = EmbeddingSimilarity(images, captions)
    ranks = rank_similarity(source, owner)
    bank = Bank(unit(20, 4, seed=2), unit(30, 4, seed=3))
    tags = {"tag": by_label(["what", "where"] * 18)}
    found = beyond_recall(source, ranks, owner, caption_groups=tags, bank=bank)
    assert set(found) == {"i2t", "t2i", "hubness", "modality_gap", "spread", "corrections", "groups"}
    assert set(found["corrections"]) == set(CORRECTIONS)
    for name, after in found["corrections"].items():
        by_images, by_captions = corrected(name, source, *bank)
        assert after["t2i"] == summarise(rank_similarity(by_images, owner).t2i)
        assert after["i2t"] == summarise(rank_similarity(by_captions, owner).i2t)
        assert after["hubness"] == {"i2t": hubness(by_captions)["i2t"], "t2i": hubness(by_images)["t2i"]}
    rows = source.block(slice(12), slice(36)).tolist()
    slow = [naive_precisions(row, {image, image + 12, image + 24}) for image, row in enumerate(rows)]
    assert list(found["i2t"].values()) == pytest.approx((100 * np.array(slow).mean(axis=0))[:2].tolist())
    assert found["t2i"]["r_precision"] == pytest.approx(summarise(ranks.t2i)["R@1"])
    assert found["groups"]["t2i"]["tag"]["what"]["queries"] == 18
    collapsed = EmbeddingSimilarity(torch.zeros(12, 4), captions)
    assert "no direction" in beyond_recall(collapsed, ranks, owner)["modality_gap"]["not_run"]
    matrix = beyond_recall(source.part(torch.arange(12), torch.arange(36)), ranks, owner)
    assert "corrections" not in matrix
    assert matrix["hubness"] == found["hubness"]
