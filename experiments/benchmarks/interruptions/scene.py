"""A run that something happens to, and the register of what can happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threeshnet.cli import main

from .runs import RUN, start

TABLE = " │┃┌└├┏┡"  # what its lines begin with


@dataclass
class Scene:
    """A run with data of its own, and what it has printed."""

    folder: Path
    words: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    @property
    def shard(self) -> Path:
        """The only shard of the split that is trained on."""
        return self.folder / "synthetic" / "train-00000.h5"

    @property
    def settings(self) -> list[str]:
        return [*RUN, f"shards={self.folder / 'synthetic'}", "batches.workers=0", *self.words]

    def begin(self, *more: str, command: Callable[[], Any] = main) -> int:
        return self.begin_other(command, "train", *self.settings, "out=run", *more)

    def begin_other(self, command: Callable[[], Any], name: str, *words: str) -> int:
        (self.folder / "log.txt").unlink(missing_ok=True)
        return start(self.folder, command, name, words)

    def printed(self) -> str:
        text = (self.folder / "log.txt").read_text(encoding="utf-8")
        for name, stands_for in ((str(self.out), "<out>"), (str(self.folder), "<folder>")):
            text = text.replace(name, stands_for)
        return text

    def log_without_table(self) -> str:
        lines = (line for line in self.printed().splitlines() if line.startswith("  - ") or line[:1] not in TABLE)
        return "\n".join(map(str.strip, lines))


Fault = Callable[[Scene], int]  # lets it happen and mends the cause; the exit code of the run that it happened to
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    def known(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return known


class NotPermitted(Exception):
    """What this machine does not let us do."""
