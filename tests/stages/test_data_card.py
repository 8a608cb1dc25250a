"""The data card: what it says is so, it stands alone, text cannot break it, and it is the same each time."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from threeshnet.errors import ConfigError
from threeshnet.features.fingerprints import fingerprint, joined
from threeshnet.records import VOID, ImageArrays, Photo
from threeshnet.reports.card_numbers import TEXTS, feature_norms, gather
from threeshnet.reports.charts import bars, histogram
from threeshnet.reports.contact_sheet import contact_sheet, draw_boxes, draw_segmentation, largest_classes
from threeshnet.reports.data_card import leaked_photos, write_card
from threeshnet.shards.manifest import Manifest

from ..shard_folders import write_folder

CLASSES = ("sky-other-merged", "a <b> & $c$", "never seen")
EVIL = "<script>alert('x')</script> a dog & a 🐕"
COUNTS = {"train": 5, "dev": 3}
WIDTH, HEIGHT = 40, 30


def arrays_of(count: int, seed: int) -> ImageArrays:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, count)
    return ImageArrays(
        regions=[rng.standard_normal((n, 6)).astype(np.float16) for n in lengths],
        boxes=[np.tile(np.array([[0.1, 0.2, 0.6, 0.9]], np.float32), (n, 1)) for n in lengths],
        scores=[rng.random(n, np.float32) for n in lengths],
        grid=rng.standard_normal((count, 6, 8)).astype(np.float16),
        seg_semantic=rng.random((count, 3, 7, 7)).astype(np.float16),
        seg_map=np.repeat(rng.integers(0, 2, (count, 1, 64), np.uint8), 64, axis=1),
        seg_categories=np.tile(np.array([1, 0, 0], np.uint8), (count, 1)),
    )


def make(folder: Path, *, published: bool = False) -> Path:
    """Shards of two splits and their photos; `published`: grid and captions alone, no photos, no manifest's extras."""
    raw, shards = folder / "raw", []
    raw.mkdir(parents=True)
    for seed, (split, count) in enumerate(COUNTS.items()):
        arrays = ImageArrays(grid=arrays_of(count, seed).grid) if published else arrays_of(count, seed)
        size = None if published else (WIDTH, HEIGHT)
        photos = [
            Photo(f"{split}{n}", raw / f"{split}{n}.png", split, (EVIL, "two words")[: 1 + n % 2], size=size)
            for n in range(count)
        ]
        found = []
        for n, photo in enumerate(() if published else photos):
            picture = pixels(seed * 10 + n if (split, n) != ("dev", 1) else 3)  # dev1 is train3
            picture.save(photo.file)
            found.append(fingerprint(photo.file, picture))
        shards.append((photos, arrays, joined(found)))
    maker = {"name": "tiny", "version": "3", "options": "groups=2", "weights": "ab" * 32}
    write_folder(
        folder,
        shards,
        name="toy <set>",
        options={"grid_size": (2, 3), "raw": raw},
        class_names=() if published else CLASSES,
        extractors={} if published else dict.fromkeys(("region", "grid", "seg"), maker),
        raw="" if published else str(raw),
        left_out=() if published else ("train: p9: <img src=x> cannot be read",),
        commit="c0ffee",
    )
    return folder


