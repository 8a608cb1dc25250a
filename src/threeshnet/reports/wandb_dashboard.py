"""A study's workspace and report at W&B, as code: curves with seeds as bands, factors against rsum, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import Report, Runset

from threeshnet.files import write_json
from threeshnet.reports.study_runs import RECALLS, Score, by_factor, by_variant, read_study, scores
from threeshnet.reports.tables import table

SENT = "wandb_dashboards.json"  # in the study's folder: what was sent before is written over, not doubled
VARIANT = "variant"  # a key of every run's config
BANDED: dict[str, Any] = {"groupby": wr.Config(VARIANT), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def send(folder: Path, *, study: str, project: str, entity: str | None) -> dict[str, str]:
    """Make or renew the workspace and the report of the runs in `folder`; their addresses.

    The panels ask the service for the runs whose group is the study; the tables are of the run directories, as in the
    local page. Raises what the service or the network does.
    """
    owner = entity or str(wandb.Api().default_entity)
    file = folder / SENT
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    written = report(folder, study=study, project=project, entity=owner)
    written.id = before.get("report_id", "")
    written.save()
    space = workspace(study=study, project=project, entity=owner, before=before.get("workspace"))
    space.save()
    sent = {"workspace": space.url, "report": written.url}
    write_json(file, sent | {"report_id": written.id})
    return sent


def workspace(*, study: str, project: str, entity: str, before: str | None = None) -> ws.Workspace:
    """The workspace, or the one at the address `before` with its panels made anew."""
    space = ws.Workspace.from_url(before) if before else ws.Workspace(entity=entity, project=project)
    space.name = f"Study {study}"
    space.sections = [
        ws.Section(name="Curves", panels=curves(), is_open=True),
        ws.Section(name="Scores", panels=bars(), is_open=True),
        ws.Section(name="Held-out photos", panels=pictures(), is_open=True),
        ws.Section(name="Inside the model", panels=[wr.WeavePanelSummaryTable(table_name="model/gpo_weights")]),
    ]
    filters = expr.And(expr.Metric("Group") == study)
    space.runset_settings = ws.RunsetSettings(filters=filters, groupby=[expr.Config(VARIANT)])
    return space


def report(folder: Path, *, study: str, project: str, entity: str) -> Report:
    """The report: tables of what is finished, and panels of what the service holds."""
    runs = read_study(folder)
    done = sum(run.state == "finished" for run in runs)
    filters = expr.And(expr.Metric("Group") == study)
    runset = Runset(entity=entity, project=project, name=study, filters=filters, groupby=[f"config.{VARIANT}"])
    factors = [
        block
        for factor, rows in by_factor(runs).items()
        for block in (wr.H2(text=f"{factor} against rsum"), wr.MarkdownBlock(text=score_table(factor, rows)))
    ]
    return Report(
        entity=entity,
        project=project,
        title=f"Study {study}"[:128],
        description=f"{done} of {len(runs)} runs finished; scores of the held-out split, mean ± sample deviation.",
        width="fluid",
        blocks=[
            wr.H2(text="Variants"),
            wr.MarkdownBlock(text=score_table("variant", scores(by_variant(runs)))),
            *factors,
            wr.H2(text="Curves"),
            wr.PanelGrid(runsets=[runset], panels=[*curves(), *bars()]),
            wr.H2(text="Held-out photos"),
            wr.PanelGrid(runsets=[runset], panels=pictures()),
        ],
    )


def curves() -> list[Any]:
    """A line a variant, a band from the least to the greatest seed."""
    return [
        wr.LinePlot(title="rsum on dev", x="epoch", y=["dev/rsum"], title_x="epoch", **BANDED),
        wr.LinePlot(title="training loss", x="trainer/global_step", y=["train/loss"], title_x="step", **BANDED),
    ]


def bars() -> list[Any]:
    """Scores of the selected checkpoints by variant."""
    return [wr.BarPlot(title="rsum, held out", metrics=[wr.SummaryMetric("test/rsum")], **BANDED)]


def pictures() -> list[Any]:
    """What was highlighted, and the tables that go with it."""
    return [
        wr.MediaBrowser(title="highlights", media_keys=["held_out/highlights"], num_columns=2),
        wr.WeavePanelSummaryTable(table_name="held_out/retrievals"),
        wr.WeavePanelSummaryTable(table_name="held_out/confusions"),
    ]


def score_table(first: str, rows: list[Score]) -> str:
    """Markdown, the best in bold."""
    columns = [first, "finished", "rsum", *(f"{side} {recall}" for side, recall in RECALLS)]
    lines = []
    for row in rows:
        rsum = "–" if row.rsum is None else f"{row.rsum:.1f}" + ("" if row.spread is None else f" ± {row.spread:.1f}")
        recalls = [f"{value:.1f}" for value in row.recalls] or ["–"] * 6
        name = row.name.replace("|", "\\|")
        lines.append([name, f"{row.finished} of {row.runs}", f"**{rsum}**" if row.best else rsum, *recalls])
    return table(columns, lines)
