"""Masks and outlines of others: whose pixels they lie over, what they hold, and that shards are kept by content."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from threeshnet.annotations.coco import CocoReader
from threeshnet.annotations.coco_segmentation import run_lengths
from threeshnet.annotations.folder import FolderReader
from threeshnet.annotations.photo_files import METHODS
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards.plan import folder_fingerprint, masks_digest, plan_shards
from threeshnet.shards.reader import ShardedSplit

from .pictures import quiet_shards

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".tif": {},
    ".webp": {"lossless": True},
}


def stored(image: Image.Image, orientation: int, file: Path) -> None:
    """Save a picture so that it is displayed as given once its EXIF orientation was applied."""
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.transpose(METHODS[undo]) if orientation > 1 else image
    image.save(file, exif=exif, **FORMATS[file.suffix])


def masked(raw: Path, photos: dict[str, tuple[Image.Image, int, Image.Image]]) -> AnnotatedSet:
    """A folder of photos, each with its EXIF orientation and its mask, all to train with."""
    (raw / "masks").mkdir(parents=True, exist_ok=True)
    (raw / "classes.txt").write_text("a\nb\nc\n")
    for name, (image, orientation, mask) in photos.items():
        stored(image, orientation, raw / name)
        mask.save(raw / "masks" / f"{Path(name).stem}.png", compress_level=0)
    lines = "".join(f"{name},A dog.,train\n" for name in photos)
    (raw / "captions.csv").write_text(f"file,caption,split\n{lines}")
    return FolderReader(masks="masks", classes="classes.txt").read(raw)


def plain(number: int, size: tuple[int, int] = (12, 12)) -> Image.Image:
    return Image.fromarray(np.full(size[::-1], number, np.uint8))


def grey(size: tuple[int, int] = (12, 12)) -> Image.Image:
    return Image.new("RGB", size, "grey")


# ---- whose pixels


@settings(max_examples=3, deadline=None)
@given(st.integers(8, 30), st.integers(8, 30), st.integers(0, 9))
def test_a_photo_and_its_mask_end_in_the_same_shard(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, seed: int
) -> None:
    """However the photo is stored: in all eight orientations, as JPEG, PNG, TIFF and WebP."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("turned")
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    mask = Image.fromarray(rng.integers(0, 3, (height, width), dtype=np.uint8))
    names = [f"{kind[1:]}{orientation}{kind}" for kind in FORMATS for orientation in range(1, 9)]
    annotated = masked(folder / "raw", {name: (image, int(name[-len(Path(name).suffix) - 1]), mask) for name in names})
    sources = [Tiny(fields=["grid"]), AnnotatedSegmentation().prepare(annotated)]
    quiet_shards(annotated, folder / "raw", folder / "s", sources=sources)
    split = ShardedSplit(folder / "s", "train")
    arrays = split.read(range(split.images))
    assert len({row.tobytes() for row in arrays.seg_map}) == 1
    kinds = [Path(name).suffix for name in split.image_ids]
    lossless = [row.tobytes() for row, kind in zip(arrays.grid, kinds, strict=True) if kind != ".jpg"]
    assert len(lossless) == 24
    assert len(set(lossless)) == 1
    np.testing.assert_allclose(arrays.grid, np.broadcast_to(arrays.grid[:1], arrays.grid.shape), atol=0.2)


