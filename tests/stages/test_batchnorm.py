"""Statistics of a batch that lies in several places, against BatchNorm over the whole of it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.nn.mlp import MLP
from threeshnet.nn.synchronized_batchnorm import SynchronizedBatchNorm
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.synchronize import SynchronizedPlaces, synchronize, widen, widths


def rows(count: int, width: int = 5, dtype: torch.dtype = torch.float64, offset: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count), dtype=dtype) + offset


def check_same(shared: nn.Module, plain: nn.Module, given: Tensor, *, atol: float, rtol: float) -> None:
    """Outputs, gradients of input and weights, and buffers, for two steps and in evaluation mode."""
    for _ in range(2):
        inputs = given.clone().requires_grad_(), given.clone().requires_grad_()
        found, expected = shared(inputs[0]), plain(inputs[1])
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
        asked = torch.linspace(-1, 2, expected.numel(), dtype=expected.dtype).view_as(expected)
        for module, output in ((shared, found), (plain, expected)):
            module.zero_grad()
            (output * asked).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=atol, rtol=rtol)
        for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, atol=atol, rtol=rtol)
    for mine, theirs in zip(shared.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=rtol)
    torch.testing.assert_close(shared.eval()(given), plain.eval()(given), atol=atol, rtol=rtol)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_in_one_process_it_is_batchnorm(options: dict) -> None:
    plain = nn.BatchNorm1d(5, **options).double()
    shared = SynchronizedBatchNorm.of(copy.deepcopy(plain))
    assert list(shared.state_dict()) == list(plain.state_dict())
    check_same(shared, plain, rows(9), atol=1e-12, rtol=1e-10)


def test_values_far_from_zero_lose_nothing_and_halves_are_not_summed_in_halves() -> None:
    """float32 rows whose mean is 10,000 times their spread: squares of them would cancel to nothing."""
    values = rows(64, offset=1e4).float()
    exact = nn.BatchNorm1d(5).double()(values.double())
    assert (SynchronizedBatchNorm(5)(values) - exact).abs().max() < 0.02
    halves = rows(4096, dtype=torch.float32, offset=3.0).bfloat16()
    found = SynchronizedBatchNorm(5)(halves)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, nn.BatchNorm1d(5)(halves.float()).bfloat16(), atol=2e-2, rtol=2e-2)


@given(shares=st.lists(st.integers(1, 9), min_size=1, max_size=5), offset=st.sampled_from([0.0, 300.0]))
def test_summaries_of_shares_merge_into_that_of_the_whole(shares: list[int], offset: float) -> None:
    layer = SynchronizedBatchNorm(5).double()
    whole = rows(sum(shares), offset=offset)
    asked: list[Tensor] = []

    def keep(_: object, summary: Tensor) -> Tensor:
        asked.append(summary)
        return summary

    layer.exchange = keep
    for share in [*whole.split(shares), whole]:
        layer(share)
    torch.testing.assert_close(layer.merge(torch.stack(asked[:-1])), asked[-1], atol=1e-9, rtol=1e-10)


def maps(count: int) -> Tensor:
    found = torch.randint(0, 7, (count, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    found[:, :5] = 255
    return found


def places_and_gradients(encoder: PlaceEncoder, seg_map: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    places = encoder(seg_map)
    (places * torch.linspace(0, 1, places.shape[-1])).square().sum().backward()
    found = {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}
    return {"places": places.detach()} | found | dict(encoder.named_buffers())


def test_places_have_the_statistics_of_all_photos() -> None:
    """The running variance is the unbiased one, and the 4096 positions of every photo count."""
    torch.manual_seed(0)
    plain = PlaceEncoder(classes=7).double()
    shared = SynchronizedPlaces.of(copy.deepcopy(plain))
    found, expected = places_and_gradients(shared, maps(3)), places_and_gradients(plain, maps(3))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=1e-8, rtol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
    whole = SynchronizedPlaces.of(plain)
    asked: list[Tensor] = []
    whole.exchange = lambda _, summary: (asked.append(summary), summary)[1]
    for part in (maps(3)[:1], maps(3)[1:], maps(3)):
        whole(part)
    torch.testing.assert_close(whole.merge(torch.stack(asked[:2])), asked[2], rtol=0, atol=0)  # whole numbers: exact


def test_every_batchnorm_is_replaced_with_its_weights() -> None:
    model = nn.ModuleDict({"mlp": MLP(width=4, hidden=3, out=2), "deep": nn.Sequential(PlaceEncoder(classes=3))})
    before, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    assert synchronize(model) is model
    assert torch.equal(torch.get_rng_state(), generator)
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(SynchronizedBatchNorm) == kinds.count(SynchronizedPlaces) == 1
    assert nn.BatchNorm1d not in kinds
    assert {id(weight) for weight in model.parameters()} == {id(weight) for weight in before}
    assert list(model.state_dict()) == list(state)
    synchronize(model)  # again changes nothing
    assert [type(part) for part in model.modules()] == kinds


def test_a_batch_is_widened_with_padding_alone() -> None:
    values, mask = torch.rand(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]])
    images = ImageBatch(TokenSet(values, mask), None, None, None, None)
    captions = TokenSet(torch.tensor([[5, 6], [7, 0]]), torch.tensor([[True, True], [True, False]]))
    batch = Batch(images, captions, torch.arange(2), torch.arange(2))
    assert widths(batch) == [3, 0, 2]
    wide = widen(batch, [5, 0, 2])
    assert widths(wide) == [5, 0, 2]
    assert torch.equal(wide.images.regions.values[:, :3], values)
    assert wide.images.regions.values[:, 3:].abs().sum() == 0
    assert torch.equal(wide.images.regions.mask, torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1))
    assert wide.captions is batch.captions
    assert torch.equal(widen(batch, [3, 0, 4]).captions.values, torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]]))
