"""The page of a study, in one file: states, curves, rsum by factor, pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console

from threeshnet.errors import ConfigError
from threeshnet.evaluation.table import duration
from threeshnet.files import check_writable
from threeshnet.reports.charts import Chart, band_figure, colour, data_uri, pooling_figure, semantic_figure
from threeshnet.reports.html import write_html
from threeshnet.reports.study_runs import STATES, StudyRun, bands, best_dev, by_factor, by_variant, read_study, scores
from threeshnet.runs.tracking import mode_of
from threeshnet.settings import DashboardSettings

log = logging.getLogger(__name__)

PAGE = "dashboard.html"
SHOWN_VARIANTS, SHOWN_PICTURES = 6, 2  # with pictures; of each
PICTURE_WIDTH = 1400  # pixels
SHOWN_CONFUSIONS = 8  # of each direction
GOOD_TO_KNOW = {
    "finished": "scored on the held-out split",
    "running": "a sign of life in the last 15 minutes",
    "silent": "running without a sign of life for 15 minutes: killed or hung",
    "interrupted": "stopped and saved; the same sweep continues it",
    "failed": "ended with an error",
    "waiting": "its training has not started",
}


class Pictures(NamedTuple):
    """What the best run of a variant does with some held-out photos."""

    variant: str
    run: StudyRun
    shown: list[tuple[str, Mapping[str, Any]]]  # picture as a data URI, and the retrieval that goes with it


def show_study(settings: DashboardSettings) -> None:
    """The page of a study, and its workspace and report at W&B."""
    folder = Path(settings.out or Path("runs") / settings.study)
    file = Path(settings.page) if settings.page else folder / PAGE
    check_writable("page", file.parent)
    if file.is_dir():
        raise ConfigError(f"page={file} is a folder; give a file, as page={file / PAGE}")
    page = write_dashboard(folder, study=settings.study, out=file)
    console = Console()
    console.print(f"page: {page.absolute()}", highlight=False, soft_wrap=True)
    if mode_of(settings.wandb) == "online":
        for kind, address in publish(settings, folder).items():
            console.print(f"{kind}: {address}", highlight=False, soft_wrap=True)


def publish(settings: DashboardSettings, folder: Path) -> dict[str, str]:
    """The addresses of the workspace and the report; nothing, with a warning, when the service fails."""
    try:
        from threeshnet.reports.wandb_dashboard import send
    except ImportError as missing:
        raise ConfigError(
            f"wandb=online needs wandb-workspaces ({missing}): pip install -c constraints.txt -e '.[dashboards]'; "
            "the page is written"
        ) from missing
    try:
        return send(folder, study=settings.study, project=settings.wandb_project, entity=settings.wandb_entity)
    except Exception as reason:  # of any kind: the page is there
        log.warning("W&B: no workspace and no report (%s: %s); the page has the same", type(reason).__name__, reason)
        return {}


def write_dashboard(folder: Path, *, study: str, out: Path | None = None, now: float | None = None) -> Path:
    """Write the page of the runs in `folder` to `out`, or to `dashboard.html` there; returns the file.

    Half-finished studies have a page too. `now` is in unix seconds. Raises DataError when there is no run.
    """
    file = Path(folder) / PAGE if out is None else Path(out)
    filters = {"one": "{:.1f}".format, "duration": duration}
    return write_html(file, "dashboard.html", content(Path(folder), study=study, now=now), **filters)


def content(folder: Path, *, study: str, now: float | None = None) -> dict[str, Any]:
    """The variables of the template."""
    moment = time.time() if now is None else now
    runs = read_study(folder, now=moment)
    groups = by_variant(runs)
    best = _best_runs(groups)
    leading = max(best.values(), key=lambda run: run.metrics["rsum"], default=None)
    return {
        "study": study,
        "as_of": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment)),
        "runs": runs,
        "states": {state: sum(run.state == state for run in runs) for state in STATES},
        "good_to_know": GOOD_TO_KNOW,
        "shares": {run.name: _share(run) for run in runs},
        "best_dev": {run.name: best_dev(run) for run in runs},
        "troubled": [run for run in runs if run.state in ("failed", "silent", "interrupted")],
        "variants": scores(groups),
        "colours": {variant: colour(number) for number, variant in enumerate(groups)},
        "factors": by_factor(runs),
        "figures": list(_curves(groups)),
        "pictures": list(_pictures(best)),
        "leading": leading,
        "inner": [] if leading is None else list(_inner(leading.inspection)),
        "confusions": {} if leading is None else _confusions(leading.inspection),
        "facts": _facts(runs),
    }


def _best_runs(groups: Mapping[str, Sequence[StudyRun]]) -> dict[str, StudyRun]:
    """The finished run of the highest rsum of each variant."""
    finished = {name: [run for run in runs if run.state == "finished"] for name, runs in groups.items()}
    return {name: max(runs, key=lambda run: run.metrics["rsum"]) for name, runs in finished.items() if runs}


def _curves(groups: Mapping[str, Sequence[StudyRun]]) -> Iterator[Chart]:
    if curves := bands(groups):
        yield band_figure("rsum on dev", curves, list(groups), "rsum")
    if curves := bands(groups, of="losses"):
        yield band_figure("training loss", curves, list(groups), "mean loss of an epoch")


def _pictures(best: Mapping[str, StudyRun]) -> Iterator[Pictures]:
    for variant, run in list(best.items())[:SHOWN_VARIANTS]:
        retrievals = {row["picture"]: row for row in run.inspection.get("retrievals", [])}
        files = run.pictures[:SHOWN_PICTURES]
        shown = [(_picture(file), retrievals.get(f"{file.parent.name}/{file.name}", {})) for file in files]
        if any(uri for uri, _ in shown):
            yield Pictures(variant, run, [pair for pair in shown if pair[0]])


def _picture(file: Path) -> str:
    """The picture as a data URI; nothing where it cannot be read."""
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return ""
    picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    return data_uri(picture)


def _inner(inspected: Mapping[str, Any]) -> Iterator[Chart]:
    for name, sizes in inspected.get("pooling", {}).items():
        sizes = {size: weights for size, weights in sizes.items() if weights}
        yield pooling_figure(name.removesuffix(".pooling").replace("image_encoder.branches.", ""), sizes)
    for source, histogram in inspected.get("semantic", {}).items():
        if len(histogram["edges"]) == len(histogram["counts"]) + 1:
            yield semantic_figure(source, histogram)


def _confusions(inspected: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    confusions = inspected.get("confusions", {})
    return {direction: rows[:SHOWN_CONFUSIONS] for direction, rows in confusions.items() if rows}


def _share(run: StudyRun) -> float:
    """How much of the training is done, in percent."""
    step, steps = run.progress.get("step"), run.progress.get("steps")
    if run.state == "finished":
        return 100.0
    return min(100.0 * step / steps, 100.0) if step is not None and steps else 0.0


def _facts(runs: Sequence[StudyRun]) -> dict[str, list[str]]:
    """Facts that should be equal in all runs, with every value that occurs."""
    keys = {"experiment": "experiment", "data": "data", "data fingerprint": "fingerprint"}
    keys |= {"commit": "commit", "machine": "machine"}
    facts = {label: _occurring(run.job.get(key) for run in runs) for label, key in keys.items()}
    scored = [run.metrics for run in runs if run.metrics]
    facts["protocol"] = _occurring(metrics.get("described") or metrics.get("protocol") for metrics in scored)
    facts["selection"] = _occurring(metrics.get("selection") for metrics in scored)
    facts["seeds"] = _occurring(run.seed for run in runs)
    return {label: values for label, values in facts.items() if values}


def _occurring(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))
