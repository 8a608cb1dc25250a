"""The guide "Data": its examples are read by the readers, its table of sizes follows from the arrays."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf

from threeshnet.annotations.captions import read_captions
from threeshnet.annotations.folder import CAPTION_FILES, FolderReader
from threeshnet.annotations.semantic_masks import read_classes
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.writer import write_shard

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
GUIDE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL))  # ```csv captions.csv


EXAMPLES = {"captions.txt": 4, "captions.csv": 3, "captions.jsonl": 3}  # captions


def test_every_form_of_captions_has_an_example() -> None:
    assert set(EXAMPLES) == set(CAPTION_FILES) == {name for name in FILES if name.startswith("captions")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_captions_are_read_whole(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    files = {line.file for line in read_captions(tmp_path / name)}
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    annotated = FolderReader().read(tmp_path)
    assert annotated.problems == ()
    assert len(annotated.photos) == len(files) == 2
    assert sum(len(photo.captions) for photo in annotated.photos) == EXAMPLES[name]


def test_the_example_of_classes_is_read(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(FILES["classes.txt"], encoding="utf-8")
    assert len(read_classes(tmp_path / "classes.txt")) == 3


def test_every_extractor_and_segmentation_is_listed_with_its_model() -> None:
    for group in ("extractor", "segmentation", "layout"):
        for choice in sorted({file.stem for file in (CONF / group).glob("*.yaml")} - {"auto"}):
            (row,) = [line for line in GUIDE.splitlines() if line.startswith("|") and f"`{group}={choice}`" in line]
            settings = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
            assert isinstance(settings, dict)
            assert settings.get("name", "") in row


# ---- numbers


def test_the_table_of_sizes_follows_its_formula() -> None:
    (table,) = re.findall(r"<!-- disk -->\n(.*?)<!-- /disk -->", GUIDE, flags=re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) >= 4
    for name, *cells in rows:
        size = np.dtype(re.findall(r"float\d+", name)[0]).itemsize
        width = {kind: int(number) for kind, number in re.findall(r"(regions|grid) (\d+)", name)}
        parts = [
            36 * (size * width["regions"] + 20) if "regions" in width else 0,
            49 * size * width["grid"] if "grid" in width else 0,
            49 * size * 133 + 64 * 64 + 133,
        ]
        said = [int(cell.replace(",", "")) if cell != "–" else 0 for cell in cells[:4]]
        assert said == [*parts, sum(parts)], name
        assert cells[4:] == [f"{sum(parts) * photos / 1e9:.1f} GB" for photos in (31_014, 123_287)]


def test_the_formula_of_sizes_is_that_of_a_shard(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = ImageArrays(
        regions=[rng.random((36, 6)).astype(np.float16)],
        boxes=[np.tile(np.array([0, 0, 1, 1], np.float32), (36, 1))],
        scores=[rng.random(36).astype(np.float32)],
        grid=rng.random((1, 49, 5)).astype(np.float16),
        seg_semantic=rng.random((1, 3, 7, 7)).astype(np.float16),
        seg_map=np.zeros((1, 64, 64), np.uint8),
        seg_categories=np.ones((1, 3), np.uint8),
    )
    photo = Photo("a", tmp_path / "a.jpg", "train", ("a dog",))
    path = write_shard(tmp_path / "s.h5", photos=[photo], arrays=arrays, sizes=[(1, 1)], grid_size=(7, 7))
    held: dict[str, int] = {}
    with h5py.File(path) as shard:
        shard.visititems(lambda name, item: held.update({name: getattr(item, "nbytes", 0)}))
    del held["region/offsets"]
    made = sum(size for name, size in held.items() if name.startswith(("region", "grid", "seg")))
    assert made == 36 * (2 * 6 + 20) + 49 * 2 * 5 + 49 * 2 * 3 + 4096 + 3


@pytest.mark.parametrize("name", ["throughput", "disk"])
def test_tables_that_are_filled_in_have_their_marks(name: str) -> None:
    assert len(re.findall(rf"<!-- {name} -->\n.*?<!-- /{name} -->", GUIDE, flags=re.DOTALL)) == 1
