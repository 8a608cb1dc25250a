"""What a detector finds in photos: which boxes stay, and their arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from threeshnet.features.boxes import nms
from threeshnet.features.extractor import half
from threeshnet.records import ImageArrays


class Detections(NamedTuple):
    """The detections in one photo."""

    regions: Tensor  # [r, D]
    boxes: Tensor  # [r, 4] xyxy in [0, 1]
    scores: Tensor  # [r]
    labels: Tensor  # [r] int64, best class


def chosen(scores: Tensor, boxes: Tensor, *, threshold: float, overlap: float, most: int) -> Tensor:
    """The numbers of the boxes that become regions, by descending score.  scores: [Q]; boxes: [Q, 4].

    A box is dropped when its score is below `threshold`, or when it overlaps a taken one, of whatever class, by an
    intersection over union above `overlap`; the best box always stays.
    """
    high = (scores >= threshold).nonzero()[:, 0]
    high = high if len(high) else scores.argmax()[None]
    return high[nms(boxes[high], scores[high], threshold=overlap, most=most)]


def region_arrays(photos: Sequence[Detections]) -> ImageArrays:
    """The `region` field of photos."""
    return ImageArrays(
        regions=[half(photo.regions) for photo in photos],
        boxes=[photo.boxes.cpu().numpy() for photo in photos],
        scores=[photo.scores.cpu().numpy() for photo in photos],
        labels=[photo.labels.cpu().numpy().astype(np.int16) for photo in photos],
    )
