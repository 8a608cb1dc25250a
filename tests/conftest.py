"""What every test can count on: no hub, no account, no screen, and the root of the checkout."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from .forks import Forks

# Before transformers, wandb and matplotlib are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked loader workers warn otherwise
# Fixed, as runs are compared bit for bit; xdist has as many workers as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count()))

# Timing on a shared machine says nothing about the code; the same examples each time: a red run can be repeated.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Garbage is looked for among what tests make, not among the millions of objects that imports and tests stay."""
    gc.disable()
    result = yield
    gc.enable()
    gc.freeze()
    return result


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout: `conf/`, `src/`, `Makefile`."""
    return Path(__file__).resolve().parents[1]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str  # what it printed
    err: str  # what it said on stderr


Command = Callable[..., Ended]  # (verb, *overrides)


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `threeshnet <verb> …` as a shell would, but in this process: importing torch is slow."""

    def call(name: str, *overrides: str) -> Ended:
        from threeshnet.cli import main

        out, err, code = io.StringIO(), io.StringIO(), 0
        with _surroundings_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = ["threeshnet", name, *overrides]
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
                err.write(f"{end.code}\n" if isinstance(end.code, str) else "")
        return Ended(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands and scripts as processes of their own, without the time that imports take."""
    with Forks() as parent:
        yield parent


@pytest.fixture(scope="session", autouse=True)
def _a_yaml_is_parsed_once() -> Iterator[None]:
    """Hydra parses thirty files for every command, and the tests run a thousand commands in a process.

    A file that has changed is parsed again, and everybody gets a copy.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    plain, parsed = FileConfigSource.load_config, {}

    def load(self: FileConfigSource, config_path: str) -> Any:
        file = Path(self.path, config_path).with_suffix(".yaml")
        if not file.is_file():
            return plain(self, config_path)
        state = file.stat()
        key = (self.provider, self.path, config_path, state.st_ino, state.st_mtime_ns, state.st_size)
        if key not in parsed:
            parsed[key] = plain(self, config_path)
        return copy.deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load)
        yield


@contextlib.contextmanager
def _surroundings_kept() -> Iterator[None]:
    """Hydra takes over logging, Lightning sets variables and seeds: none of it may reach the next test."""
    import numpy as np  # which reads OMP_NUM_THREADS once, as torch does

    root = logging.getLogger()
    handlers, level, argv, environment = list(root.handlers), root.level, sys.argv, dict(os.environ)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """Random arrays of 40 images in COCO's layout but narrow: splits train, dev and testall."""
    out = tmp_path_factory.mktemp("synthetic")
    sizes = [f"data.extractor.{size}" for size in ("region_width=16", "grid_width=24", "classes=7")]
    where = [f"out={out}", "progress=false", "workers=0"]
    ended = command("data", "data=synthetic", "images=40", "+data.extractor.regions=5", *sizes, *where)
    assert ended.code == 0, ended.err
    return out / "synthetic"


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A tiny demo world, seen by a random extractor: 40 photos to train, 12 dev, 12 test."""
    out = tmp_path_factory.mktemp("demo")
    photos = [f"data.reader.{split}" for split in ("train=40", "dev=12", "test=12")]
    where = [f"raw={out / 'raw'}", f"out={out / 'shards'}", "progress=false", "workers=0"]
    ended = command("data", "data=demo", "extractor=tiny", *photos, *where)
    assert ended.code == 0, ended.err
    return out / "shards" / "demo"


@pytest.fixture(scope="session")
def two_worlds(tmp_path_factory: pytest.TempPathFactory, command: Command, demo_shards: Path) -> Path:
    """The folder of the tiny demo world's shards, with those of the world at dusk beside them."""
    raw, out = tmp_path_factory.mktemp("dusk"), demo_shards.parent
    where = [f"raw={raw}", f"out={out}", "progress=false", "workers=0"]
    ended = command("data", "data=demo_dusk", "extractor=tiny", "data.reader.test=12", *where)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides for `train` that make any experiment a matter of seconds."""
    sizes = ["text=tiny", "dim=32", "batches.batch_size=16", "batches.workers=0"]
    return [*sizes, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
