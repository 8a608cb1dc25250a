"""The checkpoint of the epoch with the best dev score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from threeshnet.errors import CheckpointError
from threeshnet.runs.run import Run
from threeshnet.training.agreement import Agreement
from threeshnet.training.whole_files import WholeFiles


class BestModelCheckpoint(ModelCheckpoint):
    """The best by dev rsum. Its score survives a resume in a moved run directory, and a full disk is an error.

    A run without its best weights would end with a checkpoint and a score that do not belong together.
    """

    def __init__(self, *, run: Run, files: WholeFiles, agreement: Agreement) -> None:
        super().__init__(
            dirpath=run.checkpoints,
            filename=run.best.stem,
            monitor="dev/rsum",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # after the evaluation: before the last one, which holds its score
        )
        self.files, self.agreement = files, agreement

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if self.agreement.any(self.files.failure is not None)[0]:
            raise CheckpointError(self.files.failure or "the first process cannot write its checkpoint")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = {path: str(Path(str(self.dirpath)) / Path(path).name) for path in state_dict["best_k_models"]}
        moved = {"dirpath": self.dirpath, "best_k_models": {}}
        moved["best_k_models"] = {here[path]: score for path, score in state_dict["best_k_models"].items()}
        for name in ("best_model_path", "kth_best_model_path"):
            moved[name] = here.get(state_dict[name], state_dict[name])
        super().load_state_dict(state_dict | moved)
