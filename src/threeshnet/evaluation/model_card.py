"""The model card and the CSV row of an evaluation, both from metrics.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from threeshnet.errors import shortened

RECALLS = tuple((side, cutoff) for side in ("i2t", "t2i") for cutoff in (1, 5, 10))
UNKNOWN = "not known"
# Facts of each model's training; the authors' checkpoints have none.
OF_TRAINING = ("experiment", "data", "train_splits", "train_images", "views", "features", "guidance", "parts", "text")
OF_TRAINING += ("objective", "recipe", "setting", "seed", "selection", "batch_size", "epochs", "precision")
OF_TRAINING += ("fingerprint", "commit")
OF_SCORING = ("data", "split", "images", "captions", "protocol", "fingerprint", "commit", "machine")
# Perturbation, views, correction and warnings, where there are any.
OF_SCORING += ("perturb", "perturb_seed", "perturb_batch_size", "scored_views", "correction", "bank", "warning")
IN_A_ROW = ("experiment", "features", "guidance", "recipe", "setting", "seed", "selection", "batch_size", "epochs")
HEADING = "| direction | R@1 | R@5 | R@10 | median rank | mean rank |\n| --- | ---: | ---: | ---: | ---: | ---: |"
ONE_SEED = "seeds differ by several points of rsum. Compare means over seeds (`make sweep`)."
NOT_SCORED = "No evaluation of this file is known."
LIMITS = """\
- The score is of the data, split and protocol above and of nothing else; captions are in English.
- Photos and captions carry the biases of those who took and wrote them, and the segmentation those of its classes.
"""


def model_card(metrics: Mapping[str, Any]) -> str:
    """The card of an evaluation. `metrics` is metrics.json with `trained`, the facts of each checkpoint's training.

    Without recalls in it the card says that no score is known.
    """
    models = metrics.get("trained") or [{}]
    names = ", ".join(dict.fromkeys(_fact(model, "experiment") for model in models))
    parts = [f"# Model card: {names}", "## Scores", _scores(metrics) if "rsum" in metrics else NOT_SCORED]
    for number, model in enumerate(models, 1):
        title = "## The model" if len(models) == 1 else f"## Model {number} of {len(models)}"
        facts = [(name, _fact(model, name)) for name in OF_TRAINING]
        parts += [title, _table([*facts, ("checkpoint, begin of its sha256", _checkpoint(metrics, number - 1))])]
    of = "one training" if len(models) == 1 else f"one ensemble of {len(models)} models"
    return "\n\n".join([*parts, "## Limits", f"- One number of {of}: {ONE_SEED}\n{LIMITS}"])


def result_row(metrics: Mapping[str, Any]) -> str:
    """A CSV file of one row: what was scored, the recalls, and facts of the models' training."""
    models = metrics.get("trained") or [{}]
    row = {name: _text(metrics.get(name)) for name in OF_SCORING if name in metrics}
    row |= {f"{side}_r{cutoff}": f"{metrics[side][f'R@{cutoff}']:.6g}" for side, cutoff in RECALLS}
    row |= {"rsum": f"{metrics['rsum']:.6g}", "checkpoint": _text(metrics.get("checkpoint"))}
    for name in IN_A_ROW:
        row[name] = " + ".join(dict.fromkeys(_fact(model, name) for model in models))
    row |= {"trained_on": " + ".join(dict.fromkeys(_fact(model, "data") for model in models))}
    file = io.StringIO()
    writer = csv.DictWriter(file, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return file.getvalue()


def _scores(metrics: Mapping[str, Any]) -> str:
    lines = [HEADING]
    for side in ("i2t", "t2i"):
        scores = metrics[side]
        recalls = [f"{scores[f'R@{cutoff}']:.1f}" for cutoff in (1, 5, 10)]
        ranks = [f"{scores[name]:.1f}" for name in ("median_rank", "mean_rank")]
        lines.append(f"| {side} | {' | '.join([*recalls, *ranks])} |")
    facts = [("rsum", f"{metrics['rsum']:.1f}"), *((name, _fact(metrics, name)) for name in OF_SCORING)]
    return "\n".join(lines) + "\n\n" + _table([(name, value) for name, value in facts if value != UNKNOWN])


def _checkpoint(metrics: Mapping[str, Any], number: int) -> str:
    checkpoint = metrics.get("checkpoint")
    return _text(checkpoint[number] if isinstance(checkpoint, list) else checkpoint)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name.replace('_', ' ')} | {value} |" for name, value in rows)])


def _fact(facts: Mapping[str, Any], name: str) -> str:
    """A fact, escaped for its table cell: checkpoints may be untrusted."""
    text = _text(facts.get(name))
    return shortened(text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")) if text else UNKNOWN


def _text(value: Any) -> str:
    """
    >>> _text(["semantic", "spatial"]), _text([]), _text(None), _text(4)
    ('semantic spatial', 'none', '', '4')
    """
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "" if value is None else str(value)
