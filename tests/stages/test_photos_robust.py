"""Photos of any mode, rotation, size and name; what cannot be read is listed, each with its reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from threeshnet.annotations.folder import FolderReader
from threeshnet.annotations.photo_files import frame_of
from threeshnet.errors import DataError
from threeshnet.features import photos
from threeshnet.features.fingerprints import ROUND_BITS, perceptual_hash
from threeshnet.features.photos import PhotoBatches, open_photo
from threeshnet.features.tiny import Tiny
from threeshnet.records import Photo
from threeshnet.shards.make import MadeShards

from .pictures import quiet_shards


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, file: Path, **options: object) -> Path:
    image.save(file, **options)
    return file


def reason_of(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_photo(file)
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize("position", [60, 90, 150, -20])
def test_a_png_with_a_changed_byte_is_refused_as_photo_and_as_mask(tmp_path: Path, position: int) -> None:
    file = saved(noise(), tmp_path / "p.png")
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    reason_of(file)
    with Image.open(file) as mask, pytest.raises((OSError, SyntaxError)):
        frame_of(mask)


# --- modes


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_is_scaled_from_its_range(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = np.asarray(open_photo(saved(Image.fromarray(values), tmp_path / f"deep.{ending}")))
    assert found[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_12_bit_tiff_is_not_dark(tmp_path: Path) -> None:
    values = np.array([[0, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.tiff")
    image = Image.open(tmp_path / "scan.tiff")
    image.load()
    image.tag_v2[258] = (12,)
    assert np.asarray(photos.to_rgb(image))[0, :, 0].tolist() == [0, 255]


def test_grey_without_a_range_takes_its_own(tmp_path: Path) -> None:
    values = np.array([[-3.0, 0.0, np.nan, 3.0]], np.float32)
    found = np.asarray(open_photo(saved(Image.fromarray(values), tmp_path / "float.tiff")))
    assert found[0, :, 0].tolist() == [0, 128, 0, 255]
    flat = open_photo(saved(Image.fromarray(np.full((2, 2), 7, np.int32)), tmp_path / "flat.tiff"))
    assert np.asarray(flat).max() == 0


def test_a_tall_deep_photo_is_scaled_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (37, 10), np.uint16)
    file = saved(Image.fromarray(values), tmp_path / "deep.png")
    monkeypatch.setattr("threeshnet.features.colours.STRIP_VALUES", 40)
    assert np.array_equal(np.asarray(open_photo(file))[:, :, 0], np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    options: dict[str, int] = {}
    if mode == "P":  # a colour of the palette is transparent
        picture = Image.new("P", (2, 1))
        picture.putpalette([0, 0, 0, 0, 0, 255])
        picture.putpixel((1, 0), 1)
        options = {"transparency": 1}
    ending = {"PA": "tiff", "P": "gif"}.get(mode, "png")
    file = saved(picture.convert(mode), tmp_path / f"{mode}.{ending}", **options)
    assert [open_photo(file).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    picture = noise()
    file = saved(picture.convert("RGBA"), tmp_path / "opaque.png")
    assert np.array_equal(np.asarray(open_photo(file)), np.asarray(picture))


def test_the_first_frame_stands_for_the_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for ending, options in {"gif": {}, "webp": {"lossless": True}, "png": {}}.items():
        file = saved(frames[0], tmp_path / f"two.{ending}", save_all=True, append_images=frames[1:], **options)
        assert open_photo(file).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "LAB"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    assert open_photo(saved(noise().convert(mode) if mode != "LAB" else lab(), tmp_path / "x.tiff")).mode == "RGB"


def lab() -> Image.Image:
    return Image.merge("LAB", noise().split())


# --- rotation and size


def test_faulty_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    for number, exif in enumerate([b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40, b"Exif\0\0nonsense", b"\0"]):
        file = saved(noise(), tmp_path / f"{number}.jpg", exif=exif)
        assert open_photo(file).size == (40, 30)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (20_000, 20)])
def test_any_size_is_extracted(tmp_path: Path, size: tuple[int, int]) -> None:
    file = saved(Image.new("RGB", size, "red"), tmp_path / "x.png")
    loaded = PhotoBatches([Photo("x", file, "train", ("a",))], [Tiny()], [[0]])[0]
    assert loaded.sizes == [size]
    assert loaded.inputs[0]["pixels"].shape == (1, 56, 56, 3)


def test_a_large_rgb_photo_is_not_copied(tmp_path: Path) -> None:
    image = Image.open(saved(noise(), tmp_path / "x.png"))
    image.load()
    assert photos.to_rgb(image) is image


# --- what is no photo


def test_each_reason_says_what_is_there_instead(tmp_path: Path) -> None:
    whole = saved(noise(400, 300), tmp_path / "whole.jpg").read_bytes()
    for name, content in {
        "page.jpg": b"\n <!DOCTYPE HTML><title>404</title>",
        "paper.jpg": b"%PDF-1.7\n",
        "cut.jpg": whole[: len(whole) // 2],
        "start.jpg": whole[:20],
        "zero.jpg": b"",
        "drawing.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "web page" in reason_of(tmp_path / "page.jpg")
    assert "b'%PDF-1.7" in reason_of(tmp_path / "paper.jpg")
    assert "truncated" in reason_of(tmp_path / "cut.jpg").lower()
    assert reason_of(tmp_path / "start.jpg")
    assert reason_of(tmp_path / "zero.jpg") == "empty (0 bytes)"
    assert "drawing (EPS)" in reason_of(tmp_path / "drawing.jpg")
    assert reason_of(tmp_path / "folder.jpg") == "a folder, not a photo"
    assert reason_of(tmp_path / "link.jpg") == "a link to nowhere.jpg, which is missing"
    assert "pipe" in reason_of(tmp_path / "pipe.jpg")
    assert reason_of(tmp_path / "none.jpg") == "missing"
    assert reason_of(tmp_path / "whole.jpg" / "x.jpg") == "Not a directory"


def test_no_permission_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(noise(), tmp_path / "mine.png")

    def refused(file: Path) -> None:
        assert file.name == "mine.png"
        raise PermissionError(13, "Permission denied")  # root, whom tests may run as, is never refused

    monkeypatch.setattr(Image, "open", refused)
    assert "Permission denied" in reason_of(file)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(Image.new("1", (20_000, 9_000)), tmp_path / "bomb.png")  # 180 megapixels in a few kilobytes
    monkeypatch.setattr(Image.core, "zip_decoder", None)  # nothing may be decoded
    assert "bomb" in reason_of(file)
    larger = saved(Image.new("1", (60_000, 9_000)), tmp_path / "larger.png")  # which Pillow itself refuses
    assert "bomb" in reason_of(larger)


def test_up_to_the_limit_photos_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    file = saved(noise(), tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here and refuses at twice as many
    monkeypatch.setattr(photos, "MOST_PIXELS", 1200)
    assert open_photo(file).size == (40, 30)
    assert not recwarn.list
    monkeypatch.setattr(photos, "MOST_PIXELS", 1199)
    assert reason_of(file) == "40x30 pixels, a decompression bomb; 1199 are the most"


def test_whatever_a_decoder_raises_is_a_reason(tmp_path: Path) -> None:
    """Photos with bytes turned over, in every format: read or refused, and nothing else."""
    generator = np.random.default_rng(0)
    for ending in ("jpg", "png", "gif", "tiff", "webp", "bmp"):
        buffer = io.BytesIO()
        noise().save(buffer, {"jpg": "JPEG"}.get(ending, ending.upper()))
        for number in range(40):
            content = bytearray(buffer.getvalue())
            for place in generator.integers(0, min(400, len(content)), 6):
                content[place] = generator.integers(256)
            file = tmp_path / f"{number}.{ending}"
            file.write_bytes(content)
            try:
                assert open_photo(file).mode == "RGB"
            except DataError as error:
                assert str(error).startswith(f"{file}: ")  # noqa: PT017


def test_too_little_memory_is_not_the_photo_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(noise(), tmp_path / "x.png")

    def full(image: Image.Image) -> Image.Image:
        assert image.size == (40, 30)
        raise MemoryError

    monkeypatch.setattr(photos, "to_rgb", full)
    with pytest.raises(MemoryError):
        open_photo(file)


# --- names, and the report at the end


def made_of(raw: Path, **options: object) -> MadeShards:
    return quiet_shards(FolderReader(dev_percent=0, test_percent=0).read(raw), raw, raw.parent / "shards", **options)


def test_every_name_is_kept_apart_and_every_failure_listed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    names = ["a/x.png", "b/x.png", "b/deep/er/Straße 東京 🐕.png", "broken.jpg", "page.jpg"]
    for number, name in enumerate(names):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        saved(noise(seed=number), raw / name)
    (raw / "broken.jpg").write_bytes((raw / "broken.jpg").read_bytes()[:150])
    (raw / "page.jpg").write_bytes(b"<html>")
    saved(noise(), raw / os.fsdecode(b"no-text-\xff\nname.png"))
    lines = [f"{name}\ta photo" for name in [*names, "x.png"]]
    (raw / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    made = made_of(raw)
    assert made.manifest.splits["train"].images == 3
    report = (made.folder / "left_out.txt").read_text(encoding="utf-8").splitlines()
    assert report == list(made.manifest.left_out)
    said = "\n".join(report)
    assert len(report) == 4
    assert "caption of x.png left out (2 photos have this name, give its path)" in said
    assert "no-text-\\udcff\\nname.png: has no caption" in said
    assert "train: page.jpg: a web page" in said
    assert "train: broken.jpg: " in said
    assert str(tmp_path) not in said
    with pytest.raises(DataError, match=r"(broken|page)\.jpg: .*on_error=skip"):
        made_of(raw, overwrite=True, on_error="stop")
    assert not (made.folder / "left_out.txt").exists()


def test_nothing_left_out_leaves_no_report(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    saved(noise(), raw / "x.png")
    (raw / "captions.txt").write_text("x.png\ta photo\nnone.png\tnothing\n")
    made = made_of(raw)
    assert (made.folder / "left_out.txt").read_text().count("\n") == 1
    (raw / "captions.txt").write_text("x.png\ta photo\n")
    (made.folder / "manifest.json").unlink()
    assert sorted(file.name for file in made_of(raw).folder.iterdir()) == ["manifest.json", "train-00000.h5"]


# --- what photos are recognised by


def slow_hash(image: Image.Image) -> int:
    grey = np.asarray(image.resize((32, 32), Image.Resampling.BOX).convert("L"), float)
    low = np.round(np.asarray(dctn(grey, type=2))[:8, :8].reshape(-1) / 4 / 2**ROUND_BITS)  # scipy has a factor of 4
    return int("".join("1" if value > np.median(low) else "0" for value in low), 2)


def test_the_perceptual_hash_is_that_of_the_cosine_transform() -> None:
    for seed in range(20):
        picture = noise(70, 50, seed)
        assert perceptual_hash(picture) == slow_hash(picture)


def test_the_perceptual_hash_outlives_a_copy_and_tells_photos_apart() -> None:
    one, other = noise(160, 120, 1), noise(160, 120, 2)
    buffer = io.BytesIO()
    one.resize((100, 75)).save(buffer, "JPEG", quality=60)
    copy = Image.open(buffer).convert("RGB")
    assert (perceptual_hash(one) ^ perceptual_hash(copy)).bit_count() <= 4
    assert (perceptual_hash(one) ^ perceptual_hash(other)).bit_count() > 12