def pixels(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Most of the time would go into pixels of figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threeshnet.reports.charts.DPI", 30)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_card(folder, out=tmp_path_factory.mktemp("card") / "card.html").read_text("utf-8")


class Reader(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(page: str) -> str:
    return " ".join(Reader(page).text.split())


def test_it_says_what_is_in_the_shards_and_what_made_it(page: str) -> None:
    text = text_of(page)
    captions = 5 + 2 + 3 + 1
    assert f"8 images with {captions} captions, as regions, grid cells, segmentation" in text
    for part in ("toy <set>", "tiny", "groups=2", "ab" * 32, "c0ffee", "region/features", "float16", "3 × 7 × 7"):
        assert part in text
    assert "1 photo or entry has no row" in text
    assert "p9: <img src=x> cannot be read" in text


def test_text_cannot_become_markup(page: str) -> None:
    reader = Reader(page)
    assert EVIL in reader.text
    assert not [tag for tag, _ in reader.tags if tag == "script"]
    assert not [attributes for tag, attributes in reader.tags if tag == "img" and attributes.get("src") == "x"]


def test_it_stands_alone(page: str) -> None:
    sources = [value for _, attributes in Reader(page).tags for name, value in attributes.items()
               if name in ("src", "srcset", "href") and value]  # fmt: skip
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<link", page)
    for source in (source for source in sources if source.startswith("data:")):
        Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).verify()
    links = {source[1:] for source in sources if source.startswith("#")}
    assert links <= {attributes.get("id") for _, attributes in Reader(page).tags}


def test_the_same_shards_give_the_same_bytes(folder: Path, page: str, tmp_path: Path) -> None:
    assert write_card(folder, out=tmp_path / "new" / "a.html").read_text("utf-8") == page
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.html"]


def test_a_photo_in_two_splits_is_shown(folder: Path, page: str) -> None:
    content = leaked_photos(folder, Manifest.load(folder))
    assert [(seen.leak.kind, seen.leak.ids) for seen in content["leaks"]] == [("identical", ("train3", "dev1"))]
    text = text_of(page)
    assert "1 photo is in two splits" in text
    assert all(seen.startswith("data:image/jpeg") for seen in content["leaks"][0].pictures)


def test_arrays_that_came_without_photos(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy", published=True)
    with pytest.raises(ConfigError, match="photos=-1"):
        write_card(folder, photos=-1)
    assert write_card(folder) == folder / "card.html"
    text = text_of((folder / "card.html").read_text("utf-8"))
    said = ["Not known: these shards hold no fingerprints of photos", "The manifest names no extractor", "grid cells"]
    for part in (*said, "None of the photos was found", "Nothing: every photo of the source has its row."):
        assert part in text
    assert "regions an image" not in text


# --- numbers


def test_numbers_are_those_of_the_shards(folder: Path) -> None:
    manifest = Manifest.load(folder)
    numbers = gather(folder, manifest)
    both = [arrays_of(count, seed) for seed, count in enumerate(COUNTS.values())]
    assert numbers.captions_an_image.tolist() == [1, 2, 1, 2, 1, 1, 2, 1]
    assert sorted(numbers.words.tolist()) == sorted([len(EVIL.split())] * 8 + [2] * 3)
    assert numbers.sizes.tolist() == [[WIDTH, HEIGHT]] * 8
    lengths = [len(regions) for arrays in both for regions in arrays.regions or ()]
    assert numbers.regions_an_image.tolist() == lengths
    np.testing.assert_array_equal(numbers.scores, np.concatenate([s for a in both for s in a.scores or ()]))
    maps = np.concatenate([arrays.seg_map for arrays in both])  # pyright: ignore
    assert numbers.class_cells.tolist() == [(maps == 0).sum(), (maps == 1).sum(), 0, 0]
    assert numbers.class_images.tolist() == [8, 0, 0]
    grids = np.concatenate([arrays.grid for arrays in both]).astype(np.float64)  # pyright: ignore
    np.testing.assert_allclose(numbers.norms["grid"], np.linalg.norm(grids, axis=-1).ravel(), rtol=1e-4)
    assert len(numbers.norms["region"]) == sum(lengths)
    assert numbers.bytes == sum(file.stat().st_size for file in folder.glob("*.h5"))
    assert sum(array.bytes for array in numbers.stored) == numbers.bytes
    stored = {array.key: array for array in numbers.stored}
    assert (stored["grid/features"].rows, stored["grid/features"].row) == (8, "6 × 8")
    assert stored["caption/text"].dtype == "text"
    assert stored[TEXTS].bytes > 0


def test_a_large_folder_is_sampled_evenly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threeshnet.reports.card_numbers.SAMPLED", 4)
    monkeypatch.setattr("threeshnet.reports.card_numbers.TOGETHER", 2)
    found = feature_norms(folder, Manifest.load(folder))["grid"]
    first = np.linalg.norm(np.float64(arrays_of(5, 0).grid)[[0, 4]], axis=-1)  # pyright: ignore
    assert len(found) == 4 * 6
    np.testing.assert_allclose(found[:6], first[0], rtol=1e-4)


# --- pictures


def test_boxes_are_drawn_where_they_are() -> None:
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    drawn = np.asarray(draw_boxes(grey, np.array([[0.2, 0.4, 0.8, 0.9]]), np.array([1.0])))
    changed = (drawn != 128).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    np.testing.assert_allclose([*columns[[0, -1]], *rows[[0, -1]]], [20, 79, 20, 44], atol=1)
    assert not changed[30:36, 40:60].any()  # the inside stays


def test_the_best_box_is_on_top_and_only_eight_are_drawn() -> None:
    boxes = np.array([[0, 0, 1, 1]] * 9 + [[0.4, 0.4, 0.6, 0.6]])
    scores = np.linspace(1, 0.1, 10)
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    drawn = np.asarray(draw_boxes(grey, boxes, scores))
    assert (drawn[20:44, 20:44] == 128).all()  # the tenth
    assert drawn[1, 30].tolist() == [0x66, 0xC2, 0xA5]  # the first colour
    degenerate = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0.5, 0.5, 0.5, 1]])
    draw_boxes(grey, degenerate, np.ones(3))  # a box without area is a fault of no one


