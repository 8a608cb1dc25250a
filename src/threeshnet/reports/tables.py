"""The tables of a study's page, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from threeshnet.reports.effects import NOTHING
from threeshnet.reports.results import Level, Results, Setting
from threeshnet.studies.columns import NUMBERS
from threeshnet.studies.study import Study

FIGURE = "figure.png"
RECALLS = ("i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum")
AGAINST, WITH_PHOTOS = "rsum against the baseline", "over seeds and photos"
EFFECTS = ("overrides", "setting", "baseline", "seeds", AGAINST, WITH_PHOTOS, "verdict")
NO_ROW, NO_PAIR = "no row", "no baseline with its seeds"
HOW_TO_READ = (
    "*Tables*: mean ± sample standard deviation over seeds. Differences are paired by seed and have a 95% confidence "
    "interval over seeds and, where ranks by photo were kept, over seeds and photos. A *difference* needs both "
    "intervals to exclude zero; *on these photos* rests on seeds alone. *Figure*: left, a stroke per run and a dot at "
    "the mean, the baseline in red; right, the differences, with a thin line over seeds and a thick one over seeds and "
    "photos. Intervals that are far wider than the others are cut."
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def study_tables(results: Results) -> str:
    """A table for every experiment and setting, how to read them, and the figure."""
    if not results.settings:
        return "*No results yet.*"
    dashed = "".join(f" Dashed: {name}, {rsum:.1f}." for name, rsum in results.reference.items())
    figure = f"![rsum of every run, and differences from the baseline]({FIGURE})"
    return "\n\n".join([*map(setting_table, results.settings), HOW_TO_READ + dashed, figure])


def setting_table(setting: Setting) -> str:
    """The facts of a setting, and a line for each level."""
    with_photos = setting.with_photos
    head = [*(setting.results.factors or ["runs"]), "seeds", *RECALLS, AGAINST, *([WITH_PHOTOS] if with_photos else [])]
    lines = []
    for level in setting.levels.values():
        effect = None if level.is_base else level.effect_on("rsum", level.base)
        has_interval = effect is not None and effect.over_seeds is not None
        against = f"{effect.value} {effect.interval}, {effect.verdict}" if effect and has_interval else NOTHING
        photos = [effect.interval_with_photos if effect else NOTHING] if with_photos else []
        numbers = [str(getattr(level, name)) for name in NUMBERS]
        lines.append(
            [*(level.names or ["all"]), level.seeds, *numbers, "baseline" if level.is_base else against, *photos]
        )
    return f"**{setting.experiment}, setting `{setting.name}`.** {setting.facts}\n\n{table(head, lines)}"


def effects_table(results: Results, study: Study) -> str:
    """A line for every level and setting, the settings of a level together, to compare settings."""
    several = len({setting.experiment for setting in results.settings}) > 1
    made, lines = overrides_of(study), []
    for setting in results.settings:
        where = f"{setting.experiment}, `{setting.name}`" if several else f"`{setting.name}`"
        lines += [(level.names, [where, *_effect(level)]) for level in setting.levels.values() if not level.is_base]
    if len(results.factors) == 1:
        ((factor, levels),) = results.factors.items()
        run = {level.named[factor] for setting in results.settings for level in setting.levels.values()}
        run.add(results.baseline.get(factor, ""))
        lines += [((name,), [NOTHING] * (len(EFFECTS) - 2) + [NO_ROW]) for name in levels if name not in run]
    rows = []
    for names, effect in sorted(lines, key=lambda line: results.order(line[0])):
        named = zip(names, made.items(), strict=False)
        own = [f"`{of[name]}`{_gone(study, factor, name)}" for name, (factor, of) in named if of.get(name)]
        rows.append([*names, "; ".join(own) or NOTHING, *effect])
    return table([*results.factors, *EFFECTS], rows)


def _gone(study: Study, factor: str, name: str) -> str:
    """Which commit is the last that has a level whose code is removed."""
    commit = study.removed.get(factor, {}).get(name)
    return f" (removed; last in commit `{commit}`)" if commit else ""


def _effect(level: Level) -> list[str]:
    effect = level.effect_on("rsum", level.base)
    if effect is None:
        return [NOTHING, level.seeds, NOTHING, NOTHING, NO_PAIR]
    value = str(effect.value) if effect.over_seeds is None else f"{effect.value} {effect.interval}"
    return [f"{effect.other.mean:.1f}", " ".join(effect.by_seed), value, effect.interval_with_photos, effect.verdict]


def overrides_of(study: Study) -> Mapping[str, Mapping[str, str]]:
    """The overrides that make each level of each factor, and those that score a derived one."""
    made = {
        factor: {level.name: " ".join(level.overrides) for level in levels} for factor, levels in study.factors.items()
    }
    for name, rule in study.derived.items():
        scored = [f"views=[{','.join(map(str, rule.views))}]"] if rule.views else []
        scored += [f"correction={rule.correction} bank=train"] if rule.correction else []
        scored += [f"perturb={rule.perturb}"] if rule.perturb else []
        together = f"{rule.protocol} of {' and '.join(rule.of)}"
        of = made[rule.factor][rule.of[0]] if rule.protocol == "full" else together
        made[rule.factor][name] = " ".join([of, *scored]).strip()
    return made
