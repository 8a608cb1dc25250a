"""COCO's own JSON files: captions, panoptic PNGs, instance outlines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from threeshnet.annotations.coco import CocoReader
from threeshnet.annotations.coco_segmentation import run_lengths
from threeshnet.errors import ConfigError, DataError

SPLITS = {"train": "train2017", "test": "val2017"}
CATEGORIES = [{"id": 200, "name": "rug"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]


def write(raw: Path, kind: str, split: str, **content: Any) -> None:
    (raw / "annotations").mkdir(exist_ok=True)
    (raw / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))


def tiny_coco(raw: Path) -> Path:
    """Three train photos and one val photo of 4 x 3 pixels."""
    for split, numbers in {"train2017": (7, 8, 9), "val2017": (1,)}.items():
        (raw / split).mkdir()
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 4, "height": 3} for n in numbers]
        for image in images:
            Image.new("RGB", (4, 3)).save(raw / split / image["file_name"])
        notes = [{"image_id": n, "id": 10 * n + k, "caption": f"caption {k} of {n}"} for n in numbers for k in range(6)]
        write(raw, "captions", split, images=images, annotations=notes)
    return raw


def read(raw: Path, **options: Any) -> Any:
    return CocoReader(name="mini", splits=SPLITS, **options).read(raw)


def test_captions_join_their_photos(tmp_path: Path) -> None:
    annotated = read(tiny_coco(tmp_path), dev_photos=1)
    assert [(p.id, p.split) for p in annotated.photos] == [("7", "train"), ("8", "train"), ("9", "dev"), ("1", "test")]
    assert annotated.photos[0].captions == tuple(f"caption {k} of 7" for k in range(6))
    assert annotated.photos[3].file == tmp_path / "val2017" / "000000000001.jpg"
    assert annotated.problems == ()


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    raw = tiny_coco(tmp_path)
    path = raw / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        *content["annotations"][:7],
        {"image_id": 8, "caption": " "},
        {"image_id": 5, "caption": "x"},
    ]
    path.write_text(json.dumps(content))
    (raw / "val2017" / "000000000001.jpg").unlink()
    annotated = read(raw)
    assert [p.id for p in annotated.photos] == ["7", "8"]
    said = "\n".join(annotated.problems)
    assert "photo 8: an empty caption left out" in said
    assert "a caption of the unknown photo 5" in said
    assert "photo 9: left without a caption" in said
    assert "000000000001.jpg does not exist" in said


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions_train2017\.json is missing: looked for .*annotations"):
        read(tmp_path)
    tiny_coco(tmp_path)
    write(tmp_path, "captions", "train2017", images=[{"id": 1}], annotations=[{"caption": "x"}])
    with pytest.raises(DataError, match=r"images\[0\]: no `file_name`(.|\n)*annotations\[0\]: no `image_id`"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"splits=val does not exist|splits='val' does not exist(.|\n)*'masks'"):
        CocoReader(name="mini", splits={"val": "val2017"}, segmentation="masks")


def test_panoptic_pngs_become_class_maps(tmp_path: Path) -> None:
    raw = tiny_coco(tmp_path)
    ids = np.array([[0, 0, 3, 3], [0, 70000, 70000, 3], [0, 0, 300, 300]])
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    segments = [{"id": 3, "category_id": 17}, {"id": 70000, "category_id": 1}, {"id": 300, "category_id": 200}]
    for split, numbers in {"train2017": (7, 9), "val2017": (1,)}.items():
        folder = raw / "annotations" / f"panoptic_{split}"
        folder.mkdir()
        notes = [{"image_id": n, "file_name": f"{n:012d}.png", "segments_info": segments} for n in numbers]
        for note in notes:
            Image.fromarray(rgb).save(folder / note["file_name"])
        write(raw, "panoptic", split, images=[], annotations=notes, categories=CATEGORIES)
    annotated = read(raw, segmentation="panoptic")
    assert annotated.classes == ("person", "cat", "rug")
    assert [p.segmentation is not None for p in annotated.photos] == [True, False, True, True]
    assert annotated.problems == ("1 of 4 photos have no panoptic segmentation; kept without",)
    expected = np.array([[255, 255, 1, 1], [255, 0, 0, 1], [255, 255, 2, 2]])
    assert (np.asarray(Image.open(annotated.photos[0].segmentation)) == expected).all()
    assert annotated.photos[0].segmentation.parent == raw / "segmentation_panoptic"
    first = annotated.photos[0].segmentation.stat().st_mtime_ns
    assert read(raw, segmentation="panoptic").photos[0].segmentation.stat().st_mtime_ns == first
    (raw / "annotations" / "panoptic_val2017" / "000000000001.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"000000000001\.png: the panoptic PNG cannot be read"):
        read(raw, segmentation="panoptic", cache=str(tmp_path / "other"))


def test_instance_outlines_become_class_maps(tmp_path: Path) -> None:
    raw = tiny_coco(tmp_path)
    square = {"image_id": 7, "category_id": 17, "area": 4, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]}
    crowd = {"image_id": 7, "category_id": 1, "area": 12, "segmentation": {"size": [3, 4], "counts": [0, 6, 5, 1]}}
    for split, notes in {"train2017": [square, crowd], "val2017": []}.items():
        images = json.loads((raw / "annotations" / f"captions_{split}.json").read_text())["images"]
        write(raw, "instances", split, images=images, annotations=notes, categories=CATEGORIES)
    annotated = read(raw, segmentation="instances", cache=str(tmp_path / "cache"))
    first = np.asarray(Image.open(annotated.photos[0].segmentation))
    assert first.tolist() == [[1, 1, 255, 255], [1, 1, 255, 255], [0, 0, 255, 0]]
    assert all(p.segmentation is not None for p in annotated.photos)


def test_run_lengths_go_down_the_columns() -> None:
    """Against writing every pixel."""
    counts, height, width = [2, 3, 4, 1, 2], 3, 4
    slow = np.zeros((height, width), int)
    place = 0
    for number, count in enumerate(counts):
        for _ in range(count):
            slow[place % height, place // height] = number % 2
            place += 1
    assert (run_lengths({"size": [height, width], "counts": counts}) == slow).all()
    with pytest.raises(DataError, match="run lengths of 11 pixels, and 4x3 are 12"):
        run_lengths({"size": [height, width], "counts": [2, 3, 4, 2]})


def shared(root: Path, name: str) -> Path:
    folder = root.parent / "shared" / "data" / name
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    return folder


def test_real_coco_photos(root: Path, tmp_path: Path) -> None:
    raw = shared(root, "coco_mini")
    annotated = read(raw, dev_photos=10, segmentation="instances", cache=str(tmp_path))
    assert Counter(p.split for p in annotated.photos) == {"train": 70, "dev": 10, "test": 79}
    assert len(annotated.classes) == 80
    for photo in annotated.photos[::40]:
        assert Image.open(photo.segmentation).size == Image.open(photo.file).size


def test_the_panoptic_sample_agrees_with_its_two_channel_form(root: Path, tmp_path: Path) -> None:
    """The second form, made by COCO's own converter, has the category in its red channel."""
    sample = shared(root, "coco_mini") / "panoptic_sample" / "sample_data"
    content = json.loads((sample / "panoptic_examples.json").read_text())
    write(tmp_path, "panoptic", "val2017", **content)
    (tmp_path / "annotations" / "panoptic_val2017").symlink_to(sample / "panoptic_examples")
    (tmp_path / "val2017").symlink_to(sample / "input_images")
    notes = [{"image_id": image["id"], "caption": "a photo"} for image in content["images"]]
    write(tmp_path, "captions", "val2017", images=content["images"], annotations=notes)
    reader = CocoReader(name="sample", splits={"test": "val2017"}, segmentation="panoptic")
    annotated = reader.read(tmp_path)
    assert len(annotated.photos) == 2
    assert len(annotated.classes) == 133
    order = sorted(category["id"] for category in content["categories"])
    for photo, note in zip(annotated.photos, content["annotations"], strict=True):
        ours = np.asarray(Image.open(photo.segmentation))
        official = np.asarray(Image.open(sample / "panoptic_examples_2ch_format" / note["file_name"]))[..., 0]
        known = ours != 255
        assert known.mean() > 0.8
        assert (np.array(order)[ours[known]] == official[known]).all()


def test_real_flickr8k_counts(root: Path) -> None:
    raw = shared(root, "flickr8k")
    config = OmegaConf.load(root / "conf" / "data" / "flickr8k.yaml")
    annotated = instantiate(config.reader).read(raw)
    assert Counter(p.split for p in annotated.photos) == {"train": 5500, "dev": 500, "test": 1000}
    assert annotated.problems == ()
