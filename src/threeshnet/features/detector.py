"""Detectors of the DETR family: the most confident queries as regions, the cells of the backbone as a grid."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING
from transformers.models.resnet.configuration_resnet import ResNetConfig

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.features.boxes import roi_means
from threeshnet.features.cells import as_cells, checked_cells
from threeshnet.features.detections import Detections, chosen, region_arrays
from threeshnet.features.extractor import half
from threeshnet.features.huggingface import (
    HubExtractor,
    architecture,
    in_equal_sizes,
    loaded,
    without_slivers,
)
from threeshnet.records import ImageArrays, Photo

RESNETS: dict[str, dict[str, Any]] = {  # He et al., 2016, table 1
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "resnet34": {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
    "resnet101": {"layer_type": "bottleneck", "depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}
LAST_STAGE: dict[str, Any] = {"out_features": ["stage4"]}
STAGE = r"encoder.stages.{stage}.layers.\1."
IN_STAGE = r"(encoder\.stages\.\d+\.layers\.\d+)"
TIMM_RESNET = {  # what is replaced in the names of weights, in this order
    r"backbone(.*)\.model\.conv1\.": r"backbone\1.model.embedder.embedder.convolution.",
    r"backbone(.*)\.model\.bn1\.": r"backbone\1.model.embedder.embedder.normalization.",
    **{rf"layer{stage + 1}\.(\d+)\.": STAGE.format(stage=stage) for stage in range(4)},
    **{rf"{IN_STAGE}\.conv{number + 1}\.": rf"\1.layer.{number}.convolution." for number in range(3)},
    **{rf"{IN_STAGE}\.bn{number + 1}\.": rf"\1.layer.{number}.normalization." for number in range(3)},
    rf"{IN_STAGE}\.downsample\.0\.": r"\1.shortcut.convolution.",
    rf"{IN_STAGE}\.downsample\.1\.": r"\1.shortcut.normalization.",
}


def without_timm(config: Any) -> Any:
    """The configuration of a detector with transformers' ResNet for timm's; the same one when it has no timm in it.

    Raises DataError for a backbone of timm that is not a plain ResNet.
    """
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) != "timm_backbone":
        return config
    name, stride = getattr(backbone, "backbone", None), getattr(backbone, "output_stride", None)
    if name not in RESNETS or stride not in (None, 32):
        raise DataError(
            f"backbone {name!r} of timm (output stride {stride or 32}); without timm there are {', '.join(RESNETS)} "
            "at stride 32: take another model or a revision without timm, such as extractor.revision=no_timm"
        )
    changed = copy.deepcopy(config)
    changed.backbone_config = ResNetConfig(**RESNETS[name], **LAST_STAGE)
    return changed


FEATURES = ("decoder", "backbone")


class Detector(HubExtractor):
    """Base of the detectors, see the subclasses for how queries are scored.

    The score of a query is that of its best class. Which queries become regions, `regions` at most, is decided by
    `threshold` and `overlap` (see `chosen`). `features`: `decoder` for the query's last
    hidden state, `backbone` for the mean of the backbone's last map inside its box (RoIAlign, 2048 wide for
    ResNet-50). `cells`: a side of the grid pooled from that map.
    """

    able = ("region", "grid")
    no_object: int  # columns of the class logits after the real classes

    def __init__(
        self,
        *,
        name: str | Path,
        revision: str | None = None,
        features: Literal["decoder", "backbone"] = "decoder",
        regions: int = 36,
        overlap: float = 0.7,
        threshold: float = 0.05,
        cells: int = 7,
        fields: Sequence[str] | None = None,
    ) -> None:
        if features not in FEATURES:
            raise ConfigError(one_of("features", features, FEATURES))
        if checked_cells(cells) == "native":
            raise ConfigError("cells=native: photos come to a detector in their own shapes; say a number, such as 14")
        super().__init__(name=name, revision=revision, fields=fields)
        self.network = self._build()
        self.classes: int = self.network.config.num_labels
        self.features, self.regions, self.cells = features, regions, cells
        self.overlap, self.threshold = overlap, threshold
        self.grid_size = (cells, cells)
        names: Any = self.network.config.id2label
        self.label_names = tuple(str(names.get(number, number)) for number in range(self.classes))
        self.options |= {
            "features": features,
            "regions": regions,
            "overlap": overlap,
            "threshold": threshold,
            "cells": cells,
        }
        self._maps: list[Tensor] = []
        self.network.model.backbone.register_forward_hook(self._keep_map)

    def _build(self) -> Any:
        config = architecture(self.folder)
        if type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING:
            raise ConfigError(
                f"{self.folder}: a {config.model_type} is no detector in transformers; try extractor=rtdetr"
            )
        kind, bare = MODEL_FOR_OBJECT_DETECTION_MAPPING[type(config)], without_timm(config)
        network = loaded(kind, self.folder, config=bare, renamed=None if bare is config else TIMM_RESNET)
        if not hasattr(getattr(network, "model", None), "backbone"):
            raise ConfigError(
                f"{self.folder}: a {config.model_type} has no backbone to take maps from; try extractor=rtdetr"
            )
        return network

    def _keep_map(self, module: Any, inputs: Any, output: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._maps = [output[-1][0]]  # transformers gives maps and masks of every stage

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """Logits [b, Q, classes + no_object] to probabilities [b, Q, classes]."""
        raise NotImplementedError

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        assert image is not None
        bare: dict[str, Any] = {"do_pad": False, "do_rescale": False, "do_normalize": False}
        # else a photo of 1 or 3 pixels height passes for channels-first
        bare["input_data_format"] = "channels_last"
        made = self.processor(images=without_slivers(image), **bare, return_tensors="np")
        return {"pixels": torch.from_numpy(np.ascontiguousarray(made["pixel_values"][0]))}

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        found = in_equal_sizes(inputs["pixels"], self.detect)
        arrays = ImageArrays()
        if "region" in self.fields:
            arrays = region_arrays([detections for detections, _ in found])
        if "grid" in self.fields:
            arrays = arrays._replace(grid=np.stack([half(grid) for _, grid in found if grid is not None]))
        return arrays

    def detect(self, pixels: Tensor) -> list[tuple[Detections, Tensor | None]]:
        """The detections in photos of one size, [b, 3, H, W] uint8, and the cells of their grids where asked for."""
        made = self.network(pixel_values=self.normalized(pixels))
        feature_map = self._maps.pop()  # not kept: a backbone's map of a batch is large
        logits, expected = made.logits.shape[-1], self.classes + self.no_object
        if logits != expected:
            raise ConfigError(
                f"{self.folder}: {logits} logits a query for {self.classes} classes; {type(self).__name__} reads "
                f"{expected}: take the other _target_ of threeshnet.features.detector"
            )
        scores, labels = self.class_probabilities(made.logits.float()).max(dim=-1)
        boxes = corners(made.pred_boxes.float())
        hidden = made.last_hidden_state
        grid = as_cells(feature_map, self.cells) if "grid" in self.fields else [None] * len(pixels)
        limits: Any = {"threshold": self.threshold, "overlap": self.overlap, "most": self.regions}
        found = []
        for score, label, box, state, cells, photo in zip(
            scores, labels, boxes, hidden, grid, feature_map, strict=True
        ):
            kept = chosen(score, box, **limits)
            regions = state[kept] if self.features == "decoder" else roi_means(photo, box[kept])
            found.append((Detections(regions, box[kept], score[kept], label[kept]), cells))
        return found


class SigmoidDetector(Detector):
    """RT-DETR (Zhao et al., 2024) and its second version, Deformable and Conditional DETR: each class for itself."""

    name = "sigmoid detector"
    no_object = 0

    def class_probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class SoftmaxDetector(Detector):
    """DETR (Carion et al., 2020) and the Table Transformer: classes and "no object" compete, the last is left out."""

    name = "softmax detector"
    no_object = 1

    def class_probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)[..., :-1]


def corners(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] as centre, width and height to xyxy, clamped to [0, 1].

    >>> corners(torch.tensor([0.5, 0.25, 0.5, 1.0])).tolist()
    [0.25, 0.0, 0.75, 0.75]
    """
    centre, half_size = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half_size, centre + half_size], dim=-1).clamp(0, 1)
