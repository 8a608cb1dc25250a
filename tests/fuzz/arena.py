"""What the hostile cases start from: a good input of every kind, and the command line that takes it as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from ..forks import Forks

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
PHOTOS = 6
PHOTO = "test-0000-what-a.png"  # of the demo world
GIGABYTES = 3.0  # that a command may take beyond the imports
SMALL = ("text=tiny", "dim=16", "batches.batch_size=8", "batches.evaluation_batch_size=8", "batches.workers=0")
BRIEF = ("trainer.max_steps=1", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
TRAIN = ("experiment=hybrid_coco", *SMALL, *BRIEF, "highlights=0")
DEMO = ("experiment=hybrid_demo", *SMALL, *BRIEF, "highlights=0")
MAKE = ("workers=0", "progress=false")
JOB = ("study=seeds", "job_name='seed=0'", "factors={}")  # as `make sweep` calls it

ONE_JOB = ("only='*seed=0*'", *TRAIN)


class Arena:
    """Folders of good inputs, made once; cases copy what they spoil."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        self.photos = write_photos(folder / "photos")
        self.karpathy = write_karpathy(folder / "karpathy", self.photos)
        self.coco = write_coco(folder / "coco", self.photos)
        self.arrays = write_arrays(folder / "arrays")
        self.published = write_published(folder / "published")
        self.shards = self._made("data", *shards_words(), f"out={folder / 'made'}") / "made" / "synthetic"
        self.official_shards = (
            self._made("import", f"raw={GOLDEN / 'precomp'}", f"out={folder / 'made'}", "progress=false")
            / "made"
            / "precomp"
        )
        self.study = folder / "study"
        run = self.study / "run"
        self._made("train", *TRAIN, *JOB, f"shards={self.shards}", f"out={run}")
        self.checkpoint = run / "checkpoints" / "last.ckpt"
        self.rows = folder / "seeds"
        self._made("collect", "study=seeds", f"out={self.study}", f"into={self.rows}")

    @cached_property
    def index(self) -> Path:
        self._made("index", *index_words(self), f"out={self.folder / 'index'}")
        return self.folder / "index"

    @cached_property
    def demo(self) -> Path:
        """`photos` of the demo world with their masks, and `runs` with a model of them, which also encodes photos."""
        folder = self.folder / "demo"
        raw, sizes = folder / "photos", [f"data.reader.{size}" for size in ("train=16", "dev=8", "test=8")]
        self._made(
            "data", "data=demo", "extractor=tiny", f"raw={raw}", f"out={folder}", *sizes, "accelerator=cpu", *MAKE
        )
        self._made("train", *DEMO, f"shards={folder / 'demo'}", f"out={folder / 'runs' / 'run'}")
        return folder

    @cached_property
    def photo_index(self) -> Path:
        out = self.folder / "photo_index"
        where = [f"checkpoint={self.demo / 'runs' / 'run'}", f"shards={self.demo / 'demo'}", "split=test", f"out={out}"]
        self._made("index", *where, "device=cpu", "workers=0", "progress=false")
        return out

    def _made(self, command: str, *overrides: str) -> Path:
        ended = self.forks.run(command, overrides, folder=self.folder, seconds=300, gigabytes=GIGABYTES)
        assert ended.code == 0, f"{command} {' '.join(overrides)}\n{ended.err}"
        return self.folder

    def copy(self, source: Path, folder: Path) -> Path:
        """A copy of a good input that a case may spoil."""
        if source.is_dir():
            return Path(shutil.copytree(source, folder / source.name))
        return Path(shutil.copy(source, folder / source.name))


def index_words(arena: Arena) -> list[str]:
    where = [f"checkpoint={arena.checkpoint}", f"shards={arena.shards}", "split=testall"]
    return [*where, "device=cpu", "workers=0", "progress=false"]


def shards_words() -> list[str]:
    sizes = [f"data.extractor.{size}" for size in ("region_width=8", "grid_width=12", "classes=5")]
    return ["data=synthetic", "images=12", "+data.extractor.regions=4", *sizes, *MAKE]


# The command line of each command over good inputs; of one that is not here only the settings are spoiled.
GOOD: Mapping[str, Callable[[Arena], list[str]]] = {
    "data": lambda arena: ["data=folder", f"raw={arena.photos}", "extractor=tiny", "accelerator=cpu", *MAKE],
    "import": lambda arena: [f"raw={arena.arrays}", "progress=false"],
    "verify": lambda arena: [f"shards={arena.shards}", "progress=false", "photos=2", "out=card.html"],
    "train": lambda arena: [*TRAIN, f"shards={arena.shards}", "out=run"],
    "dashboard": lambda arena: ["study=custom", f"out={arena.study}", "page=page.html"],
    "compare": lambda arena: [f"one={arena.study / 'run'}", f"other={arena.study / 'run'}", "out=compared"],
    "sweep": lambda arena: ["study=seeds", f"reuse=[{arena.study}]", f"shards={arena.shards}", "out=swept", *ONE_JOB],
    "collect": lambda arena: ["study=seeds", f"out={arena.study}", "into=collected"],
    "report": lambda arena: ["study=seeds", f"into={arena.rows}"],
    "index": lambda arena: [*index_words(arena), "out=index"],
    "search": lambda arena: [f"index={arena.index}", "query='a red thing'"],
    "explain": lambda arena: [
        f"checkpoint={arena.demo / 'runs' / 'run'}",
        f"image={arena.demo / 'photos' / 'images' / PHOTO}",
        f"mask={arena.demo / 'photos' / 'segmentation' / PHOTO}",
        *("query='a red thing'", "out=explained"),
    ],
    "serve": lambda arena: [f"index={arena.photo_index}", f"masks={arena.demo / 'photos' / 'segmentation'}", "port=0"],
    "demo": lambda arena: [f"runs={arena.demo / 'runs'}", "port=0"],
    "export": lambda arena: [f"checkpoint={arena.checkpoint}", "out=exported"],
    "evaluate": lambda arena: [
        f"checkpoint={arena.checkpoint}",
        f"shards={arena.shards}",
        *("split=testall", "workers=0", "accelerator=cpu", "out=scored"),
    ],
}


