"""How a study is shown: its page, and its workspace and report at W&B."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from threeshnet.errors import ConfigError
from threeshnet.reports.dashboard import write_dashboard
from threeshnet.runs.tracking import mode_of
from threeshnet.settings import DashboardSettings

log = logging.getLogger(__name__)


def show_study(settings: DashboardSettings) -> None:
    """The page of a study, and its workspace and report at W&B."""
    folder = Path(settings.out or Path("runs") / settings.study)
    page = write_dashboard(folder, study=settings.study, out=Path(settings.page) if settings.page else None)
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
