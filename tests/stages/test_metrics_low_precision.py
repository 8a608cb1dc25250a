"""Ranks counted in low precision are those of float64, whatever the ties, sizes and lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from threeshnet.metrics import low_precision
from threeshnet.metrics.low_precision import LowPrecision, precisions_of, round_embeddings
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity, MatrixSimilarity

PRECISIONS = (torch.bfloat16, torch.float32)


@st.composite
def embeddings(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions and owners: duplicates, and captions that differ in the last bits of their embeddings."""
    images, width = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 7, 33]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    vectors = torch.randn(images, width, generator=generator) + draw(st.sampled_from([0.0, 3.0]))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    vectors[torch.randint(images, (images // 2,), generator=generator)] = vectors[0].clone()
    owner = torch.randint(images, (draw(st.integers(1, 50)),), generator=generator)
    owner = torch.cat([owner, torch.arange(images)])
    captions = vectors[torch.randint(images, owner.shape, generator=generator)]
    bits = torch.randint(2, 26, (len(owner), 1), generator=generator)
    captions = captions * (1 + torch.randn(captions.shape, generator=generator) * 2.0**-bits)
    captions = torch.nextafter(captions, torch.full((), draw(st.sampled_from([-9.0, 9.0]))))
    lengths = draw(st.sampled_from([0.0, 1.0, 8.0])) * torch.randn(len(owner), 1, generator=generator)
    return vectors, captions * lengths.exp2(), owner


@settings(deadline=None, max_examples=60)
@given(case=embeddings(), precision=st.sampled_from(PRECISIONS), block_cells=st.sampled_from([50, 333, 1 << 20]))
def test_ranks_are_those_of_float64(case: tuple[Tensor, Tensor, Tensor], precision: torch.dtype, block_cells: int):
    images, captions, owner = case
    source = EmbeddingSimilarity(images, captions)
    exact = rank_similarity(source, owner, block_cells=block_cells, precisions=[])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MANY": 1.0, "NEAR": 1.0, "NARROWEST": 1}.items():
            patch.setattr(low_precision, name, value)
        found = rank_similarity(source, owner, block_cells=block_cells, precisions=[precision])
    same(found, exact)


def same(found: Ranks, exact: Ranks) -> None:
    assert found.i2t.tolist() == exact.i2t.tolist()
    assert found.t2i.tolist() == exact.t2i.tolist()


def trained(images: int, captions: int, *, width: int = 32, noise: float = 0.1) -> tuple[EmbeddingSimilarity, Tensor]:
    """Embeddings of a good model, and owners."""
    generator = torch.Generator().manual_seed(images)
    vectors = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    owner = torch.arange(captions) % images
    texts = vectors[owner] + noise * torch.randn(captions, width, generator=generator)
    return EmbeddingSimilarity(vectors, torch.nn.functional.normalize(texts, dim=1)), owner


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_cells", [20_000, 77_777])
def test_a_good_models_ranks_need_no_block_in_float64(
    precision: torch.dtype, block_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, owner = trained(331, 997, noise=0.2)
    exact = rank_similarity(source, owner, precisions=[])
    assert exact.t2i.max() > 2
    recounted = []
    cells = source.cells
    monkeypatch.setattr(source, "cells", lambda *numbers: recounted.append(len(numbers[0])) or cells(*numbers))
    monkeypatch.setattr(source, "block", lambda *_: pytest.fail("a block in float64"))
    monkeypatch.setattr(low_precision, "NARROWEST", 1)
    same(rank_similarity(source, owner, block_cells=block_cells, precisions=[precision]), exact)
    assert sum(recounted) < 0.1 * 331 * 997
    if precision == torch.bfloat16:
        assert sum(recounted) > len(owner)  # the captions of the true pairs, and near ties


@pytest.mark.parametrize("case", ["equal", "random", "nothing", "long"])
def test_what_low_precision_cannot_decide_is_counted_in_float64(case: str) -> None:
    source, owner = trained(150, 300, noise={"random": 9.0}.get(case, 0.1))
    if case == "equal":
        source = EmbeddingSimilarity(torch.ones(150, 8), torch.ones(300, 8))
    factor = {"nothing": 0.0, "long": 1e30}.get(case, 1.0)
    source = EmbeddingSimilarity(source.image_embeddings * factor, source.caption_embeddings)
    quick, right = LowPrecision(source, PRECISIONS), source.pairs(owner)
    best = right.new_full((150,), -torch.inf).scatter_reduce(0, owner, right, "amax")
    assert quick.counts(slice(0, 150), slice(0, 300), best, right, (owner, torch.arange(300))) is None
    assert quick.precisions == []  # it is not tried again
    same(rank_similarity(source, owner), rank_similarity(source, owner, precisions=[]))


def test_a_machine_that_breaks_the_bound_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    source, owner = trained(150, 300)
    exact = rank_similarity(source, owner, precisions=[])
    rounded = round_embeddings(source, torch.bfloat16)
    assert rounded is not None
    asked = []
    wrong = rounded._replace(images=rounded.images.roll(1, 0))  # similarities of other images
    monkeypatch.setattr(low_precision, "round_embeddings", lambda *_: asked.append(1) or wrong)
    same(rank_similarity(source, owner, precisions=[torch.bfloat16]), exact)
    assert asked == [1]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_error_is_within_its_bound(precision: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(n, 256, generator=generator) + offset for n in (150, 170))
    captions[:50] = images[:50]
    source = EmbeddingSimilarity(images, captions)
    rounded = round_embeddings(source, precision)
    assert rounded is not None
    exact = source.image_embeddings @ source.caption_embeddings.T
    apart = (rounded.images.double() @ rounded.captions.double().T - exact).abs().max()
    assert 0 <= apart < rounded.error < 0.02 * float(exact.max())
    block = rounded.images @ rounded.captions.T
    low, high = rounded.margins(exact.float())
    assert ((low <= block) & (block <= high)).all()


def test_precisions_are_those_that_this_machine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = trained(2, 2)
    assert precisions_of(MatrixSimilarity(torch.eye(2))) == []
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert precisions_of(source) == ([torch.bfloat16] if has else []) + [torch.float32]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert precisions_of(source) == []
