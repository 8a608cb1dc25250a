"""Losses against loops over queries and negatives, and losses in blocks against the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from threeshnet.encoders.text.meanings import CaptionMeanings
from threeshnet.encoders.text.sources import pretrained, wordpieces
from threeshnet.errors import ConfigError
from threeshnet.objectives.collapse import loss_over_collapsed
from threeshnet.objectives.infonce import InfoNCELoss
from threeshnet.objectives.soft_labels import SoftLabels
from threeshnet.objectives.subspaces import SubspaceTriplets
from threeshnet.objectives.triplet import TripletLoss, triplet_hinge

OBJECTIVES = sorted((Path(__file__).parents[2] / "conf/objective").glob("*.yaml"))
ALL_NEGATIVES, HARDEST = 0, 1  # epochs


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    images, captions = torch.nn.functional.normalize(sides, dim=-1)
    return images.requires_grad_(), captions.requires_grad_()


def triplet_by_loops(images: Tensor, captions: Tensor, owners: list[int], *, hardest: bool, masked: bool) -> Tensor:
    """Every query, every negative, one hinge at a time."""
    total = images.new_zeros(())
    for query in range(len(images)):
        true = images[query] @ captions[query]
        others = [n for n in range(len(images)) if n != query and not (masked and owners[n] == owners[query])]
        for negatives in ([captions[n] @ images[query] for n in others], [images[n] @ captions[query] for n in others]):
            hinges = [(0.2 - true + negative).clamp(min=0) for negative in negatives]
            if hinges:
                total = total + (max(hinges, key=lambda hinge: hinge.item()) if hardest else sum(hinges))
    return total


def infonce_by_loops(images: Tensor, captions: Tensor, owners: list[int], *, masked: bool) -> Tensor:
    """-log of the share of the true pair among the candidates, averaged over queries and directions."""
    total, temperature = images.new_zeros(()), 0.07
    for query in range(len(images)):
        kept = [n for n in range(len(images)) if n == query or not (masked and owners[n] == owners[query])]
        for mine, theirs in ((images, captions), (captions, images)):
            powers = torch.stack([(mine[query] @ theirs[n] / temperature).exp() for n in kept])
            total = total - (powers[kept.index(query)] / powers.sum()).log()
    return total / (2 * len(images))


def check(found: Tensor, expected: Tensor, images: Tensor, captions: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    ours = torch.autograd.grad(found, (images, captions), retain_graph=True)
    theirs = torch.autograd.grad(expected, (images, captions), allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, atol=1e-6, rtol=1e-6)


LOSSES = st.sampled_from([TripletLoss, InfoNCELoss])
owner_lists = st.lists(st.integers(0, 3), min_size=1, max_size=7)


@given(
    owners=owner_lists, masked=st.booleans(), epoch=st.sampled_from([ALL_NEGATIVES, HARDEST]), seed=st.integers(0, 9)
)
def test_triplet_is_the_loop(owners: list[int], masked: bool, epoch: int, seed: int) -> None:
    images, captions = pairs(len(owners), seed)
    found = TripletLoss(mask_same_image=masked)(images, captions, torch.tensor(owners), epoch)["loss"]
    expected = triplet_by_loops(images, captions, owners, hardest=epoch == HARDEST, masked=masked)
    check(found, expected + 0 * images.sum(), images, captions)


@given(owners=owner_lists, masked=st.booleans(), epoch=st.sampled_from([ALL_NEGATIVES, HARDEST]))
def test_subspaces_have_a_hinge_each(owners: list[int], masked: bool, epoch: int) -> None:
    first, second = pairs(len(owners), 0), pairs(len(owners), 1)
    sides = [torch.cat([3 * one, other], dim=1) for one, other in zip(first, second, strict=True)]  # of any length
    options = {"mask_same_image": masked}
    found = SubspaceTriplets(dim=10, subspaces=2, **options)(*sides, torch.tensor(owners), epoch)["loss"]
    hinges = [triplet_by_loops(*part, owners, hardest=epoch == HARDEST, masked=masked) for part in (first, second)]
    torch.testing.assert_close(found, sum(hinges))


def test_subspaces_are_of_one_size() -> None:
    with pytest.raises(ConfigError, match=r"objective.subspaces=3 does not divide dim=256 into equal parts"):
        SubspaceTriplets(dim=256, subspaces=3)


@given(owners=owner_lists, masked=st.booleans(), seed=st.integers(0, 9))
def test_infonce_is_the_loop(owners: list[int], masked: bool, seed: int) -> None:
    images, captions = pairs(len(owners), seed)
    found = InfoNCELoss(mask_same_image=masked)(images, captions, torch.tensor(owners), 0)["loss"]
    check(found, infonce_by_loops(images, captions, owners, masked=masked), images, captions)


MEANINGS = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0, 0.1, 1]]), dim=1)


def soft_by_loops(images: Tensor, captions: Tensor, owners: list[int]) -> Tensor:
    """Every query against every candidate: the label's share times the logarithm of label by share."""
    total, everyone = images.new_zeros(()), range(len(owners))
    for query in everyone:
        alike = [math.exp(MEANINGS[owners[query]].double() @ MEANINGS[owners[n]].double() / 0.2) for n in everyone]
        labels = [value / sum(alike) for value in alike]
        for mine, theirs in ((images, captions), (captions, images)):
            powers = torch.stack([(mine[query] @ theirs[n] / 0.05).exp() for n in everyone])
            shares = powers / powers.sum()
            total = total + sum(label * (math.log(label) - shares[n].log()) for n, label in enumerate(labels))
    return total


