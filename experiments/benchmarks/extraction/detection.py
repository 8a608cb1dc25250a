"""How well do the regions of an extractor find COCO's objects, and its persons?

    pip install pycocotools
    python -m experiments.benchmarks.extraction.detection ssd --photos <val2017> --annotations <instances_val2017.json>

Regions need the names of COCO's classes. Precision is COCO's own, by pycocotools. A person counts as found when a
region named `person` overlaps it by half (intersection over union). The row replaces that of the same name in
detection.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console
from torch import Tensor

from threeshnet.features.boxes import overlaps
from threeshnet.features.photos import PhotoBatches
from threeshnet.files import write_rows
from threeshnet.installation import current_commit
from threeshnet.records import Photo

from ..common import composed

FILE = Path(__file__).with_name("detection.csv")
SIDE = 32  # pixels: COCO's limit between small and medium objects
HALF = 0.5


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="option of conf/extractor whose regions are named")
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photos")
    parser.add_argument("--annotations", type=Path, required=True, help="instances_*.json of COCO")
    parser.add_argument("--out", type=Path, default=FILE, help="CSV file for the row")
    options = parser.parse_args(arguments)
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise SystemExit("precision is measured by pycocotools: pip install pycocotools") from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(options.annotations))
    found = list(detected(options.name, options.photos, truth))
    row = {"name": options.name, "photos": len(truth.getImgIds())} | precision(truth, found) | persons(truth, found)
    row |= {"load": f"{os.getloadavg()[0]:.1f}", "commit": current_commit()}
    keep(options.out, row)
    Console().print(row)
    return row


def detected(name: str, folder: Path, truth: Any) -> Iterator[dict[str, Any]]:
    """The regions as COCO's results: `image_id`, `category_id`, `bbox` x y width height in pixels, `score`."""
    extractor = instantiate(composed(f"extractor={name}", "data=folder", command="data")["extractor"]).eval()
    category = {entry["name"]: entry["id"] for entry in truth.loadCats(truth.getCatIds())}
    images = truth.loadImgs(truth.getImgIds())
    photos = [Photo(str(image["id"]), folder / image["file_name"], "test", ()) for image in images]
    batches = PhotoBatches(photos, [extractor], [[number] for number in range(len(photos))])
    for number, image in enumerate(images):
        with torch.inference_mode():
            arrays = extractor(batches[number].inputs[0])
        with Image.open(photos[number].file) as opened:
            width, height = opened.size
        for box, score, label in zip(arrays.boxes[0], arrays.scores[0], arrays.labels[0], strict=True):
            left, top, right, bottom = (box * [width, height, width, height]).tolist()
            yield {
                "image_id": image["id"],
                "category_id": category[extractor.label_names[int(label)]],
                "bbox": [left, top, right - left, bottom - top],
                "score": float(score),
            }


def precision(truth: Any, found: list[dict[str, Any]]) -> dict[str, str]:
    """COCO's average precision, over thresholds of overlap and at a half."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {"ap": f"{judged.stats[0]:.3f}", "ap50": f"{judged.stats[1]:.3f}"}


def persons(truth: Any, found: list[dict[str, Any]]) -> dict[str, int]:
    """Persons of more than 32 x 32 pixels, no crowds, and how many of them a region named `person` overlaps by half."""
    (person,) = truth.getCatIds(catNms=["person"])
    there = hit = 0
    for image in truth.getImgIds():
        wanted = truth.loadAnns(truth.getAnnIds(imgIds=image, catIds=[person], iscrowd=False))
        boxes = [entry["bbox"] for entry in wanted if entry["area"] > SIDE * SIDE]
        regions = [region["bbox"] for region in found if (region["image_id"], region["category_id"]) == (image, person)]
        there += len(boxes)
        hit += int((overlap(boxes, regions) >= HALF).any(dim=1).sum())
    return {"persons": there, "persons_found": hit}


def overlap(ones: list[list[float]], others: list[list[float]]) -> Tensor:
    """Intersection over union of boxes x y width height, [A, B]."""
    boxes = torch.tensor([*ones, *others], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return overlaps(boxes)[: len(ones), len(ones) :]


def keep(file: Path, row: dict[str, Any]) -> None:
    rows = []
    if file.exists():
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [before for before in csv.DictReader(opened) if before["name"] != row["name"]]
    write_rows(file, list(row), [*rows, row])


if __name__ == "__main__":
    main()
