"""What a run leaves behind when all is done: scores, a model card, pictures, and a table on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from threeshnet.evaluation.highlighting import draw_and_inspect
from threeshnet.evaluation.model_card import CARD, ROW, model_card, result_row
from threeshnet.evaluation.scoring import Scores
from threeshnet.evaluation.table import print_results
from threeshnet.files import write_text
from threeshnet.metrics.rank_files import RANKS, RankedItems, write_ranks
from threeshnet.runs import progress
from threeshnet.runs import run_directory as runs
from threeshnet.training import building


def finish(cfg: DictConfig, folder: Path, module: Any, split: Any, scores: Scores, seconds: float) -> None:
    """metrics.json, ranks, pictures, and the table."""
    if module.trainer.global_rank != 0:
        return
    leave(folder, *scores)
    progress.mark(folder, progress.FINISHED)
    fields = building.fields_read(cfg)
    draw_and_inspect(module.model.eval(), split, module.embeddings, fields=fields, run=folder, count=cfg.highlights)
    show(scores.metrics, folder, seconds)


def leave(folder: Path, metrics: dict[str, Any], ranked: RankedItems) -> None:
    """What every evaluation leaves. metrics.json comes last: a folder that holds it has all of it."""
    write_text(folder / CARD, model_card(metrics))
    write_text(folder / ROW, result_row(metrics))
    write_ranks(folder / RANKS, ranked)
    runs.write_json(folder / runs.METRICS, metrics)


@rank_zero_only
def show(metrics: dict[str, Any], folder: Path, seconds: float, remark: str = "") -> None:
    print_results(metrics, seconds=seconds)
    Console().print(
        f"{remark}metrics.json, {CARD}, checkpoints, log and pictures: {folder}", highlight=False, soft_wrap=True
    )
