"""How a study is run: its jobs are composed at the door."""

from __future__ import annotations

from omegaconf import DictConfig

from threeshnet.cli.door import compose_training
from threeshnet.studies import sweep as studies


def sweep(cfg: DictConfig) -> None:
    """Run every job of a study."""
    studies.sweep(cfg, compose=compose_training)
