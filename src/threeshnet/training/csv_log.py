"""The CSV log of a run that goes on."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger


def carry_on(loggers: Iterable[Any], step: int) -> None:
    """Writes the rows of the steps before `step` again: Lightning's CSV logger begins its file anew.

    Rows from there on are of steps that the run did not keep and takes once more.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            for row in _rows(Path(logger.log_dir) / "metrics.csv"):
                numbers: dict[str, Any] = {name: value for name, value in row.items() if value and name != "step"}
                if int(row["step"]) < step:
                    logger.log_metrics(numbers, int(row["step"]))
            logger.save()


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))
