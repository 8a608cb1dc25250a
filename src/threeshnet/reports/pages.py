"""Pages from templates: every number in experiments/**/README.md is inserted from committed rows.

`README.md.j2` stands beside its output. Its vocabulary is what `Page.vocabulary` lists; anything unknown fails with the
template's file and line, and with what exists.
"""

from __future__ import annotations

import json
import statistics
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment
from rich.console import Console

from threeshnet.errors import DataError, ThreeSHNetError, one_of
from threeshnet.files import check_writable, write_text
from threeshnet.installation import conf_files, experiments_folder
from threeshnet.metrics.comparisons import difference, over_seeds
from threeshnet.reports.checks import check
from threeshnet.reports.claims import claims_table
from threeshnet.reports.effects import Effect, Signed
from threeshnet.reports.figure import draw
from threeshnet.reports.results import Level, Results, read_results
from threeshnet.reports.tables import FIGURE, effects_table, setting_table, study_tables
from threeshnet.settings import ReportSettings
from threeshnet.studies.columns import RESULTS
from threeshnet.studies.study import load_study

ENDLESS = (RecursionError, OverflowError, MemoryError)  # of a template that asks for too much
TEMPLATE = ".j2"  # after the name of the page that is made from it
README = "README.md"
FIRST_PAGE = """\
# {title}

{question}

    make sweep STUDY={name} EXP=<experiment>
    make collect STUDY={name}
    make report STUDY={name}

{{{{ table() }}}}
"""


def rebuild(settings: ReportSettings) -> None:
    """The page and figure of one study, or all figures and pages."""
    experiments = experiments_folder()
    check_writable("into", settings.into or experiments)
    if settings.study:
        folder = Path(settings.into or experiments / load_study(settings.study).name)
        rows = Rows(folder.parent, {settings.study: folder})
        study_page(settings.study, rows)
        return
    root = Path(settings.into or experiments)
    rows = Rows(root)
    templates = sorted(root.rglob(README + TEMPLATE))
    if root == experiments and root.is_absolute():  # in a checkout, whose front page has numbers too
        front = root.parent / (README + TEMPLATE)
        templates += [*sorted((root.parent / "docs").rglob("*" + TEMPLATE)), *([front] if front.is_file() else [])]
    if not rows.studies and not templates:
        raise DataError(
            f"into={root} holds neither rows nor templates; name a study (study=<name>), or collect rows first: make "
            "collect STUDY=<name>"
        )
    for name in rows.studies:
        study_page(name, rows)
    for template in templates:
        if template.parent.name not in rows.studies:
            write_page(template, rows)


def study_page(name: str, rows: Rows) -> None:
    """Check the rows of a study, draw its figure, and write its page; the first time its template too."""
    folder, results = rows.folder(name), check(rows.of(name))
    template = folder / (README + TEMPLATE)
    if not template.is_file():
        study = load_study(name)
        write_text(template, FIRST_PAGE.format(title=study.title, question=study.question, name=name))
    if results.settings:
        draw(results, folder / FIGURE)
    write_page(template, rows)


def write_page(template: Path, rows: Rows) -> None:
    """The page beside its template.  Raises DataError as `rendered` does."""
    file = template.with_suffix("")
    write_text(file, rendered(template, rows))
    Console().print(f"{file}", markup=False, highlight=False, soft_wrap=True)


def rendered(template: Path, rows: Rows) -> str:
    """The text of a page.  Raises DataError with file and line for whatever the template asks that does not exist."""
    environment = Sandbox(
        loader=FileSystemLoader(template.parent),
        autoescape=False,  # Markdown, from committed files alone
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    page = Page(template.parent, rows)
    try:
        return environment.get_template(template.name).render(page.vocabulary)
    except (ThreeSHNetError, TemplateError, LookupError, TypeError, ValueError, OSError, *ENDLESS) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(template)]
        line = error.lineno if isinstance(error, TemplateSyntaxError) else next(reversed(lines), "?")
        known = f"; a page has: {', '.join(page.vocabulary)}" if "is undefined" in str(error) else ""
        raise DataError(f"{template}:{line}: {error}{known}") from error


