"""An explanation: which places of a photo make it match a sentence, with what the guidance did beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from threeshnet.explanations.contributions import ENOUGH, NAMED, NEARLY_ALL, DeletionTest
from threeshnet.explanations.places import SEGMENT, Place
from threeshnet.records import VOID

if TYPE_CHECKING:
    from PIL import Image

DIGITS = 6  # of a similarity in JSON
CLASSES = 3  # of a place, the largest
EXPLANATION, WEIGHTS = "explanation", "weights"  # what the numbers may be shown as


class Contribution(NamedTuple):
    """One place and its part in the similarity."""

    place: Place
    effect: float  # what the similarity loses without the place's tokens
    share: float | None  # of the similarity, with the sort held; None where pooling is no weighted sum
    shares: Mapping[str, float]  # the same by part: local, fused, scene, category, segments
    weight: float | None  # VSeM's
    attention: np.ndarray | None  # [64, 64] VSpM's

    def to_json(self) -> dict[str, Any]:
        place, share, weight = self.place, self.share, self.weight
        return {
            "kind": place.kind,
            "number": place.number,
            "box": None if place.box is None else list(place.box),
            "effect": round(self.effect, DIGITS),
            "share": None if share is None else round(share, DIGITS),
            "shares": {part: round(value, DIGITS) for part, value in self.shares.items()},
            "weight": None if weight is None else round(weight, DIGITS),
        }


class Guidance(NamedTuple):
    """VSeM's weights and VSpM's attention of one branch; they do not depend on the sentence, and explain nothing."""

    boxes: np.ndarray | None  # [n, 4] of its tokens
    weights: np.ndarray | None  # [n]
    attention: np.ndarray | None  # [64, 64], the mean over the tokens


@dataclass(frozen=True)
class Explanation:
    """Why a photo matches a sentence. Arrays over the photo have its rows and columns."""

    sentence: str
    score: float  # cosine similarity
    contributions: Sequence[Contribution]  # of regions, cells and segments, largest effect first
    photo: Contribution | None  # of the category token, which belongs to the whole photo
    test: DeletionTest | None  # None where the photo has too few places
    guidance: Mapping[str, Guidance]  # by the branch's source: regions, grid
    seg_map: np.ndarray | None  # [64, 64] class numbers
    class_names: Sequence[str]

    @property
    def shown_as(self) -> str:
        """`explanation` where the deletion test was passed, else `weights`."""
        return EXPLANATION if self.test is not None and self.test.passed else WEIGHTS

    @property
    def named(self) -> Sequence[Contribution]:
        """The places named first; none where the test was not passed."""
        return self.contributions[:NAMED] if self.shown_as == EXPLANATION else ()

    @property
    def remark(self) -> str:
        """What the deletion test found, in one sentence."""
        if self.test is None:
            return f"Not an explanation: a photo with {len(self.contributions)} places leaves no choice to test."
        costs = (
            f"leaving out the {NAMED} places named first costs {self.test.named:.4f}; {NAMED} random ones cost "
            f"{self.test.random:.4f} on average, and less in {self.test.beaten:.0%} of the draws"
        )
        if self.shown_as == EXPLANATION:
            return f"Tested: {costs}."
        return f"Not an explanation: {costs}. Expected: {ENOUGH:g} times as much, and {NEARLY_ALL:.0%} of the draws."

    def name_of(self, place: Place) -> str:
        """The class of a segment; the number of another place."""
        return self.class_names[place.number] if place.kind == SEGMENT else str(place.number)

    def heat(self, size: tuple[int, int]) -> np.ndarray:
        """Effects over a photo of `size` (width, height): [height, width] float32, from 0 to 1.

        Each place that helps the match spreads its effect evenly over its box. All 0 where the test was not passed.
        """
        width, height = size
        heat = np.zeros((height, width), np.float32)
        for each in self.contributions if self.shown_as == EXPLANATION else ():
            if each.effect > 0 and each.place.box is not None:
                rows, columns = pixels(each.place.box, size)
                area = (rows.stop - rows.start) * (columns.stop - columns.start)
                heat[rows, columns] += each.effect / area
        return heat / heat.max() if heat.any() else heat

    def classes(self, place: Place | None = None) -> dict[str, float]:
        """The classes of the segmentation in a place, or in all of the photo, with their shares, largest first."""
        if self.seg_map is None or (place is not None and place.box is None):
            return {}
        side = self.seg_map.shape[0]
        inside = self.seg_map if place is None or place.box is None else self.seg_map[pixels(place.box, (side, side))]
        numbers, counts = np.unique(inside[inside != VOID], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[int(numbers[n])]: round(float(counts[n] / inside.size), 4) for n in order.tolist()}

    def to_json(self, *, maps: bool = True) -> dict[str, Any]:
        """Plain values for JSON; without `maps` VSpM's attention and the segmentation's map are left out."""
        content: dict[str, Any] = {
            "sentence": self.sentence,
            "score": round(self.score, DIGITS),
            "shown_as": self.shown_as,
            "remark": self.remark,
            "test": None
            if self.test is None
            else {key: round(cost, DIGITS) for key, cost in self.test._asdict().items()},
            "places": [
                each.to_json()
                | {"name": self.name_of(each.place), "classes": dict(list(self.classes(each.place).items())[:CLASSES])}
                for each in self.contributions
            ],
            "photo": None if self.photo is None else self.photo.to_json(),
            "classes": self.classes(),
        }
        if maps:
            mean = {source: _listed(guide.attention) for source, guide in self.guidance.items()}
            content["attention"] = {"mean": mean, "named": [_listed(each.attention) for each in self.named]}
            content["segmentation"] = None if self.seg_map is None else self.seg_map.tolist()
        return content

    def draw(self, photo: Image.Image) -> Image.Image:
        """One picture: the photo, the heat with the places named first, the segmentation, and the guidance."""
        from threeshnet.explanations.drawing import drawn  # matplotlib takes a second

        return drawn(self, photo)


def pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box in [0, 1], at least one of each, in a picture of `size` (width, height).

    >>> pixels((0, 0.5, 0.25, 1), (8, 4))
    (slice(2, 4, None), slice(0, 2, None))
    """
    spans = []
    for low, high, count in ((box[1], box[3], size[1]), (box[0], box[2], size[0])):
        start = min(max(round(low * count), 0), count - 1)
        spans.append(slice(start, max(start + 1, min(round(high * count), count))))
    return spans[0], spans[1]


def _listed(attention: np.ndarray | None) -> list[list[float]] | None:
    return None if attention is None else [[float(f"{value:.3g}") for value in row] for row in attention]
