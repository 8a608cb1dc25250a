"""Perturbed inputs: what changes, what must not, and that a model feels it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.perturbations import (
    CAPTION_PERTURBATIONS,
    IMAGE_PERTURBATIONS,
    Perturbed,
    blank_segmentation,
    check_perturbation,
    drop_regions,
    noisy_segmentation,
    shuffle_map,
    shuffle_words,
    swap_segmentation,
    swap_words,
)
from threeshnet.records import VOID, ImageBatch, TokenSet

SEGMENTATION = ("seg_semantic", "seg_map", "seg_categories")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 7) -> ImageBatch:
    draw = generator(9)
    mask = torch.arange(36) < torch.randint(1, 37, (count, 1), generator=draw)
    regions = TokenSet(torch.rand(count, 36, 3, generator=draw) * mask.unsqueeze(2), mask)
    grid = TokenSet(torch.rand(count, 49, 2, generator=draw), torch.ones(count, 49, dtype=torch.bool))
    seg_map = torch.randint(11, (count, 64, 64), generator=draw).to(torch.uint8)
    seg_map[:, 0, 0] = VOID
    categories = (torch.rand(count, 11, generator=draw) < 0.4).float()
    return ImageBatch(regions, grid, torch.rand(count, 11, 7, 7, generator=draw).softmax(dim=1), seg_map, categories)


def leaves(images: ImageBatch) -> list[Tensor]:
    found = []
    for field in filter(lambda field: field is not None, images):
        found += list(field) if isinstance(field, TokenSet) else [field]
    return found


@pytest.mark.parametrize("name", IMAGE_PERTURBATIONS)
def test_the_same_seed_does_the_same_and_the_input_stays(name: str) -> None:
    images, before = batch(), batch()
    perturb = IMAGE_PERTURBATIONS[name]
    first, second = perturb(images, generator(1)), perturb(images, generator(1))
    assert all(one.equal(other) for one, other in zip(leaves(first), leaves(second), strict=True))
    assert all(one.equal(other) for one, other in zip(leaves(images), leaves(before), strict=True))
    assert any(
        one.shape != other.shape or not one.equal(other)
        for one, other in zip(leaves(first), leaves(images), strict=True)
    )
    assert [leaf.dtype for leaf in leaves(first)] == [leaf.dtype for leaf in leaves(images)]


@pytest.mark.parametrize("name", IMAGE_PERTURBATIONS)
def test_what_is_not_there_stays_away(name: str) -> None:
    perturb, images = IMAGE_PERTURBATIONS[name], batch()
    bare = images._replace(grid=None, seg_semantic=None, seg_categories=None, seg_map=None)
    found = perturb(bare, generator())
    assert [field is None for field in found] == [field is None for field in bare]
    assert perturb(images._replace(regions=None, seg_semantic=None), generator()).regions is None


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_dropped_regions_are_fewer_and_in_order(share: float) -> None:
    images = batch(40)
    found = drop_regions(images, generator(), share=share)
    for before, after in ((images.regions, found.regions), (images.grid, found.grid)):
        for image in range(40):
            real = [tuple(row) for row in before.values[image][before.mask[image]].tolist()]
            kept = [tuple(row) for row in after.values[image][after.mask[image]].tolist()]
            assert kept
            places = [real.index(row) for row in kept]
            assert places == sorted(places)
            assert after.mask[image].tolist() == sorted(after.mask[image].tolist(), reverse=True)
        assert not after.values[~after.mask].any()
        expected = torch.ones(40) if share == 1.0 else before.lengths * (1 - share)  # one stays in any case
        assert float(after.lengths.sum()) == pytest.approx(float(expected.sum()), rel=0.1)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_everybody_gets_somebody_elses_whole_segmentation(count: int) -> None:
    images = batch(count)
    for seed in range(5):
        found = swap_segmentation(images, generator(seed))
        givers = []
        for image in range(count):
            given = [[found_row.equal(row) for row in getattr(images, name)] for name in SEGMENTATION
                     for found_row in [getattr(found, name)[image]]]  # fmt: skip
            assert all(one == given[0] for one in given)
            givers.append(given[0].index(True))
        assert sorted(givers) == list(range(count))
        assert all(giver != image for image, giver in enumerate(givers))
    assert found.regions is images.regions
    with pytest.raises(DataError, match="batch_size"):
        swap_segmentation(batch(1), generator())


def test_noise_changes_its_share() -> None:
    images = batch(20)
    found = noisy_segmentation(images, generator(), share=0.3)
    before, after, cells, was = images.seg_semantic, found.seg_semantic, found.seg_map, images.seg_map
    torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1))
    assert after.min() >= 0
    assert float((cells != was).float().mean()) == pytest.approx(0.3 * 10 / 11, abs=0.01)
    assert cells[cells != VOID].max() < 11
    none = noisy_segmentation(images, generator(), share=0.0)
    assert all(one.equal(other) for one, other in zip(leaves(none), leaves(images), strict=True))
    changed = found.seg_categories
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    assert 0 < float((changed != images.seg_categories).float().mean()) < 0.3


def test_a_shuffled_map_keeps_its_classes_and_no_place() -> None:
    images = batch()
    found = shuffle_map(images, generator())
    for one, other in zip(found.seg_map, images.seg_map, strict=True):
        assert one.flatten().sort().values.equal(other.flatten().sort().values)
        assert not one.equal(other)
    assert found.seg_semantic is images.seg_semantic


def test_a_blank_segmentation_says_nothing() -> None:
    found = blank_segmentation(batch(), generator())
    torch.testing.assert_close(found.seg_semantic, torch.full_like(found.seg_semantic, 1 / 11))
    assert found.seg_map.unique().tolist() == [VOID]
    assert not found.seg_categories.any()


# --- words


def test_two_words_change_places() -> None:
    words = ["a", "dog", "bites", "a", "man", "in", "a", "park"]
    for seed in range(20):
        found = swap_words(" ".join(words), np.random.default_rng(seed)).split()
        assert sorted(found) == sorted(words)
        assert sum(one != other for one, other in zip(found, words, strict=True)) == 2
    for short in ("", "dog", "dog dog dog"):
        assert swap_words(short, np.random.default_rng(0)) == short


def test_all_words_change_places() -> None:
    caption = "a dog bites a man in a park"
    found = {shuffle_words(caption, np.random.default_rng(seed)) for seed in range(5)}
    assert len(found) == 5
    assert {tuple(sorted(one.split())) for one in found} == {tuple(sorted(caption.split()))}


def test_names_are_checked() -> None:
    for name in (*IMAGE_PERTURBATIONS, *CAPTION_PERTURBATIONS):
        check_perturbation(name)
    with pytest.raises(ConfigError, match="perturb='drop' does not exist; there are: drop_regions, swap_segmentation"):
        check_perturbation("drop")


def test_an_encoder_behind_a_perturbation_sees_it() -> None:
    class Mean(nn.Module):
        def forward(self, images: ImageBatch) -> Tensor:
            return images.seg_map.float().mean(dim=(1, 2)).unsqueeze(1)

    images = batch()
    plain = Mean()(images)
    swapped = Perturbed(encoder=Mean(), perturb=swap_segmentation)(images)
    assert not swapped.equal(plain)
    assert swapped.sort(dim=0).values.equal(plain.sort(dim=0).values)
    torch.testing.assert_close(Perturbed(encoder=Mean(), perturb=shuffle_map)(images), plain)
