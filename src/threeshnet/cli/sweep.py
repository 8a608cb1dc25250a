"""How a study is run: its jobs are composed at the door."""

from __future__ import annotations

from threeshnet.cli.door import compose_training
from threeshnet.settings import SweepSettings
from threeshnet.studies import sweep as studies


def sweep(settings: SweepSettings) -> None:
    """Run every job of a study."""
    studies.sweep(settings, compose=compose_training)
