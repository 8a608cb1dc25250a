"""Stages from scenes to features: rendering, and lite0's grid, regions and segmentation."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from threeshnet.demo.render import STYLES, render
from threeshnet.demo.stuff import texture
from threeshnet.demo.world import Entry, paint, split_entries
from threeshnet.features import lite0
from threeshnet.features.mobile import BATCHNORM_EPSILON
from threeshnet.features.photos import PhotoBatches, open_photo
from threeshnet.features.segmentation import segmentation_arrays
from threeshnet.records import MAP_SIDE, Photo

from .stage import Case, Stage, World, products

STYLE = STYLES["day"]
HALF = 2e-3  # features are stored in float16
FOLDERS = "images", "segmentation"
SIZES = ("lite0",)


def rendering(world: World, _: str) -> Case:
    """Scenes to PNG files; the twin remembers no texture, the floor writes finished pixels."""
    entries = demo_photos(world.count(48, 3))
    painted, plain = (world.folder / name for name in ("painted", "painted_plainly"))
    finished = [render(entry.scene, STYLE) for entry in entries]

    def ours() -> None:
        emptied(painted)
        for entry in entries:
            paint(painted, entry, STYLE)

    def naive() -> None:
        emptied(plain)
        for entry in entries:
            texture.cache_clear()
            save(entry, render(entry.scene, STYLE))

    def floor() -> None:
        emptied(plain)
        for entry, pixels in zip(entries, finished, strict=True):
            save(entry, pixels)

    def save(entry: Entry, pixels: Any) -> None:
        for name, part in zip(FOLDERS, pixels, strict=True):
            Image.fromarray(part).save(plain / name / f"{entry.name}.png", "PNG", compress_level=1)

    def same() -> Any:
        ours()
        naive()
        names = [f"{kind}/{entry.name}.png" for kind in FOLDERS for entry in entries]
        return tuple([np.asarray(Image.open(folder / name)) for name in names] for folder in (painted, plain))

    return Case(len(entries), ours, naive, floor, "png", 0.0, same)


def demo_photos(count: int) -> list[Entry]:
    return split_entries(Random("0 train"), "train", count)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)


def extraction(world: World, _: str, *, field: str, photos: int) -> Case:
    """Files of photos to arrays; the twin takes photo by photo, and its network has Conv2d and BatchNorm2d."""
    folder, entries = world.folder / f"photos_{field}", demo_photos(world.count(photos, 2))
    emptied(folder)
    for entry in entries:
        paint(folder, entry, STYLE)
    listed = [Photo(entry.name, folder / "images" / f"{entry.name}.png", "test", ()) for entry in entries]
    extractor = lite0.Lite0(fields=[field])
    with mock.patch.object(lite0, "SameConv", PlainConv):
        twin = lite0.Lite0(fields=[field])

    def ours() -> Any:
        batch = PhotoBatches(listed, [extractor], [range(len(listed))])[0]
        with torch.no_grad():
            return of_photos([extractor(batch.inputs[0])])

    def naive() -> Any:
        with torch.no_grad():
            return of_photos([twin(twin.collate([twin.load(photo, open_photo(photo.file))])) for photo in listed])

    lowered = world.in_precision(ours)

    def same() -> Any:
        if field == "grid" or world.precision == torch.float32:
            return lowered(), naive()
        seen = twin.collate([twin.load(photo, open_photo(photo.file)) for photo in listed])[field]
        with torch.no_grad():  # which windows are chosen turns on near ties; their features are means over cells
            cells = world.in_precision(partial(extractor.cells, seen))().float(), twin.cells(seen)
        return tuple(each.mean(dim=1) for each in cells)

    return Case(len(listed), lowered, naive, products(lowered), "products", HALF, same, lower=True)


def of_photos(batches: list[Any]) -> list[np.ndarray]:
    """Features of each photo, of one batch or of many."""
    found = [batch.regions if batch.grid is None else batch.grid for batch in batches]
    return [np.asarray(photo, np.float32) for part in found for photo in part]


class PlainConv(nn.Module):
    """`SameConv` as the paper's tables say it: padding, Conv2d, BatchNorm2d, ReLU6."""

    def __init__(self, state: Any, conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.weight = state[f"{conv}.weight"]
        out, width, self.kernel, _ = self.weight.shape
        groups = out if width == 1 and self.kernel > 1 else 1
        self.conv = nn.Conv2d(width * groups, out, self.kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=BATCHNORM_EPSILON)
        self.conv.weight.data.copy_(self.weight)
        for key in ("weight", "bias", "running_mean", "running_var"):
            getattr(self.norm, key).data.copy_(state[f"{norm}.{key}"])
        self.stride, self.relu = stride, relu

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        x = self.norm(self.conv(functional.pad(x, (total // 2, total - total // 2) * 2)))
        return functional.relu6(x) if self.relu else x


def segmentation(world: World, _: str) -> Case:
    """Cells of the grid to the three forms of the segmentation; the twin goes photo by photo and class by class."""
    extractor = lite0.Lite0(fields=["seg"])
    members = [torch.tensor([int(number) for number in name.split()[1:]]) for name in extractor.class_names]
    cells = torch.rand(world.count(64, 2), 49, 1280, generator=torch.Generator().manual_seed(0))

    def ours() -> Any:
        with torch.no_grad():
            return segmentation_arrays(extractor.group_probabilities(cells), extractor.threshold)

    def naive() -> list[Any]:
        with torch.no_grad():
            logits = map(extractor.network.classifier, cells)
            return [plain_segmentation(photo, members, extractor.threshold) for photo in logits]

    def same() -> Any:
        made, (shares, maps, there) = ours(), (np.stack(part) for part in zip(*naive(), strict=True))
        equal_cells = (made.seg_map == maps).mean()  # near ties may fall the other way
        return [made.seg_semantic, equal_cells, made.seg_categories], [shares, 1.0, there]

    return Case(len(cells), ours, naive, products(ours), "products", HALF, same)


def plain_segmentation(logits: Tensor, members: list[Tensor], threshold: float) -> tuple[np.ndarray, ...]:
    """Logits [49, 1000] of a photo to class shares [C, 7, 7], the map [64, 64] and the classes there are [C]."""
    probabilities, how = logits.softmax(dim=1), {"mode": "bilinear", "align_corners": False}
    shares = torch.stack([probabilities[:, numbers].sum(dim=1).reshape(7, 7) for numbers in members])
    enlarged = [functional.interpolate(one[None, None], size=(MAP_SIDE, MAP_SIDE), **how)[0, 0] for one in shares]
    there = torch.stack([one.max() >= threshold for one in shares])
    return shares.numpy(), torch.stack(enlarged).argmax(dim=0).numpy(), there.numpy()


STAGES: dict[str, Stage] = {
    "rendering": Stage(rendering, ("224 px",)),
    "grid": Stage(partial(extraction, field="grid", photos=32), SIZES),
    "regions": Stage(partial(extraction, field="region", photos=12), SIZES),
    "segmentation": Stage(segmentation, SIZES),
}
