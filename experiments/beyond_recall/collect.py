"""What recall does not say of models: python experiments/beyond_recall/collect.py <folders of `make evaluate`>

Each folder holds the metrics.json of an evaluation with `extended=true bank=train`. results.csv gets a row a model with
hubs, gap and precisions, and groups.csv one for each group of questions; `make report` makes the page of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threeshnet.errors import DataError, Problems
from threeshnet.files import write_rows
from threeshnet.runs.run import Run

HERE = Path(__file__).resolve().parent
ROWS, GROUPS = "results.csv", "groups.csv"
FACTS = ("data", "split", "images", "captions", "protocol", "guidance", "seed")
PROVENANCE = ("selection", "batch_size", "checkpoint", "fingerprint", "commit", "machine")
PLAIN = "none"  # the name of no correction
SIDES = ("i2t", "t2i")
HUBS = ("skewness", "never_retrieved", "largest")
OF_ALL = ("i2t_map_at_r", "i2t_r_precision", "gap_distance", "gap_angle", "spread_images", "spread_captions")


def facts_of(folder: Path, problems: Problems) -> tuple[dict[str, str], Mapping[str, Any]]:
    """What an evaluation is of, and its metrics; what is missing in it is told to `problems`."""
    found = Run(folder).find_metrics()
    if "corrections" not in found.get("extended", {}):
        problems.add(f"{folder} has no metrics.json with corrections")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of evaluations")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    problems = Problems("beyond recall")
    known = [facts_of(folder, problems) for folder in asked.folders]
    problems.raise_as(
        DataError, "make evaluate CKPT=<file> SHARDS=<shards> OUT=<folder> ARGS='extended=true bank=train'"
    )
    for name, of_a_model in ((ROWS, rows_of), (GROUPS, groups_of)):
        rows = [row for facts, found in known for row in of_a_model(facts, found)]
        write_rows(asked.out / name, list(rows[0]), rows)


if __name__ == "__main__":
    main()
