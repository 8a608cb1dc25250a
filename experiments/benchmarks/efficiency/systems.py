"""The three systems with random weights, and made-up photos and sentences in COCO's shapes to feed them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.functional import normalize

from threeshnet.encoders.text.bert import BertTextEncoder
from threeshnet.nn.masking import unit
from threeshnet.records import MAP_SIDE, SCENE_SIDE, ImageBatch, TokenSet

from ..common import composed, text_overrides

THREE, VSE, CROSS = "3SHNet", "VSE-infinity", "cross-attention"
OVERRIDES = {THREE: [], VSE: ["fusion=[]", "parts=[local]"]}
TEXTS = ("tiny", "small", "minilm", "bert_base")
VOCABULARY = (1_000, 30_000)  # wordpieces that are words
SHORTEST, LONGEST = 8, 20  # wordpieces of a sentence
OCCURS = 0.05  # share of the classes that occur in a photo


class EveryToken(nn.Module):
    """No pooling: every token stays, for a scorer that compares tokens."""

    def forward(self, tokens: TokenSet) -> Tensor:
        """[B, N, D] -> [B, N, D]"""
        return tokens.values


class Encoders:
    """What each system makes of photos and of sentences, built when it is asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def images(self, system: str, batch: ImageBatch) -> Tensor:
        """Embeddings [B, D], or [B, R, D] for the cross-attention, which has one linear map a region as SCAN has."""
        if system != CROSS:
            return self.guided(batch) if system == THREE else self.plain(batch)
        assert batch.regions is not None
        return unit(self.plain.project.linear(batch.regions.values))

    def sentences(self, system: str, batch: TokenSet) -> Tensor:
        """Embeddings [B, D], or [B, L, D] for the cross-attention."""
        return (self.words if system == CROSS else self.text)(batch)

    @cached_property
    def guided(self) -> Any:
        return instantiate(self._config(THREE).features.image_encoder).eval()

    @cached_property
    def plain(self) -> Any:
        return instantiate(self._config(VSE).features.image_encoder).eval()

    @cached_property
    def text(self) -> Any:
        return instantiate(self._config(THREE).text.encoder).eval()

    @cached_property
    def words(self) -> BertTextEncoder:
        """The same BERT, a unit vector for each wordpiece."""
        return BertTextEncoder(bert=self.text.bert, dim=self.options.dim, pooling=EveryToken(), pretrained=False).eval()

    def _config(self, system: str) -> Any:
        named = ["experiment=region_coco", f"dim={self.options.dim}", *text_overrides(self.options.text)]
        sizes = {"region_width": self.options.region_width, "classes": self.options.classes}
        cfg = composed(*named, *OVERRIDES[system], **sizes)
        torch.manual_seed(0)
        return cfg


def photos(count: int, options: argparse.Namespace) -> list[ImageBatch]:
    """`count` photos in batches."""
    draw = torch.Generator().manual_seed(1)
    sizes = [len(part) for part in torch.arange(count).split(options.batch)]
    return [_photos(size, options, draw) for size in sizes]


def _photos(count: int, options: argparse.Namespace, draw: torch.Generator) -> ImageBatch:
    classes = options.classes
    regions = torch.rand(count, options.regions, options.region_width, generator=draw)
    return ImageBatch(
        regions=TokenSet(regions, torch.ones(count, options.regions).bool()),
        grid=None,
        seg_semantic=torch.rand(count, classes, SCENE_SIDE, SCENE_SIDE, generator=draw).softmax(dim=1),
        seg_map=torch.randint(classes, (count, MAP_SIDE, MAP_SIDE), generator=draw).to(torch.uint8),
        seg_categories=(torch.rand(count, classes, generator=draw) < OCCURS).float(),
    )


def sentences(count: int, options: argparse.Namespace) -> list[TokenSet]:
    """Wordpiece ids of `count` sentences in batches, shortest first, as the suite encodes them."""
    draw = torch.Generator().manual_seed(2)
    return [_sentences(part, draw) for part in lengths(count, draw).split(options.batch)]


def _sentences(words: Tensor, draw: torch.Generator) -> TokenSet:
    mask = real(words)
    return TokenSet(torch.randint(*VOCABULARY, mask.shape, generator=draw) * mask, mask)


def lengths(count: int, draw: torch.Generator) -> Tensor:
    """Wordpieces of each sentence, [count], ascending."""
    return torch.randint(SHORTEST, LONGEST + 1, (count,), generator=draw).sort().values


def real(words: Tensor) -> Tensor:
    """Which places hold a wordpiece, [count, longest] bool, from the lengths [count].

    >>> real(torch.tensor([1, 2]))
    tensor([[ True, False],
            [ True,  True]])
    """
    return torch.arange(int(words.max())) < words.unsqueeze(1)


def unit_vectors(shape: Sequence[int], seed: int) -> Tensor:
    """Random embeddings [*shape]: what they are does not change how long it takes to compare them."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn, dim=-1, out=drawn)


def word_vectors(count: int, dim: int) -> TokenSet:
    """Random words [count, L, D] of sentences, shortest first."""
    mask = real(lengths(count, torch.Generator().manual_seed(3)))
    return TokenSet(unit_vectors([*mask.shape, dim], seed=4), mask)
