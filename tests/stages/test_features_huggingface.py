"""Extractors of models from `transformers`: tiny random folders through the real path, planted boxes, slow twins."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.features.backbone import BackboneGrid
from threeshnet.features.cells import as_cells
from threeshnet.features.detector import SigmoidDetector
from threeshnet.features.huggingface import in_equal_sizes, located, weights_sha256
from threeshnet.features.photos import PhotoBatches
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.row_checks import array_faults
from threeshnet.shards.schema import layout_of_arrays

from .pictures import assert_alike, extract, picture, slow_cells
from .tiny_models import DETECTORS, GRIDS, build, made

FAMILIES = [*DETECTORS, *GRIDS]


# ---- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_becomes_arrays_that_fit_a_shard(family: str, folder_of: Any, photos: list[Photo]) -> None:
    extractor = build(family, folder_of(family))
    arrays = extract(extractor, photos)
    assert not array_faults(arrays, layout_of_arrays(arrays, extractor.grid_size), [photo.id for photo in photos])
    assert arrays.grid.shape[:2] == (len(photos), 49)
    assert arrays.grid.dtype == np.float16
    assert arrays.grid.std(axis=0).max() > 0.01  # the photos differ
    if family in DETECTORS:
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


# ---- grids


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
    assert np.isfinite(arrays.grid).all()
    assert all(1 <= len(boxes) <= 36 for boxes in arrays.boxes or [])


def test_the_wrong_kind_of_model_is_named(folder_of: Any, photos: list[Photo]) -> None:
    with pytest.raises(ConfigError, match=r"6 logits a query for 5 classes; SigmoidDetector reads 5"):
        extract(SigmoidDetector(name=folder_of("detr")), photos[:1])
    with pytest.raises(ConfigError, match=r"a clip is no backbone in transformers.*extractor=clip"):
        BackboneGrid(name=folder_of("clip"))
    with pytest.raises(ConfigError, match="a swin is no detector in transformers"):
        SigmoidDetector(name=folder_of("swin"))
    with pytest.raises(ConfigError, match="features='both' does not exist; there are: decoder, backbone"):
        SigmoidDetector(name=folder_of("rtdetr"), features="both")
    for cells in (0, "all"):
        with pytest.raises(ConfigError, match=f"cells={cells!r}"):
            BackboneGrid(name=folder_of("resnet"), cells=cells)
    with pytest.raises(ConfigError, match="cells=native"):
        SigmoidDetector(name=folder_of("rtdetr"), cells="native")


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    folder = made("swin", tmp_path)
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
