"""Makes a folder of bad and unusual photos, makes shards of it, and prints what `make data` says of each.

    python -m experiments.benchmarks.extraction.bad_photos > experiments/benchmarks/extraction/bad_photos.md

Nothing is kept but the table: the photos are made anew in a temporary folder.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from threeshnet.annotations.folder import FolderReader
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards.make import ShardSettings, make_shards
from threeshnet.shards.manifest import LEFT_OUT_LIST, printable
from threeshnet.shards.reader import ShardedSplit

Write = Callable[[Path], Any]
TAKEN, LOCKED = "taken", "locked.jpg"


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(values).resize((width, height))


def encoded(kind: str = "JPEG", image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def png(image: Image.Image, **options: Any) -> Write:
    return lambda file: image.save(file, **options)


def content(data: bytes) -> Write:
    return lambda file: file.write_bytes(data)


def deep(kind: type) -> Image.Image:
    span = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
    return Image.fromarray((np.linspace(0, 1, 64 * 48).reshape(48, 64) * span).astype(kind))


def cases() -> dict[str, tuple[str, Write]]:
    """What it is: the name of the file, and what writes it."""
    cut = encoded("JPEG", noise(640, 480))
    flipped = bytearray(encoded("PNG"))
    flipped[60] ^= 0xFF
    frames = {"save_all": True, "append_images": [noise(seed=1)]}
    return {
        "16-bit grey PNG": ("deep.png", png(deep(np.uint16))),
        "32-bit float TIFF": ("float.tiff", png(deep(np.float32))),
        "CMYK JPEG": ("cmyk.jpg", png(noise().convert("CMYK"))),
        "palette with a transparent colour": ("palette.gif", png(noise().convert("P"), transparency=0)),
        "RGBA PNG": ("rgba.png", png(Image.new("RGBA", (9, 9), (255, 0, 0, 100)))),
        "grey with alpha": ("la.png", png(Image.new("LA", (9, 9), (0, 0)))),
        "black and white": ("bilevel.png", png(noise().convert("1"))),
        "animated GIF": ("animated.gif", png(noise(), **frames)),
        "animated WebP": ("animated.webp", png(noise(), **frames)),
        "EXIF: turned by 90 degrees": ("turned.jpg", png(noise(), exif=turned())),
        "EXIF: nonsense": ("nonsense.jpg", png(noise(), exif=b"Exif\0\0nonsense")),
        "1 x 1 px": ("dot.png", png(Image.new("RGB", (1, 1)))),
        "panorama, 20,000 px wide": ("panorama.jpg", png(noise(20_000, 400))),
        "name in other scripts": ("Straße 東京 🐕.png", png(noise(seed=2))),
        "name that is no text": (os.fsdecode(b"bytes-\xff.png"), png(noise(seed=3))),
        "nested folder": ("a/b/c/x.png", png(noise(seed=4))),
        "the same name in another folder": ("a/x.png", png(noise(seed=5))),
        "PNG named .jpg": ("really.jpg", lambda file: noise().save(file, "PNG")),
        "web page named .jpg": ("page.jpg", content(b"<!DOCTYPE html>\n<title>404</title>")),
        "PDF named .jpg": ("paper.jpg", content(b"%PDF-1.7\n%\xe2\xe3")),
        "PostScript named .jpg": ("drawing.jpg", content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
        "text named .png": ("text.png", content(b"hello")),
        "truncated JPEG": ("cut.jpg", content(cut[: len(cut) // 2])),
        "header of a JPEG only": ("header.jpg", content(cut[:30])),
        "PNG with a byte turned over": ("flipped.png", content(bytes(flipped))),
        "zero bytes": ("zero.jpg", content(b"")),
        "180 megapixels in 22 kB": ("bomb.png", png(Image.new("1", (20_000, 9_000)))),
        "540 megapixels in 66 kB": ("larger.png", png(Image.new("1", (60_000, 9_000)))),
        "folder named x.jpg": ("folder.jpg", lambda file: file.mkdir()),
        "broken link": ("link.jpg", lambda file: file.symlink_to("nowhere.jpg")),
        "link in a circle": ("circle.jpg", lambda file: file.symlink_to(file.name)),
        "pipe": ("pipe.jpg", os.mkfifo),
        "no permission": (LOCKED, lambda file: (noise().save(file), file.chmod(0))),
        "listed but missing": ("missing.jpg", lambda _: None),
    }


def written(raw: Path) -> AnnotatedSet:
    """Write every photo and captions for them, some of which are wrong; all listed, as an annotation file would."""
    names = {}
    for what, (name, write) in cases().items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        write(raw / name)
        names[what] = name
    lines = [f"{name}\tone" for name in names.values() if name.isprintable() and "\udcff" not in name]
    wrong = ["x.png\ttwo photos have this name", "never.png\tno such photo", "rgba.png\t "]
    (raw / "captions.txt").write_text("\n".join([*lines, *wrong]) + "\n", encoding="utf-8")
    problems = FolderReader(dev_percent=0, test_percent=0).read(raw).problems
    photos = (Photo(name, raw / name, "train", ("one",)) for name in names.values())
    return AnnotatedSet("bad", tuple(photos), problems=problems)


def table() -> list[tuple[str, str]]:
    """Case and what was printed for it, then what the reader of the captions said."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw"
        annotated = written(raw)
        made = make_shards(
            annotated,
            sources=[Tiny()],
            folder=Path(scratch) / "shards",
            raw=raw,
            settings=ShardSettings(workers=0, accelerator="cpu", progress=False),
        )
        report = (made.folder / LEFT_OUT_LIST).read_text(encoding="utf-8").splitlines()
        split = ShardedSplit(made.folder, "train")
        sizes = dict(zip(split.image_ids, split.sizes().tolist(), strict=True))
        (raw / LOCKED).chmod(0o600)
    rows = []
    for what, photo in zip(cases(), annotated.photos, strict=True):
        own = [line for line in report if line.startswith(f"train: {printable(photo.id)}: ")]
        width, height = sizes.get(printable(photo.id), (0, 0))
        whose = ", by root, who may read everything" if photo.id == LOCKED and os.geteuid() == 0 else ""
        rows.append((what, own[0].removeprefix("train: ") if own else f"{TAKEN}, {width} x {height}{whose}"))
    return rows + [("captions.txt", line) for line in report if not line.startswith("train: ")]


def main() -> None:
    lines = ["| case | printed |", "|---|---|"]
    lines += [f"| {case} | {said.replace('|', chr(92) + '|')} |" for case, said in table()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
