"""What recall does not say of models: python experiments/beyond_recall/collect.py <folders of `make evaluate`>

Each folder holds the metrics.json of an evaluation with `extended=true bank=train`. results.csv gets a row a model with
hubs, gap and precisions, groups.csv one for each group of questions, and README.md its three tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threeshnet.errors import DataError, Problems
from threeshnet.files import write_rows
from threeshnet.metrics.comparisons import over_seeds
from threeshnet.reports.markdown import fill, table
from threeshnet.studies.columns import read_rows
from threeshnet.studies.scheduler import METRICS

HERE = Path(__file__).resolve().parent
ROWS, GROUPS, README = "results.csv", "groups.csv", "README.md"
FACTS = ("data", "split", "images", "captions", "protocol", "guidance", "seed")
PROVENANCE = ("selection", "batch_size", "checkpoint", "fingerprint", "commit", "machine")
PLAIN = "none"  # the name of no correction
SIDES = ("i2t", "t2i")
KINDS = ("length", "object_size")  # of the groups that are shown; classes are many, so groups.csv alone has them
FEWEST = 10  # questions of a group that is shown
HUBS = ("skewness", "never_retrieved", "largest")
OF_ALL = ("i2t_map_at_r", "i2t_r_precision", "gap_distance", "gap_angle", "spread_images", "spread_captions")


def facts_of(folder: Path, problems: Problems) -> tuple[dict[str, str], Mapping[str, Any]]:
    """What an evaluation is of, and its metrics; what is missing in it is told to `problems`."""
    file = folder / METRICS
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "corrections" not in found.get("extended", {}):
        problems.add(f"{folder} has no {METRICS} with corrections")
        return {}, found
    trained = found["trained"][0]
    known = {name: found.get(name, trained.get(name)) for name in (*FACTS, *PROVENANCE)}
    known |= {"guidance": " and ".join(trained["guidance"]) or "none", "checkpoint": found["checkpoint"][0]}
    return {name: str(value) for name, value in known.items()}, found


def rows_of(facts: Mapping[str, str], found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row without a correction and one for each, with the recalls and the hubs of both sides."""
    extended = found["extended"]
    gap, spread = extended["modality_gap"], extended["spread"]
    numbers = (
        *(extended["i2t"][name] for name in ("map_at_r", "r_precision")),
        *(gap.get(name, "") for name in ("distance", "angle")),
        *(spread[name] for name in ("images", "captions")),
    )
    plain = {"rsum": found["rsum"], "hubness": extended["hubness"]} | dict(zip(OF_ALL, numbers, strict=True))
    rows = []
    for correction, scores in {PLAIN: plain, **extended["corrections"]}.items():
        hubs = {f"{side}_{name}": scores["hubness"][side][name] for side in SIDES for name in HUBS}
        values = hubs | {"rsum": scores["rsum"]} | {name: scores.get(name, "") for name in OF_ALL}
        rows.append({**facts, "correction": correction} | {name: as_text(value) for name, value in values.items()})
    return rows


def groups_of(facts: Mapping[str, str], found: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each group of questions of both sides."""
    return [
        {**facts, "side": side, "kind": kind, "group": name} | {key: as_text(value) for key, value in recalls.items()}
        for side, kinds in found["extended"]["groups"].items()
        for kind, groups in kinds.items()
        for name, recalls in groups.items()
    ]


def as_text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


# ---- tables


def spread_of(rows: Sequence[Mapping[str, str]], name: str, digits: int = 1) -> str:
    """Mean and deviation over seeds."""
    found = over_seeds([float(row[name]) for row in rows if row[name]])
    return f"{found.mean:.{digits}f}" + ("" if found.deviation is None else f" ± {found.deviation:.{digits}f}")


def by(rows: Sequence[Mapping[str, str]], *names: str) -> dict[tuple[str, ...], list[Mapping[str, str]]]:
    found: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def hubs_table(rows: Sequence[Mapping[str, str]]) -> str:
    head = ["guidance", "correction", "seeds", "rsum", "i2t skewness", "never retrieved, %", "largest hub"]
    lines = [
        [*names, " ".join(row["seed"] for row in found), spread_of(found, "rsum")]
        + [spread_of(found, f"{side}_{name}", 2 if name == "skewness" else 1) for side in SIDES for name in HUBS]
        for names, found in by(rows, "guidance", "correction").items()
    ]
    return table([*head, "t2i skewness", "never retrieved, %", "largest hub"], lines)


def precision_table(rows: Sequence[Mapping[str, str]]) -> str:
    head = ["guidance", "mAP@R, i2t", "R-Precision, i2t", "distance of the sides", "angle, °"]
    head += ["spread of images", "of captions"]
    plain = [row for row in rows if row["correction"] == PLAIN]
    lines = [
        [guidance, *(spread_of(found, name, 1 if name in OF_ALL[:2] or name == "gap_angle" else 3) for name in OF_ALL)]
        for (guidance,), found in by(plain, "guidance").items()
    ]
    return table(head, lines)


def groups_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Of the kinds that are shown, in their order, one column for each guidance; few questions say nothing."""
    shown = [row for kind in KINDS for row in rows if row["kind"] == kind and int(row["queries"]) >= FEWEST]
    guidances = list(by(shown, "guidance"))
    lines = []
    for (side, kind, group), found in by(shown, "side", "kind", "group").items():
        of = by(found, "guidance")
        lines.append([side, kind.replace("_", " "), group, found[0]["queries"]])
        lines[-1] += [spread_of(of[guidance], "R@10") for guidance in guidances]
    return table(["side", "kind", "group", "questions", *(f"R@10, guidance {name}" for (name,) in guidances)], lines)


def rebuild(folder: Path) -> None:
    """README.md of the two files beside it."""
    rows, groups = (read_rows(folder / name) for name in (ROWS, GROUPS))
    parts = {"hubs": hubs_table(rows), "precisions": precision_table(rows), "groups": groups_table(groups)}
    fill(folder / README, parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, help="of evaluations; without one the tables alone are rebuilt"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    problems = Problems("beyond recall")
    known = [facts_of(folder, problems) for folder in asked.folders]
    problems.raise_as(
        DataError, "make evaluate CKPT=<file> SHARDS=<shards> OUT=<folder> ARGS='extended=true bank=train'"
    )
    if known:
        for name, of_a_model in ((ROWS, rows_of), (GROUPS, groups_of)):
            rows = [row for facts, found in known for row in of_a_model(facts, found)]
            write_rows(asked.out / name, list(rows[0]), rows)
    rebuild(asked.out)


if __name__ == "__main__":
    main()
