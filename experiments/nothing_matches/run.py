"""Does the probability of an answer tell sentences with an answer in the gallery from those without?

    python -m experiments.nothing_matches.run <run directory> --shards <shards> [--raw <demo's raw folder>]
        [--elsewhere <captions_val2017.json of COCO>]
    python -m experiments.nothing_matches.run      # draws the figure from the committed rows

The calibration is the one in the run's checkpoint, fitted on dev. Every question is asked twice of the test photos:
once with an answer in the gallery, and once without. There are three ways to be without:

- taken out: the sentence's own photo is taken out. Others may fit it nearly as well.
- topic removed: all photos that show a thing that the sentence names are taken out. Rendered worlds know what they
  show; elsewhere a photo shows what one of its captions names.
- elsewhere: sentences about photos of another data set, here COCO.

Rows go to results.csv and reliability.csv; those of the same run are replaced. `make report` makes the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.batches.dataset import ImageDataset
from threeshnet.files import read_rows, write_rows
from threeshnet.metrics.answerability import Calibration
from threeshnet.metrics.answerability_fit import auroc, calibration_error
from threeshnet.pretrained import checkpoint_file
from threeshnet.reports.figure import write_figure
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, load_model, read_checkpoint

from .questions import ELSEWHERE, TAKEN_OUT, TOPIC, Encoded, Questions, all_questions, topics_of

HERE = Path(__file__).resolve().parent
RESULTS, RELIABILITY, FIGURE = "results.csv", "reliability.csv", "figure.png"
RUN = ("experiment", "data", "seed")  # what tells a run from the others
QUESTION = ("kind", "gallery")
COLUMNS = [*RUN, *QUESTION, "method", "photos", "present", "absent", "auroc", "first", "auroc_first", "false_at_95"]
COLUMNS += ["recall_at_threshold", "false_at_threshold", "calibration_error", "checkpoint", "commit"]
RELIABILITY_COLUMNS = [*RUN, "kind", "part", "probability", "frequency", "questions"]
FLAT, PLAIN, FULL = "flat cutoff", "without level", "calibrated"
RECALL = 0.95
PHOTOS_AT_ONCE, PARTS = 100, 10
COLOURS = {TAKEN_OUT: "#d1495b", TOPIC: "#1b6ca8", ELSEWHERE: "#3b9c8f"}
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run directory of `make train`, or a checkpoint")
    parser.add_argument("--shards", type=Path, help="of the run's data set")
    parser.add_argument("--raw", type=Path, help="the demo's raw folder, which knows what photos show")
    parser.add_argument("--elsewhere", type=Path, help="captions_val2017.json of COCO")
    asked = parser.parse_args(arguments)
    if asked.run:
        measured, parts = measure(asked)
        for name, columns, found in (RESULTS, COLUMNS, measured), (RELIABILITY, RELIABILITY_COLUMNS, parts):
            rows = [row for row in read_rows(folder / name) if not same_run(row, found[0])] + found
            write_rows(folder / name, columns, sorted(rows, key=lambda row: [str(row[key]) for key in RUN]))
    draw(read_rows(folder / RELIABILITY), folder / FIGURE)


def measure(asked: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Rows of results.csv and of reliability.csv."""
    file = checkpoint_file(asked.run)
    card, model = read_checkpoint(file)["threeshnet"], load_model(file)
    calibration = Calibration.model_validate(card["calibration"])
    seen = encoded(model, card["fields"], ShardedSplit(asked.shards, "test"))
    about = {"experiment": card["experiment"], "data": card["data"], "seed": str(card["run"]["seed"])}
    end = {"checkpoint": checkpoint_hash(file), "commit": card["run"]["commit"]}
    elsewhere = None
    if asked.elsewhere:
        texts = [str(each["caption"]).strip() for each in json.loads(asked.elsewhere.read_text())["annotations"]]
        elsewhere = model.encode_texts(texts).numpy()
    rows, parts = [], []
    for kind, gallery, questions in all_questions(calibration, seen, topics_of(seen, asked.raw), elsewhere):
        scored = scores_of(calibration, questions)
        known = about | {"kind": kind, "gallery": gallery}
        rows += [known | row | end for row in rows_of(calibration, questions, scored)]
        if gallery == "whole":
            parts += [about | {"kind": kind} | row for row in reliability(*scored[FULL])]
    return rows, parts


@torch.inference_mode()
def encoded(model: Any, fields: Sequence[str], split: ShardedSplit) -> Encoded:
    data = ImageDataset(split=split, fields=tuple(fields))
    starts = range(0, len(split), PHOTOS_AT_ONCE)
    batches = (data.__getitems__(range(first, min(first + PHOTOS_AT_ONCE, len(split)))) for first in starts)
    images = torch.cat([model.encode_images(batch[0]).cpu() for batch in batches]).numpy()
    texts = list(split.caption_texts)
    return Encoded(images, model.encode_texts(texts).cpu().numpy(), np.asarray(split.owners), texts, split.image_ids)


