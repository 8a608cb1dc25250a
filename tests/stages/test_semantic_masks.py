"""Semantic PNGs beside a folder of photos: what is taken, and what is said of those that do not fit."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threeshnet.annotations.folder import FolderReader
from threeshnet.annotations.semantic_masks import read_classes
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.records import VOID, AnnotatedSet, Photo

NAMES = ["a.jpg", "trip/b.png"]


def raw_folder(raw: Path, masks: dict[str, Image.Image]) -> Path:
    """Two photos of 40 x 20 px with captions, three classes, and some masks."""
    for name in NAMES:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), "red").save(raw / name)
    (raw / "captions.txt").write_text("a.jpg\tone\ntrip/b.png\ttwo\n")
    (raw / "classes.txt").write_text("road\nsky\ncar\n")
    for name, mask in masks.items():
        (raw / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        mask.save(raw / "masks" / name)
    return raw


def numbers(values: list[int], height: int, width: int, mode: str = "L") -> Image.Image:
    """A mask of equal columns with these class numbers."""
    image = Image.fromarray(np.repeat(values, width // len(values))[None].repeat(height, axis=0).astype(np.uint8))
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def read(raw: Path) -> AnnotatedSet:
    return FolderReader(masks="masks", classes="classes.txt").read(raw)


def test_masks_of_both_modes_and_any_size(tmp_path: Path) -> None:
    masks = {"a.png": numbers([2, VOID], 20, 40), "trip/b.png": numbers([0, 1], 60, 120, "P")}
    annotated = read(raw_folder(tmp_path, masks))
    assert annotated.classes == ("road", "sky", "car")
    assert annotated.problems == (), "masks are no photos, even below the folder of the photos"
    assert [photo.segmentation for photo in annotated.photos] == [tmp_path / "masks" / name for name in masks]
    source = AnnotatedSegmentation().prepare(annotated)
    arrays = source(PhotoBatches(annotated.photos, [source], [range(2)])[0].inputs[0])
    assert arrays.seg_map[:, 9, [0, 63]].tolist() == [[2, VOID], [0, 1]]
    assert arrays.seg_categories.tolist() == [[0, 0, 1], [1, 1, 0]]


def test_what_is_wrong_with_masks_is_said_once(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path, {"a.png": Image.new("RGB", (40, 20))})
    with pytest.raises(DataError) as caught:
        read(raw)
    said = str(caught.value)
    assert "2 problems" in said
    assert "1 of 2 photos have no mask: trip/b.png missing" in said
    assert "a.png: PNG of mode RGB; expected a PNG of mode L or P" in said
    assert "data.reader.masks=null" in said


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (numbers([1, 2], 40, 20), "20x40, and the photo is displayed as 40x20"),
        (numbers([1, 7], 20, 40), "class 7; there are 0 to 2, and 255 for void"),
        (Image.new("I;16", (40, 20)), r"mode I;16; expected a PNG of mode L or P"),
    ],
)
def test_masks_that_do_not_fit(mask: Image.Image, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(raw_folder(tmp_path, {"a.png": mask, "trip/b.png": numbers([0, 1], 20, 40)}))


def test_grey_of_few_bits_is_refused(tmp_path: Path) -> None:
    """Pillow reads class 1 of 2 bits as 85, of 4 bits as 17."""
    raw = raw_folder(tmp_path, {"a.png": numbers([0, 1], 20, 40), "trip/b.png": numbers([0, 1], 20, 40)})
    grey = numbers([0, 1], 20, 40, "P")
    file = raw / "masks" / "a.png"
    grey.save(file, bits=2)
    read(raw)  # a palette of 2 bits holds the numbers as they are
    content = bytearray(file.read_bytes())
    assert content[24:26] == b"\x02\x03"
    content[25] = 0  # grey instead of palette; the checksum of the header follows
    start, length = 12, 17
    content[start + length : start + length + 4] = zlib.crc32(content[start : start + length]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(DataError, match="grey of 2 bits; expected 8"):
        read(raw)


def test_a_turned_photo_has_an_upright_mask(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path, {"a.png": numbers([1, 2], 40, 20), "trip/b.png": numbers([0, 1], 20, 40)})
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, displayed standing
    Image.new("RGB", (40, 20)).save(raw / "a.jpg", exif=exif)
    assert len(read(raw).photos) == 2
    Image.new("RGB", (40, 20)).save(raw / "a.jpg")
    with pytest.raises(DataError, match=r"a\.png: 20x40, and the photo is displayed as 40x20"):
        read(raw)


def test_two_photos_cannot_share_a_mask(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path, {"a.png": numbers([0, 1], 20, 40), "trip/b.png": numbers([0, 1], 20, 40)})
    Image.new("RGB", (40, 20)).save(raw / "a.webp")
    (raw / "captions.txt").write_text("a.jpg\tone\na.webp\ttwo\n")
    with pytest.raises(DataError, match=r"a\.png: of a\.jpg and of a\.webp"):
        read(raw)


def test_masks_and_classes_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"masks='masks', classes=None"):
        FolderReader(masks="masks")
    raw = raw_folder(tmp_path, {})
    with pytest.raises(DataError, match="the folder of masks is missing"):
        read(raw)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\n\nb\n", "line 2: empty"), ("a\nb\na\n", "'a' stands in 2 lines"), ("", "0 classes"), ("x\n", "")],
)
def test_class_names(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    if not said:
        assert read_classes(file) == ("x",)
        return
    with pytest.raises(DataError, match=said):
        read_classes(file)


def test_photos_without_a_mask_are_counted() -> None:
    photos = [Photo(str(number), Path("x.jpg"), "train", ("a",), segmentation=None) for number in range(9)]
    photos.append(Photo("with", Path("y.jpg"), "train", ("a",), segmentation=Path("y.png")))
    said = r"(?s)no table of classes.*9 of 10 photos have no mask, '0', '1', '2', '3', '4' and 4 more.*segmentation=own"
    with pytest.raises(DataError, match=said):
        AnnotatedSegmentation().prepare(AnnotatedSet("toy", tuple(photos)))
