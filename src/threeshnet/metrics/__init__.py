"""Ranks, recalls, protocols and statistics: pure functions of similarities and owners."""

from threeshnet.metrics.recalls import recall

__all__ = ["recall"]