def soft_labels(**more: Any) -> SoftLabels:
    found = SoftLabels(teacher=lambda *_: MEANINGS, temperature=0.05, label_temperature=0.2, **more)
    found.prepare(["a"] * 4, np.arange(4))
    return found


@given(owners=owner_lists, epoch=st.sampled_from([ALL_NEGATIVES, HARDEST]), seed=st.integers(0, 9))
def test_soft_labels_are_the_loop_beside_the_triplet(owners: list[int], epoch: int, seed: int) -> None:
    images, captions = pairs(len(owners), seed)
    numbers = soft_labels(weight=0.3)(images, captions, torch.tensor(owners), epoch)
    hinge = triplet_by_loops(images, captions, owners, hardest=epoch == HARDEST, masked=False)
    check(numbers["loss"], hinge + 0.3 * soft_by_loops(images, captions, owners), images, captions)
    assert numbers["soft"].item() == pytest.approx(soft_by_loops(images, captions, owners).item() / 2 / len(owners))


def test_soft_labels_of_no_weight_are_the_triplet_and_without_captions_there_are_none() -> None:
    images, captions = pairs(4)
    found = soft_labels(weight=0.0)(images, captions, torch.arange(4), 0)["loss"]
    torch.testing.assert_close(found, TripletLoss()(images, captions, torch.arange(4), 0)["loss"])
    with pytest.raises(RuntimeError, match="need the training captions first"):
        SoftLabels(teacher=lambda *_: MEANINGS)(images, captions, torch.arange(4), 0)
    with pytest.raises(ConfigError, match=r"(?s)weight=-1 must not be negative.*label_temperature=0 must be greater"):
        SoftLabels(teacher=lambda *_: MEANINGS, weight=-1, label_temperature=0)
    with pytest.raises(ConfigError, match=r"objective.rows=64: soft labels compare all pairs of a batch at once"):
        SoftLabels(teacher=lambda *_: MEANINGS, rows=64)


def test_meanings_are_the_means_of_the_sentences_one_by_one() -> None:
    texts, owners = ["a dog runs", "snow", "a brown dog on the grass", "two men in the snow"], np.array([0, 1, 0, 1])
    found = CaptionMeanings()(texts, owners)
    tokenizer, bert = wordpieces("minilm"), pretrained("minilm").eval()
    with torch.no_grad():
        states = [bert(input_ids=tokenizer([text]).values).last_hidden_state[0].mean(dim=0) for text in texts]
    alone = torch.nn.functional.normalize(torch.stack(states), dim=1)
    expected = torch.nn.functional.normalize(
        torch.stack([alone[owners == image].sum(dim=0) for image in (0, 1)]), dim=1
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="image 1 has no caption"):
        CaptionMeanings()(texts[:2], np.array([0, 2]))


@pytest.mark.parametrize("warm_up", [0, 1, 3])
def test_all_negatives_count_while_warming_up(warm_up: int) -> None:
    images, captions = pairs(6)
    loss, owners = TripletLoss(warm_up_epochs=warm_up), torch.arange(6)
    similarity, match = images @ captions.T, torch.eye(6, dtype=torch.bool)
    for epoch in range(5):
        expected = triplet_hinge(similarity, match, margin=0.2, hardest=epoch >= warm_up)
        assert torch.equal(loss(images, captions, owners, epoch)["loss"], expected)


def test_the_temperature_is_learned_and_bounded() -> None:
    images, captions = pairs(4)
    loss = InfoNCELoss(temperature=0.05)
    numbers = loss(images, captions, torch.arange(4), 0)
    torch.testing.assert_close(numbers["temperature"], torch.tensor(0.05))
    numbers["loss"].backward()
    assert loss.log_scale.grad.abs() > 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    bounded = loss(images, captions, torch.arange(4), 0)["loss"]
    loss.log_scale.data.fill_(math.log(100.0))
    torch.testing.assert_close(bounded, loss(images, captions, torch.arange(4), 0)["loss"])


def objective_of(file: Path, **more: Any) -> torch.nn.Module:
    """In the place that it has in a run: a value may come from the primary config."""
    loaded = OmegaConf.load(file)
    bases = [OmegaConf.load(file.with_name(f"{base}.yaml")) for base in loaded.pop("defaults", [])]
    whole = OmegaConf.create({"warm_up_epochs": 1, "dim": 20, "objective": OmegaConf.merge(*bases, loaded)})
    objective = instantiate(whole.objective, **more)
    if hasattr(objective, "prepare"):
        objective.prepare(["a dog", "snow", "two red cars", "a child sings", "a wall"], np.arange(5))
    return objective


