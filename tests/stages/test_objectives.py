"""Losses against loops over queries and negatives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from threeshnet.objectives.collapse import loss_over_collapsed
from threeshnet.objectives.infonce import InfoNCELoss
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


owner_lists = st.lists(st.integers(0, 3), min_size=1, max_size=7)


@given(
    owners=owner_lists, masked=st.booleans(), epoch=st.sampled_from([ALL_NEGATIVES, HARDEST]), seed=st.integers(0, 9)
)
def test_triplet_is_the_loop(owners: list[int], masked: bool, epoch: int, seed: int) -> None:
    images, captions = pairs(len(owners), seed)
    found = TripletLoss(mask_same_image=masked)(images, captions, torch.tensor(owners), epoch)["loss"]
    expected = triplet_by_loops(images, captions, owners, hardest=epoch == HARDEST, masked=masked)
    check(found, expected + 0 * images.sum(), images, captions)


@given(owners=owner_lists, masked=st.booleans(), seed=st.integers(0, 9))
def test_infonce_is_the_loop(owners: list[int], masked: bool, seed: int) -> None:
    images, captions = pairs(len(owners), seed)
    found = InfoNCELoss(mask_same_image=masked)(images, captions, torch.tensor(owners), 0)["loss"]
    check(found, infonce_by_loops(images, captions, owners, masked=masked), images, captions)


@pytest.mark.parametrize("warm_up", [0, 1, 3])
def test_all_negatives_count_while_warming_up(warm_up: int) -> None:
    images, captions = pairs(6)
    loss, owners = TripletLoss(warm_up_epochs=warm_up), torch.arange(6)
    similarity, match = images @ captions.T, torch.eye(6, dtype=torch.bool)
    for epoch in range(5):
        expected = triplet_hinge(similarity, match, margin=0.2, hardest=epoch >= warm_up)
        assert torch.equal(loss(images, captions, owners, epoch)["loss"], expected)


def test_captions_of_one_image_are_negatives_unless_masked() -> None:
    images, captions = pairs(3)
    images, captions = images[[0, 0, 1]], captions[[0, 2, 1]]
    for make in (TripletLoss, InfoNCELoss):
        owners = torch.tensor([0, 0, 1])
        plain, masked = (make(mask_same_image=mask)(images, captions, owners, 0)["loss"] for mask in (False, True))
        assert masked < plain
        distinct = make(mask_same_image=True)(images, captions, torch.arange(3), 0)["loss"]
        torch.testing.assert_close(distinct, plain)


def test_the_triplet_sum_grows_with_the_batch() -> None:
    """Summed, not averaged: twice the same pairs apart from each other are twice the loss of the hardest."""
    similarity = torch.tensor([[0.5, 0.6], [0.4, 0.5]])
    one = triplet_hinge(similarity, torch.eye(2).bool(), margin=0.2, hardest=True)
    two = torch.full((4, 4), -1.0)
    two[:2, :2] = two[2:, 2:] = similarity
    torch.testing.assert_close(triplet_hinge(two, torch.eye(4).bool(), margin=0.2, hardest=True), 2 * one)


def test_the_temperature_is_learned_and_bounded() -> None:
    images, captions = pairs(4)
    loss = InfoNCELoss(temperature=0.05)
    numbers = loss(images, captions, torch.arange(4), 0)
    torch.testing.assert_close(numbers["temperature"], torch.tensor(0.05))
    numbers["loss"].backward()
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad.abs() > 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    bounded = loss(images, captions, torch.arange(4), 0)["loss"]
    loss.log_scale.data.fill_(math.log(100.0))
    torch.testing.assert_close(bounded, loss(images, captions, torch.arange(4), 0)["loss"])


def objective_of(file: Path, **more: Any) -> torch.nn.Module:
    """In the place that it has in a run: a value may come from the primary config."""
    whole = OmegaConf.create({"warm_up_epochs": 1, "objective": OmegaConf.load(file)})
    return instantiate(whole.objective, **more)


@pytest.mark.parametrize("file", OBJECTIVES, ids=lambda file: file.stem)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("epoch", [0, 1.5, 5])
def test_every_objective_is_held_against_equal_embeddings(file: Path, masked: bool, epoch: float) -> None:
    objective, owners = objective_of(file, mask_same_image=masked), torch.tensor([0, 1, 1, 2, 3])

    def share(images: Tensor, captions: Tensor) -> float:
        found = objective(images, captions, owners, epoch)["loss"]
        return loss_over_collapsed(found, objective, images, owners, epoch).item()

    apart, point = torch.eye(5), torch.nn.functional.normalize(torch.rand(1, 5), dim=1).repeat(5, 1)
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
            left, right = images.detach().clone().requires_grad_(), images.detach().clone().requires_grad_()
            numbers = loss(left, right, torch.tensor(owners), epoch)
            assert all(value.isfinite() for value in numbers.values())
            numbers["loss"].backward()
            assert left.grad is not None
            assert right.grad is not None
            assert left.grad.isfinite().all()
            assert right.grad.isfinite().all()
