"""Hostile input to the verbs that use a trained model (indexes, photos, masks, checkpoints), and servers to end."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError

from ..forks import Ended, Forks
from .arena import GOOD, Arena
from .attempts import Attempt
from .checkpoint_inputs import OURS
from .nonsense import Generator, pick, spoil_bytes
from .payloads import spoiled

SERVERS = ("serve", "demo")
ADDRESS = re.compile(r"http://\S+:\d+/")
HEALTHY = 200
PAUSE = 0.05  # seconds between two looks at what a server has said
PATIENCE = 60  # seconds for an answer: the model is loaded before
UNWELL = 3  # exit code of no command


def indexes(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """An index with one of its files spoiled: searched, served, or brought up to date."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        source = arena.photo_index if command == "serve" else arena.index
        copy = arena.copy(source, folder)
        file = pick(generator, sorted(file for file in copy.rglob("*") if file.is_file()))
        said = spoil_file(file, folder, generator)
        key = "out" if command == "index" else "index"
        words = [word for word in GOOD[command](arena) if not word.startswith(f"{key}=")]
        return Attempt([*words, f"{key}={copy}"], f"{file.name}: {said}", (file.name, str(copy), file.parent.name))

    return made


def explained(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """A photo, its mask, or the model that looks at it, spoiled."""
    words = {word.partition("=")[0]: word.partition("=")[2] for word in GOOD["explain"](arena)}
    key = str(pick(generator, ("image", "mask", "checkpoint")))
    source = Path(words[key]) / "checkpoints" / "last.ckpt" if key == "checkpoint" else Path(words[key])
    file = arena.copy(source, folder)
    if key == "checkpoint":
        name = str(pick(generator, tuple(OURS)))
        said = OURS[name](file, folder, generator) or name
    else:
        said = spoil_bytes(file, generator)
    words[key] = str(file)
    return Attempt([f"{key}={value}" for key, value in words.items()], f"{key}: {said}", (file.name,))


def spoil_file(file: Path, folder: Path, generator: Generator) -> str:
    """Other content in a file of an index, as its ending says."""
    if file.suffix != ".json" or generator.integers(4) == 0:
        return spoil_bytes(file, generator)
    written, said = spoiled(json.loads(file.read_text(encoding="utf-8")), folder, generator)
    file.write_bytes(written)
    return said


def served(forks: Forks, command: str, words: list[str], *, folder: Path, seconds: float, gigabytes: float) -> Ended:
    """A server that is asked for its health as soon as it has said its address, and then ended.

    Its exit code is UNWELL where it ended well and gave another answer.
    """
    started = forks.start(command, words, folder=folder, gigabytes=gigabytes)
    over, answers = threading.Event(), []

    def ask() -> None:
        while not over.wait(PAUSE):
            if found := ADDRESS.search((folder / "out.txt").read_text(encoding="utf-8", errors="replace")):
                answers.append(health(found.group()))
                with suppress(ProcessLookupError):
                    os.kill(started.processes[0], signal.SIGTERM)
                return

    user = threading.Thread(target=ask)
    user.start()
    ended = forks.wait(started, seconds=seconds)
    over.set()
    user.join()
    well = ended.code != 0 or answers == [HEALTHY]
    return ended if well else ended._replace(code=UNWELL, err=f"health: {answers}\n{ended.err}")


def health(address: str) -> int | str:
    """The status of the answer, or why there is none."""
    try:
        with urllib.request.urlopen(f"{address}api/health", timeout=PATIENCE) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError) as error:
        return str(error)
