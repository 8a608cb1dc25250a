"""What each level of a study is worth in every setting where it was run, level by level in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from threeshnet.reports.markdown import table
from threeshnet.reports.study_report import (
    NOTHING,
    WITH_PHOTOS,
    Comparison,
    Levels,
    against,
    against_with_photos,
    ends,
    pairs_of,
    verdict,
)
from threeshnet.studies.columns import Row, by_level, groups, place

PART = "effects"  # name of the marks, in a README that wants the table
HEADER = ("made by", "setting", "baseline", "seeds", "rsum against the baseline", WITH_PHOTOS, "verdict")
ONE_SEED, NO_ROW, NO_PAIR = "one seed", "no row", "no baseline with its seeds"


def effects(
    rows: Sequence[Row],
    comparison: Comparison,
    made_by: Mapping[str, Mapping[str, str]],
    removed: Mapping[str, Mapping[str, str]],
) -> str:
    """A line for every level and setting, the settings of a level together: what holds here and not there shows.

    `made_by` gives the overrides of each factor's levels, and `removed` the last commit of those whose code is gone.
    """
    experiments = {row["experiment"] for row in rows}
    lines: list[tuple[tuple[str, ...], list[str]]] = []
    for (experiment, setting), found in groups(rows).items():
        where = f"`{setting}`" if len(experiments) == 1 else f"{experiment}, `{setting}`"
        levels = by_level(found, comparison.factors)
        for names in levels:
            if names != comparison.base(names):
                lines.append((names, [where, *_effect(names, levels, comparison)]))
    lines += [(names, [NOTHING] * (len(HEADER) - 2) + [NO_ROW]) for names in _without_rows(rows, comparison)]
    lines.sort(key=lambda line: place(line[0], comparison.factors))
    said = [[*names, _made(names, made_by, removed), *effect] for names, effect in lines]
    return table([*comparison.factors, *HEADER], said)


def _without_rows(rows: Sequence[Row], comparison: Comparison) -> list[tuple[str]]:
    """Levels of the one factor that no row has; with several, few combinations of levels are meant to be run."""
    if len(comparison.factors) != 1:
        return []
    ((factor, levels),) = comparison.factors.items()
    run = {row.get(factor) for row in rows} | {comparison.baseline.get(factor)}
    return [(level,) for level in levels if level not in run]


def _made(
    names: Sequence[str], made_by: Mapping[str, Mapping[str, str]], removed: Mapping[str, Mapping[str, str]]
) -> str:
    made = []
    for name, (factor, overrides) in zip(names, made_by.items(), strict=False):
        commit = removed.get(factor, {}).get(name)
        note = f" (removed; last in commit `{commit}`)" if commit else ""
        made += [f"`{overrides[name]}`{note}"] if overrides.get(name) else []
    return "; ".join(made) or NOTHING


def _effect(names: tuple[str, ...], levels: Levels, comparison: Comparison) -> list[str]:
    """Mean of the baseline over the seeds that both have, these seeds, the difference, and what may be said of it."""
    pairs = pairs_of(names, levels, comparison)
    if not pairs:
        return [NOTHING, " ".join(row["seed"] for row in levels[names]), NOTHING, NOTHING, NO_PAIR]
    one, other = (sum(float(row["rsum"]) for row in side) / len(pairs) for side in zip(*pairs, strict=True))
    apart, with_photos = against(names, levels, comparison, "rsum"), against_with_photos(names, levels, comparison)
    known = [f"{other:.1f}", " ".join(row["seed"] for row, _ in pairs)]
    if apart is None:
        return [*known, f"{one - other:+.1f}", NOTHING, ONE_SEED]
    return [*known, f"{apart.value:+.1f} {ends(apart)}", ends(with_photos), verdict(apart, with_photos)]
