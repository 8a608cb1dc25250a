"""Shows jobs while they run: a live table in a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from threeshnet.evaluation.table import duration
from threeshnet.runs.records import RUNNING, Progress
from threeshnet.runs.run import Run
from threeshnet.studies.scheduler import State, Status

COLOURS = {State.RUNNING: "cyan", State.FINISHED: "green", State.EARLIER: "green", State.STOPPED: "yellow"}
COLOURS |= {State.FAILED: "red", State.LEFT_OUT: "red"}


class Board:
    """Shows statuses; `look` shows how far the running jobs are."""

    def __init__(self, statuses: Sequence[Status], *, title: str, console: Console | None = None) -> None:
        self.statuses, self.title = statuses, title
        self.console = console or Console()
        self.live: Live | None = None
        self.epochs: dict[str, int] = {}  # the last epoch that was printed, by job

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
            rsum = _rsum(Run(status.job.folder).progress) if status.ended else ""
            self._print(status, f"{status.state}{note}{f', best dev rsum {rsum}' if rsum else ''}")

    def look(self) -> None:
        """Draws the table again, or prints a line for every epoch that has ended."""
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            return
        for status in self.statuses:
            progress = Run(status.job.folder).progress if status.state is State.RUNNING else Progress()
            if progress.state == RUNNING and progress.epoch > self.epochs.get(status.job.name, 0):
                self.epochs[status.job.name] = progress.epoch
                self._print(status, ", ".join(_epoch(progress)))

    def table(self) -> Table:
        counts = Counter(status.state for status in self.statuses)
        caption = ", ".join(f"{count} {state}" for state, count in counts.items())
        table = Table(title=escape(self.title), caption=caption)
        for name in ("job", "state", "epoch", "dev rsum", "time left"):
            table.add_column(name, justify="left" if name in ("job", "state") else "right")
        for status in self.statuses:
            progress = Run(status.job.folder).progress
            failed = status.state in (State.FAILED, State.LEFT_OUT)
            note = escape(f" ({status.note})") if failed and status.note else ""
            state = f"[{COLOURS.get(status.state, 'default')}]{status.state}{note}[/]"
            left = progress.seconds_left if status.state is State.RUNNING else None
            epoch = f"{progress.epoch} of {progress.epochs}" if progress.state else ""
            table.add_row(escape(status.job.name), state, epoch, _rsum(progress), duration(left) if left else "")
        return table

    def _print(self, status: Status, text: str) -> None:
        number = f"[{1 + list(self.statuses).index(status)}/{len(self.statuses)}]"
        self.console.print(f"{number} {status.job.name}: {text}", markup=False, highlight=False, soft_wrap=True)


def _epoch(progress: Progress) -> Iterator[str]:
    yield f"epoch {progress.epoch} of {progress.epochs}"
    if progress.dev_rsum is not None:
        yield f"dev rsum {progress.dev_rsum:.1f}"
    if progress.seconds_left:
        yield f"{duration(progress.seconds_left)} left"


def _rsum(progress: Progress) -> str:
    return "" if progress.best_dev_rsum is None else f"{progress.best_dev_rsum:.1f}"
