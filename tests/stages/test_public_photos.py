"""Photos, masks and outlines as people have them: found or missed with the reason, turned alike, kept by content."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from threeshnet.annotations.coco import CocoReader
from threeshnet.annotations.folder import FolderReader
from threeshnet.annotations.karpathy import KarpathyReader
from threeshnet.annotations.photo_files import METHODS, photo_frame
from threeshnet.errors import DataError
from threeshnet.features.photos import open_photo
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import look_through

from .pictures import quiet_shards

FORMATS = {".jpg": {"quality": 95, "subsampling": 0}, ".png": {}, ".tif": {}, ".webp": {"lossless": True}}


def picture(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def turned(image: Image.Image, orientation: int, file: Path) -> None:
    """Store a picture so that it is displayed as given after its EXIF orientation was applied."""
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.transpose(METHODS[undo]) if orientation > 1 else image
    stored.save(file, exif=exif, **FORMATS[file.suffix])


# ---- why a photo is not there


def test_the_reason_is_named(raw: Path, tmp_path: Path) -> None:
    picture(raw / "p.jpg")
    for name in ("q.dng", "Q2.JPG", "x/._y.jpg", "@eaDir/t.jpg"):
        picture(raw / name.replace(".dng", ".png")).rename(raw / name)
    (raw / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    picture(tmp_path / "away/r.jpg")
    (raw / "linked").symlink_to(tmp_path / "away")
    reasons = {
        "q.dng": "the ending '.dng' is not read; there are: .avif",
        "q2.jpg": "no such photo; raw has Q2.JPG, in another case",
        "q": "no such photo; raw has q.dng, with another ending",
        "x/._y.jpg": "a companion file of the operating system",
        "@eaDir/t.jpg": "a companion file of the operating system",
        "gone.jpg": f"a link to {tmp_path / 'nowhere.jpg'}, which is missing",
        "linked/r.jpg": "below linked, a link to a folder, which is not followed",
        "/data/p.jpg": "no such photo; an absolute path that is not below",
        "C:\\photos\\p.jpg": "no such photo",
        "nothing.jpg": "no such photo",
    }
    lines = "".join(f"{name},A cat.\n" for name in reasons)
    (raw / "captions.csv").write_text(f"file,caption\np.jpg,A dog.\n{lines}", encoding="utf-8")
    found = [problem for problem in FolderReader().read(raw).problems if " line " in problem]
    for problem, (name, reason) in zip(found, reasons.items(), strict=True):
        assert f"caption of {name} left out ({reason}" in problem


def test_names_are_understood(tmp_path: Path) -> None:
    """An absolute path below the folder, another Unicode form, the endings of phones and of Windows."""
    for number, name in enumerate(("a.jpg", "b.jfif", "c.avif", "IMG_1.HEIC", unicodedata.normalize("NFD", "é.jpg"))):
        picture(tmp_path / "tmp.jpg", number).rename(tmp_path / name)
    names = (str(tmp_path / "a.jpg"), "b.jfif", "c.avif", "IMG_1.HEIC", unicodedata.normalize("NFC", "é.jpg"))
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{name},A dog.\n" for name in names), "utf-8")
    annotated = FolderReader().read(tmp_path)
    assert len(annotated.photos) == 5
    assert annotated.problems == ()
    entries = [
        {"filename": name, "split": "train", "sentences": [{"raw": "A dog."}]}
        for name in (unicodedata.normalize("NFC", "é.jpg"), str(tmp_path / "a.jpg"), "/disk/a.jpg")
    ]
    (tmp_path / "d.json").write_text(json.dumps({"images": entries}), encoding="utf-8-sig")  # a mark, as on Windows
    annotated = KarpathyReader(name="x", file="d.json", images=".").read(tmp_path)
    assert [photo.id for photo in annotated.photos] == [unicodedata.normalize("NFC", "é.jpg"), "a.jpg"]
    assert "/disk/a.jpg does not exist (an absolute path that is not below" in annotated.problems[0]


def test_a_path_below_the_raw_folder_is_understood(tmp_path: Path) -> None:
    picture(tmp_path / "photos/a/p.jpg")
    picture(tmp_path / "photos/b/p.jpg")
    names = ("photos/a/p.jpg", "b/p.jpg", str(tmp_path / "photos/a/p.jpg"))
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{name},A dog.\n" for name in names))
    annotated = FolderReader(images="photos").read(tmp_path)
    assert {photo.id: len(photo.captions) for photo in annotated.photos} == {"a/p.jpg": 2, "b/p.jpg": 1}


def test_two_names_of_one_form_are_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        picture(tmp_path / unicodedata.normalize(form, "é.jpg"))
    (tmp_path / "captions.txt").write_text("é.jpg\tA dog.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'e\\u0301.jpg' and '\\xe9.jpg': two photos, one name"):
        FolderReader().read(tmp_path)


def test_photos_of_phones(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 32), "red")
    image.save(tmp_path / "a.avif")
    heif.from_pillow(image).save(tmp_path / "a.heic")
    assert [open_photo(tmp_path / name).size for name in ("a.avif", "a.heic")] == [(64, 32)] * 2


def test_the_caption_file_that_is_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "p.jpg")
    (tmp_path / "captions.txt").write_text("p.jpg\tA dog.\n")
    (tmp_path / "captions.csv").write_text("file,caption\np.jpg,A cat.\n")
    FolderReader().read(tmp_path)
    assert "captions.txt is read, and captions.csv is not" in caplog.text


# ---- turned alike


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8), st.sampled_from(list(FORMATS)), st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 2])
)
def test_any_orientation_in_any_format_is_turned_upright(
    orientation: int, ending: str, width: int, height: int, scale: int
) -> None:
    """A photo has the size and the pixels that it is displayed with, and an upright mask fits it."""
    rng = np.random.default_rng([width, height])
    small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    displayed = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    mask = Image.fromarray(rng.integers(0, 3, (height * scale, width * scale), dtype=np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        (raw / "masks").mkdir()
        file = raw / f"p{ending}"
        turned(displayed, orientation, file)
        mask.save(raw / "masks/p.png")
        (raw / "classes.txt").write_text("a\nb\nc\n")
        (raw / "captions.csv").write_text(f"file,caption\n{file.name},A dog.\n")
        frame = photo_frame(file)
        assert frame.displayed == open_photo(file).size == displayed.size
        difference = np.abs(np.asarray(open_photo(file), int) - np.asarray(displayed, int))
        assert difference.max() <= (40 if ending == ".jpg" else 0)
        annotated = FolderReader(masks="masks", classes="classes.txt").read(raw)
        assert [photo.segmentation for photo in annotated.photos] == [raw / "masks/p.png"]


NOTE = {"image_id": 1, "category_id": 5, "area": 96, "segmentation": [[0, 0, 9, 0, 9, 5]]}
SKY = [{"id": 5, "name": "sky"}]


def coco(raw: Path, orientation: int = 1, size: tuple[int, int] = (16, 12), notes: Any = None) -> CocoReader:
    """One photo, red above and blue below in its stored pixels, with an outline of the upper half."""
    (raw / "val2017").mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[:6, :, 0] = pixels[6:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(raw / "val2017/1.jpg", exif=exif)
    image = {"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1]}
    outline = {**NOTE, "segmentation": [[0, 0, 15, 0, 15, 5, 0, 5]]}
    captions = {"images": [image], "annotations": [{"image_id": 1, "caption": "A dog."}]}
    outlines = {"images": [image], "annotations": [outline] if notes is None else notes, "categories": SKY}
    for kind, content in {"captions": captions, "instances": outlines}.items():
        (raw / f"{kind}_val2017.json").write_text(json.dumps(content))
    return CocoReader(name="x", splits={"test": "val2017"}, segmentation="instances")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_outlines_of_stored_pixels_turn_with_their_photo(orientation: int, tmp_path: Path) -> None:
    (photo,) = coco(tmp_path, orientation).read(tmp_path).photos
    seen, sky = np.asarray(open_photo(photo.file), int), np.asarray(Image.open(photo.segmentation)) == 0
    assert sky.shape == seen.shape[:2]
    assert ((seen[..., 0] > seen[..., 2]) == sky).mean() > 0.95


def test_outlines_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="segmentation and photo are of different shapes, 12x30 and 16x12"):
        coco(tmp_path, size=(12, 30)).read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": [[0.1, 40, 0.9, 40, 0.9, 41]]}, "none of its 1 segments has a pixel in the photo"),
        ({"image_id": 7}, "none of its segments is of one of the 1 photos"),
    ],
)
def test_a_segmentation_in_which_nothing_matches_is_an_error(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        coco(tmp_path, notes=[NOTE | change]).read(tmp_path)


def test_pixels_of_no_segment_are_an_error(tmp_path: Path) -> None:
    """COCO's two-channel PNGs (category, number) in the place of panoptic ones."""
    coco(tmp_path)
    note = {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 8_000_001, "category_id": 5}]}
    content = json.dumps({"images": [], "annotations": [note], "categories": SKY})
    (tmp_path / "panoptic_val2017.json").write_text(content)
    (tmp_path / "panoptic_val2017").mkdir()
    png = np.zeros((12, 16, 3), np.uint8)
    png[..., :2] = (5, 1)
    Image.fromarray(png).save(tmp_path / "panoptic_val2017/1.png")
    with pytest.raises(DataError, match=r"1\.png: pixels of segment 261, which its `segments_info` does not list"):
        CocoReader(name="x", splits={"test": "val2017"}, segmentation="panoptic").read(tmp_path)


