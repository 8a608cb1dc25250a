"""Score checkpoints on a split: make evaluate CKPT=<file> SHARDS=<folder> SPLIT=<split> [PROTOCOL=…] [TEXT=…]."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, ListConfig

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.commands import CONF, current_commit, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.scoring import metrics_of
from threeshnet.encoders.official import is_official_checkpoint, load_official_checkpoint
from threeshnet.errors import ConfigError
from threeshnet.reports.table import print_results
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, load_model, read_checkpoint
from threeshnet.training.collect import Embeddings
from threeshnet.training.encoding import EncodingModule

OFFICIAL_FIELDS = ["region", "seg"]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    started = time.perf_counter()
    files = [Path(file) for file in (cfg.checkpoint if isinstance(cfg.checkpoint, ListConfig) else [cfg.checkpoint])]
    scored = [embed(cfg, file) for file in files]
    embeddings, split = [sides for sides, _ in scored], scored[0][1]
    metrics: dict[str, Any] = metrics_of(cfg.protocol, embeddings, split) | {
        "seed": cfg.seed,
        "resumed_at_step": 0,
        "checkpoint": [checkpoint_hash(file) for file in files],
        "commit": current_commit(),
    }
    runs.write_json(Path(cfg.out or files[0].parent) / runs.METRICS, metrics)
    print_results(metrics, seconds=time.perf_counter() - started)


def embed(cfg: DictConfig, file: Path) -> tuple[Embeddings, ShardedSplit]:
    """Embeddings of the split by one checkpoint."""
    model, fields, class_table = load(cfg, file)
    datamodule = RetrievalDataModule(
        shards=cfg.shards,
        dataset=Path(cfg.shards).name,
        tokenizer=model.tokenizer,
        fields=fields,
        train_splits=[],
        dev_split=None,
        test_split=cfg.split,
        evaluation_batch_size=cfg.batch_size,
        workers=cfg.workers,
    )
    check_classes(file, class_table, datamodule.manifest.class_table)
    module = EncodingModule(model=model)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator=cfg.accelerator, devices=1, use_distributed_sampler=False, **quiet)
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert module.embeddings is not None
    return module.embeddings, datamodule.split(str(datamodule.test_split))


def load(cfg: DictConfig, file: Path) -> tuple[Any, list[str], str | None]:
    """The model, the shard fields that it reads, and its class table (None: the authors' files name none)."""
    if is_official_checkpoint(file):
        if cfg.text_config is None:
            raise ConfigError(f"{file} is an authors' checkpoint: name its BERT's folder, TEXT=<folder> (text_config=)")
        return load_official_checkpoint(file, cfg.text_config, cfg.activation), OFFICIAL_FIELDS, None
    card = read_checkpoint(file)["threeshnet"]
    return load_model(file), list(card["fields"]), card["class_table"]


def check_classes(file: Path, trained: str | None, found: str | None) -> None:
    """Class 7 must mean the same in training and in scoring."""
    if trained is not None and found is not None and trained != found:
        raise ConfigError(
            f"{file} was trained with the class table {trained[:12]} and these shards have {found[:12]}; make the "
            "shards with the segmentation that the model was trained with"
        )


if __name__ == "__main__":
    run(main)