# ---- numbers


def scores_of(calibration: Calibration, questions: Sequence[Questions]) -> dict[str, tuple[Any, Any]]:
    """What each method gives (with an answer, without): the highest similarity, or the probability of an answer."""
    found: dict[str, tuple[list[Any], list[Any]]] = {method: ([], []) for method in (FLAT, PLAIN, FULL)}
    for asked in questions:
        for side, scores in enumerate((asked.present, asked.absent)):
            photos, level = asked.photos[side], asked.levels[side]
            found[FLAT][side].append(scores[:, 0])
            found[PLAIN][side].append(calibration.answerable(scores, photos))
            found[FULL][side].append(calibration.answerable(scores, photos, level))
    return {method: (np.concatenate(one), np.concatenate(other)) for method, (one, other) in found.items()}


def rows_of(
    calibration: Calibration, questions: Sequence[Questions], scored: Mapping[str, tuple[Any, Any]]
) -> Iterator[dict[str, str]]:
    first = np.concatenate([asked.first for asked in questions])
    sizes = sorted({asked.photos[0] for asked in questions})
    for method, (present, absent) in scored.items():
        paired = len(present) == len(absent)
        found = {
            "method": method,
            "photos": f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
            "present": str(len(present)),
            "absent": str(len(absent)),
            "auroc": f"{auroc(present, absent):.4f}",
            "first": f"{first.mean():.4f}",
            "auroc_first": f"{auroc(present[first], absent[first] if paired else absent):.4f}",
            "false_at_95": f"{100 * false_answers(present, absent):.2f}",
        }
        if method != FLAT:
            found["recall_at_threshold"] = f"{100 * calibration.matches(present).mean():.2f}"
            found["false_at_threshold"] = f"{100 * calibration.matches(absent).mean():.2f}"
            found["calibration_error"] = f"{calibration_error(*evened(present, absent)):.4f}"
        yield found


def false_answers(present: Any, absent: Any) -> float:
    """Share of absent questions that are answered where 95% of the present ones are: the best cutoff for that.

    >>> false_answers(np.arange(100.0), np.array([4.0, 5.0, 90.0]))
    0.6666666666666666
    """
    cutoff = np.sort(present)[int(np.floor((1 - RECALL) * len(present)))]
    return float((absent >= cutoff).mean())


def evened(present: Any, absent: Any) -> tuple[Any, Any]:
    """As many of the one as of the other: the calibration takes an answer to be there half of the time."""
    count = min(len(present), len(absent))
    rng = np.random.default_rng(0)
    return rng.permutation(present)[:count], rng.permutation(absent)[:count]


def reliability(present: Any, absent: Any) -> Iterator[dict[str, str]]:
    """Tenths of the questions by their probability: its mean, and how often there is an answer."""
    one, other = evened(present, absent)
    probability, truth = np.concatenate([one, other]), np.repeat([1.0, 0.0], len(one))
    for number, part in enumerate(np.array_split(np.argsort(probability, kind="stable"), PARTS)):
        yield {
            "part": str(number),
            "probability": f"{probability[part].mean():.4f}",
            "frequency": f"{truth[part].mean():.4f}",
            "questions": str(len(part)),
        }


# ---- files


def draw(rows: Sequence[Row], file: Path) -> None:
    """The reliability diagram, an experiment a panel. The same rows give the same bytes."""
    panels = list(dict.fromkeys(tuple(row[name] for name in RUN[:2]) for row in rows))
    figure = Figure(figsize=(3.6 * max(len(panels), 1), 3.5), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels) or 1, squeeze=False)[0], panels, strict=False):
        axes.plot([0, 1], [0, 1], color="#222222", linewidth=0.8, linestyle=":")
        mine = [row for row in rows if (row["experiment"], row["data"]) == panel]
        for key in dict.fromkeys((row["kind"], row["seed"]) for row in mine):
            points = [row for row in mine if (row["kind"], row["seed"]) == key]
            across, up = ([float(row[name]) for row in points] for name in ("probability", "frequency"))
            axes.plot(across, up, marker="o", markersize=3, linewidth=1.1, color=COLOURS[key[0]], label=key[0])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of an answer", ylabel="share with an answer")
        axes.set_title(panel[0], fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        named_once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(named_once.values(), named_once.keys(), frameon=False, fontsize=7)
    write_figure(figure, file)


def same_run(row: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(row[name] == other[name] for name in RUN)


if __name__ == "__main__":
    main()
