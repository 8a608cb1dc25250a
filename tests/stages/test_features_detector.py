"""Regions of detectors from `transformers`: planted boxes, features inside of boxes, weights with timm's names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from threeshnet.errors import DataError
from threeshnet.features.boxes import BINS, SAMPLES, roi_means
from threeshnet.features.detector import RESNETS, Detector, SoftmaxDetector
from threeshnet.records import Photo

from .pictures import CLOSE, assert_alike, extract, slow_cells
from .tiny_models import CLASSES, DETECTORS, DETR_LAYERS, build, made


def plant(extractor: Detector, logits: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Let the network find these classes [Q, K] and xyxy boxes [Q, 4]; its hidden states stay, and are returned."""
    forward, seen = extractor.network.forward, {}
    sizes = boxes[:, 2:] - boxes[:, :2]

    def planted(**inputs: Any) -> Any:
        made = forward(**inputs)
        seen["hidden"] = made.last_hidden_state
        made.logits = logits.expand(len(made.logits), -1, -1)
        made.pred_boxes = torch.cat([boxes[:, :2] + sizes / 2, sizes], dim=1).expand(len(made.logits), -1, -1)
        return made

    extractor.network.forward = planted
    return seen


def planted_scores(scores: dict[int, tuple[int, float]], *, no_object: int) -> Tensor:
    """Logits [20, classes + no_object]: query -> (class, probability), everything else is very unlikely."""
    logits = torch.full((20, CLASSES + no_object), -12.0)
    if no_object:
        logits[:, -1] = 0.0
    for query, (number, probability) in scores.items():
        logits[query, number] = torch.tensor(probability).logit()
    return logits


@pytest.mark.parametrize("family", DETECTORS)
def test_planted_boxes_come_out_in_order_with_their_features(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    found = {7: (1, 0.9), 3: (2, 0.8), 11: (0, 0.6), 5: (4, 0.3), 0: (3, 0.04)}
    boxes = torch.rand(20, 2).repeat(1, 2) + torch.tensor([0.0, 0.0, 0.01, 0.01])
    boxes[7] = torch.tensor([0.1, 0.2, 0.5, 0.6])
    boxes[3] = torch.tensor([0.1, 0.2, 0.5, 0.55])  # 0.875 of the one before, of another class: dropped
    boxes[11] = torch.tensor([0.6, 0.7, 1.2, 1.1])  # beyond the edge of the photo
    boxes[5] = torch.tensor([0.1, 0.2, 0.3, 0.6])  # half of the first: stays
    seen = plant(extractor, planted_scores(found, no_object=extractor.no_object), boxes)
    arrays = extract(extractor, [photos[0], photos[3]])
    for number in range(2):
        np.testing.assert_allclose(arrays.scores[number], [0.9, 0.6, 0.3], atol=1e-3)
        expected = torch.stack([boxes[7], torch.tensor([0.6, 0.7, 1, 1]), boxes[5]])
        np.testing.assert_allclose(arrays.boxes[number], expected, atol=1e-6)
        assert arrays.labels[number].tolist() == [1, 0, 4]
        hidden = seen["hidden"][number]
        np.testing.assert_array_equal(arrays.regions[number], hidden[[7, 11, 5]].half())
        assert (hidden[7] - hidden[11]).abs().max() > 0.01  # else the order would not show


def test_the_best_query_stays_when_all_are_unlikely(folder_of: Any, photos: list[Photo]) -> None:
    for family in ("rtdetr", "detr"):
        extractor = build(family, folder_of(family), threshold=0.5)
        boxes = torch.tensor([0.2, 0.2, 0.4, 0.4]).repeat(20, 1)
        boxes[9] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # a box without area is a box
        plant(extractor, planted_scores({9: (0, 0.02), 4: (1, 0.01)}, no_object=extractor.no_object), boxes)
        arrays = extract(extractor, photos[:1])
        np.testing.assert_allclose(arrays.boxes[0], [[0.5, 0.5, 0.5, 0.5]])


def test_no_object_is_no_class(folder_of: Any, photos: list[Photo]) -> None:
    extractor = build("detr", folder_of("detr"), regions=2, threshold=0.0)
    logits = torch.full((20, CLASSES + 1), -9.0)
    logits[:, -1] = 9.0
    logits[2, 1], logits[2, -1] = 8.0, 8.0  # 0.5 and 0.5
    logits[6, 3], logits[6, -1] = 3.0, 4.0  # 0.27, though its "no object" is the surest
    corner = torch.rand(20, 2)
    plant(extractor, logits, torch.cat([corner * 0.9, corner * 0.9 + 0.1], dim=1))
    arrays = extract(extractor, photos[:1])
    np.testing.assert_allclose(arrays.scores[0], [0.5, 1 / (1 + np.e)], atol=1e-3)


def test_at_most_so_many_regions(folder_of: Any, photos: list[Photo]) -> None:
    arrays = extract(build("rtdetr", folder_of("rtdetr"), regions=3, overlap=1.0, threshold=0.0), photos)
    assert [len(boxes) for boxes in arrays.boxes] == [3] * len(photos)


@pytest.mark.parametrize("family", ["rtdetr", "detr"])
def test_backbone_features_are_pooled_inside_the_boxes(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family), features="backbone")
    arrays = extract(extractor, photos[:1])
    with Image.open(photos[0].file) as image, torch.inference_mode():
        pixels = extractor.normalized(extractor.load(photos[0], image)["pixels"][None])
        feature_map = extractor.network.model.backbone(pixels, torch.ones_like(pixels[:, 0]))[-1][0]
    expected = slow_roi(feature_map[0].numpy(), arrays.boxes[0]).mean(axis=(2, 3))
    np.testing.assert_allclose(arrays.regions[0], expected, **CLOSE)
    np.testing.assert_allclose(arrays.grid[0], slow_cells(feature_map[0].numpy(), 7), **CLOSE)


