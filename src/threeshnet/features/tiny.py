"""A small random network in place of a real extractor, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from threeshnet.features.extractor import Extractor, as_input, half, pixels
from threeshnet.features.segmentation import segmentation_arrays
from threeshnet.features.windows import WindowProposals
from threeshnet.records import SCENE_SIDE, ImageArrays, Photo


class Tiny(Extractor):
    """Two random convolutions over a square of 56 px: 7x7 cells, windows of them as regions, `classes` classes."""

    name = "tiny"

    def __init__(
        self,
        *,
        fields: Sequence[str] | None = None,
        width: int = 16,
        classes: int = 5,
        regions: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(fields=fields)
        self.grid_size = (SCENE_SIDE, SCENE_SIDE)
        self.class_names = tuple(f"tiny {number}" for number in range(classes))
        self.weights = f"random, seed {seed}"
        self.options = {"width": width, "classes": classes, "regions": regions}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, second = nn.Conv2d(3, width, 4, stride=4), nn.Conv2d(width, width, 2, stride=2)
            self.classifier = nn.Linear(width, classes)
        self.network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.proposals = WindowProposals(side=SCENE_SIDE, most=regions, overlap=0.5)
        self.requires_grad_(False).eval()

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        return {"pixels": pixels(image, SCENE_SIDE * 8)}

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        cells = self.network(as_input(inputs["pixels"])).flatten(2).transpose(1, 2)
        logits = self.classifier(cells) * 8  # so that some classes are sure
        features, boxes, scores = self.proposals(cells, logits)
        probabilities = logits.softmax(dim=-1).transpose(1, 2).unflatten(2, (SCENE_SIDE, SCENE_SIDE))
        made = segmentation_arrays(probabilities, 0.3)
        return made._replace(grid=half(cells), regions=features, boxes=boxes, scores=scores)
