"""Train, select, score once: make train EXP=<kind>_<data> [SHARDS=…] [OUT=…] [RESUME=1] [ARGS=…]."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from threeshnet.commands import CONF, building, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.highlighting import draw_highlights
from threeshnet.commands.job_record import write_job
from threeshnet.commands.scoring import facts_of_run, metrics_of
from threeshnet.reports.table import print_results
from threeshnet.shards.manifest import Manifest
from threeshnet.training import progress
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint
from threeshnet.training.csv_log import carry_on
from threeshnet.training.processes import leave_together


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
        write_job(cfg, folder, manifest)
        step = read_checkpoint(resumed)["global_step"] if resumed else 0
        carry_on(trainer.loggers, step)
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)

        selection, checkpoint = runs.selected(cfg.selection, folder, trainer)
        module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
        trainer.test(module, datamodule=datamodule, verbose=False)
        split = datamodule.split(str(datamodule.test_split))
        metrics = metrics_of("full", [module.embeddings], split) | {  # pyright: ignore[reportArgumentType]
            **facts_of_run(cfg, trainer),
            "selection": selection,
            "checkpoint": checkpoint_hash(checkpoint),
            "resumed_at_step": step,
            "minutes": round((time.perf_counter() - started) / 60, 2),
        }
        finish(cfg, folder, module, split, metrics, time.perf_counter() - started)
        leave_together()


def finish(cfg: DictConfig, folder: Path, module: Any, split: Any, metrics: dict[str, Any], seconds: float) -> None:
    """metrics.json, pictures, and the table."""
    if module.trainer.global_rank != 0:
        return
    runs.write_json(folder / runs.METRICS, metrics)
    progress.mark(folder, progress.FINISHED)
    if cfg.highlights:
        fields, pictures = building.fields_read(cfg), folder / runs.HIGHLIGHTS
        draw_highlights(
            module.model.eval(), split, module.embeddings, fields=fields, folder=pictures, count=cfg.highlights
        )
    print_results(metrics, seconds=seconds)
    Console().print(f"metrics.json, checkpoints, log and pictures: {folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(main)