def test_the_segmentation_lies_over_the_photo_the_right_way_round() -> None:
    seg_map = np.zeros((64, 64), np.uint8)
    seg_map[:16, 32:] = 7  # above, at the right
    drawn = np.asarray(draw_segmentation(Image.new("RGB", (80, 40), "white"), seg_map, {7: "#ff0000", 0: "#0000ff"}))
    assert drawn.shape == (40, 80, 3)
    assert drawn[5, 70, 0] > drawn[5, 70, 2]
    for y, x in ((5, 10), (30, 70), (30, 10)):
        assert drawn[y, x, 2] > drawn[y, x, 0]
    assert largest_classes(seg_map) == [(0, 0.875), (7, 0.125)]


def test_the_contact_sheet_shows_chosen_images_with_their_own_words(folder: Path) -> None:
    sheets = contact_sheet(folder, Manifest.load(folder), photos=100, seed=0)
    assert [sheet.id for sheet in sheets] == [f"{split}{n}" for split, count in COUNTS.items() for n in range(count)]
    assert all(sheet.with_photo and sheet.caption == EVIL for sheet in sheets)
    assert [sheet.captions for sheet in sheets] == [1, 2, 1, 2, 1, 1, 2, 1]
    assert sheets[0].classes[0].name in ("sky", "a <b> & $c$")
    assert sum(named.share for named in sheets[0].classes) in (99, 100, 101)
    few = contact_sheet(folder, Manifest.load(folder), photos=3, seed=5)
    assert len(few) == 3
    assert {sheet.id for sheet in few} < {sheet.id for sheet in sheets}
    assert few == contact_sheet(folder, Manifest.load(folder), photos=3, seed=5)
    assert few != contact_sheet(folder, Manifest.load(folder), photos=3, seed=6)


def test_without_a_photo_its_shape_is_kept_and_void_is_counted_apart(tmp_path: Path) -> None:
    folder = make(tmp_path / "toy")
    (folder / "raw" / "train0.png").unlink()
    (folder / "raw" / "train1.png").write_bytes(b"torn")
    sheets = contact_sheet(folder, Manifest.load(folder), photos=100, seed=0)
    assert [sheet.with_photo for sheet in sheets[:3]] == [False, False, True]
    picture = Image.open(io.BytesIO(base64.b64decode(sheets[0].boxes.split(",", 1)[1])))
    assert picture.size == (480, 360)
    with h5py.File(folder / "dev-00000.h5", "r+") as shard:
        data: Any = shard["seg/map"]
        data[0] = VOID
    assert gather(folder, Manifest.load(folder)).class_cells[-1] == 64 * 64


# --- figures


def test_figures_say_their_numbers() -> None:
    figure = histogram("regions", np.array([1, 2, 2, 9]), "regions")
    assert figure.says == "median 2, from 1 to 9"
    assert figure.light.startswith("data:image/png;base64,")
    assert figure.light != figure.dark
    same = histogram("regions", np.full(7, 36), "regions")
    assert (same.says, same.light) == ("36 everywhere", "")
    assert histogram("scores", np.array([np.nan, 0.25, 0.75]), "score").says == "median 0.50, from 0.25 to 0.75"
    assert histogram("words", np.array([], np.int64), "words").says == "none"
    assert (
        bars("classes", [f"c{n}" for n in range(20)], np.arange(20), "images").says == "the first 16 of 19 that occur"
    )
    assert bars("classes", ["$x^2", "b"], np.array([3, 0]), "images").says == "all that occur"
