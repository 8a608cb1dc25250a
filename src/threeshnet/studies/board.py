"""What is shown of jobs while they run: a live table in a terminal, a line a change elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from threeshnet.evaluation.table import duration
from threeshnet.runs import progress
from threeshnet.studies.scheduler import FAILED, LEFT_OUT, RUNNING, Status

COLOURS = {"running": "cyan", "finished": "green", "finished before": "green", "failed": "red", "left out": "red"}
COLOURS |= {"interrupted": "yellow"}


class Board:
    """Shows statuses; `look` shows how far the running ones are."""

    def __init__(self, statuses: Sequence[Status], *, title: str, console: Console | None = None) -> None:
        self.statuses, self.title = statuses, title
        self.console = console or Console()
        self.live: Live | None = None
        self.epochs: dict[str, int] = {}  # that were said

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(self.table(), console=self.console, auto_refresh=False) as self.live:
            yield
            self.live.update(self.table(), refresh=True)
        self.live = None

    def changed(self, status: Status) -> None:
        if self.live is None:
            note = f" ({status.note})" if status.note else ""
            self.say(status, f"{status.state}{note}{self._numbers(status)}")

    def look(self) -> None:
        """How far the jobs are: the table again, or a line for every epoch that ended."""
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            return
        for status in self.statuses:
            found = progress.read(status.job.folder) if status.state == RUNNING else {}
            if found.get("state") == progress.RUNNING and found["epoch"] > self.epochs.get(status.job.name, 0):
                self.epochs[status.job.name] = found["epoch"]
                self.say(status, ", ".join(part for part in _far(found) if part))

    def say(self, status: Status, text: str) -> None:
        place = f"[{1 + list(self.statuses).index(status)}/{len(self.statuses)}]"
        self.console.print(f"{place} {status.job.name}: {text}", markup=False, highlight=False, soft_wrap=True)

    def table(self) -> Table:
        counted = Counter(status.state for status in self.statuses)
        caption = ", ".join(f"{count} {state}" for state, count in counted.items())
        table = Table(title=escape(self.title), caption=caption)
        for name in ("job", "state", "epoch", "dev rsum", "time left"):
            table.add_column(name, justify="left" if name in ("job", "state") else "right")
        for status in self.statuses:
            found = progress.read(status.job.folder)
            note = escape(f" ({status.note})") if status.state in (FAILED, LEFT_OUT) and status.note else ""
            state = f"[{COLOURS.get(status.state, 'default')}]{status.state}{note}[/]"
            left = found.get("seconds_left") if status.state == RUNNING else None
            epoch = f"{found['epoch']} of {found['epochs']}" if found else ""
            table.add_row(escape(status.job.name), state, epoch, _rsum(found), duration(left) if left else "")
        return table

    def _numbers(self, status: Status) -> str:
        rsum = _rsum(progress.read(status.job.folder)) if status.ended else ""
        return f", best dev rsum {rsum}" if rsum else ""


def _far(found: dict[str, Any]) -> Iterator[str]:
    yield f"epoch {found['epoch']} of {found['epochs']}"
    yield f"dev rsum {found['dev_rsum']:.1f}" if found["dev_rsum"] is not None else ""
    yield f"{duration(found['seconds_left'])} left" if found["seconds_left"] else ""


def _rsum(found: dict[str, Any]) -> str:
    best = found.get("best_dev_rsum")
    return "" if best is None else f"{best:.1f}"