# ---- kept by content


def test_class_maps_follow_annotations_and_photos(tmp_path: Path) -> None:
    def drawn(reader: CocoReader) -> np.ndarray:
        (photo,) = reader.read(tmp_path).photos
        return np.asarray(Image.open(photo.segmentation))

    first = drawn(coco(tmp_path))
    assert (drawn(coco(tmp_path, notes=[NOTE])) != first).any(), "other outlines of the same photo"
    assert drawn(coco(tmp_path, orientation=6)).shape == first.shape[::-1], "another photo of the same name"
    assert np.array_equal(drawn(coco(tmp_path)), first)


def masked(raw: Path, *numbers: int, ending: str = ".png") -> AnnotatedSet:
    """Photos a, b and so on to train with, each with a mask of one class number."""
    (raw / "masks").mkdir()
    for name, number in zip("ab", numbers, strict=False):
        picture(raw / f"{name}{ending}", ord(name))
        mask = Image.fromarray(np.full((12, 16), number, np.uint8))
        mask.save(raw / "masks" / f"{name}.png", compress_level=0)  # so that all are of one size
    (raw / "classes.txt").write_text("x\ny\n")
    lines = [f"{name}{ending},A dog.,train\n" for name in "ab"[: len(numbers)]]
    (raw / "captions.csv").write_text("".join(["file,caption,split\n", *lines]))
    return FolderReader(masks="masks", classes="classes.txt").read(raw)


