"""The demo world: true captions, honest twins, exact segmentation, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from threeshnet.annotations.karpathy import KarpathyReader
from threeshnet.cli.stopping import Interruption, stopped_by_signals
from threeshnet.demo.classes import CLASSES, FAMILY_OF, LOOK_ALIKE, THINGS
from threeshnet.demo.render import STYLES, render
from threeshnet.demo.scene import KINDS, twins
from threeshnet.demo.sprites import sprite
from threeshnet.demo.world import FILE, DemoWorld
from threeshnet.errors import ConfigError, DataError, ThreeSHNetError
from threeshnet.records import AnnotatedSet

SIZES: dict[str, Any] = {"train": 24, "dev": 8, "test": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AnnotatedSet]:
    raw = tmp_path_factory.mktemp("demo") / "raw"
    return raw, DemoWorld(**SIZES).read(raw)


def stored(raw: Path) -> list[dict]:
    return json.loads((raw / FILE).read_text())["images"]


def bytes_of(raw: Path) -> dict[str, str]:
    files = sorted(path for path in raw.rglob("*") if path.is_file())
    return {path.relative_to(raw).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_splits_captions_and_files(world: tuple[Path, AnnotatedSet]) -> None:
    raw, annotated = world
    assert Counter(photo.split for photo in annotated.photos) == SIZES
    assert len({photo.id for photo in annotated.photos}) == sum(SIZES.values())
    assert annotated.classes == CLASSES
    assert 24 <= len(CLASSES) <= 40
    for photo in annotated.photos:
        assert len(set(photo.captions)) == len(photo.tags) == 5
        assert photo.file.is_file()
        assert photo.segmentation is not None
        assert photo.segmentation.is_file()
    assert {path.name for path in raw.iterdir()} == {FILE, "images", "segmentation"}


def test_same_options_same_bytes(world: tuple[Path, AnnotatedSet], tmp_path: Path) -> None:
    DemoWorld(**SIZES).read(tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(world[0])


def test_another_seed_another_world(world: tuple[Path, AnnotatedSet], tmp_path: Path) -> None:
    other = DemoWorld(**SIZES, seed=1).read(tmp_path / "raw")
    ours = {caption for photo in world[1].photos for caption in photo.captions}
    assert not ours & {caption for photo in other.photos for caption in photo.captions}


@pytest.mark.parametrize("kind", KINDS)
def test_twins_differ_in_one_respect(kind: str) -> None:
    rng = Random(kind)
    for _ in range(60):
        one, other = twins(rng, kind)
        assert one._replace(things=()) == other._replace(things=())
        assert one.things != other.things
        pairs = [(a, b) for a, b in zip(one.things, other.things, strict=True) if a != b]
        if kind == "what":
            ((a, b),) = pairs
            assert b == a._replace(name=LOOK_ALIKE[a.name])
        elif kind == "where":
            assert all(b == a._replace(column=b.column, row=b.row) for a, b in pairs)
        else:
            assert all(b == a._replace(name=LOOK_ALIKE[a.name]) for a, b in pairs)
            assert Counter(thing.name for thing in one.things) == Counter(thing.name for thing in other.things)
        for scene in (one, other):
            assert len({(thing.column, thing.row) for thing in scene.things}) == len(scene.things)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_twins_differ_where_their_things_do_and_nowhere_else(kind: str) -> None:
    rng = Random(3)
    for _ in range(10):
        one, other = twins(rng, kind)
        first, second = (render(scene, STYLES["day"]) for scene in (one, other))
        changed = (first.rgb != second.rgb).any(axis=2)
        assert changed.sum() >= 12
        assert changed.mean() < 0.5
        assert (first.classes != second.classes).any()


@pytest.mark.parametrize("name", THINGS)
def test_look_alikes_share_the_silhouette_but_not_the_pixels(name: str) -> None:
    colour = FAMILY_OF[name].colours[0]
    one, other = (sprite(n, colour, "plain", 34, False) for n in (name, LOOK_ALIKE[name]))
    assert (one.cover == other.cover).all()
    apart = np.abs(one.rgb - other.rgb).max(axis=2) > 16
    assert 0.01 < apart.mean() < 0.35


def test_segmentation_is_exact(world: tuple[Path, AnnotatedSet]) -> None:
    raw, annotated = world
    for photo, image in zip(annotated.photos, stored(raw), strict=True):
        assert photo.segmentation is not None
        picture, classes = Image.open(photo.file), np.asarray(Image.open(photo.segmentation))
        assert picture.size == classes.shape == (224, 224)
        scene = image["scene"]
        shown = {CLASSES[number] for number in np.unique(classes)}
        expected = {scene["back"], *scene["front"], *(thing["name"] for thing in scene["things"])}
        assert shown - {scene["middle"]} == expected
        assert not scene["middle"] or scene["middle"] in shown
        for thing in scene["things"]:
            rows, columns = np.nonzero(classes == CLASSES.index(thing["name"]))
            alone = sum(other["name"] == thing["name"] for other in scene["things"]) == 1
            third = {"left": 0, "middle": 1, "right": 2}[thing["column"]]
            if alone:
                assert abs(columns.mean() - (40 + 72 * third)) < 12
                assert (rows.mean() < 60) == (thing["row"] == "air")
                assert (rows.mean() > 150) == (thing["row"] == "near")


def test_dusk_has_the_same_words_and_other_pictures(world: tuple[Path, AnnotatedSet], tmp_path: Path) -> None:
    dusk = DemoWorld(**SIZES, style="dusk").read(tmp_path / "raw")
    assert [photo.captions for photo in dusk.photos] == [photo.captions for photo in world[1].photos]
    one, other = (np.asarray(Image.open(annotated.photos[0].file), float) for annotated in (dusk, world[1]))
    assert one.mean() < other.mean() - 10


def test_what_is_whole_is_not_rendered_again(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    DemoWorld(train=4, dev=2, test=2).read(raw)
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    DemoWorld(train=4, dev=2, test=2).read(raw)
    assert before == {path: path.stat().st_mtime_ns for path in raw.rglob("*")}


@pytest.mark.timeout(120)
def test_rendering_in_several_processes_ends_where_signals_have_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that ends its processes by SIGTERM waits for ever for one that has a handler, now and then."""
    from threeshnet.demo import world as demo_world

    pixels = np.zeros((4, 4), np.uint8)
    monkeypatch.setattr(demo_world, "render", lambda *_: (pixels, pixels))
    monkeypatch.setattr(demo_world, "cores", lambda: 2)
    with stopped_by_signals():
        for seed in range(15):
            assert len(DemoWorld(seed=seed, **SIZES).read(tmp_path / str(seed)).photos) == sum(SIZES.values())


