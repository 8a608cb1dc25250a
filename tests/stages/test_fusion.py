"""VSeM and VSpM against the plain form of the paper: slow, obvious, and equal."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.fusion.activations import Sigmoid, Softmax
from threeshnet.fusion.place_attention import attend_places
from threeshnet.fusion.semantic import SemanticFusion
from threeshnet.fusion.spatial import SpatialFusion
from threeshnet.nn.positions import sinusoidal
from threeshnet.records import ImageBatch, TokenSet

CLASSES, DIM, TOKENS = 5, 8, 3
EXACT = {"atol": 1e-9, "rtol": 1e-9}


def a_batch(count: int, seed: int = 0) -> tuple[TokenSet, ImageBatch]:
    """`count` photos with 1 to 3 tokens and a map with void cells, in float64."""
    torch.manual_seed(seed)
    mask = torch.arange(TOKENS) <= torch.arange(count).unsqueeze(1) % TOKENS
    seg_map = torch.randint(0, CLASSES, (count, 64, 64), dtype=torch.uint8)
    seg_map[:, :9] = seg_map[:, :1, :1]  # a patch of one class, as photos have
    seg_map[:, 20:23, 5:9] = 255
    semantic = torch.rand(count, CLASSES, 7, 7, dtype=torch.float64).softmax(dim=1)
    tokens = TokenSet(torch.randn(count, TOKENS, DIM, dtype=torch.float64, requires_grad=True), mask)
    return tokens, ImageBatch(tokens, None, semantic, seg_map, None)


def zero(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.unsqueeze(-1), values, torch.zeros_like(values))


class PlainSpatial(nn.Module):
    """VSpM written out: one convolution over all 9 channels, nn.BatchNorm2d, softmax attention."""

    def __init__(self, fast: SpatialFusion) -> None:
        super().__init__()
        self.query, self.places, self.out = (copy.deepcopy(part) for part in (fast.query, fast.places, fast.out))

    def forward(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        return self.attend(tokens, images)[0]

    def attend(self, tokens: TokenSet, images: ImageBatch) -> tuple[Tensor, Tensor]:
        numbers = images.seg_map.double()
        numbers[images.seg_map == 255] = self.places.classes
        codes = sinusoidal(4096, 8).T.reshape(1, 8, 64, 64).double()
        channels = torch.cat([numbers.unsqueeze(1), codes.expand(len(numbers), -1, -1, -1)], dim=1)
        places = self.places.norm(self.places.conv(channels)).relu().flatten(2).transpose(1, 2)
        query = self.query(tokens.values)
        attention = (4 * query @ places.transpose(1, 2) / math.sqrt(128)).softmax(dim=-1)
        return self.out(zero(attention @ places, tokens.mask) + query), attention


class PlainSemantic(nn.Module):
    """VSeM written out, photo by photo and token by token where it can be."""

    def __init__(self, fast: SemanticFusion, activation: str) -> None:
        super().__init__()
        self.parts = copy.deepcopy(fast)
        self.activation = activation

    def forward(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        embedded = self.parts.summary(images.seg_semantic.mean(dim=(2, 3)))
        query = self.parts.query(embedded) + embedded
        key = self.parts.key(tokens.values) + tokens.values
        rows = []
        for photo in range(len(query)):
            scores = torch.stack([key[photo, token] @ query[photo] for token in range(TOKENS)]) / math.sqrt(DIM)
            weights = self.weights(scores, tokens.mask[photo])
            high = weights.unsqueeze(-1) * key[photo]
            rows.append(high * torch.tanh(self.parts.gate(high)) + query[photo])
        return F.relu(self.parts.out(zero(torch.stack(rows), tokens.mask)))

    def weights(self, scores: Tensor, real: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return 1 / (1 + torch.exp(-scores))
        powers = torch.exp(4 * scores) * real
        return powers / powers.sum()


def check_equal(fast: nn.Module, plain: nn.Module, tokens: TokenSet, images: ImageBatch, names: dict[str, str]) -> None:
    """Values, the gradients of the tokens and of every weight, and every buffer."""
    values = tokens.values.detach().clone().requires_grad_()
    found, expected = fast(tokens, images), plain(TokenSet(values, tokens.mask), images)
    torch.testing.assert_close(found, expected, **EXACT)
    towards = torch.randn_like(found)
    found.backward(towards)
    expected.backward(towards)
    torch.testing.assert_close(tokens.values.grad, values.grad, **EXACT)
    theirs, buffers = dict(plain.named_parameters()), dict(plain.named_buffers())
    for name, weight in fast.named_parameters():
        torch.testing.assert_close(
            weight.grad, theirs[names.get("", "") + name].grad, **EXACT, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, buffer in fast.named_buffers():
        torch.testing.assert_close(
            buffer, buffers[names.get("", "") + name], **EXACT, msg=lambda m, n=name: f"{n}: {m}"
        )


def spatial(chunk: int = 4) -> SpatialFusion:
    torch.manual_seed(1)
    fast = SpatialFusion(classes=CLASSES, dim=DIM, images_per_chunk=chunk).double()
    nn.init.uniform_(fast.places.norm.weight, 0.5, 1.5)
    nn.init.normal_(fast.places.norm.bias)
    return fast


@pytest.mark.parametrize(("count", "chunk"), [(1, 4), (2, 1), (3, 2), (4, 4), (5, 3), (5, 100)])
def test_vspm_is_the_plain_form_in_training(count: int, chunk: int) -> None:
    fast = spatial(chunk)
    plain = PlainSpatial(fast)
    for step in range(2):  # the second with running statistics that have moved
        tokens, images = a_batch(count, seed=step)
        check_equal(fast, plain, tokens, images, {})
    assert fast.places.norm.num_batches_tracked == 2


@pytest.mark.parametrize("count", [1, 3])
def test_vspm_is_the_plain_form_in_evaluation(count: int) -> None:
    fast = spatial(chunk=2)
    fast(*a_batch(4))
    fast.zero_grad()
    fast.eval()
    plain = PlainSpatial(fast).eval()
    before = copy.deepcopy(dict(fast.named_buffers()))
    tokens, images = a_batch(count, seed=3)
    check_equal(fast, plain, tokens, images, {})
    assert all(torch.equal(before[name], buffer) for name, buffer in fast.named_buffers())
    torch.testing.assert_close(fast.attention(tokens, images), plain.attend(tokens, images)[1], **EXACT)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_attention_over_places_has_the_right_gradient(chunk: int) -> None:
    torch.manual_seed(0)
    query, near = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 5, 3, dtype=torch.float64)
    slope, shift = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for tensor in (query, slope, shift):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(attend_places, (query, near, slope, shift, chunk))
    assert torch.equal(attend_places(query, near, slope, shift, chunk), attend_places(query, near, slope, shift, 1))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_vspm_trains_in_mixed_precision(precision: torch.dtype) -> None:
    fast, (tokens, images) = spatial().float(), a_batch(3)
    tokens = TokenSet(tokens.values.detach().float().requires_grad_(), tokens.mask)
    expected = fast(tokens, images)
    with torch.autocast("cpu", dtype=precision):
        found = fast(tokens, images)
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
    assert all(weight.grad.isfinite().all() for weight in fast.parameters())


def test_attention_over_places_in_bfloat16_has_nearly_the_same_gradient() -> None:
    torch.manual_seed(0)
    query, near = torch.randn(5, 3, 16), torch.randint(134, (5, 64, 9)).float()
    slope, shift, towards = torch.randn(9, 16) / 40, torch.randn(64, 16), torch.randn(5, 3, 16)

    def gradients(half: bool) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (query, slope, shift)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            result = attend_places(leaves[0], near, *leaves[1:], 2)
        assert result.dtype == torch.float32
        (result * towards).sum().backward()
        return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    for exact, rounded in zip(gradients(half=False), gradients(half=True), strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()


def semantic(activation: str) -> SemanticFusion:
    torch.manual_seed(1)
    chosen = Sigmoid() if activation == "sigmoid" else Softmax()
    fast = SemanticFusion(classes=CLASSES, dim=DIM, activation=chosen).double()
    fast.summary.dropout.p = 0.0
    return fast


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("training", [True, False])
def test_vsem_is_the_plain_form(activation: str, training: bool) -> None:
    fast = semantic(activation).train(training)
    plain = PlainSemantic(fast, activation).train(training)
    check_equal(fast, plain, *a_batch(5), {"": "parts."})
