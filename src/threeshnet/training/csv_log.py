"""metrics.csv of a run, also when it is interrupted and goes on."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from threeshnet.files import replacing

log = logging.getLogger(__name__)
EVALUATION_PENDING = "evaluation_pending"  # key of a checkpoint: the dev split was not scored after its last step
ROW = "row"  # key of a checkpoint: the row of its last step, if it was not logged yet
EVALUATED = "dev/"  # prefix of the dev split's numbers


class RunLog(CSVLogger):
    """Lightning's CSV logger with a file that is complete at every moment.

    Lightning appends rows, and rewrites the file in place for a new column: a process killed there leaves half a line,
    or nothing.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> RowWriter:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The writer of the file, made at its first use."""
        if self._experiment is None:
            self._experiment = RowWriter(log_dir=self.log_dir)
        return self._experiment  # pyright: ignore[reportReturnType]


class RowWriter(ExperimentWriter):
    """Keeps the rows in memory (some thousands a run) and replaces the file whenever Lightning flushes."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._saved = 0
        self._failing = False

    def save(self) -> None:
        """Replace the file, if there are new rows.

        An error of writing does not end the run: it is logged once, and the rows are written when that is possible.
        """
        if len(self.metrics) == self._saved:
            return
        try:
            self._write(Path(self.metrics_file_path))
            self._saved, self._failing = len(self.metrics), False
        except OSError as error:
            if not self._failing:
                log.warning("%s cannot be written yet: %s", self.metrics_file_path, error.strerror)
            self._failing = True

    def _write(self, file: Path) -> None:
        with replacing(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=sorted(set().union(*self.metrics)))
            writer.writeheader()
            writer.writerows(self.metrics)
            stream.flush()
            os.fsync(stream.fileno())

    def _check_log_dir_exists(self) -> None:
        """Keep an earlier file until the first row is written, since `carry_on` reads it."""


def carry_on(loggers: Iterable[Any], checkpoint: Mapping[str, Any] | None) -> int:
    """Keep the rows of the steps in a checkpoint; returns the number of steps, 0 for a new run.

    Later rows are dropped, since the run repeats their steps. So are the dev split's numbers of the last step, if the
    checkpoint was written before that evaluation.
    """
    began: Mapping[str, Any] = checkpoint or {}
    step, again, late = began.get("global_step", 0), began.get(EVALUATION_PENDING, False), began.get(ROW)
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            rows = rows_of(Path(logger.log_dir) / ExperimentWriter.NAME_METRICS_FILE)
            for row in [*rows, late] if late and _is_missing(late, rows) else rows:
                at, evaluation = int(row["step"]), any(name.startswith(EVALUATED) for name in row)
                if at < step - int(again and evaluation):
                    numbers: dict[str, Any] = {name: value for name, value in row.items() if name != "step"}
                    logger.log_metrics(numbers, at)
            logger.save()
    return step


def _is_missing(row: Mapping[str, Any], rows: Iterable[Mapping[str, str]]) -> bool:
    """Whether a step's row is not among those of the file."""
    return not any(int(other["step"]) == row["step"] and row.keys() <= other.keys() for other in rows)


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a log without empty cells; a cut line is left out."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]
    return [row for row in rows if row.get("step", "").isdigit()]
