"""The demo world: rendered pictures, five captions each, exact segmentation; the same bytes for the same options.

Three of four photos have a twin in their split that differs in one respect (see `scene.twins`); such a caption's
tag is `what`, `where` or `both` when it is false of the twin. Every other caption is `plain`: true of both twins, or of
a photo without one. Photo ids say it too: `test-0012-where-a` and `test-0012-where-b` are twins, `test-0450-single` has
none.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import track

from threeshnet.annotations.common import load_json
from threeshnet.demo.captions import Caption, captions
from threeshnet.demo.classes import CLASSES
from threeshnet.demo.render import STYLES, Style, render
from threeshnet.demo.scene import KINDS, Scene, single, twins
from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.files import write_text
from threeshnet.processes import several_processes
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.threads import cores

log = logging.getLogger(__name__)

WORLD_VERSION = 1  # raise it when the same options give other pictures or captions
FILE = "dataset_demo.json"
PARTS = {FILE, "images", "segmentation"}
SPLITS = {"train": "train", "val": "dev", "test": "test"}  # the JSON's name of a split -> ours
TWIN_SHARE = 0.75  # of the photos
AT_ONCE = 8  # photos that a process fetches, a tenth of a second of work; so few need no other process


class Entry(NamedTuple):
    """A photo to be rendered."""

    name: str
    split: str  # as in the JSON
    kind: str  # what, where, both or single
    scene: Scene
    captions: list[Caption]
    twin: str  # name of the twin, or ""


class DemoWorld:
    """Renders the world into the raw folder where it is absent, then reads it.

    train, dev, test: photos of each split. style: `day`, or `dusk` for another light, other parts of the textures and
    smaller things with the same words. A folder that holds another demo world (other options, another version) is
    rendered anew and replaced when the new one is whole; a folder with anything else in it is refused.
    """

    def __init__(
        self,
        *,
        name: str = "demo",
        seed: int = 0,
        train: int = 1600,
        dev: int = 500,
        test: int = 500,
        style: str = "day",
    ) -> None:
        if style not in STYLES:
            raise ConfigError(one_of("style", style, STYLES))
        for key, count in {"train": train, "dev": dev, "test": test}.items():
            if count < 1:
                raise ConfigError(f"{key}={count}: the demo world needs 1 or more")
        self.name, self.style = name, STYLES[style]
        sizes = {"train": train, "val": dev, "test": test}
        self.header = {"world_version": WORLD_VERSION, "seed": seed, "sizes": sizes, "style": style}

    def read(self, raw: Path) -> AnnotatedSet:
        """The photos with captions, tags and segmentation. Raises `DataError` for a folder that is in use otherwise."""
        raw = Path(raw)
        if self._stored(raw) != self.header:
            self._render(raw)
        stored = load_json(raw / FILE, "the demo world", self.name)
        return AnnotatedSet(self.name, tuple(photo(raw, image) for image in stored["images"]), tuple(stored["classes"]))

    def _stored(self, raw: Path) -> dict[str, Any] | None:
        """The options of the world in a folder; None where there is none."""
        if not raw.exists() or not any(raw.iterdir()):
            return None
        foreign = sorted({entry.name for entry in raw.iterdir()} - PARTS)
        if foreign or not (raw / FILE).is_file():
            content = ", ".join(foreign[:5]) or f"no {FILE}"
            raise DataError(f"{raw} is not a demo world (it holds {content}); give an empty or a new folder as RAW=.")
        stored = load_json(raw / FILE, "the demo world", self.name)
        return {key: stored.get(key) for key in self.header}

    def _render(self, raw: Path) -> None:
        """Render aside, continuing what an interrupted run left, and put the whole world in place at once."""
        aside = raw.with_name(raw.name + ".partial")
        begun = aside / "world.json"
        if aside.exists() and (not begun.is_file() or json.loads(begun.read_text(encoding="utf-8")) != self.header):
            shutil.rmtree(aside)
        for folder in ("images", "segmentation"):
            (aside / folder).mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps(self.header))
        entries = list(self.entries())
        work, says = partial(paint, aside, style=self.style), f"rendering the {self.name} world"
        with several_processes(min(cores(), len(entries) // AT_ONCE), AT_ONCE) as mapped:
            painted = mapped(work, entries)
            for _ in track(painted, says, total=len(entries), console=Console(stderr=True), transient=True):
                pass
        content = {**self.header, "dataset": self.name, "classes": CLASSES, "images": images(entries)}
        write_text(aside / FILE, json.dumps(content))
        begun.unlink()
        if raw.exists():
            log.warning("%s held another demo world (%s); replaced by %s", raw, self._stored(raw), self.header)
            shutil.rmtree(raw)
        aside.rename(raw)

    def entries(self) -> Iterator[Entry]:
        """Every photo, split by split."""
        for split, count in self.header["sizes"].items():
            yield from split_entries(Random(f"{self.header['seed']} {split}"), split, count)


def split_entries(rng: Random, split: str, count: int) -> list[Entry]:
    """The photos of a split in random order; as many twins of each kind as of the others, give or take a pair."""
    entries: list[Entry] = []
    for number in range(round(count * TWIN_SHARE / 2)):
        kind = KINDS[number % len(KINDS)]
        one, other = twins(rng, kind)
        name = f"{SPLITS[split]}-{number:04d}-{kind}"
        entries.append(Entry(f"{name}-a", split, kind, one, captions(rng, one, other, kind), f"{name}-b"))
        entries.append(Entry(f"{name}-b", split, kind, other, captions(rng, other, one, kind), f"{name}-a"))
    for number in range(len(entries), count):
        scene = single(rng)
        entries.append(Entry(f"{SPLITS[split]}-{number:04d}-single", split, "single", scene, captions(rng, scene), ""))
    rng.shuffle(entries)
    return entries


def paint(folder: Path, entry: Entry, style: Style) -> None:
    """Write the picture and the segmentation of one photo, unless a former run did."""
    files = folder / "images" / f"{entry.name}.png", folder / "segmentation" / f"{entry.name}.png"
    if all(file.exists() for file in files):
        return
    for file, pixels in zip(files, render(entry.scene, style), strict=True):
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        Image.fromarray(pixels).save(part, "PNG", compress_level=1)
        part.rename(file)


def images(entries: list[Entry]) -> list[dict[str, Any]]:
    """The photos in the form of a `dataset_*.json`, with what only a rendered world knows beside it."""
    return [
        {
            "filename": f"{entry.name}.png",
            "imgid": number,
            "split": entry.split,
            "kind": entry.kind,
            "twin": entry.twin,
            "scene": {**entry.scene._asdict(), "things": [thing._asdict() for thing in entry.scene.things]},
            "sentences": [{"raw": said.sentence, "tag": said.tag, "imgid": number} for said in entry.captions],
        }
        for number, entry in enumerate(entries)
    ]


def photo(raw: Path, image: dict[str, Any]) -> Photo:
    """One element of the JSON's `images` as a record."""
    name, sentences = image["filename"], image["sentences"]
    return Photo(
        id=Path(name).stem,
        file=raw / "images" / name,
        split=SPLITS[image["split"]],
        captions=tuple(sentence["raw"] for sentence in sentences),
        tags=tuple(sentence["tag"] for sentence in sentences),
        segmentation=raw / "segmentation" / name,
    )
