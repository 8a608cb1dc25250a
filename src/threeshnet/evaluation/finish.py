"""What a run leaves when all is done: scores, a model card, pictures, and a table on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from threeshnet.evaluation.inspection import inspection
from threeshnet.evaluation.model_card import model_card, result_row
from threeshnet.evaluation.pictures import draw_highlights
from threeshnet.evaluation.scores import Scores
from threeshnet.evaluation.table import print_results
from threeshnet.runs.rank import process_rank
from threeshnet.runs.records import FINISHED
from threeshnet.runs.run import Run
from threeshnet.training.encoding import EncodingModule


def finish(
    run: Run, module: EncodingModule, scores: Scores, *, fields: Sequence[str], pictures: int, seconds: float
) -> None:
    """Write scores, ranks and pictures of a training and print its table; on rank 0 alone."""
    if process_rank() != 0:
        return
    write_scores(run, scores)
    run.mark(FINISHED)
    assert module.embeddings is not None
    model, split = module.model.eval(), module.datamodule.split(str(module.datamodule.test_split))
    files = draw_highlights(model, split, module.embeddings, fields=fields, run=run, count=pictures)
    relative = {number: file.relative_to(run.folder).as_posix() for number, file in files.items()}
    run.write_inspection(inspection(model, split, module.embeddings, fields=fields, pictures=relative))
    show(scores.metrics, run, seconds)


def write_scores(run: Run, scores: Scores) -> None:
    metrics, ranked = scores
    run.write_scores(metrics, ranked, card=model_card(metrics), row=result_row(metrics))


def show(metrics: dict[str, Any], run: Run, seconds: float, remark: str = "") -> None:
    """Print the table of a run and where its files lie; on rank 0 alone."""
    if process_rank() != 0:
        return
    print_results(metrics, seconds=seconds)
    files = f"{run.metrics_file.name}, {run.card_file.name}, checkpoints, log and pictures"
    Console().print(f"{remark}{files}: {run.folder}", highlight=False, soft_wrap=True)
