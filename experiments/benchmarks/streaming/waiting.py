"""Share of a training step that waits for data: rows in waiting.csv beside this file.

    python -m experiments.benchmarks.streaming.waiting --shards <folder of a data set's shards> --experiment region_coco

Trains for some steps through the suite's own command, once for each order and number of workers, and takes
`time/step_seconds` and `time/share_waiting_for_data` from the run's log. The page cache is emptied of the shards first.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from threeshnet.files import read_rows, write_rows

from ..common import module_command
from .formats import evict
from .tables import rewrite

HERE = Path(__file__).parent
COLUMNS = ["experiment", "order", "workers", "step", "share"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--experiment", default="region_coco")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("overrides", nargs="*", help="more Hydra overrides, for all runs")
    given = parser.parse_args()
    rows = []
    for order in ("shuffle", "blocks"):
        for workers in (0, 1, 2):
            evict(given.shards)
            step, share = run(given, order, workers)
            rows.append(dict(zip(COLUMNS, (given.experiment, order, workers, step, share), strict=True)))
            write_rows(given.out / "waiting.csv", COLUMNS, rows)
    rewrite(given.out)


def run(given: argparse.Namespace, order: str, workers: int) -> tuple[str, str]:
    """Seconds a step, share waiting."""
    with tempfile.TemporaryDirectory() as out:
        settings = [f"experiment={given.experiment}", f"shards={given.shards}", f"out={out}/run", "highlights=0"]
        settings += [f"batches.order={order}", f"batches.workers={workers}", "data.dev_split=null", "selection=last"]
        settings += ["trainer.max_epochs=1", f"+trainer.limit_train_batches={given.steps}"]
        command = module_command("threeshnet", "train", *settings, *given.overrides)
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(ended.stderr)
        (row,) = [row for row in read_rows(next(Path(out).rglob("metrics.csv"))) if row.get("time/step_seconds")]
    return row["time/step_seconds"], row["time/share_waiting_for_data"]


if __name__ == "__main__":
    main()
