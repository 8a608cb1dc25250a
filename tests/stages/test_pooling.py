"""GPO against a loop over rows; every pooling is blind to order and padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from threeshnet.nn.positions import sinusoidal
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.pooling.maximum import MaximumPooling
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import TokenSet

EXACT = {"atol": 1e-10, "rtol": 1e-10}
POOLINGS = sorted((Path(__file__).parents[2] / "conf/pooling").glob("*.yaml"))


def a_set(lengths: list[int], longest: int, width: int = 4, seed: int = 0) -> TokenSet:
    torch.manual_seed(seed)
    values = torch.randn(len(lengths), longest, width, dtype=torch.float64)
    return TokenSet(values, torch.arange(longest) < torch.tensor(lengths).unsqueeze(1))


def gpo_of_one(pooling: GeneralizedPooling, tokens: Tensor) -> Tensor:
    """GPO of the real tokens [n, D] of one set, written out: codes, BiGRU, softmax, sum of sorted values."""
    codes = sinusoidal(len(tokens), pooling.code_width).double()
    forward, backward = pooling.gru(codes)[0].chunk(2, dim=-1)
    weights = (pooling.score((forward + backward) / 2).squeeze(-1) / pooling.temperature).softmax(dim=0)
    pooled = []
    for channel in tokens.T:
        ordered = torch.tensor(sorted(channel.tolist(), reverse=True), dtype=torch.float64)
        pooled.append((ordered * weights).sum())
    return torch.stack(pooled)


@pytest.mark.parametrize("lengths", [[3, 7, 3, 1], [7], [1, 1], [2, 5, 6, 5, 2]])
def test_gpo_is_a_loop_over_rows(lengths: list[int]) -> None:
    torch.manual_seed(0)
    pooling, tokens = GeneralizedPooling().double(), a_set(lengths, longest=7)
    expected = torch.stack([gpo_of_one(pooling, row[mask]) for row, mask in zip(*tokens, strict=True)])
    torch.testing.assert_close(pooling(tokens), expected, **EXACT)


def test_the_gradient_of_gpo_is_that_of_the_loop() -> None:
    """The GRU runs once for each distinct length; its gradient counts every row."""
    torch.manual_seed(0)
    pooling, tokens = GeneralizedPooling().double(), a_set([3, 5, 3, 3, 5], longest=5)
    towards = torch.randn(5, 4, dtype=torch.float64)
    pooling(tokens).backward(towards)
    found = {name: weight.grad.clone() for name, weight in pooling.named_parameters()}
    pooling.zero_grad()
    torch.stack([gpo_of_one(pooling, row[mask]) for row, mask in zip(*tokens, strict=True)]).backward(towards)
    for name, weight in pooling.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


def test_gpo_passes_gradcheck() -> None:
    torch.manual_seed(0)
    pooling, tokens = GeneralizedPooling(code_width=4, hidden=3).double(), a_set([2, 3], longest=3, width=2)
    values = tokens.values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: pooling(TokenSet(v, tokens.mask)), (values,))


def test_gpo_learns_between_mean_and_maximum() -> None:
    pooling, tokens = GeneralizedPooling().double(), a_set([4, 2], longest=5)
    with torch.no_grad():
        pooling.score.weight.zero_()  # equal scores: the mean
    torch.testing.assert_close(pooling(tokens), MeanPooling()(tokens), **EXACT)
    weights = pooling.weights(torch.tensor([4, 2]), 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_mean_and_maximum_are_loops() -> None:
    tokens = a_set([3, 1, 5], longest=5)
    rows = [row[mask] for row, mask in zip(*tokens, strict=True)]
    torch.testing.assert_close(MeanPooling()(tokens), torch.stack([row.mean(dim=0) for row in rows]), **EXACT)
    torch.testing.assert_close(MaximumPooling()(tokens), torch.stack([row.amax(dim=0) for row in rows]), **EXACT)


@pytest.mark.parametrize("file", POOLINGS, ids=lambda file: file.stem)
@given(data=st.data())
def test_every_pooling_is_blind_to_order_and_padding(file: Path, data: st.DataObject) -> None:
    torch.manual_seed(0)
    pooling = instantiate(OmegaConf.load(file)).double()
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tokens = a_set(lengths, longest=6, seed=data.draw(st.integers(0, 5)))
    expected = pooling(tokens)
    order = data.draw(st.permutations(range(6)))
    torch.testing.assert_close(pooling(TokenSet(tokens.values[:, order], tokens.mask[:, order])), expected, **EXACT)
    padding = data.draw(st.integers(0, 3))
    junk = data.draw(st.sampled_from([0.0, 1e6, -1e6]))
    padded = TokenSet(F.pad(tokens.values, (0, 0, 0, padding), value=junk), F.pad(tokens.mask, (0, padding)))
    padded.values[~padded.mask] = junk
    torch.testing.assert_close(pooling(padded), expected, **EXACT)
    alone = TokenSet(tokens.values[:1, : lengths[0]], tokens.mask[:1, : lengths[0]])
    torch.testing.assert_close(pooling(alone), expected[:1], **EXACT)


def test_an_empty_set_pools_to_zero() -> None:
    tokens = a_set([0, 2], longest=3)
    for pooling in (GeneralizedPooling().double(), MeanPooling()):
        assert torch.equal(pooling(tokens)[0], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("lengths", "longest"), [([3, 7, 0, 1], 7), ([1], 1), ([37, 122, 100], 131)])
def test_gpo_without_gradient_is_that_with_gradient(dtype: torch.dtype, lengths: list[int], longest: int) -> None:
    """NumPy sorts where no gradient is asked for: the same numbers to the last bit, ties and infinities included."""
    torch.manual_seed(0)
    pooling, (values, mask) = GeneralizedPooling().to(dtype), a_set(lengths, longest, width=5)
    values = values.mul(8).round().div(8).to(dtype)  # many ties
    values[0, 0, :2] = torch.tensor([float("inf"), float("nan")])
    expected = pooling(TokenSet(values.clone().requires_grad_(), mask)).detach()
    before = values.clone()
    for without_gradient in (torch.no_grad, torch.inference_mode):
        with without_gradient():
            found = pooling(TokenSet(values, mask))
        torch.testing.assert_close(found, expected, atol=0.0, rtol=0.0, equal_nan=True)
    torch.testing.assert_close(values, before, atol=0.0, rtol=0.0, equal_nan=True)
