"""A batch in chunks against the same batch at once: embeddings, gradients, statistics, random numbers, memory."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from threeshnet.errors import ConfigError
from threeshnet.nn.mlp import MLP
from threeshnet.nn.synchronized_batchnorm import SharedStatistics
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.training.large_batch import ChunkedEncoder
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization
from threeshnet.training.synchronize import synchronize

CONF = Path(__file__).parents[2] / "conf"
SIZES = ["sizes.region_width=6", "sizes.grid_width=5", "sizes.classes=4", "dim=12"]
PAIRS = 7


@cache
def _encoder(dropout: bool) -> nn.Module:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose("train", ["experiment=region_demo", *SIZES])
    torch.manual_seed(0)
    built = instantiate(settings.features.image_encoder).double()
    for part in built.modules():
        if isinstance(part, nn.Dropout) and not dropout:
            part.p = 0.0
    return built


def encoder(*, dropout: bool = False) -> nn.Module:
    return copy.deepcopy(_encoder(dropout))


def photos() -> ImageBatch:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.randint(1, 5, (PAIRS, 1), generator=draw)
    mask[0] = True
    regions = torch.rand(PAIRS, 4, 6, generator=draw).double() * mask.unsqueeze(-1)
    semantic = torch.rand(PAIRS, 4, 7, 7, generator=draw).double().softmax(dim=1)
    seg_map = torch.randint(0, 4, (PAIRS, 64, 64), generator=draw, dtype=torch.uint8)
    return ImageBatch(TokenSet(regions, mask), None, semantic, seg_map, torch.ones(PAIRS, 4).double())


def chunked(plain: nn.Module, rows: int) -> ChunkedEncoder:
    return ChunkedEncoder(synchronize(copy.deepcopy(plain)), rows=rows)


def loss_of(embeddings: Tensor) -> Tensor:
    """Every embedding meets every other, as in the objectives."""
    weights = torch.linspace(-1, 1, PAIRS * PAIRS, dtype=embeddings.dtype).view(PAIRS, PAIRS)
    return ((embeddings @ embeddings.T) * weights).exp().sum()


@pytest.mark.parametrize("rows", [3, PAIRS])
def test_the_step_in_chunks_is_the_step_at_once(rows: int) -> None:
    plain, images = encoder(), photos()
    some = chunked(plain, rows)
    expected, found = plain(images), some(images)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    loss_of(expected).backward()
    loss_of(found).backward()
    weights = dict(some.encoder.named_parameters())
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(weights[name].grad, weight.grad, atol=1e-10, rtol=1e-7)
    buffers = dict(some.encoder.named_buffers())
    for name, buffer in plain.named_buffers():  # moved once, though every layer was asked many times
        torch.testing.assert_close(buffers[name], buffer, atol=1e-12, rtol=1e-10)


def test_every_layer_is_in_the_level_that_it_looks_through() -> None:
    some = chunked(encoder(), 3)
    some(photos())
    names = {layer: name for name, layer in some.layers.items()}
    levels = [[names[layer] for layer in level] for level in some._levels or []]
    assert [len(level) for level in levels] == [6, 1, 1]
    assert levels[1:] == [["parts.fused.fusions.spatial.out.norm"], ["parts.fused.mlp.norm"]]


def test_a_chunk_draws_the_same_numbers_every_time() -> None:
    """With dropout the gradient is that of the loss as it was drawn: differences quotients of it say the same."""
    some, images = chunked(encoder(dropout=True), 3), photos()

    def loss() -> Tensor:
        torch.manual_seed(5)
        return loss_of(some(images))

    found = loss()
    found.backward()
    generator = torch.Generator().manual_seed(0)
    weights = [weight for weight in some.encoder.parameters() if weight.grad is not None]
    ways = [torch.randn(weight.shape, generator=generator, dtype=weight.dtype) for weight in weights]
    grads = [weight.grad for weight in weights if weight.grad is not None]
    slope = sum(float((grad * way).sum()) for grad, way in zip(grads, ways, strict=True))
    sides = []
    with torch.no_grad():
        for sign in (1, -2):  # a step forwards, and two back
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=sign * 1e-7)
            sides.append(loss().item())
    assert (sides[0] - sides[1]) / 2e-7 == pytest.approx(slope, rel=1e-4)
    torch.manual_seed(6)
    assert loss_of(some(images)).item() != pytest.approx(found.item(), rel=1e-6)  # dropout is on


class Deep(nn.Module):
    """Layers whose activations outweigh everything else; the second one looks through the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(MLP(width=8, hidden=64, out=8) for _ in range(2)))

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values).mean(dim=1)


def kept(encode: Any, values: Tensor) -> int:
    """Bytes that autograd keeps for the gradient, inputs not counted."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != values.untyped_storage().data_ptr():
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = encode(values)
    assert result.requires_grad
    return sum(storages.values())


def test_only_embeddings_are_kept() -> None:
    values, plain = torch.rand(64, 20, 8), Deep()
    whole = kept(plain, values)
    assert kept(chunked(plain, 8), values) < whole / 20


def nodes(result: Tensor) -> int:
    """Steps of the graph behind a result, which are memory too."""
    assert result.grad_fn is not None
    found, ahead = set(), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead.extend(before for before, _ in node.next_functions if before is not None)
    return len(found)


def test_the_graph_of_a_chunk_is_not_kept() -> None:
    """A checkpoint forgets activations and keeps every step of GPO's GRU: 4 MB a chunk, whatever D is."""
    plain, images = encoder(), photos()
    weights = len(list(plain.parameters()))
    few, many = (nodes(chunked(plain, rows)(images)) for rows in (PAIRS, 1))
    assert few > weights
    assert many - few < 20 * PAIRS  # a node for each chunk and level, and the slices of what it returns
    assert nodes(plain(images)) > 2 * few


def test_an_encoder_without_batchnorm_takes_no_further_pass() -> None:
    calls: list[int] = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(len(input))
            return super().forward(input)

    encode = ChunkedEncoder(Counting(4, 4), rows=3)
    encode(torch.rand(8, 4)).sum().backward()
    assert calls[:3] == [3, 3, 2]
    assert sorted(calls[3:]) == [2, 3, 3]  # again, for the gradient


def test_layers_that_are_not_reached_do_no_harm() -> None:
    class Half(Deep):
        def forward(self, values: Tensor) -> Tensor:
            return self.layers[0](values).mean(dim=1)

    some = chunked(Half(), 4)
    some(torch.rand(8, 3, 8)).sum().backward()
    assert [len(level) for level in some._levels or []] == [1]
    assert isinstance(some.encoder.get_submodule("layers.1.norm"), SharedStatistics)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimization.chunk=0 must be at least 1; null encodes the whole batch"):
        RetrievalModule(
            model=nn.Module(),  # pyright: ignore[reportArgumentType]
            objective=nn.Module(),
            optimization=Optimization(torch.optim.SGD, torch.optim.lr_scheduler.StepLR, 1.0, 1.0),
            chunk=0,
        )