def write_photos(folder: Path) -> Path:
    """Photos of noise and a file of captions."""
    folder.mkdir(parents=True)
    for number in range(PHOTOS):
        values = np.random.default_rng(number).integers(0, 256, (8, 10, 3), np.uint8)
        Image.fromarray(values).resize((40, 32)).save(folder / f"{number}.png")
    lines = (f"{number}.png\ta photo of {word} things\n" for number in range(PHOTOS) for word in ("two", "red"))
    (folder / "captions.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def write_karpathy(folder: Path, photos: Path) -> Path:
    """`dataset_flickr8k.json` and its photos."""
    shutil.copytree(photos, folder / "images")
    splits = ("train", "train", "train", "val", "test", "test")
    images = [
        {
            "filename": f"{number}.png",
            "split": split,
            "imgid": number,
            "sentids": [2 * number, 2 * number + 1],
            "sentences": [
                {"raw": f"{word} thing", "tokens": [word, "thing"], "imgid": number, "sentid": 2 * number + place}
                for place, word in enumerate(("one", "red"))
            ],
        }
        for number, split in enumerate(splits)
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return folder


def write_coco(folder: Path, photos: Path) -> Path:
    """COCO's own files: captions and instances of two splits."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copytree(photos, folder / split)
        names = [(number + 100 * (split == "val2017"), f"{number}.png") for number in range(PHOTOS)]
        images = [{"id": key, "file_name": name, "width": 40, "height": 32} for key, name in names]
        notes = [{"id": key, "image_id": key, "caption": f"thing {key}"} for key, _ in names]
        outlines = [
            {
                "id": key,
                "image_id": key,
                "category_id": 3,
                "area": 50.0,
                "iscrowd": 0,
                "bbox": [1, 1, 9, 9],
                "segmentation": [[1, 1, 9, 1, 9, 9]] if key % 2 else {"size": [32, 40], "counts": [100, 80, 1100]},
            }
            for key, _ in names
        ]
        categories = [{"id": 3, "name": "car", "supercategory": "vehicle"}]
        for kind, entries in (("captions", notes), ("instances", outlines)):
            content = {"images": images, "annotations": entries, "categories": categories}
            (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return folder


def arrays_of(images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A split in the authors' layout, by the ending of its file."""
    generator = np.random.default_rng(seed)
    return {
        "ims": generator.standard_normal((images, 4, 6)).astype(np.float32),
        "segmentations": generator.random((images, 3, 7, 7)).astype(np.float32),
        "seg_maps": generator.integers(0, 4, (images, 64, 64)).astype(np.uint8),
        "cat_onehots": generator.integers(0, 2, (images, 3)).astype(np.uint8),
    }


def write_arrays(folder: Path) -> Path:
    """`dev_ims.npy` and what goes with it, with ids and captions."""
    folder.mkdir()
    for ending, values in arrays_of(4).items():
        np.save(folder / f"dev_{ending}.npy", values)
    (folder / "dev_caps.txt").write_text("".join(f"caption {row}\n" for row in range(20)))
    (folder / "dev_ids.txt").write_text("".join(f"{row}\n" for row in range(4)))
    return folder


def write_published(folder: Path) -> Path:
    """The other published layouts, each in a folder of its own, with captions beside it."""
    generator = np.random.default_rng(1)
    regions = {str(row): generator.standard_normal((3, 6)).astype(np.float32) for row in range(4)}
    captions = "".join(json.dumps({"file": f"{name}.jpg", "caption": "a", "split": "train"}) + "\n" for name in regions)
    for layout in ("region_files", "grid_files", "npz_files", "hdf5", "tsv"):
        (folder / layout).mkdir(parents=True)
        (folder / layout / "captions.jsonl").write_text(captions)
    for name, values in regions.items():
        np.save(folder / "region_files" / f"{name}.npy", values)
        torch.save(torch.from_numpy(values.reshape(1, 2, 3, 3)), folder / "grid_files" / f"{name}.pth")
        boxes = np.tile(np.array([1, 1, 9, 9], np.float32), (3, 1))
        np.savez(folder / "npz_files" / f"{name}.npz", x=values.T, bbox=boxes, image_w=20, image_h=20, num_bbox=3)
    with h5py.File(folder / "hdf5" / "all.hdf5", "w") as file:
        file["ids"] = np.array([f"{name}.jpg" for name in regions], object)
        file["features"] = np.stack(list(regions.values()))
    lines = (tsv_line(name, values) for name, values in regions.items())
    (folder / "tsv" / "all.tsv").write_text("".join(lines))
    return folder


def tsv_line(name: str, regions: np.ndarray) -> str:
    """A line of a bottom-up-attention TSV."""
    import base64

    boxes = np.tile(np.array([1, 1, 9, 9], np.float32), (len(regions), 1))
    cells: list[Any] = [name, 20, 20, len(regions)]
    cells += [base64.b64encode(values.tobytes()).decode() for values in (boxes, regions)]
    return "\t".join(map(str, cells)) + "\n"
