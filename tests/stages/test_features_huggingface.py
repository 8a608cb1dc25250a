"""Extractors of models from `transformers`: tiny random folders through the real path, planted boxes, slow twins."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from threeshnet.errors import ConfigError, DataError
from threeshnet.features.backbone import BackboneGrid, ClipTokens, SiglipTokens
from threeshnet.features.boxes import roi_align, roi_means
from threeshnet.features.detector import RESNETS, Detector, SigmoidDetector, SoftmaxDetector
from threeshnet.features.extractor import Extractor
from threeshnet.features.huggingface import as_cells, in_equal_sizes, located, weights_sha256
from threeshnet.features.photos import PhotoBatches
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.array_checks import faults
from threeshnet.shards.schema import layout_of_arrays

from .tiny_models import CLASSES, DETECTORS, DETR_LAYERS, GRIDS, detr, swin

KINDS: dict[str, Any] = {"detr": SoftmaxDetector, "clip": ClipTokens, "siglip": SiglipTokens}
KINDS |= dict.fromkeys(("rtdetr", "conditional_detr"), SigmoidDetector)
FAMILIES = [*DETECTORS, *GRIDS]
SIZES = [(120, 80), (50, 75), (64, 64), (120, 80), (33, 100)]  # width, height; the first and fourth meet in a group
CLOSE = {"atol": 2e-3, "rtol": 4e-3}  # float16 ends at three digits, and sums run in another order in a batch


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = (DETECTORS | GRIDS)[family](tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    return [picture(tmp_path_factory.mktemp("photos"), number, size) for number, size in enumerate(SIZES)]


def picture(folder: Path, number: int, size: tuple[int, int]) -> Photo:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    file = folder / f"{number}.png"
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)
    return Photo(str(number), file, "train", ("a caption",))


def build(family: str, folder: Path, **options: Any) -> Any:
    return KINDS.get(family, BackboneGrid)(name=folder, **options)


def extract(extractor: Extractor, photos: list[Photo]) -> ImageArrays:
    loaded = PhotoBatches(photos, [extractor], [range(len(photos))])[0]
    assert not loaded.damaged
    with torch.inference_mode():
        return extractor(loaded.inputs[0])


def assert_alike(one: ImageArrays, other: ImageArrays) -> None:
    for name, values in one._asdict().items():
        others = getattr(other, name)
        if values is None:
            assert others is None
            continue
        for value, expected in zip(values, others, strict=True):
            np.testing.assert_allclose(value, expected, **CLOSE, err_msg=name)


# ---- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_becomes_arrays_that_fit_a_shard(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    arrays = extract(extractor, photos)
    assert not faults(arrays, layout_of_arrays(arrays, extractor.grid_size), [photo.id for photo in photos])
    assert arrays.grid is not None
    assert arrays.grid.shape[:2] == (len(photos), 49)
    assert arrays.grid.dtype == np.float16
    assert arrays.grid.std(axis=0).max() > 0.01  # the photos differ
    if family in DETECTORS:
        assert arrays.regions is not None
        assert [regions.dtype for regions in arrays.regions] == [np.float16] * len(photos)
    assert not any(module.training for module in extractor.network.modules())
    assert not any(weight.requires_grad for weight in extractor.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_one_photo_at_a_time(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    together = extract(extractor, photos)
    for number, photo in enumerate(photos):
        alone = extract(extractor, [photo])
        assert_alike(alone, ImageArrays(*(None if part is None else part[number : number + 1] for part in together)))
    assert_alike(together, extract(extractor, photos))


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_processor(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    with Image.open(photos[1].file) as image:
        loaded = extractor.load(photos[1], image)["pixels"]
        options = {"do_pad": False} if family in DETECTORS else {}
        if family in ("resnet", "convnext", "dinov2", "clip"):  # their processors would crop
            image = image.resize(extractor.input_size, Image.Resampling.BICUBIC)
            options = {"do_resize": False, "do_center_crop": False}
        expected = extractor.processor(images=image, return_tensors="pt", **options)["pixel_values"][0]
    assert loaded.dtype == torch.uint8
    torch.testing.assert_close(extractor.normalized(loaded[None])[0], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["rtdetr", "detr", "swin", "clip"])
def test_mixed_precision_gives_nearly_the_same(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    whole = extract(extractor, photos[:2])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = extract(extractor, photos[:2])
    assert mixed.grid is not None
    assert whole.grid is not None
    assert mixed.grid.dtype == np.float16
    assert np.corrcoef(mixed.grid.ravel(), whole.grid.ravel())[0, 1] > 0.99
    assert all(box.dtype == np.float32 for box in mixed.boxes or [])


def test_photos_are_grouped_by_size_and_come_back_in_order() -> None:
    seen = []

    def run(pixels: Tensor) -> list[float]:
        seen.append(tuple(pixels.shape))
        return [float(photo.max()) for photo in pixels]

    sizes = [(2, 3), (4, 1), (2, 3), (4, 1), (1, 1), (2, 3)]
    pixels = [torch.full((3, *size), number) for number, size in enumerate(sizes)]
    assert in_equal_sizes(pixels, run) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert seen == [(3, 3, 2, 3), (2, 3, 4, 1), (1, 3, 1, 1)]


# ---- regions


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
    assert arrays.boxes is not None
    assert arrays.scores is not None
    assert arrays.regions is not None
    for number in range(2):
        np.testing.assert_allclose(arrays.scores[number], [0.9, 0.6, 0.3], atol=1e-3)
        expected = torch.stack([boxes[7], torch.tensor([0.6, 0.7, 1, 1]), boxes[5]])
        np.testing.assert_allclose(arrays.boxes[number], expected, atol=1e-6)
        assert arrays.labels is not None
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
        assert arrays.boxes is not None
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
    assert arrays.scores is not None
    np.testing.assert_allclose(arrays.scores[0], [0.5, 1 / (1 + np.e)], atol=1e-3)


def test_at_most_so_many_regions(folder_of: Any, photos: list[Photo]) -> None:
    arrays = extract(build("rtdetr", folder_of("rtdetr"), regions=3, overlap=1.0, threshold=0.0), photos)
    assert [len(boxes) for boxes in arrays.boxes or []] == [3] * len(photos)


@pytest.mark.parametrize("family", ["rtdetr", "detr"])
def test_backbone_features_are_pooled_inside_the_boxes(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family), features="backbone")
    arrays = extract(extractor, photos[:1])
    with Image.open(photos[0].file) as image, torch.inference_mode():
        pixels = extractor.normalized(extractor.load(photos[0], image)["pixels"][None])
        feature_map = extractor.network.model.backbone(pixels, torch.ones_like(pixels[:, 0]))[-1][0]
    assert arrays.regions is not None
    assert arrays.boxes is not None
    expected = slow_roi(feature_map[0].numpy(), arrays.boxes[0]).mean(axis=(2, 3))
    np.testing.assert_allclose(arrays.regions[0], expected, **CLOSE)
    np.testing.assert_allclose(arrays.grid[0], slow_cells(feature_map[0].numpy(), 7), **CLOSE)  # pyright: ignore


def slow_roi(feature_map: np.ndarray, boxes: np.ndarray, bins: int = 7, samples: int = 2) -> np.ndarray:
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


@pytest.mark.parametrize(("height", "width", "bins", "samples"), [(5, 9, 7, 2), (1, 4, 3, 1), (20, 20, 2, 3)])
def test_roi_align_is_the_obvious_one(height: int, width: int, bins: int, samples: int) -> None:
    rng = np.random.default_rng(height)
    feature_map = rng.standard_normal((3, height, width))
    boxes = np.sort(rng.random((6, 2, 2)), axis=1).reshape(6, 4)
    boxes[0], boxes[1], boxes[2] = [0, 0, 1, 1], [0.3, 0.4, 0.3, 0.4], [0.97, 0, 1, 0.02]
    made = roi_align(torch.from_numpy(feature_map), torch.from_numpy(boxes), bins=bins, samples=samples)
    np.testing.assert_allclose(made, slow_roi(feature_map, boxes, bins, samples), atol=2e-4)
    whole = roi_means(torch.ones(2, height, width), torch.from_numpy(boxes))
    torch.testing.assert_close(whole, torch.ones(6, 2))


# ---- grids


def slow_cells(feature_map: np.ndarray, cells: int) -> np.ndarray:
    """Adaptive average pooling: the mean of all cells that an output cell touches, row by row."""
    _, height, width = feature_map.shape
    rows = [(row * height // cells, -(-(row + 1) * height // cells)) for row in range(cells)]
    columns = [(column * width // cells, -(-(column + 1) * width // cells)) for column in range(cells)]
    means = [feature_map[:, top:end, left:right].mean(axis=(1, 2)) for top, end in rows for left, right in columns]
    return np.stack(means)


@pytest.mark.parametrize(("side", "cells"), [(16, 7), (20, 14), (14, 7), (3, 7)])
def test_cells_are_area_means_row_by_row(side: int, cells: int) -> None:
    feature_map = torch.randn(2, 3, side, side + 1)
    made = as_cells(feature_map, cells)
    for number in range(2):
        np.testing.assert_allclose(made[number], slow_cells(feature_map[number].numpy(), cells), atol=1e-5)
    assert torch.equal(as_cells(feature_map, "native")[1, side + 1], feature_map[1, :, 1, 0])


@pytest.mark.parametrize(("family", "side", "native"), [("resnet", 96, 3), ("dinov2", 126, 9), ("clip", 160, 10)])
def test_sides_and_cells(family: str, side: int, native: int, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family), cells="native", side=side)
    assert extractor.grid_size == (native, native)
    grid = extract(extractor, photos[:1]).grid
    assert grid is not None
    assert grid.shape[:2] == (1, native * native)
    with pytest.raises(ConfigError, match=f"cells={native + 1}: .* {native}x{native} cells at side={side}"):
        build(family, folder_of(family), cells=native + 1, side=side)


@pytest.mark.parametrize("family", ["dinov2", "dinov3", "clip", "siglip"])
def test_a_token_stands_where_its_patch_is(family: str, folder_of: Any) -> None:
    extractor = build(family, folder_of(family), cells="native")
    for name, weight in extractor.network.named_parameters():
        if re.search(r"(out_proj|o_proj|attention\.output\.dense)\.weight", name):
            weight.zero_()  # tokens then see their own patch alone
    rows, columns = extractor.grid_size
    tall, wide = extractor.input_size[0] // rows, extractor.input_size[1] // columns
    pixels = torch.full((4, 3, *extractor.input_size), 128, dtype=torch.uint8)
    spots = ((0, columns - 1), (rows - 1, 0), (rows // 2, 1))
    for number, (row, column) in enumerate(spots, start=1):
        pixels[number, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = 255
    with torch.inference_mode():
        grid = extractor({"pixels": pixels}).grid
    for number, (row, column) in enumerate(spots, start=1):
        changed = np.flatnonzero(np.abs(grid[number].astype(np.float32) - grid[0]).max(axis=1) > 0.02)
        assert changed.tolist() == [row * columns + column]


def test_borders_are_kept(folder_of: Any, tmp_path: Path) -> None:
    wide = np.zeros((40, 200, 3), np.uint8)
    wide[:, :20], wide[:, -20:] = (255, 0, 0), (0, 0, 255)  # a centre crop would lose both
    Image.fromarray(wide).save(tmp_path / "wide.png")
    photo = Photo("wide", tmp_path / "wide.png", "train", ())
    pixels = PhotoBatches([photo], [build("resnet", folder_of("resnet"))], [[0]])[0].inputs[0]["pixels"][0]
    assert pixels.shape == (3, 224, 224)
    assert pixels[:, 100, 0].tolist() == [255, 0, 0]
    assert pixels[:, 100, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_the_stage_norm_is_the_models_final_norm(family: str, folder_of: Any) -> None:
    extractor = build(family, folder_of(family))
    weights = load_file(folder_of(family) / "model.safetensors")
    norm = extractor.network.hidden_states_norms["stage4"]
    assert torch.equal(norm.weight, weights[f"{family}.layernorm.weight"])
    assert norm.weight.std() > 0


@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_a_model_without_a_head_gives_the_same_cells(
    family: str, folder_of: Any, photos: list[Photo], tmp_path: Path
) -> None:
    """Its weights have no prefix, and ConvNeXt's embeddings have a norm that is named like the final one."""
    whole = folder_of(family)
    shutil.copytree(whole, tmp_path / "bare")
    weights = load_file(whole / "model.safetensors")
    kept = {key.removeprefix(f"{family}."): weight for key, weight in weights.items() if key.startswith(f"{family}.")}
    save_file(kept, tmp_path / "bare" / "model.safetensors", metadata={"format": "pt"})
    cells = [extract(build(family, folder), photos[:2]).grid for folder in (whole, tmp_path / "bare")]
    np.testing.assert_array_equal(*cells)


