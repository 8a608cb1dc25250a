"""Hostile run directories, evaluations, rows and pages, for every verb that reads what others have written."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from .arena import GOOD, Arena
from .attempts import Attempt, trace_of
from .nonsense import TEXTS, Generator, pick, spoil_bytes
from .payloads import INTERPOLATIONS, plant, spoiled
from .raw_inputs import ODD_ARRAYS


def runs(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """A folder of runs, or an evaluation, with one of its files spoiled."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        copy = arena.copy(arena.study, folder)
        there = [file for file in copy.rglob("*") if file.suffix in (".json", ".csv", ".npz", ".yaml")]
        file = pick(generator, sorted(there))
        said = spoil_file(file, folder, generator)
        words = [word.replace(str(arena.study), str(copy)) for word in GOOD[command](arena)]
        return Attempt(words, f"{file.name}: {said}", (file.name, str(copy)), copy)

    return made


def resumed(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """`resume=true` in a run directory whose settings, job or progress are spoiled."""
    run = folder / "run"
    shutil.copytree(arena.study / "run", run)
    file = pick(generator, [run / name for name in ("config.yaml", "job.json", "progress.json", "metrics.json")])
    said = spoil_file(file, folder, generator)
    more = pick(generator, ([], ["trainer.max_steps=2"]))
    words = [*GOOD["train"](arena), "resume=true", *more]
    return Attempt(words, f"resume: {file.name}: {said}", (file.name, str(run), "out=run"), run)


def spoil_file(file: Path, folder: Path, generator: Generator) -> str:
    """Other content in a file of a run, as its ending says."""
    if file.suffix == ".json" and generator.integers(4):
        written, said = spoiled(json.loads(file.read_text(encoding="utf-8")), folder, generator)
        file.write_bytes(written)
        return said
    if file.suffix == ".yaml" and generator.integers(4):
        tree: Any = OmegaConf.to_container(OmegaConf.load(file))
        said = plant(tree, trace_of(folder), generator, int(generator.integers(1, 4)))
        file.write_text(json.dumps(tree), encoding="utf-8")
        return said
    if file.suffix == ".csv" and generator.integers(4):
        return spoil_table(file, generator)
    if file.suffix == ".npz" and generator.integers(4):
        return spoil_archive(file, generator)
    return spoil_bytes(file, generator)


def spoil_table(file: Path, generator: Generator) -> str:
    """Other texts in the cells of a table."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    row = int(generator.integers(len(rows)))
    cell = int(generator.integers(len(rows[row]) or 1))
    rows[row][cell : cell + 1] = [
        str(pick(generator, (*INTERPOLATIONS, *TEXTS[:9], "nan", "-1", "1e400", "1,5", "TRUE")))
    ]
    if generator.integers(4) == 0:
        rows.insert(row, rows[row][: int(generator.integers(len(rows[row]) + 1))])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    file.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    return f"row {row} cell {cell} is {rows[row][cell : cell + 1]!a}"[:100]


def spoil_archive(file: Path, generator: Generator) -> str:
    """Another array under one of the names of an .npz."""
    with np.load(file) as opened:
        held = dict(opened)
    name, odd = str(pick(generator, sorted(held))), str(pick(generator, tuple(ODD_ARRAYS)))
    values = held[name] if held[name].ndim else held[name].reshape(1)
    try:
        held[name] = ODD_ARRAYS[odd](values)
    except (TypeError, ValueError):
        del held[name]
    np.savez(file, **held)
    return f"{name}: {odd}"


def pages(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """Rows of a study or the template of its page, spoiled."""
    copy = arena.copy(arena.rows, folder)
    file, template = copy / "results.csv", copy / "README.md.j2"
    if generator.integers(2):
        said = f"{file.name}: {spoil_table(file, generator) if generator.integers(4) else spoil_bytes(file, generator)}"
    else:
        text = str(pick(generator, TEMPLATES))
        template.write_bytes(text.replace("TRACE", str(trace_of(folder))).encode("utf-8", "surrogatepass"))
        said = f"template: {text[:60]!a}"
    words = [word.replace(str(arena.rows), str(copy)) for word in GOOD["report"](arena)]
    return Attempt(words, said, (file.name, template.name, str(copy)))


TEMPLATES = (
    "{{ table() }} {{ table.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.mkdir('TRACE') }}",
    "{{ table.__self__.folder.joinpath('../executed').touch() }}",
    "{{ lipsum.__globals__['os'].mkdir('TRACE') }}",
    "{{ self.__init__.__globals__.__builtins__.open('TRACE', 'w') }}",
    "{% include '/etc/passwd' %}",
    "{% include '../conf' %}",
    "{% import 'nowhere' as x %}",
    "{% for a in range(10 ** 12) %}x{% endfor %}",
    "{{ 'x' * 10 ** 12 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ table(",
    "{% if %}",
    "{{ table(5, 6, seven=8) }}",
    "{{ nowhere.at.all }}",
    "{{ table | no_such_filter }}",
    "{{ oc.env }} ${oc.env:HOSTILE_CANARY}",
    "\ufeff{{ table() }}",
    "\ud800",
    "",
)
