"""Tables and figure of a study from its committed rows: make report STUDY=<name>."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig
from rich.console import Console

from threeshnet.commands import CONF, kept, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.collect import RESULTS, into
from threeshnet.commands.preparing import load_study
from threeshnet.reports.study_figure import draw
from threeshnet.reports.study_report import BEGIN, END, FIGURE, Comparison, check_prose, check_rows, filled, tables
from threeshnet.reports.study_rows import Row, other_factors, read_rows
from threeshnet.studies.study import Study

README = "README.md"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
@kept
def main(cfg: DictConfig) -> None:
    study = load_study(cfg.study)
    folder = into(cfg, study.name)
    rows = read_rows(folder / RESULTS)
    comparison = comparison_of(study, rows)
    check_rows(rows)
    file = folder / README
    text = filled(file.read_text(encoding="utf-8") if file.exists() else first_text(study), tables(rows, comparison))
    runs.write_text(file, text)
    if rows:
        draw(rows, comparison, folder / FIGURE)
    compared = check_prose(text, rows, comparison)
    said = f"{file}: {len(rows)} rows, {compared} numbers of the prose compared"
    Console().print(said, markup=False, highlight=False, soft_wrap=True)


def comparison_of(study: Study, rows: Sequence[Row]) -> Comparison:
    """The study's factors with their levels in order, derived ones last, and other factors of the rows."""
    levels = {factor: [level.name for level in found] for factor, found in study.factors.items()}
    for rule in study.derived:
        levels[rule.factor].append(rule.name)
    return Comparison(levels | {factor: [] for factor in other_factors(rows, list(levels))}, study.baseline)


def first_text(study: Study) -> str:
    """A README to begin with."""
    commands = [
        f"make {target} STUDY={study.name}{more}"
        for target, more in (("sweep", " EXP=<experiment>"), ("collect", ""), ("report", ""))
    ]
    return "\n\n".join(
        [f"# {study.title}", study.question, "\n".join(f"    {line}" for line in commands), f"{BEGIN}\n{END}", ""]
    )


if __name__ == "__main__":
    run(main)
