"""Region proposals without a detector: windows over a grid of cells, those with the highest class probability first."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.features.boxes import overlaps, suppress
from threeshnet.features.extractor import half

SIDES = (3, 5, 7, 10, 14)  # of 14: from a fifth of the photo to all of it
LONGEST = 2.0  # ratio of a window's sides


class WindowProposals(nn.Module):
    """Mean-pools windows of several sizes and shapes; keeps the `most` with the highest class probability.

    A window's score is the largest probability of the classifier on its mean. The classifier is linear, so the mean
    logits of the cells are the logits of the mean, and features are pooled for the kept windows alone.
    """

    def __init__(self, *, side: int, most: int, overlap: float) -> None:
        super().__init__()
        self.most, self.overlap = most, overlap
        cells = windows(side)
        inside = torch.zeros(len(cells), side, side)
        for row, (x1, y1, x2, y2) in enumerate(cells):
            inside[row, y1:y2, x1:x2] = 1
        pooling = inside.flatten(1) / inside.flatten(1).sum(dim=1, keepdim=True)
        boxes = torch.tensor(cells) / side
        self.boxes: Tensor
        self.pooling: Tensor
        self.overlaps: Tensor
        self.register_buffer("boxes", boxes, persistent=False)  # [K, 4]
        self.register_buffer("pooling", pooling, persistent=False)  # [K, side*side]
        self.register_buffer("overlaps", overlaps(boxes), persistent=False)  # [K, K]

    def forward(self, cells: Tensor, logits: Tensor) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Cells [B, side*side, D] and their logits [B, side*side, K] to each image's features, boxes and scores."""
        scores = torch.stack([(self.pooling @ image).softmax(dim=-1).amax(dim=-1) for image in logits])
        kept = suppress(scores, self.overlaps, threshold=self.overlap, most=self.most)
        rows = [numbers[numbers >= 0] for numbers in kept]
        features = [half(self.pooling[row] @ image) for row, image in zip(rows, cells, strict=True)]
        boxes = [self.boxes[row].cpu().numpy() for row in rows]
        return features, boxes, [score[row].float().cpu().numpy() for score, row in zip(scores, rows, strict=True)]


def windows(side: int) -> list[tuple[int, int, int, int]]:
    """x1, y1, x2, y2 in cells of windows spread over side x side cells, at most half a window apart."""
    boxes = []
    for width, height in product([length for length in SIDES if length <= side], repeat=2):
        if max(width, height) <= LONGEST * min(width, height):
            corners = product(_starts(side, width), _starts(side, height))
            boxes += [(x, y, x + width, y + height) for x, y in corners]
    return boxes


def _starts(side: int, length: int) -> list[int]:
    count = -(-(side - length) // max(1, length // 2)) + 1
    return sorted({round(place) for place in np.linspace(0, side - length, count)})
