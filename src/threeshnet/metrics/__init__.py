"""Ranks, recalls, protocols and statistics: pure functions of similarities and owners."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threeshnet.metrics.recalls import recall

__all__ = ["recall"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for (PEP 562): `answerability` needs no torch, and a search that uses it neither."""
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.recalls"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