def test_a_signal_stops_rendering_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that no process has begun are not rendered any more."""
    from threeshnet.demo import world as demo_world

    def paused(*_: Any) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.1)
        return np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)

    monkeypatch.setattr(demo_world, "render", paused)
    monkeypatch.setattr(demo_world, "cores", lambda: 2)
    raw, process = tmp_path / "raw", os.getpid()

    def signalled() -> None:
        for _ in range(6000):
            if list(raw.with_suffix(".partial").glob("images/*")):
                os.kill(process, signal.SIGTERM)
                return
            time.sleep(0.01)

    Thread(target=signalled, daemon=True).start()
    with stopped_by_signals(), pytest.raises(Interruption):
        DemoWorld(train=200, dev=8, test=8).read(raw)
    assert not raw.exists()
    painted = len(list((tmp_path / "raw.partial" / "images").iterdir()))
    assert 0 < painted < 100


def test_a_killed_rendering_process_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threeshnet.demo import world as demo_world

    monkeypatch.setattr(demo_world, "render", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(demo_world, "cores", lambda: 2)
    with pytest.raises(ThreeSHNetError, match="a process was killed"):
        DemoWorld(**SIZES).read(tmp_path / "raw")


def test_an_interrupted_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, small = tmp_path / "raw", DemoWorld(train=6, dev=2, test=2)
    from threeshnet.demo import world as demo_world

    whole, painted = demo_world.paint, []

    def tired(folder: Path, entry: demo_world.Entry, style: object) -> None:
        if len(painted) == 4:
            raise KeyboardInterrupt
        painted.append(entry.name)
        whole(folder, entry, style)  # type: ignore[arg-type]

    monkeypatch.setattr(demo_world, "paint", tired)
    with pytest.raises(KeyboardInterrupt):
        small.read(raw)
    assert not raw.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "raw.partial" / "images").iterdir()}
    monkeypatch.setattr(demo_world, "paint", whole)
    assert len(small.read(raw).photos) == 10
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in (raw / "images").iterdir()}.items()
    assert not (tmp_path / "raw.partial").exists()


def test_another_world_is_replaced_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DemoWorld(train=4, dev=2, test=2).read(tmp_path / "raw")
    again = DemoWorld(train=5, dev=2, test=2).read(tmp_path / "raw")
    assert len(again.photos) == 9
    assert "held another demo world" in caplog.text


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holiday\.jpg.*RAW="):
        DemoWorld(train=4, dev=2, test=2).read(tmp_path)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="style='noon' does not exist; there are: day, dusk"):
        DemoWorld(style="noon")
    with pytest.raises(ConfigError, match="dev=0"):
        DemoWorld(dev=0)


def test_the_common_reader_reads_it_too(world: tuple[Path, AnnotatedSet]) -> None:
    common = KarpathyReader(name="demo", file=FILE).read(world[0])
    assert [photo.captions for photo in common.photos] == [photo.captions for photo in world[1].photos]
    assert [photo.split for photo in common.photos] == [photo.split for photo in world[1].photos]