def test_clip_tokens_have_the_final_norm(folder_of: Any) -> None:
    extractor = build("clip", folder_of("clip"), cells="native")
    pixels = torch.randn(1, 3, *extractor.input_size)
    with torch.inference_mode():
        norm = extractor.network.post_layernorm
        tokens = extractor.network(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        spread = (tokens - tokens.mean(-1, keepdim=True)) / tokens.var(-1, correction=0, keepdim=True).add(
            norm.eps
        ).sqrt()
        expected = spread * norm.weight + norm.bias
        found = extractor.feature_map(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# ---- odd photos, odd folders


@pytest.mark.parametrize("family", ["rtdetr", "detr", "resnet"])
def test_photos_of_odd_shapes(family: str, folder_of: Any, tmp_path: Path) -> None:
    photos = [picture(tmp_path, number, size) for number, size in enumerate([(1, 1), (3000, 2), (2, 900)])]
    arrays = extract(build(family, folder_of(family)), photos)
    assert arrays.grid is not None
    assert np.isfinite(arrays.grid).all()
    assert all(1 <= len(boxes) <= 36 for boxes in arrays.boxes or [])


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
    ours = detr(tmp_path / "ours")
    model = DetrForObjectDetection(
        DetrConfig(**DETR_LAYERS, num_queries=20, backbone_config=ResNetConfig(**small, out_features=["stage4"]))
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


def test_the_wrong_kind_of_model_is_named(folder_of: Any, photos: list[Photo]) -> None:
    with pytest.raises(ConfigError, match=r"6 logits a query for 5 classes; SigmoidDetector reads 5"):
        extract(SigmoidDetector(name=folder_of("detr")), photos[:1])
    with pytest.raises(ConfigError, match=r"a clip is no backbone in transformers.*extractor=clip"):
        BackboneGrid(name=folder_of("clip"))
    with pytest.raises(ConfigError, match="a swin is no detector in transformers"):
        SigmoidDetector(name=folder_of("swin"))
    with pytest.raises(ConfigError, match="features='both' does not exist; there are: decoder, backbone"):
        SigmoidDetector(name=folder_of("rtdetr"), features="both")  # pyright: ignore
    for cells in (0, "all"):
        with pytest.raises(ConfigError, match=f"cells={cells!r}"):
            BackboneGrid(name=folder_of("resnet"), cells=cells)
    with pytest.raises(ConfigError, match="cells=native"):
        SigmoidDetector(name=folder_of("rtdetr"), cells="native")  # pyright: ignore


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    folder = swin(tmp_path)
    weights = load_file(folder / "model.safetensors")
    torn = {key: value for key, value in weights.items() if "layers.2" not in key}
    assert len(torn) < len(weights)
    save_file(torn, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights of SwinBackbone are missing, such as swin\.encoder\.layers\.2"):
        BackboneGrid(name=folder)


def test_a_model_that_is_nowhere_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        SigmoidDetector(name="nobody/no-such-detector", revision="old")
    for part in ("'nobody/no-such-detector'", "'old'", "HF_HOME", "extractor.name=<folder>", "extractor=lite0"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="segmentation=lite0"):
        located("nobody/no-such-segmenter", instead="segmentation=lite0")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"preprocessor_config\.json, model\.safetensors missing; extractor\.name "):
        located(tmp_path)


def test_the_identity_follows_what_shapes_the_arrays(tmp_path: Path, folder_of: Any) -> None:
    original = folder_of("rtdetr")
    copied = shutil.copytree(original, tmp_path / "copied")
    build_rtdetr = partial(build, "rtdetr")
    plain = build_rtdetr(original).identity()
    assert build_rtdetr(copied).identity() == plain
    assert plain["weights"] == sha256(original / "model.safetensors")
    changes = {"features": "backbone", "regions": 9, "overlap": 0.5, "threshold": 0.2, "cells": 14}
    others = [build_rtdetr(original, **{key: value}).identity() for key, value in changes.items()]
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 64, "width": 64}}))
    others.append(build_rtdetr(copied).identity())
    assert len({str(sorted(identity.items())) for identity in [plain, *others]}) == len(others) + 1
    sides = [
        build("resnet", folder_of("resnet"), **options).identity() for options in ({}, {"side": 256}, {"cells": 2})
    ]
    assert len({identity["options"] for identity in sides}) == 3


def test_weights_in_several_files_are_one_identity(tmp_path: Path) -> None:
    for number, content in enumerate([b"one", b"two"]):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(content)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not what is loaded")
    (tmp_path / "whole").write_bytes(b"onetwo")
    assert weights_sha256(tmp_path) == sha256(tmp_path / "whole")
