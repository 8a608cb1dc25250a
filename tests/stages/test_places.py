"""Places with class vectors and with rows and columns, and MLPs that leave padding out: against their plain forms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.fusion.embedded_places import EmbeddedPlaces
from threeshnet.fusion.place_attention import attend_places
from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.nn.mlp import MLP
from threeshnet.nn.positions import rows_and_columns
from threeshnet.training.chunks import ChunkedEncoder
from threeshnet.training.synchronize import SynchronizedPlaces, synchronize

CLASSES = 5
EXACT = {"atol": 1e-9, "rtol": 1e-9}


def maps(count: int) -> Tensor:
    found = torch.randint(
        0, CLASSES, (count, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    found[:, :5] = 255
    return found


def embedded(**options: bool) -> EmbeddedPlaces:
    torch.manual_seed(0)
    made = EmbeddedPlaces(classes=CLASSES, class_width=3, **options).double()
    nn.init.uniform_(made.norm.weight, 0.5, 1.5)
    return made


def plain_places(encoder: PlaceEncoder, seg_map: Tensor) -> Tensor:
    """One convolution over all channels and nn.BatchNorm2d."""
    cells = torch.where(seg_map == 255, CLASSES, seg_map.long())
    if isinstance(encoder, EmbeddedPlaces):
        classes = encoder.embedding.weight[cells].permute(0, 3, 1, 2)
    else:
        classes = cells.double().unsqueeze(1)
    channels = torch.cat([classes, encoder.positions.expand(len(cells), -1, -1, -1)], dim=1)
    return encoder.norm(encoder.conv(channels)).relu().flatten(2).transpose(1, 2)


def results(encoder: PlaceEncoder, places: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    (places * torch.linspace(0, 1, places.shape[-1]).double()).square().sum().backward()
    grads = {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert len(grads) == len(list(encoder.parameters()))
    return {"places": places.detach()} | grads | dict(encoder.named_buffers())


@pytest.mark.parametrize("both", [False, True])
def test_class_vectors_give_the_plain_convolution(both: bool) -> None:
    fast = embedded(rows_and_columns=both)
    plain, shared = copy.deepcopy(fast), SynchronizedPlaces.of(copy.deepcopy(fast))
    expected = results(plain, plain_places(plain, maps(2)))
    for one in (fast, shared):
        found = results(one, one(maps(2)))
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, atol=1e-7, rtol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
            )
    torch.testing.assert_close(fast.eval()(maps(3)), plain_places(plain.eval(), maps(3)), **EXACT)


def test_shares_of_a_batch_agree_on_the_statistics_of_class_vectors() -> None:
    whole = SynchronizedPlaces.of(embedded())
    asked: list[Tensor] = []
    whole.exchange = lambda _, summary: (asked.append(summary), summary)[1]
    for part in (maps(3)[:1], maps(3)[1:], maps(3)):
        whole(part)
    merged = whole.merge(torch.stack(asked[:2]))
    torch.testing.assert_close(merged, asked[2], **EXACT)
    asked_for = torch.linspace(0, 1, merged.numel()).double()
    gradients = [
        torch.autograd.grad((each * asked_for).sum(), whole.embedding.weight)[0] for each in (merged, asked[2])
    ]
    torch.testing.assert_close(*gradients, **EXACT)


def test_rows_and_columns_change_the_positions_and_nothing_else() -> None:
    torch.manual_seed(0)
    paper = PlaceEncoder(classes=CLASSES)
    torch.manual_seed(0)
    other = PlaceEncoder(classes=CLASSES, rows_and_columns=True).double()
    assert paper.state_dict().keys() == other.state_dict().keys()  # the codes are made, not kept
    torch.testing.assert_close(other.conv.weight, paper.conv.weight.double())
    torch.testing.assert_close(other(maps(2)), plain_places(copy.deepcopy(other), maps(2)), atol=1e-7, rtol=1e-7)


def test_codes_of_rows_and_columns_say_row_and_column() -> None:
    codes = rows_and_columns(64, 8)
    assert codes.shape == (8, 64, 64)
    assert torch.equal(codes[:4], codes[:4, :, :1].expand(-1, -1, 64))  # of a row, the same in every column
    assert torch.equal(codes[4:], codes[:4].transpose(1, 2))
    falling = codes[1, :, 0]  # the slowest cosine
    assert (falling.diff() < 0).all()
    assert falling[0] > 0.99
    assert falling[-1] < -0.99
    with pytest.raises(ValueError, match="multiple of 4"):
        rows_and_columns(64, 6)


def test_attention_over_places_has_a_gradient_to_their_classes() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 2, 4), (3, 5, 3), (3, 4), (5, 4))]
    assert torch.autograd.gradcheck(attend_places, (*(tensor.requires_grad_() for tensor in inputs), 2))


# ---- real rows


def sets(padding: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    values, mask = (
        torch.randn(5, 4, 6, generator=draw).double(),
        torch.arange(4) < torch.tensor([[4], [1], [3], [2], [4]]),
    )
    return F.pad(values, (0, 0, 0, padding), value=7.0), F.pad(mask, (0, padding))


def mlp(*, real_rows: bool) -> MLP:
    torch.manual_seed(1)
    return MLP(width=6, hidden=5, out=3, real_rows=real_rows).double()


def test_statistics_are_of_the_real_rows() -> None:
    values, mask = sets()
    layer, plain = mlp(real_rows=True), mlp(real_rows=False)
    found, expected = layer(values, mask), plain(values[mask])  # rows alone, nothing padded
    torch.testing.assert_close(found[mask], expected, **EXACT)
    assert not found[~mask].any()
    found.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **EXACT)
    for one, other in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_how_far_a_batch_is_padded_does_not_matter() -> None:
    results = {}
    for real_rows in (True, False):
        short, long = (mlp(real_rows=real_rows)(*sets(padding))[sets()[1].nonzero(as_tuple=True)] for padding in (0, 3))
        results[real_rows] = bool(torch.allclose(short, long))
    assert results == {True: True, False: False}


def test_the_papers_mlp_does_not_look_at_the_mask() -> None:
    values, mask = sets()
    assert torch.equal(mlp(real_rows=False)(values, mask), mlp(real_rows=False)(values))


class Pooled(nn.Module):
    """An MLP over sets, and the sum of each: one embedding a set."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(real_rows=True)

    def forward(self, items: tuple[Tensor, Tensor]) -> Tensor:
        return self.mlp(*items).sum(dim=1)


class Pair(tuple):
    """What `ChunkedEncoder` cuts: a tuple of tensors, built from its parts."""

    __slots__ = ()

    def __new__(cls, *parts: Tensor) -> Pair:
        return super().__new__(cls, parts)


@pytest.mark.parametrize("rows", [2, 5])
def test_real_rows_in_chunks_are_real_rows_at_once(rows: int) -> None:
    """Chunks hold 5, 5 and 4 real rows: shares of different size, as those of processes are."""
    plain = Pooled()
    some = ChunkedEncoder(synchronize(copy.deepcopy(plain)), rows=rows)
    expected, found = plain(sets()), some(Pair(*sets()))
    torch.testing.assert_close(found, expected, **EXACT)
    expected.square().sum().backward()
    found.square().sum().backward()
    for one, other in zip(some.encoder.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **EXACT)
    for one, other in zip(some.encoder.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