@pytest.mark.parametrize(("orientation", "size"), [(6, (12, 12)), (3, (16, 12)), (2, (16, 12))])
def test_masks_whose_shape_does_not_tell_are_remarked(
    orientation: int, size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """labelme#1529: masks drawn over the stored pixels. A square looks the same, and so does a photo upside down."""
    photos = {"p.jpg": (grey(size), orientation, plain(1, size)), "q.jpg": (grey(size), 1, plain(1, size))}
    with caplog.at_level(logging.WARNING):
        masked(tmp_path, photos)
    assert "1 masks are of photos with an EXIF orientation, and their shapes do not tell how they lie (p.jpg)" in (
        caplog.text
    )
    caplog.clear()
    tall = grey((12, 16)), 6, plain(1, (12, 16))  # only upright: so are the others
    masked(tmp_path / "told", photos | {"tall.jpg": tall})
    assert caplog.text == ""


def outlines(raw: Path, sizes: dict[int, tuple[int, int]]) -> CocoReader:
    """Photos of 16 x 12 stored pixels by their EXIF orientation; the outlines lie in an image of that size."""
    (raw / "val2017").mkdir(parents=True)
    images, notes = [], []
    for orientation, (width, height) in sizes.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        grey((16, 12)).save(raw / f"val2017/{orientation}.jpg", exif=exif)
        images.append({"id": orientation, "file_name": f"{orientation}.jpg", "width": width, "height": height})
        upper = [[0, 0, width, 0, width, height // 2 - 1, 0, height // 2 - 1]]
        notes.append({"image_id": orientation, "category_id": 5, "area": 9, "segmentation": upper})
    captions = [{"image_id": orientation, "caption": "A dog."} for orientation in sizes]
    content = {"images": images, "categories": [{"id": 5, "name": "sky"}]}
    (raw / "captions_val2017.json").write_text(json.dumps(content | {"annotations": captions}))
    (raw / "instances_val2017.json").write_text(json.dumps(content | {"annotations": notes}))
    return CocoReader(name="x", splits={"test": "val2017"}, segmentation="instances")


def test_outlines_lie_as_those_whose_shape_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ultralytics#19222: outlines made over displayed photos. One that is upside down is not turned then."""

    def top(raw: Path, sizes: dict[int, tuple[int, int]]) -> bool:
        photos = {photo.id: photo for photo in outlines(raw, sizes).read(raw).photos}
        return bool(np.asarray(Image.open(photos["3"].segmentation))[0, 0] == 0)

    assert top(tmp_path / "displayed", {3: (16, 12), 6: (12, 16)})
    assert not top(tmp_path / "stored", {3: (16, 12), 6: (16, 12)})
    assert caplog.text == ""
    assert not top(tmp_path / "open", {3: (16, 12)})
    assert "1 photos have an EXIF orientation, and the shapes of their segmentations do not tell" in caplog.text


# ---- what they hold


def test_run_lengths_as_pycocotools_writes_them() -> None:
    """sleap-io#487, supervision#1952: `counts` is a text there."""
    counts, size = [2, 3, 1, 4, 2], [3, 4]
    expected = run_lengths({"size": size, "counts": counts})
    assert (run_lengths({"size": size, "counts": "23111"}) == expected).all()
    for wrong in ("2311", "23112", "2\u00e9", "", [2, 3, 1, 4, 3], [-1, 13]):
        with pytest.raises(DataError, match="run lengths"):
            run_lengths({"size": size, "counts": wrong})


def test_class_numbers_from_one_are_refused(tmp_path: Path) -> None:
    """cocostuff#7, #17: label maps count from 1 in one place and from 0 in another."""
    with pytest.raises(DataError, match="class 3; there are 0 to 2, and 255 for void"):
        masked(tmp_path, {f"{number}.png": (grey(), 1, plain(number)) for number in (1, 2, 3)})


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_class_maps_on_a_disk_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """transformers#47852: EROFS is no PermissionError. Said before anything is drawn."""

    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    reader = outlines(tmp_path, {1: (16, 12)})
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said = rf"data\.reader\.cache=.*segmentation_instances cannot be written: {os.strerror(number)}; give another one"
    with pytest.raises(ConfigError, match=said):
        reader.read(tmp_path)


# ---- kept by content


def test_a_mask_that_was_drawn_anew_in_place_is_noticed_in_an_interrupted_run(tmp_path: Path) -> None:
    """villa#1661, pylearn2#870: the next run went on with what the old masks had given."""
    annotated = masked(tmp_path / "raw", {f"{n}.png": (grey(), 1, plain(1)) for n in range(4)})
    sources = [Tiny(fields=["grid"]), AnnotatedSegmentation().prepare(annotated)]
    made: dict[str, Any] = {"sources": sources, "images_per_shard": 2}
    quiet_shards(annotated, tmp_path / "raw", tmp_path / "s", **made)
    for name in ("manifest.json", "train-00001.h5"):  # as a run leaves it that was cut
        (tmp_path / "s" / name).unlink()
    before = (tmp_path / "raw/masks/0.png").read_bytes()
    plain(2).save(tmp_path / "raw/masks/0.png", compress_level=0)
    assert len((tmp_path / "raw/masks/0.png").read_bytes()) == len(before)
    with pytest.raises(DataError, match=r"train-00000\.h5: masks of photos have other content now"):
        quiet_shards(annotated, tmp_path / "raw", tmp_path / "s", **made)
    (tmp_path / "raw/masks/0.png").write_bytes(before)
    assert quiet_shards(annotated, tmp_path / "raw", tmp_path / "s", **made).kept == 1


WORDS = st.text("ab", min_size=1, max_size=2)
PHOTOS = st.lists(st.tuples(WORDS, WORDS, st.sampled_from(["train", "dev"]), st.binary(max_size=2)), max_size=3)
MAKERS = st.dictionaries(st.sampled_from(["name", "weights", "options"]), WORDS | st.integers(0, 2), max_size=2)


@settings(max_examples=60, deadline=None)
@given(PHOTOS, PHOTOS, MAKERS, MAKERS, st.booleans())
def test_a_plan_is_equal_where_all_that_it_depends_on_is(
    tmp_path_factory: pytest.TempPathFactory, one: Any, other: Any, maker: Any, another: Any, same: bool
) -> None:
    """Photos' names, captions and splits, masks to the byte, class names and what makes the features."""
    folder = tmp_path_factory.mktemp("plan")

    def planned(name: str, given: Any, makers: Any) -> tuple[Any, Any]:
        raw = folder / name
        raw.mkdir()
        photos = []
        for number, (file, caption, split, mask) in enumerate([("first", "a", "train", b""), *given]):
            (raw / f"{number}.png").write_bytes(mask)
            photos.append(Photo(f"{file}{number}", raw / file, split, (caption,), segmentation=raw / f"{number}.png"))
        plan = plan_shards(AnnotatedSet("x", tuple(photos), ("a",)), raw=raw, makers=makers, images_per_shard=2)
        by_split = {split: [row for row in given if row[2] == split] for split in ("train", "dev")}
        kept = [[number for number, row in enumerate(given) if row[2] == split] for split in by_split]
        order = [split for _, _, split, _ in given]
        return (folder_fingerprint(plan), masks_digest(plan)), (by_split, kept, makers, dict.fromkeys(order))

    first, its = planned("one", one, maker)
    second, others = planned("other", one if same else other, maker if same else another)
    assert (first == second) == (its[:3] == others[:3])
