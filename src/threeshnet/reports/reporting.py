"""How tables and figures of a study, or of all, are rebuilt from committed rows."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from threeshnet.errors import DataError
from threeshnet.files import write_text
from threeshnet.installation import CONF
from threeshnet.reports.claims import Studies, claims_table, parse_claims, published_table
from threeshnet.reports.markdown import fill, filled, marks
from threeshnet.reports.study_checks import check_rows
from threeshnet.reports.study_effects import PART as EFFECTS
from threeshnet.reports.study_effects import effects
from threeshnet.reports.study_figure import draw
from threeshnet.reports.study_prose import check_prose
from threeshnet.reports.study_report import FIGURE, PART, Comparison, tables
from threeshnet.studies.by_photo import BY_PHOTO, read_by_photo
from threeshnet.studies.collect import RESULTS, into
from threeshnet.studies.columns import Row, label, other_factors, read_rows
from threeshnet.studies.study import STUDIES, Study, load_study

README = "README.md"
CLAIMS = "claims.yaml"
PUBLISHED = "published_results.csv"  # what others report, and whether it was seen or only recalled


def rebuild(cfg: DictConfig) -> None:
    """Tables and figures of a study, or of all."""
    if cfg.study:
        study = load_study(cfg.study)
        report(study, into(cfg, study.name))
        return
    root = Path(cfg.into or CONF.parent / "experiments")
    known = [load_study(file.stem) for file in sorted(STUDIES.glob("*.yaml"))]
    with_rows = [study for study in known if (root / study.name / RESULTS).is_file()]
    found = {study.name: report(study, root / study.name) for study in with_rows}
    summarise(root, found, {study.name: labels(study) for study in known})


def report(study: Study, folder: Path) -> tuple[list[Row], Comparison]:
    """Rebuilds README.md and the figure of a study; what they were made from."""
    rows, comparison = numbers(study, folder)
    check_rows(rows, comparison)
    file = folder / README
    text = file.read_text(encoding="utf-8") if file.exists() else first_text(study)
    parts = {PART: tables(rows, comparison)}
    if marks(EFFECTS)[0] in text:
        parts[EFFECTS] = effects(rows, comparison, made_by(study), study.removed)
    text = filled(text, parts, file)
    write_text(file, text)
    if rows:
        draw(rows, comparison, folder / FIGURE)
    compared = check_prose(text, rows, comparison, lambda name: other_study(name, folder.parent))
    said = f"{file}: {len(rows)} rows, {compared} numbers of the prose compared"
    Console().print(said, markup=False, highlight=False, soft_wrap=True)
    return rows, comparison


def numbers(study: Study, folder: Path) -> tuple[list[Row], Comparison]:
    """The committed rows of a study, and how they are compared."""
    rows = read_rows(folder / RESULTS)
    return rows, replace(comparison_of(study, rows), by_photo=read_by_photo(folder / BY_PHOTO))


def other_study(name: str, root: Path) -> tuple[list[Row], Comparison]:
    """`numbers` of the study that the prose of another one names.  Raises DataError where there are none."""
    known = sorted(file.stem for file in STUDIES.glob("*.yaml") if (root / file.stem / RESULTS).is_file())
    if name not in known:
        raise DataError(f"no study {name!r} with rows in {root}; there are: {', '.join(known) or 'none'}")
    return numbers(load_study(name), root / name)


def labels(study: Study) -> list[str]:
    """Every combination of levels as the report names it."""
    return [label(names) for names in itertools.product(*comparison_of(study, []).factors.values())]


def summarise(root: Path, studies: Studies, known: Mapping[str, Sequence[str]]) -> None:
    """Rebuilds the claims and the published numbers in the README.md above all studies."""
    content: Any = OmegaConf.to_container(OmegaConf.load(root / CLAIMS))
    file = root / README
    claims = claims_table(parse_claims(content, known), studies)
    with (root / PUBLISHED).open(encoding="utf-8", newline="") as opened:
        published = published_table(list(csv.DictReader(opened)))
    fill(file, {"claims": claims, "published": published})
    Console().print(f"{file}: claims and published numbers", markup=False, highlight=False, soft_wrap=True)


def comparison_of(study: Study, rows: Sequence[Row]) -> Comparison:
    """The study's factors with their levels in order, derived ones last, and other factors of the rows."""
    levels = {factor: [level.name for level in found] for factor, found in study.factors.items()}
    for name, rule in study.derived.items():
        levels[rule.factor].append(name)
    factors = levels | {factor: [] for factor in other_factors(rows, list(levels))}
    return Comparison(factors, study.baseline_levels, reference=study.reference)


def made_by(study: Study) -> dict[str, dict[str, str]]:
    """The overrides that make each level of each factor, those of derived ones when it is scored."""
    made = {
        factor: {level.name: " ".join(level.overrides) for level in found} for factor, found in study.factors.items()
    }
    for name, rule in study.derived.items():
        scored = [f"views=[{','.join(map(str, rule.views))}]"] if rule.views else []
        scored += [f"correction={rule.correction} bank=train"] if rule.correction else []
        scored += [f"perturb={rule.perturb}"] if rule.perturb else []
        together = f"{rule.protocol} of {' and '.join(rule.of)}"
        of = made[rule.factor][rule.of[0]] if rule.protocol == "full" else together
        made[rule.factor][name] = " ".join([of, *scored]).strip()
    return made


def first_text(study: Study) -> str:
    """A README to begin with."""
    begin, end = marks(PART)
    commands = [
        f"make {target} STUDY={study.name}{more}"
        for target, more in (("sweep", " EXP=<experiment>"), ("collect", ""), ("report", ""))
    ]
    return "\n\n".join(
        [f"# {study.title}", study.question, "\n".join(f"    {line}" for line in commands), f"{begin}\n{end}", ""]
    )
