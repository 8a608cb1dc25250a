"""What a run leaves behind when all is done: scores, a model card, pictures, and a table on the screen."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from threeshnet.evaluation.highlighting import draw_and_inspect
from threeshnet.evaluation.model_card import model_card, result_row
from threeshnet.evaluation.scoring import Scores
from threeshnet.evaluation.table import print_results
from threeshnet.metrics.rank_files import RankedItems
from threeshnet.runs.records import FINISHED
from threeshnet.runs.run import Run
from threeshnet.training import building


def finish(cfg: DictConfig, run: Run, module: Any, split: Any, scores: Scores, seconds: float) -> None:
    """metrics.json, ranks, pictures, and the table."""
    if module.trainer.global_rank != 0:
        return
    leave(run, *scores)
    run.mark(FINISHED)
    fields = building.fields_read(cfg)
    draw_and_inspect(module.model.eval(), split, module.embeddings, fields=fields, run=run, count=cfg.highlights)
    show(scores.metrics, run, seconds)


def leave(run: Run, metrics: dict[str, Any], ranked: RankedItems) -> None:
    """What every evaluation leaves. metrics.json comes last: a folder that holds it has all of it."""
    run.write_scores(metrics, ranked, card=model_card(metrics), row=result_row(metrics))


@rank_zero_only
def show(metrics: dict[str, Any], run: Run, seconds: float, remark: str = "") -> None:
    print_results(metrics, seconds=seconds)
    Console().print(
        f"{remark}{run.metrics_file.name}, {run.card_file.name}, checkpoints, log and pictures: {run.folder}",
        highlight=False,
        soft_wrap=True,
    )
