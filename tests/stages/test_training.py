"""Parameter groups, and embeddings of a split gathered from all processes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from threeshnet.errors import DataError
from threeshnet.training.encoding import Collector, in_order
from threeshnet.training.schedules import parameter_groups

# ---- parameter groups


class Text(nn.Module):
    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        self.bert, self.linear = nn.Linear(3, 3), nn.Linear(3, 2)
        self.pretrained_part = self.bert if pretrained else None


def names_of(group: dict[str, Any], module: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_the_pretrained_part_learns_slowly() -> None:
    both = nn.ModuleDict({"image": nn.Linear(2, 2), "text": Text(pretrained=True)})
    new, old = parameter_groups(both, learning_rate=1e-3, pretrained_factor=0.1)
    assert names_of(old, both) == {"text.bert.weight", "text.bert.bias"}
    assert names_of(new, both) == {f"{part}.{kind}" for part in ("image", "text.linear") for kind in ("weight", "bias")}
    assert (new["lr"], old["lr"]) == (1e-3, pytest.approx(1e-4))
    assert len(new["params"]) + len(old["params"]) == len(list(both.parameters()))


def test_one_group_without_a_pretrained_part_and_nothing_frozen_in_it() -> None:
    both = nn.ModuleDict({"image": nn.Linear(2, 2), "text": Text(pretrained=False)})
    (group,) = parameter_groups(both, learning_rate=1e-3, pretrained_factor=0.1)
    assert len(group["params"]) == len(list(both.parameters()))
    text = Text(pretrained=True)
    text.bert.requires_grad_(False)
    text.linear.bias.requires_grad_(False)
    (group,) = parameter_groups(text, learning_rate=1.0, pretrained_factor=0.1)
    assert names_of(group, text) == {"linear.weight"}


# ---- gathering


@given(data=st.data(), items=st.integers(1, 12))
def test_every_item_once_in_its_place(data: st.DataObject, items: int) -> None:
    """Dealt out in any order, in any number of parts, some of them twice."""
    numbers = data.draw(st.permutations(range(items))) + data.draw(st.lists(st.integers(0, items - 1), max_size=5))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=3)))
    parts = [torch.tensor(part, dtype=torch.long) for part in _cut(numbers, cuts)]
    found = in_order([(part.float().unsqueeze(1) * 10, part) for part in parts], items)
    assert found.flatten().tolist() == [10.0 * number for number in range(items)]


def _cut(numbers: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *cuts, len(numbers)]
    return [numbers[start:stop] for start, stop in pairwise(edges)]


def test_an_item_that_is_missing_is_named() -> None:
    collector = Collector()
    collector.add(torch.rand(2, 3), torch.tensor([0, 2]))
    with pytest.raises(DataError, match="2 of 4 items were not encoded, the first of them number 1"):
        collector.gather(4)
    with pytest.raises(DataError, match="3 of 3"):
        Collector().gather(3)


def test_what_is_collected_is_detached_float32_in_main_memory() -> None:
    collector = Collector()
    collector.add(torch.rand(2, 3, dtype=torch.bfloat16, requires_grad=True), torch.tensor([1, 0]))
    gathered = collector.gather(2)
    assert (gathered.dtype, gathered.requires_grad, gathered.device.type) == (torch.float32, False, "cpu")
