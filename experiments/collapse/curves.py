"""How near runs came to the loss of equal embeddings, epoch by epoch.

    python experiments/collapse/curves.py --collect runs/activation/activation=sigmoid,* runs/transfer/*home*

With --collect every finished run in or below those folders becomes rows of curves.csv, an epoch each (a run that has
rows gets new ones). Without it nothing but curves.csv is read. The figure is drawn either
way; `make report` makes the page.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf

from threeshnet.files import read_rows, write_rows
from threeshnet.objectives.collapse import loss_over_collapsed
from threeshnet.reports.figure import write_figure
from threeshnet.runs.find import evaluations
from threeshnet.runs.run import Run
from threeshnet.training.csv_log import rows_of as logged_rows

HERE = Path(__file__).resolve().parent
CURVES, FIGURE = "curves.csv", "figure.png"
COLUMNS = ["experiment", "setting", "guidance", "objective", "seed", "epoch", "share", "dev_rsum", "rsum", "checkpoint"]
COLUMNS += ["commit"]
RUN = COLUMNS[:5]  # what tells a run from the others
COLOURS = {"triplet": "#d1495b", "infonce": "#1b6ca8", "mixed": "#3b9c8f"}
STYLES = {"guided": "solid", "without": "dashed"}

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, nargs="+", default=[], help="run directories, or folders of them")
    asked = parser.parse_args(arguments)
    rows = read_rows(folder / CURVES)
    new = [rows_of(run) for run in finished(asked.collect)]
    if new:
        # Studies share runs, so one may be found in several folders.
        kept = runs(rows) | {tuple(found[0][name] for name in RUN): found for found in new}
        rows = sorted((row for found in kept.values() for row in found), key=order)
        write_rows(folder / CURVES, COLUMNS, rows)
    draw(rows, folder / FIGURE)


def finished(folders: Iterable[Path]) -> list[Run]:
    """Run directories that have been trained and scored."""
    return [run for run in evaluations(list(folders)) if run.log.is_file()]


def rows_of(run: Run) -> list[Row]:
    """A row an epoch: mean over its logged steps of the loss over that of equal embeddings."""
    settings: Any = OmegaConf.create(run.settings)
    scores, own = run.metrics, run.job
    objective = instantiate(settings.objective)
    logged = logged_rows(run.log)
    steps_an_epoch = scores["steps"] / scores["epochs"]
    shares: dict[int, list[float]] = {}
    for line in logged:
        if "train/loss" in line:
            exact = int(line["step"]) / steps_an_epoch
            share = share_of(float(line["train/loss"]), objective, settings.batches.batch_size, exact)
            shares.setdefault(int(exact), []).append(share)
    dev = {int(float(line["epoch"])): line["dev/rsum"] for line in logged if "dev/rsum" in line}
    about = {
        "experiment": str(own.experiment),
        "setting": str(own.setting),
        "guidance": "guided" if settings.fusion else "without",
        "objective": str(settings.objective._target_).split(".")[-2],
        "seed": str(settings.seed),
        "rsum": f"{scores['rsum']:.2f}",
        "checkpoint": scores["checkpoint"],
        "commit": scores["commit"],
    }
    return [
        about | {"epoch": str(epoch), "share": f"{statistics.fmean(found):.4f}", "dev_rsum": dev.get(epoch, "")}
        for epoch, found in sorted(shares.items())
    ]


def share_of(loss: float, objective: torch.nn.Module, batch: int, epoch: float) -> float:
    """Of a logged loss: older runs did not log it. Pairs of a batch are taken for those of different images."""
    images, owners = torch.zeros(batch, 2), torch.arange(batch)
    return loss_over_collapsed(torch.tensor(loss), objective, images, owners, epoch).item()


def runs(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """The epochs of each run."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in RUN), []).append(row)
    return found


def draw(rows: Sequence[Row], file: Path) -> None:
    """The share after each epoch, an experiment a panel. The same rows give the same bytes."""
    panels = list(dict.fromkeys((row["experiment"], row["setting"]) for row in rows))
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels) or 1, squeeze=False)[0], panels, strict=False):
        for key, epochs in runs(rows).items():
            if key[:2] == panel:
                looks: dict[str, Any] = {"color": COLOURS.get(key[3], "#66717e"), "linestyle": STYLES[key[2]]}
                places, shares = [int(row["epoch"]) + 1 for row in epochs], [float(row["share"]) for row in epochs]
                axes.plot(places, shares, linewidth=1.2, alpha=0.85, label=f"{key[3]}, {key[2]}", **looks)
        axes.axhline(1, color="#222222", linewidth=0.8, linestyle=":")
        axes.set(xlabel="epoch", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{panel[0]}, setting {panel[1]}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(named.values(), named.keys(), frameon=False, fontsize=7)
        axes.set_ylabel("loss / loss of equal embeddings", fontsize=8)
    write_figure(figure, file)


def order(row: Mapping[str, str]) -> tuple[Any, ...]:
    return (*(row[name] for name in RUN[:4]), int(row["seed"]), int(row["epoch"]))


if __name__ == "__main__":
    main()