def test_shards_of_exchanged_photos_and_changed_masks_are_not_kept(raw: Path, tmp_path: Path) -> None:
    annotated = masked(raw, 0, 1, ending=".bmp")
    sources = [Tiny(fields=["grid"]), AnnotatedSegmentation().prepare(annotated)]
    made = quiet_shards(annotated, raw, tmp_path / "s", sources=sources)
    assert quiet_shards(annotated, raw, tmp_path / "s", sources=sources).kept == len(made.manifest.splits)
    before = (raw / "masks/a.png").read_bytes()
    (raw / "masks/a.png").write_bytes((raw / "masks/b.png").read_bytes())
    with pytest.raises(DataError, match=r"\.(json|h5): masks of photos have other content now"):
        quiet_shards(annotated, raw, tmp_path / "s", sources=sources)
    (raw / "masks/a.png").write_bytes(before)
    (raw / "a.bmp").rename(raw / "t")
    (raw / "b.bmp").rename(raw / "a.bmp")
    (raw / "t").rename(raw / "b.bmp")
    with pytest.raises(DataError, match=r"train-00000\.h5: 2 photos have other content now: a\.bmp, b\.bmp"):
        quiet_shards(annotated, raw, tmp_path / "s", sources=sources)


def test_companions_of_shards_are_passed_over(raw: Path, tmp_path: Path) -> None:
    picture(raw / "p.png")
    (raw / "captions.csv").write_text("file,caption,split\np.png,A dog.,val\n")
    annotated = FolderReader().read(raw)
    quiet_shards(annotated, raw, tmp_path / "s")
    (tmp_path / "s/._dev-00000.h5").write_bytes(b"\0\5\x16\7")
    assert quiet_shards(annotated, raw, tmp_path / "s").kept == 1
    look_through(tmp_path / "s").raise_faults()
    with pytest.raises(DataError, match="split='val' does not exist; there are: dev; val is called dev here"):
        ShardedSplit(tmp_path / "s", "val")


@pytest.mark.parametrize("seed", range(6))
def test_one_changed_byte_of_a_photo_or_mask_is_noticed(seed: int, raw: Path, tmp_path: Path) -> None:
    annotated = masked(raw, 0)
    quiet_shards(annotated, raw, tmp_path / "s")
    file = raw / ("a.png", "masks/a.png")[seed % 2]
    content = bytearray(file.read_bytes())
    content[int(np.random.default_rng(seed).integers(len(content)))] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="have other content now"):
        quiet_shards(annotated, raw, tmp_path / "s")


@pytest.mark.parametrize(
    ("classes", "said"), [((255, 255), "void in all of its 2"), ((1, 1), "the same in all"), ((0, 1), "")]
)
def test_verify_remarks_on_segmentations_without_content(
    classes: tuple[int, int], said: str, raw: Path, tmp_path: Path
) -> None:
    annotated = masked(raw, *classes)
    quiet_shards(annotated, raw, tmp_path / "s", sources=[AnnotatedSegmentation().prepare(annotated)])
    remarks = [remark for remark in look_through(tmp_path / "s").remarks if "seg/map" in remark]
    assert len(remarks) == bool(said)
    assert all(said in remark for remark in remarks)
