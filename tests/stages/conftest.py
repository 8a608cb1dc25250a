"""Small training runs, and what stops them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from threeshnet.records import Photo

from .compared_runs import BATCH, IMAGES, STEPS, Killed, at_step
from .hostile_requests import SECRET
from .pictures import picture

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def attempt(command, synthetic_shards: Path, small: list[str]):
    """Trains `region_coco` in small, however that ends; the rate falls after the first epoch."""

    def call(out: Path, *overrides: str):
        settings = ["trainer.max_epochs=2", "schedule.milestones=[1]", "highlights=0", "trainer.log_every_n_steps=1"]
        settings += [f"batches.batch_size={BATCH}", f"batches.limit_train_images={IMAGES}"]
        where = [f"shards={synthetic_shards}", f"out={out}", "checkpoints.steps=1"]
        return command("train", "experiment=region_coco", *small, *settings, *where, *overrides)

    return call


@pytest.fixture(scope="session")
def train(attempt) -> Train:
    """The same, which has to succeed."""

    def call(out: Path, *overrides: str) -> dict[str, Any]:
        ended = attempt(out, *overrides)
        assert ended.code == 0, ended.err
        return json.loads((out / "metrics.json").read_text()) | {"printed": ended.out + ended.err}

    return call


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """The run that nothing happened to; made once."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    metrics = train(out)
    assert (metrics["resumed_at_step"], metrics["steps"], metrics["epochs"]) == (0, 2 * STEPS, 2)
    return out


@pytest.fixture
def killed(train: Train):
    """A run that dies there."""

    def call(out: Path, step: int, where: str = "training", *overrides: str) -> Path:
        def die() -> None:
            raise Killed

        with at_step(step, die, where), pytest.raises(Killed):
            train(out, *overrides)
        return out

    return call


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path, command, small: list[str]) -> Path:
    """An epoch of `region_demo`; made once, and read alone."""
    out = tmp_path_factory.mktemp("demo") / "run"
    settings = [*small, f"shards={demo_shards}", "trainer.max_epochs=1", "highlights=0", "seed=3", f"out={out}"]
    ended = command("train", "experiment=region_demo", *settings)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="session")
def photo_shards(tmp_path_factory: pytest.TempPathFactory, command) -> Path:
    """A tiny demo world whose regions, grid and segmentation come from one random network: its photos need no masks."""
    out = tmp_path_factory.mktemp("photo_shards")
    photos = [f"data.reader.{split}" for split in ("train=24", "dev=8", "test=20")]
    where = [f"raw={out / 'raw'}", f"out={out}", "progress=false", "workers=0", "batch_size=16"]
    ended = command("data", "data=demo", "extractor=tiny", "segmentation=own", *photos, *where)
    assert ended.code == 0, ended.err
    return out / "demo"


@pytest.fixture(scope="session")
def one_step(command, small: list[str]) -> Callable[[Path, Path], Path]:
    """Trains `hybrid_demo` for a step, into a folder, on shards."""

    def call(out: Path, shards: Path) -> Path:
        settings = [*small, f"shards={shards}", "trainer.max_steps=1", "highlights=0", f"out={out}"]
        ended = command("train", "experiment=hybrid_demo", *settings)
        assert ended.code == 0, ended.err
        return out

    return call


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory: pytest.TempPathFactory, one_step, photo_shards: Path) -> Path:
    """A step of `hybrid_demo` on `photo_shards`; made once, and read alone."""
    return one_step(tmp_path_factory.mktemp("photo_run"), photo_shards)


@pytest.fixture(scope="session")
def photo_index(tmp_path_factory: pytest.TempPathFactory, photo_run: Path, photo_shards: Path, command) -> Path:
    """An index of the 20 test photos of `photo_shards`; beside their folder lies what nobody may read."""
    raw, out = tmp_path_factory.mktemp("indexed"), tmp_path_factory.mktemp("photo_index") / "index"
    (raw / "photos").mkdir()
    for file in (photo_shards.parent / "raw" / "images").glob("test-*.png"):
        shutil.copy(file, raw / "photos")
    ended = command("index", str(photo_run), str(raw / "photos"), str(out), "progress=false", "workers=0")
    assert ended.code == 0, ended.err
    (raw / "secret.txt").write_bytes(SECRET)
    (raw / "photos" / "secret.txt").write_bytes(SECRET)
    Image.new("RGB", (9, 9), "red").save(raw / "photos" / "unindexed.png", comment=SECRET.decode())
    return out


@pytest.fixture(scope="session")
def evaluated(command, demo_run: Path, demo_shards: Path):
    """Scores a checkpoint of `demo_run`."""

    def call(out: Path, *overrides: str, checkpoint: str = "best") -> Path:
        file = demo_run / "checkpoints" / f"{checkpoint}.ckpt"
        where = [f"checkpoint={file}", f"shards={demo_shards}", f"out={out}", "workers=0", "accelerator=cpu"]
        ended = command("evaluate", *where, *overrides)
        assert ended.code == 0, ended.err
        return out

    return call


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random model of a family of extractors."""
    from .tiny_models import made  # transformers is slow to import

    return cache(lambda family: made(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Five photos of four sizes; the first and the fourth meet in a group."""
    folder = tmp_path_factory.mktemp("photos")
    return [picture(folder, n, size) for n, size in enumerate([(120, 80), (50, 75), (64, 64), (120, 80), (33, 100)])]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty folder for what is imported."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def imported(command, raw: Path, tmp_path: Path):
    """Imports folders or files, by default `raw`; gives what was printed, which has `says` in it, and the shards."""

    def call(*raws: Path, code: int = 0, says: Sequence[str] = (), **settings: Any) -> tuple[str, Path]:
        words = [f"raw=[{','.join(map(str, raws or [raw]))}]", *(f"{key}={value}" for key, value in settings.items())]
        ended = command("import", f"out={tmp_path / 'shards'}", "name=set", "progress=false", *words)
        assert ended.code == code, ended.err + ended.out
        assert "Traceback" not in ended.err
        said = ended.out + ended.err
        assert [part for part in says if part not in said] == [], said
        return said, tmp_path / "shards" / "set"

    return call
