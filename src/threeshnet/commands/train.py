"""Train, select, score once: make train EXP=<kind>_<data> [SHARDS=…] [OUT=…] [RESUME=1] [ARGS=…]."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from threeshnet.commands import CONF, building, current_commit, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.highlighting import draw_highlights
from threeshnet.commands.scoring import metrics_of
from threeshnet.reports.table import print_results
from threeshnet.shards.manifest import Manifest
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    shards = building.shards_folder(cfg)
    folder = runs.run_directory(cfg)
    with runs.locked(folder):
        resumed = runs.checkpoint_to_resume(cfg, folder)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        manifest = Manifest.load(shards)
        building.fill_sizes(cfg, manifest)
        building.quiet_wandb_without_account(cfg)
        model = instantiate(cfg.model)
        datamodule = building.build_datamodule(cfg, shards, model)
        module = building.build_module(cfg, model, manifest)
        trainer = building.build_trainer(cfg, folder)
        runs.write_config(cfg, folder)
        step = read_checkpoint(resumed)["global_step"] if resumed else 0
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)

        selection, checkpoint = selected(cfg, folder, trainer)
        module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
        trainer.test(module, datamodule=datamodule, verbose=False)
        split = datamodule.split(str(datamodule.test_split))
        metrics = metrics_of("full", [module.embeddings], split) | {  # pyright: ignore[reportArgumentType]
            "seed": cfg.seed,
            "resumed_at_step": step,
            "selection": selection,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "batch_size": cfg.batches.batch_size,
            "experiment": cfg.experiment_name,
            "checkpoint": checkpoint_hash(checkpoint),
            "commit": current_commit(),
            "minutes": round((time.perf_counter() - started) / 60, 2),
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        finish(cfg, folder, module, split, metrics, time.perf_counter() - started)


def selected(cfg: DictConfig, folder: Path, trainer: pl.Trainer) -> tuple[str, Path]:
    """The checkpoint to score. Without a finished epoch there is no best one; then it is the last weights."""
    best, last = folder / runs.CHECKPOINTS / runs.BEST, folder / runs.CHECKPOINTS / runs.LAST
    if cfg.selection == "best" and best.exists():
        return "best", best
    if cfg.selection == "best":
        building.log.warning("no epoch was finished, so no checkpoint was compared on dev: scoring the last weights")
    trainer.save_checkpoint(last)
    return "last", last


def finish(cfg: DictConfig, folder: Path, module: Any, split: Any, metrics: dict[str, Any], seconds: float) -> None:
    """metrics.json, pictures, and the table."""
    if module.trainer.global_rank != 0:
        return
    runs.write_json(folder / runs.METRICS, metrics)
    if cfg.highlights:
        fields, pictures = building.fields_read(cfg), folder / runs.HIGHLIGHTS
        draw_highlights(
            module.model.eval(), split, module.embeddings, fields=fields, folder=pictures, count=cfg.highlights
        )
    print_results(metrics, seconds=seconds)


if __name__ == "__main__":
    run(main)
