"""How two evaluations are compared, item by item."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from threeshnet.evaluation.comparison import content_of, rows_of, table_of
from threeshnet.evaluation.evaluations import read_pair
from threeshnet.files import write_json
from threeshnet.installation import current_commit

COMPARISON = "comparison.json"


def compare_evaluations(cfg: DictConfig) -> None:
    """Print what differs between two evaluations, and keep it where `out` says so."""
    pair = read_pair(Path(cfg.one), Path(cfg.other))
    rows = rows_of(*pair)
    console = Console()
    console.print(table_of(*pair, rows))
    if cfg.out:
        file = Path(cfg.out) / COMPARISON
        write_json(file, content_of(*pair, rows) | {"commit": current_commit()})
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)
