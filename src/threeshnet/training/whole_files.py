"""How Lightning writes checkpoints here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from threeshnet.runs.checkpoint_files import explained, size_of, write_checkpoint


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints for Lightning.

    An error is stored in `failure` and not raised: one process writes while the others wait, so all must learn
    about the failure first.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.failure = None
        try:
            write_checkpoint(checkpoint, Path(path))
        except OSError as error:
            self.failure = explained(error, Path(path), size_of(checkpoint))