def slow_roi(feature_map: np.ndarray, boxes: np.ndarray, bins: int = BINS, samples: int = SAMPLES) -> np.ndarray:
    """The bins of RoIAlign, point by point."""
    depth, height, width = feature_map.shape

    def read(y: float, x: float) -> np.ndarray:
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = int(y), int(x)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = feature_map[:, top, left] * (1 - x + left) + feature_map[:, top, right] * (x - left)
        lower = feature_map[:, below, left] * (1 - x + left) + feature_map[:, below, right] * (x - left)
        return upper * (1 - y + top) + lower * (y - top)

    made = np.zeros((len(boxes), depth, bins, bins))
    for number, (x1, y1, x2, y2) in enumerate(boxes * [width, height, width, height]):
        for row, column in np.ndindex(bins * samples, bins * samples):
            y = y1 + (y2 - y1) * (row + 0.5) / (bins * samples) - 0.5
            x = x1 + (x2 - x1) * (column + 0.5) / (bins * samples) - 0.5
            made[number, :, row // samples, column // samples] += read(y, x) / samples**2
    return made


@pytest.mark.parametrize(("height", "width"), [(5, 9), (1, 4), (20, 20)])
def test_means_inside_boxes_are_those_of_roi_align(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    feature_map = rng.standard_normal((3, height, width))
    boxes = np.sort(rng.random((6, 2, 2)), axis=1).reshape(6, 4)
    boxes[0], boxes[1], boxes[2] = [0, 0, 1, 1], [0.3, 0.4, 0.3, 0.4], [0.97, 0, 1, 0.02]
    expected = slow_roi(feature_map, boxes).mean(axis=(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # nothing is rounded to it
        made = roi_means(torch.from_numpy(feature_map), torch.from_numpy(boxes))
    np.testing.assert_allclose(made, expected, atol=2e-5)


# ---- weights with the names of timm


def timm_key(key: str) -> str:
    """transformers' name of a weight of DETR as it stood in the uploads with timm's backbone."""
    if not key.startswith("model.backbone.conv_encoder.model."):  # the prefix that save_pretrained still writes
        return key
    key = key.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    key = re.sub(r"encoder\.stages\.(\d)\.layers", lambda found: f"layer{int(found[1]) + 1}", key)
    key = re.sub(r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}", key)
    key = re.sub(r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}", key)
    return key.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")


def test_a_detr_with_timms_names_is_read_without_timm(
    tmp_path: Path, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {
        "layer_type": "bottleneck",
        "embedding_size": 8,
        "hidden_sizes": [12, 16, 20, 24],
        "depths": [1, 2, 1, 1],
    }
    monkeypatch.setitem(RESNETS, "resnet50", small)
    ours = made("detr", tmp_path / "ours")
    model = DetrForObjectDetection(
        DetrConfig(**DETR_LAYERS, backbone_config=ResNetConfig(**small, out_features=["stage4"]))
    )
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    model.save_pretrained(ours)
    theirs = shutil.copytree(ours, tmp_path / "theirs")
    weights = {timm_key(key): value for key, value in load_file(ours / "model.safetensors").items()}
    assert "model.backbone.conv_encoder.model.layer2.1.bn3.running_var" in weights
    assert "model.backbone.conv_encoder.model.layer1.0.downsample.0.weight" in weights
    save_file(weights, theirs / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((theirs / "config.json").read_text())
    del settings["backbone_config"]
    settings |= {"use_timm_backbone": True, "backbone": "resnet50", "use_pretrained_backbone": True}
    (theirs / "config.json").write_text(json.dumps(settings))
    options: dict[str, Any] = {"features": "backbone", "threshold": 0.0}
    expected = extract(SoftmaxDetector(name=ours, **options), photos[:2])
    assert_alike(extract(SoftmaxDetector(name=theirs, **options), photos[:2]), expected)
    for change in ({"backbone": "resnext50_32x4d"}, {"dilation": True}):
        (theirs / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(DataError, match=r"without timm there are resnet18, .*revision=no_timm"):
            SoftmaxDetector(name=theirs)