class Sandbox(SandboxedEnvironment):
    """Templates reach their vocabulary and nothing behind it, neither Python's insides nor numbers without end."""

    intercepted_binops = frozenset(["**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError(f"{operator} is not for templates")


class Rows:
    """The committed rows of all studies below a folder, read once."""

    def __init__(self, root: Path, folders: Mapping[str, Path] | None = None) -> None:
        self.root, self.folders = root, dict(folders or {})
        self.of: Callable[[str], Results] = cache(self._read)

    @property
    def studies(self) -> list[str]:
        """Those with rows."""
        return sorted(name for name in conf_files("studies") if (self.folder(name) / RESULTS).is_file())

    def folder(self, name: str) -> Path:
        return self.folders.get(name, self.root / name)

    def _read(self, name: str) -> Results:
        if name not in self.studies and name not in self.folders:
            raise DataError(one_of("study with rows", name, self.studies))
        return read_results(load_study(name), self.folder(name))


class Page:
    """What a template may say of one folder."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.folder, self.all_rows = folder, rows

    @property
    def vocabulary(self) -> dict[str, Any]:
        names = ("rows", "table", "effects", "csv", "json", "group", "median", "spread", "ends", "paired", "claims")
        return {name: getattr(self, name) for name in names}

    def rows(self, experiment: str, setting: str | None = None, study: str | None = None, **levels: str) -> Level:
        """The runs of a level: `.rsum`, `.effect`, `.against(<levels>)`, `.verdict`, `.seeds`."""
        return self._results(study).setting(experiment, setting).level(**levels)

    def table(self, experiment: str | None = None, setting: str | None = None, study: str | None = None) -> str:
        """The table of one setting, or all tables of the study with its figure."""
        results = self._results(study)
        return study_tables(results) if experiment is None else setting_table(results.setting(experiment, setting))

    def effects(self) -> str:
        """Every level in every setting, as one table."""
        return effects_table(self._results(None), load_study(self._name()))

    def csv(self, file: str, **equal: str) -> list[dict[str, str]]:
        """The rows of a committed CSV file whose cells equal these."""
        rows: Any = pd.read_csv(self.folder / file, dtype=str, keep_default_na=False)
        for name, value in equal.items():
            if name not in rows:
                raise DataError(one_of(f"column of {file}", name, rows.columns))
            rows = rows[rows[name] == value]
        if equal and rows.empty:
            raise DataError(f"{file} has no row with {equal}")
        return rows.to_dict("records")

    def json(self, file: str) -> Any:
        return json.loads((self.folder / file).read_text(encoding="utf-8-sig"))

    @staticmethod
    def group(rows: Iterable[dict[str, str]], *names: str) -> list[tuple[tuple[str, ...], list[dict[str, str]]]]:
        """Rows of a CSV file by their cells in these columns, in the order of the first of each."""
        groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
        return list(groups.items())

    @staticmethod
    def median(values: Iterable[str | float]) -> float:
        return statistics.median(map(float, values))

    @staticmethod
    def ends(values: Iterable[str | float], digits: int = 1) -> str:
        """`least to greatest`."""
        numbers = [float(value) for value in values]
        return f"{min(numbers):.{digits}f} to {max(numbers):.{digits}f}"

    @staticmethod
    def spread(values: Iterable[str | float], digits: int = 1) -> str:
        """Mean ± sample standard deviation; the mean alone of one value."""
        stats = over_seeds([float(value) for value in values])
        return f"{stats.mean:.{digits}f}" + ("" if stats.deviation is None else f" ± {stats.deviation:.{digits}f}")

    @staticmethod
    def paired(one: Iterable[str | float], other: Iterable[str | float] | float) -> Effect:
        """Of measured numbers, in the order of their seeds; `other` may be a constant."""
        first = [float(value) for value in one]
        second = [other] * len(first) if isinstance(other, (int, float)) else [float(value) for value in other]
        by_seed = {str(number): Signed(a - b) for number, (a, b) in enumerate(zip(first, second, strict=True))}
        effect = difference(first, second, paired=True) if len(first) > 1 else None
        return Effect(by_seed, over_seeds(second), effect, None)

    def claims(self) -> str:
        """The table of experiments/claims.yaml."""
        return claims_table(self.folder, self.all_rows.of, self.all_rows.studies)

    def _name(self) -> str:
        names = {folder: name for name, folder in self.all_rows.folders.items()}
        return names.get(self.folder, self.folder.name)

    def _results(self, study: str | None) -> Results:
        return self.all_rows.of(study or self._name())