@pytest.mark.parametrize("file", OBJECTIVES, ids=lambda file: file.stem)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("epoch", [0, 1.5, 5])
def test_every_objective_is_held_against_equal_embeddings(file: Path, masked: bool, epoch: float) -> None:
    objective, owners = objective_of(file, mask_same_image=masked), torch.tensor([0, 1, 1, 2, 3])
    if isinstance(objective, SoftLabels):  # which want captions of one image equally near to it
        owners = torch.arange(5)

    def share(images: Tensor, captions: Tensor) -> float:
        found = objective(images, captions, owners, epoch)["loss"]
        return loss_over_collapsed(found, objective, images, owners, epoch).item()

    apart, point = torch.eye(5).repeat(1, 4) / 2, torch.nn.functional.normalize(torch.rand(1, 20), dim=1).repeat(5, 1)
    assert share(point, point) == pytest.approx(1, rel=1e-5)
    assert share(apart, apart) < 0.01
    assert share(apart, apart.roll(1, dims=0)) > 1  # everything confused is worse than nothing told apart


def test_where_nothing_is_a_negative_there_is_nothing_to_collapse() -> None:
    images, owners = torch.eye(3), torch.zeros(3)
    share = loss_over_collapsed(torch.tensor(0.0), TripletLoss(mask_same_image=True), images, owners, 0)
    assert share.item() == 0


@pytest.mark.parametrize("file", OBJECTIVES, ids=lambda file: file.stem)
@pytest.mark.parametrize("masked", [False, True])
def test_every_objective_has_finite_gradients_in_hard_corners(file: Path, masked: bool) -> None:
    """One pair, equal embeddings, and nothing but captions of one image."""
    loss = objective_of(file, mask_same_image=masked)
    one, _ = pairs(1)
    for images, owners in ((one, [0]), (one.detach().repeat(4, 1), [0, 1, 2, 3]), (pairs(4)[0], [0, 0, 0, 0])):
        for epoch in (0, 5):
            left, right = (images.detach().repeat(1, 4).requires_grad_() for _ in range(2))
            numbers = loss(left, right, torch.tensor(owners), epoch)
            assert all(value.isfinite() for value in numbers.values())
            numbers["loss"].backward()
            assert left.grad.isfinite().all()
            assert right.grad.isfinite().all()


# ---- losses in blocks


def tied_pairs(owners: list[int], seed: int, *, twins: bool) -> tuple[Tensor, Tensor]:
    """Unit embeddings; as `twins`, those of one owner are equal, so that negatives tie."""
    sides = torch.stack([side.detach() for side in pairs(len(owners), seed)])
    images, captions = sides[:, [owners.index(owner) for owner in owners]] if twins else sides
    return images.requires_grad_(), captions.requires_grad_()


@given(
    make=LOSSES,
    owners=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    rows=st.integers(1, 10),
    masked=st.booleans(),
    twins=st.booleans(),
    epoch=st.sampled_from([ALL_NEGATIVES, HARDEST]),
    seed=st.integers(0, 5),
)
def test_in_blocks_is_at_once(
    make: Callable[..., nn.Module], owners: list[int], rows: int, masked: bool, twins: bool, epoch: int, seed: int
) -> None:
    found: list[Any] = []
    for options in ({}, {"rows": rows}):
        loss = make(mask_same_image=masked, **options).double()
        sides = tied_pairs(owners, seed, twins=twins)
        numbers = loss(*sides, torch.tensor(owners), epoch)
        numbers["loss"].backward()
        found.append([numbers["loss"].detach(), *(side.grad for side in sides), *(p.grad for p in loss.parameters())])
    for at_once, in_blocks in zip(*found, strict=True):
        torch.testing.assert_close(in_blocks, at_once, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("make", [TripletLoss, InfoNCELoss])
@pytest.mark.parametrize("epoch", [ALL_NEGATIVES, HARDEST])
def test_no_matrix_of_all_pairs_is_kept_or_made(make: Callable[..., nn.Module], epoch: int) -> None:
    count, rows = 96, 16
    images, captions = torch.randn(2, count, 4).requires_grad_()
    largest = LargestTensor()
    with largest:
        make(rows=rows)(images, captions, torch.arange(count), epoch)["loss"].backward()
    assert largest.numbers <= rows * count
    with largest:
        make()(images, captions, torch.arange(count), epoch)["loss"].backward()
    assert largest.numbers == count * count


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """How many numbers the largest result of any operation has."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return result


@pytest.mark.parametrize("make", [TripletLoss, InfoNCELoss])
def test_a_block_of_nothing_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"objective.rows=0 must be at least 1; null compares all pairs at once"):
        make(rows=0)
