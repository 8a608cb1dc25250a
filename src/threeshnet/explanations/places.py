"""The tokens of one photo that are pooled, and the place in the photo that each belongs to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from threeshnet.encoders.hybrid import HybridEncoder, joined
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.segments import SegmentTokens
from threeshnet.nn.masking import concatenate, unit
from threeshnet.records import MAP_SIDE, SCENE_SIDE, ImageBatch, TokenSet
from threeshnet.shards.reader import cell_boxes

REGION, CELL, SEGMENT, PHOTO = "region", "cell", "segment", "photo"
GLOBAL = "category"  # the part whose token belongs to no place but the whole photo
TOGETHER = 64  # sets that are pooled at once
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in [0, 1] of the photo


class Place(NamedTuple):
    """What tokens belong to: a region, a cell of the grid or of the scene, a segment, or the photo as a whole."""

    kind: str  # region, cell, segment or photo
    number: int  # of the region, of the cell, row by row, or of the segment's class
    box: Box | None  # None where the shards have no boxes


class Branch(NamedTuple):
    """What one image encoder pools for one photo."""

    source: str  # regions or grid
    tokens: TokenSet  # [1, N, D]
    parts: list[str]  # [N] the part of each token: local, fused, scene, category, segments
    places: Tensor  # [N] int64, the number of each token's place; 0 on padding
    pooling: nn.Module
    semantic: Tensor | None  # [n] VSeM's weights of the source's n tokens
    spatial: Tensor | None  # [n, 64, 64] VSpM's attention of each
    own_places: Tensor  # [n] int64, the places of these
    weight: float = 1.0  # in the embedding


class TokensOfPhoto(NamedTuple):
    """All tokens that the embedding of one photo is made of."""

    branches: list[Branch]
    places: list[Place]

    @property
    def pooled(self) -> set[int]:
        """Numbers of the places that have a token; guidance may speak of others, which the embedding does not hold."""
        return {place for branch in self.branches for place in branch.places[branch.tokens.mask[0]].tolist()}

    def embeddings(self, keep: Tensor) -> Tensor:
        """Embeddings [K, D] of the photo with the tokens of some places alone: keep [K, places] bool.

        A branch without any token counts as 0.
        """
        parts = [self._embed(some) for some in keep.split(TOGETHER)]
        return torch.cat(parts)

    def _embed(self, keep: Tensor) -> Tensor:
        vectors = []
        for branch in self.branches:
            values, mask = branch.tokens
            kept = mask & keep[:, branch.places]
            pooled = unit(branch.pooling(TokenSet(values.expand(len(keep), -1, -1), kept)))
            vectors.append(torch.where(kept.any(dim=1, keepdim=True), pooled, 0.0))
        return joined(vectors, [branch.weight for branch in self.branches]) if len(vectors) > 1 else vectors[0]


@torch.no_grad()
def tokens_of(model: RetrievalModel, images: ImageBatch) -> TokensOfPhoto:
    """The tokens of a batch of one photo.  Raises ValueError for another number of photos."""
    encoder = model.image_encoder
    images = images.to(model.device)
    numbers: dict[tuple[str, Box | int], int] = {}
    places: list[Place] = []

    def number_of(kind: str, number: int, box: Box | None) -> int:
        """Cells with the same box are one place: those of a 7x7 grid and of the scene."""
        key = (kind, box if kind == CELL and box else number)
        if key not in numbers:
            numbers[key] = len(places)
            places.append(Place(kind, number, box))
        return numbers[key]

    branches = []
    several = isinstance(encoder, HybridEncoder)
    for name, branch in encoder.branches.items() if several else [("", encoder)]:
        assert isinstance(branch, ImageEncoder)
        sets, source = branch.sets(images), branch.features(images)
        if len(source.mask) != 1:
            raise ValueError(f"{len(source.mask)} photos; one is explained at a time")
        real = source.mask[0].tolist()
        kind, boxes = (REGION if branch.source == "regions" else CELL), _boxes(branch.source, images, len(real))
        own = [number_of(kind, n, boxes[n] if boxes else None) if real[n] else 0 for n in range(len(real))]
        scene = [number_of(CELL, n, _box(box)) for n, box in enumerate(cell_boxes(SCENE_SIDE, SCENE_SIDE).tolist())]
        where = {"scene": scene, GLOBAL: [number_of(PHOTO, 0, (0.0, 0.0, 1.0, 1.0))]}
        if "segments" in sets:
            segments = branch.parts["segments"]
            assert isinstance(segments, SegmentTokens)
            boxed = boxes_of_classes(images, segments.classes).items()
            where["segments"] = [number_of(SEGMENT, number, box) for number, box in boxed] or [0]  # void alone: masked
        of_tokens = [place for name, part in sets.items() for place in where.get(name, own)[: part.mask.shape[1]]]
        highlights = branch.highlights(images)
        spatial = highlights["spatial"][0] if "spatial" in highlights else None
        side = round(math.sqrt(spatial.shape[-1])) if spatial is not None else 0
        branches.append(
            Branch(
                source=branch.source,
                tokens=concatenate(list(sets.values())),
                parts=[name for name, part in sets.items() for _ in range(part.mask.shape[1])],
                places=torch.tensor(of_tokens, device=model.device),
                pooling=branch.pooling,
                semantic=highlights["semantic"][0][source.mask[0]] if "semantic" in highlights else None,
                spatial=None if spatial is None else spatial[source.mask[0]].reshape(-1, side, side),
                own_places=torch.tensor(own, device=model.device)[source.mask[0]],
                weight=encoder.weights[name] if several else 1.0,
            )
        )
    return TokensOfPhoto(branches, places)


def boxes_of_classes(images: ImageBatch, classes: int) -> dict[int, Box]:
    """The classes of the first photo's map, ascending, and the box around each; void is none."""
    assert images.seg_map is not None, "segment tokens need seg/map"
    found = images.seg_map[0].long().cpu()
    cells = {int(number): (found == number).nonzero() for number in found.unique() if number < classes}
    sides = {number: torch.cat([at.amin(dim=0).flip(0), at.amax(dim=0).flip(0) + 1]) for number, at in cells.items()}
    return {number: _box((side / MAP_SIDE).tolist()) for number, side in sides.items()}


def _boxes(source: str, images: ImageBatch, count: int) -> list[Box] | None:
    """The boxes of the tokens; those of a square grid follow from its size."""
    held = images.region_boxes if source == "regions" else images.grid_boxes
    if held is not None:
        return [_box(box) for box in held[0].tolist()]
    side = math.isqrt(count)
    return [_box(box) for box in cell_boxes(side, side).tolist()] if source == "grid" and side**2 == count else None


def _box(corners: list[float]) -> Box:
    x1, y1, x2, y2 = (round(corner, 6) for corner in corners)  # of float32: equal cells compare equal
    return x1, y1, x2, y2
