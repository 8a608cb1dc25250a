"""Thin mains: the only readers of the configuration."""

from __future__ import annotations

from threeshnet.cli.errors import kept, run

__all__ = ["kept", "run"]
