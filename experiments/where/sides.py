"""Both sides of a small dual encoder over the demo world, learned or exact.

An exact side is told what the learned one has to find out: the scene instead of the pixels, the claims instead of the
sentence. What it says is no more than the truth, in one-hot numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from threeshnet.batches.collate import collate_images
from threeshnet.demo.captions import Caption, Claims
from threeshnet.demo.classes import COLOURS, COLUMNS, ROWS, SIZES, STUFF, TEXTURES, THINGS
from threeshnet.demo.scene import Scene, Thing
from threeshnet.encoders.image import ImageEncoder, TokenProjection
from threeshnet.encoders.parts import LocalTokens
from threeshnet.encoders.text.bert import BertTextEncoder, from_architecture
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.encoders.text.convolution import ConvolutionTextEncoder
from threeshnet.encoders.text.sources import wordpieces
from threeshnet.errors import DataError
from threeshnet.fusion.box_knowledge import BoxGeometry
from threeshnet.nn.masking import unit
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import TokenSet
from threeshnet.shards.reader import ShardedSplit

DIM, REGION_WIDTH, HIDDEN = 128, 1280, 512
BOXES = {"regions": {}, "geometry": {"geometry": BoxGeometry}}
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}


# ---- images


class ExactImages(nn.Module):
    """A token for each thing: its class, looks, column, row and what it stands on; one for the stuff. Pooled by GPO."""

    VALUES = (THINGS, tuple(COLOURS), tuple(SIZES), TEXTURES, COLUMNS, ROWS, STUFF)

    def __init__(self, scenes: Sequence[Scene]) -> None:
        super().__init__()
        self.width = sum(map(len, self.VALUES)) + len(STUFF)
        tokens = [torch.stack([*(self._thing(scene, t) for t in scene.things), self._stuff(scene)]) for scene in scenes]
        lengths = torch.tensor([len(token) for token in tokens])
        self.values = pad_sequence(tokens, batch_first=True)
        self.mask = torch.arange(self.values.shape[1]) < lengths[:, None]
        self.mlp = nn.Sequential(nn.Linear(self.width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM))
        self.pooling = GeneralizedPooling()

    def forward(self, rows: np.ndarray) -> Tensor:
        """Numbers of photos -> embeddings [b, D] of unit length."""
        return unit(self.pooling(TokenSet(self.mlp(self.values[rows]), self.mask[rows])))

    def _thing(self, scene: Scene, thing: Thing) -> Tensor:
        under = scene.under(thing.column, thing.row)
        said = (thing.name, thing.colour, thing.size, thing.texture, thing.column, thing.row, under)
        pairs = zip(said, self.VALUES, strict=True)
        ones = [torch.tensor([float(word == value) for value in values]) for word, values in pairs]
        return torch.cat([*ones, torch.zeros(len(STUFF))])

    def _stuff(self, scene: Scene) -> Tensor:
        there = torch.tensor([float(name in scene.stuff) for name in STUFF])
        return torch.cat([torch.zeros(self.width - len(STUFF)), there])


class Regions(nn.Module):
    """The suite's image side without guidance, on the regions of shards; `boxes` names the code of the boxes."""

    def __init__(self, split: ShardedSplit, boxes: str) -> None:
        super().__init__()
        self.arrays = split.read(list(range(split.images)), ["region"])
        codes = {name: build(dim=DIM) for name, build in BOXES[boxes].items()}
        project, parts = TokenProjection(width=REGION_WIDTH, dim=DIM), {"local": LocalTokens()}
        self.encoder = ImageEncoder(
            source="regions", project=project, parts=parts, pooling=GeneralizedPooling(), boxes=codes
        )

    def forward(self, rows: np.ndarray) -> Tensor:
        return self.encoder(collate_images(self.arrays, rows))


# ---- sentences


class ExactClaims(nn.Module):
    """The sum of a vector for each thing that a sentence claims, such as *ball on the left*."""

    def __init__(self, captions: Sequence[Caption], known: Sequence[Caption]) -> None:
        """`known`: the captions of training; what they never claim has no vector."""
        super().__init__()
        numbers: dict[tuple[str, ...], int] = {}
        for caption in known:
            for fact in facts(caption.claims):
                numbers.setdefault(fact, len(numbers) + 1)
        found = [torch.tensor([numbers.get(fact, 0) for fact in facts(said.claims)]) for said in captions]
        self.facts = pad_sequence(found, batch_first=True)
        self.vectors = nn.EmbeddingBag(len(numbers) + 1, DIM, mode="sum", padding_idx=0)

    def forward(self, rows: np.ndarray) -> Tensor:
        """Numbers of captions -> embeddings [b, D] of unit length."""
        return unit(self.vectors(self.facts[rows]))


def facts(claims: Claims) -> list[tuple[str, ...]]:
    """All that is claimed, one thing at a time."""
    found: list[tuple[str, ...]] = [(name,) for name in claims.stuff]
    for said in claims.mentions:
        looks = [value for value in (said.colour, said.size, said.texture) if value]
        found += [(said.name,), *((said.name, look) for look in looks)]
    found += [(claims.mentions[place.of].name, place.kind, place.value) for place in claims.places]
    for link in claims.relations:
        one, other = claims.mentions[link.one].name, claims.mentions[link.other].name
        found += [(one, link.kind, "something"), ("something", link.kind, other)]
    return found


class Sentences(nn.Module):
    """A text side from scratch: the demo's small BERT, or the suite's BiGRU or convolution."""

    def __init__(self, captions: Sequence[Caption], kind: str) -> None:
        super().__init__()
        self.tokenizer = wordpieces("minilm")
        self.pieces = [encoded.ids for encoded in self.tokenizer.encode([said.sentence for said in captions])]
        words, pooling = len(self.tokenizer), GeneralizedPooling()
        if kind == "bert":
            bert = from_architecture(vocab_size=words, max_position_embeddings=128, **SMALL)
            self.encoder: nn.Module = BertTextEncoder(bert=bert, dim=DIM, pooling=pooling, pretrained=False)
        elif kind == "bigru":
            self.encoder = BiGRUTextEncoder(vocabulary_size=words, dim=DIM, pooling=pooling)
        else:
            self.encoder = ConvolutionTextEncoder(vocabulary_size=words, dim=DIM, pooling=pooling)

    def forward(self, rows: np.ndarray) -> Tensor:
        return self.encoder(self.tokenizer.pad([self.pieces[row] for row in rows]))


def regions(shards: Path, split: str, ids: Sequence[str]) -> ShardedSplit:
    """A split of the shards.  Raises DataError where it holds other photos than these."""
    found = ShardedSplit(shards, split)
    if list(found.image_ids) != list(ids):
        raise DataError(
            f"{shards}: split {split!r} has {found.images} photos, and other ones than the {len(ids)} asked for: "
            "--photos is the data.reader.train that the shards were made with"
        )
    return found
