"""Names of checkpoint files, and a key that is read without loading what writes it."""

from __future__ import annotations

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
EPOCHS = "epochs"  # key of a checkpoint: those that are finished, with their evaluation
