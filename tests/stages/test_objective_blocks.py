"""Losses in blocks against the same losses at once: values, gradients with ties, temperature, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from threeshnet.errors import ConfigError
from threeshnet.objectives.infonce import InfoNCELoss
from threeshnet.objectives.triplet import TripletLoss

ALL_NEGATIVES, HARDEST = 0, 1  # epochs
LOSSES = st.sampled_from([TripletLoss, InfoNCELoss])


def pairs(owners: list[int], seed: int, *, twins: bool) -> tuple[Tensor, Tensor]:
    """Unit embeddings; as `twins`, those of one owner are equal, so that negatives tie."""
    draw = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, len(owners), 4, generator=draw, dtype=torch.float64)
    if twins:
        sides = sides[:, [owners.index(owner) for owner in owners]]
    images, captions = nn.functional.normalize(sides, dim=-1)
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
        sides = pairs(owners, seed, twins=twins)
        numbers = loss(*sides, torch.tensor(owners), epoch)
        numbers["loss"].backward()
        found.append([numbers["loss"].detach(), *(side.grad for side in sides), *(p.grad for p in loss.parameters())])
    for at_once, in_blocks in zip(*found, strict=True):
        torch.testing.assert_close(in_blocks, at_once, atol=1e-9, rtol=1e-9)


def test_equal_hardest_negatives_in_other_blocks_share_the_gradient() -> None:
    """One image three times: alone in a block it would take all of a caption's gradient."""
    images = nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.9, 0.6], [0.9, 0.6], [0.9, 0.6]]).double(), dim=1)
    grads = []
    for rows in (None, 1):
        left = images.clone().requires_grad_()
        TripletLoss(rows=rows)(left, images, torch.arange(4), HARDEST)["loss"].backward()
        grads.append(left.grad)
    torch.testing.assert_close(*grads)


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
