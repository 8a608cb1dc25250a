"""What do waiting threads cost, alone and beside neighbours?  python -m experiments.benchmarks.threads.run

Each level is a process with its own setting of the waiting threads (libgomp reads it once, when it is loaded). For each
number of neighbours the levels take their steps in turns, so that whatever else the machine does meets all of them.
A neighbour is a training of the same kind: with threads that spin, as torch has them by default, with one thread, or as
`threeshnet train` runs.
Neighbours and levels are sessions of their own, as two terminals are: Linux shares the cores among sessions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from threeshnet.files import write_rows
from threeshnet.installation import current_commit
from threeshnet.processes import ends_with
from threeshnet.threads import SPINS, cores

from ..common import module_command, surroundings

HERE = Path(__file__).parent
WORK = "experiments.benchmarks.threads.work"
OF_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LEVELS: dict[str, Mapping[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (1_000, 3_000, 10_000, 30_000, 100_000)},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "ours": {"GOMP_SPINCOUNT": str(SPINS)},  # and the number of threads follows the free cores
}
KINDS = {
    name: LEVELS[level] for name, level in {"spinning": "default", "one thread": "one thread", "ours": "ours"}.items()
}
ADAPTS = "ours"
COUNTS = (1, 2, 4)
COLUMNS = ("neighbours", "kind", "level", "repeat", "seconds_a_step", "cpu_seconds_a_step", "load")


class Case(NamedTuple):
    """How many neighbours of which kind are at work."""

    neighbours: int
    kind: str


class Session:
    """A process of `work`, a session of its own, that stands still until it is asked."""

    def __init__(self, options: argparse.Namespace, variables: Mapping[str, str], *more: str) -> None:
        clean = {name: value for name, value in surroundings().items() if name not in OF_THREADS}
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = module_command(WORK, f"--batch={options.batch}", *more)
        before = ends_with(os.getpid())  # a neighbour would run on
        self.process = subprocess.Popen(
            command, env=clean | dict(variables), start_new_session=True, preexec_fn=before, **streams
        )
        if options.nice:
            Path(f"/proc/{self.process.pid}/autogroup").write_text(str(options.nice))

    def answer(self) -> dict[str, Any]:
        """The next line that it prints.  Raises SystemExit when it ended instead."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"{WORK} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, steps: int) -> dict[str, Any]:
        """Takes the steps; returns their seconds and the processor time of all."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()  # it may stand still, and would not hear anything else
        self.process.wait()


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all sessions are ended
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        levels = {name: started(stack, options, LEVELS[name], *adapting(name)) for name in options.levels}
        for case, standing in cases(stack, options):
            for session in standing[: case.neighbours]:
                session.signal(signal.SIGCONT)
            rows += measured(options, case, levels)
            for session in standing:
                session.signal(signal.SIGSTOP)
            Console().print(f"{case.neighbours} neighbours, {case.kind}: {shown(rows, case)}", highlight=False)
    if options.out:
        write_rows(options.out / "steps.csv", COLUMNS, rows)
        (options.out / "summary.json").write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")
    return rows


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="of neighbours, besides none")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every level")
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--nice", type=int, default=0, help="of all sessions, to be less disturbed (root: -1 to -20)")
    parser.add_argument("--out", type=Path, help="folder of steps.csv and summary.json")
    return parser.parse_args(arguments)


def adapting(name: str) -> list[str]:
    return ["--adapt"] if name == ADAPTS else []


def started(
    stack: contextlib.ExitStack, options: argparse.Namespace, variables: Mapping[str, str], *more: str
) -> Session:
    """A session that has taken its first step."""
    session = Session(options, variables, *more)
    stack.callback(session.end)
    session.answer()
    return session


def cases(stack: contextlib.ExitStack, options: argparse.Namespace) -> Iterator[tuple[Case, list[Session]]]:
    """No neighbours, then each kind and number, with the neighbours of the kind, which stand still."""
    yield Case(0, "none"), []
    for kind in options.kinds:
        standing = []
        for _ in range(max(options.counts, default=0)):
            standing.append(started(stack, options, KINDS[kind], "--forever", *adapting(kind)))
            standing[-1].signal(signal.SIGSTOP)
        yield from ((Case(count, kind), standing) for count in options.counts)
        for session in standing:
            session.end()


def measured(options: argparse.Namespace, case: Case, levels: Mapping[str, Session]) -> list[dict[str, Any]]:
    """A row a level and turn; the order of the levels turns round."""
    rows, names = [], list(levels)
    for repeat in range(options.repeats):
        for name in names if repeat % 2 else names[::-1]:
            found = levels[name].ask(options.steps)
            row = {"neighbours": case.neighbours, "kind": case.kind, "level": name, "repeat": repeat}
            row["seconds_a_step"] = round(statistics.median(found["seconds"]), 4)
            row["cpu_seconds_a_step"] = round(found["cpu_seconds"] / options.steps, 4)
            rows.append(row | {"load": round(os.getloadavg()[0], 1)})
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median seconds of a step by case and level, and as a multiple of the even share's time.

    With n neighbours the even share is 1/(n + 1) of the machine: n + 1 times the default's seconds without neighbours.
    """
    found: dict[str, Any] = {"cores": cores(), "chosen": SPINS, "commit": current_commit()}
    loads = [row["load"] for row in rows]
    found |= {"load": [min(loads), max(loads)], "cases": []}
    alone = median_of(rows, Case(0, "none"), "default") or median_of(rows, Case(0, "none"), str(rows[0]["level"]))
    for case in dict.fromkeys(Case(row["neighbours"], row["kind"]) for row in rows):
        levels = {}
        for level in dict.fromkeys(row["level"] for row in rows):
            seconds = median_of(rows, case, level)
            levels[level] = {"seconds": seconds, "of_even_share": round(seconds / (alone * (case.neighbours + 1)), 2)}
        found["cases"].append({**case._asdict(), "levels": levels})
    return found


def median_of(rows: Sequence[Mapping[str, Any]], case: Case, level: str) -> float:
    """Seconds of a step; 0 where nothing was measured."""
    chosen = [row["seconds_a_step"] for row in rows if (row["neighbours"], row["kind"], row["level"]) == (*case, level)]
    return statistics.median(chosen) if chosen else 0.0


def shown(rows: Sequence[Mapping[str, Any]], case: Case) -> str:
    levels = dict.fromkeys(row["level"] for row in rows)
    return ", ".join(f"{level} {median_of(rows, case, level):.3f} s" for level in levels)


if __name__ == "__main__":
    main()
