"""What models of the demo tell apart: python experiments/parts/told_apart.py runs/parts-region_demo-demo [more folders]

Three of four photos of the demo have a twin that differs in one respect, and a caption that is true of one of them
alone is a question about that respect: what is there, where it is, or which of two is where (both). Every finished run
below the folders becomes a row of told_apart.csv: the share of such captions that are nearer to their own photo. Chance
is half.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from threeshnet.errors import DataError
from threeshnet.files import write_rows
from threeshnet.runs.find import evaluations
from threeshnet.runs.run import Run

HERE = Path(__file__).resolve().parent
FILE = "told_apart.csv"
TAGS = ("what", "where", "both")
COLUMNS = ("study", "job", "seed", "rsum", *TAGS, "checkpoint", "machine", "commit")


def row_of(run: Run) -> dict[str, str]:
    """A finished run of the demo as a row.  Raises DataError for a folder that holds anything else."""
    own, found = run.job.content(), run.find_metrics()
    if not own or set(TAGS) - set(found.get("by_tag", ())):
        lacking = f"it lacks job.json, or scores of {', '.join(TAGS)}"
        raise DataError(f"{run.folder} is no finished run of the demo: {lacking}")
    facts = {name: str(own[name]) for name in ("study", "seed", "machine")} | {"job": own["job_name"]}
    facts |= {name: f"{found['by_tag'][name]['pair_accuracy']:.1f}" for name in TAGS}
    checkpoint = found["checkpoint"]  # a list where an evaluation left it
    checkpoint = checkpoint if isinstance(checkpoint, str) else " ".join(checkpoint)
    return facts | {"rsum": f"{found['rsum']:.1f}", "checkpoint": checkpoint, "commit": found["commit"]}


def rows_of(folders: Iterable[Path]) -> list[dict[str, str]]:
    """Every run in or below the folders once: a study's folders may point at runs of another.

    Raises DataError where there is none.
    """
    given = list(folders)
    runs = {run.metrics_file.resolve(): run for run in evaluations(given)}
    if not runs:
        raise DataError(f"no finished run in or below {', '.join(map(str, given))}")
    return sorted((row_of(run) for run in runs.values()), key=lambda row: (row["study"], row["job"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of run directories")
    parser.add_argument("--out", type=Path, default=HERE / FILE)
    asked = parser.parse_args()
    rows = rows_of(asked.folders)
    write_rows(asked.out, COLUMNS, rows)
    for tag in TAGS:
        values = [float(row[tag]) for row in rows]
        print(f"{tag}: {min(values)} to {max(values)}, {len(values)} runs")


if __name__ == "__main__":
    main()
