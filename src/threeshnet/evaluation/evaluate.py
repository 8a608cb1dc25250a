"""Score checkpoints on a split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException

from threeshnet.batches.datamodule import BatchOptions, RetrievalDataModule, Splits
from threeshnet.encoders.official import is_official_checkpoint, load_official_checkpoint
from threeshnet.errors import CheckpointError, ConfigError, Problems
from threeshnet.evaluation.calibrate import calibrate_checkpoint
from threeshnet.evaluation.finish import write_scores
from threeshnet.evaluation.request import check_request, perturb_inputs, recorded, scored_views
from threeshnet.evaluation.scores import scored_of, scores_of
from threeshnet.evaluation.table import print_results
from threeshnet.files import check_writable
from threeshnet.installation import current_commit
from threeshnet.metrics.protocols import check_protocol, share_photos
from threeshnet.nn.precision import precision_of
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint
from threeshnet.runs.run import LAST, PREVIOUS, Run
from threeshnet.runs.tracking import track_evaluation
from threeshnet.settings import EvaluateSettings, Invocation
from threeshnet.shards.manifest import open_shards
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, load_model, read_checkpoint
from threeshnet.training.encoding import Embeddings, EncodingModule

OFFICIAL_FIELDS = ["region", "seg"]


class LoadedModel(NamedTuple):
    """A checkpoint's model, with the split that it will encode."""

    model: Any
    datamodule: RetrievalDataModule
    split: ShardedSplit
    training: dict[str, Any]  # facts of its training, empty for the authors' checkpoints


def evaluate(settings: EvaluateSettings, invocation: Invocation) -> None:
    """Score checkpoints on a split; write and print the scores."""
    started = time.perf_counter()
    given = settings.checkpoint
    files = [Path(file) for file in ([given] if isinstance(given, str) else given)]
    run = Run(settings.out or files[0].parent)
    check_request(settings, len(files))
    hashes = hashes_of(files)
    check_writable("out", run.folder)
    views = scored_views(settings)
    embeddings, training, splits = [], [], []
    for file in files:
        loaded = load(settings, file, settings.split, views)
        trained = trained_on([loaded.training], loaded.split)
        check_protocol(settings.protocol, len(files), scored_of(loaded.split, **trained))
        embeddings.append(encode(settings, loaded, settings.perturb))
        training.append(loaded.training)
        splits.append(loaded.split)
        del loaded  # so that there is one model in memory, however many are averaged
    split = splits[0]
    if settings.calibrate:
        hashes = [calibrate_checkpoint(files[0], embeddings[0], split)]
    bank = encode(settings, load(settings, files[0], settings.bank)) if settings.bank else None
    scores = scores_of(
        settings.protocol,
        embeddings,
        split,
        **trained_on(training, split),
        extended=settings.extended,
        bank=bank,
        correction=settings.correction,
    )
    facts = {
        "seed": settings.seed if settings.seed is not None else common([each.get("seed") for each in training]),
        "resumed_at_step": 0,
        "checkpoint": hashes,
        "commit": current_commit(),
        "fingerprint": data_fingerprint(split.manifest),
        "machine": machine(),
        "trained": training,
    }
    metrics = scores.metrics | facts | recorded(settings, views)
    if precision := metrics.get("encoding_precision"):
        metrics["described"] += f", encoded in {precision}"
    write_scores(run, scores._replace(metrics=metrics))
    print_results(metrics, seconds=time.perf_counter() - started)
    track_evaluation(settings, run, invocation, split, metrics)


def hashes_of(files: Sequence[Path]) -> list[str]:
    """Hashes of the checkpoints.  Raises ConfigError with those that are missing or equal."""
    hashes, problems = [], Problems("checkpoint")
    for file in files:
        try:
            hashes.append(checkpoint_hash(file))
        except CheckpointError as error:
            problems.add(str(error))
    problems.raise_as(ConfigError)
    for number, own in enumerate(hashes):
        first = hashes.index(own)
        if first < number:
            problems.add(f"{files[number]} is the same model as {files[first]}, {own}")
    problems.raise_as(ConfigError, "Name each model once.")
    return hashes


def trained_on(training: Sequence[Mapping[str, Any]], split: ShardedSplit) -> dict[str, Any]:
    """Data and splits of the training, for `Scored`; of several trainings, the one that most surely saw the split."""
    own = split.manifest.dataset

    def saw(facts: Mapping[str, Any]) -> int:
        data = facts.get("data")
        if data == own:
            return 2 * (split.name in facts.get("train_splits", ()))
        return int(data is not None and share_photos(data, own))

    chosen = max(training, key=saw)  # the first of equals
    return {"trained_on": chosen.get("data"), "train_splits": tuple(map(str, chosen.get("train_splits", ())))}


def load(settings: EvaluateSettings, file: Path, split: str, views: Sequence[str] = ()) -> LoadedModel:
    """A checkpoint's model and a split, whose images are encoded in those other views too."""
    model, card = read_model(settings, file)
    training = training_of(settings, file, card)
    datamodule = RetrievalDataModule(
        open_shards(settings.shards),
        tokenizer=model.tokenizer,
        fields=card["fields"],
        splits=Splits(train=(), dev=None, test=split),
        batches=BatchOptions(evaluation_batch_size=settings.batch_size, workers=settings.workers),
        scored_views=views,
    )
    check_classes(file, card["class_table"], datamodule.manifest.class_table)
    return LoadedModel(model, datamodule, datamodule.split(str(datamodule.test_split)), training)


def encode(settings: EvaluateSettings, loaded: LoadedModel, perturb: str | None = None) -> Embeddings:
    """Encode the split, perturbed by that name if any."""
    if perturb:
        perturb_inputs(perturb, loaded.model, loaded.split, settings.perturb_seed)
    module = EncodingModule(model=loaded.model)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    options["precision"] = precision_of(settings.precision, settings.accelerator)
    try:
        trainer = pl.Trainer(accelerator=settings.accelerator, devices=1, use_distributed_sampler=False, **options)
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"accelerator={settings.accelerator!r}: {error}") from error
    trainer.test(module, datamodule=loaded.datamodule, verbose=False)
    assert module.embeddings is not None
    return module.embeddings


def training_of(settings: EvaluateSettings, file: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a checkpoint's training; its data set may come from `trained_on=`, where the checkpoint has none."""
    keys = ("experiment", "data", "official_activation")
    facts = {name: card[name] for name in keys if name in card} | card.get("run", {})
    if settings.trained_on is not None and facts.setdefault("data", settings.trained_on) != settings.trained_on:
        raise ConfigError(
            f"trained_on={settings.trained_on!r}, but {file} says that it was trained on {facts['data']!r}"
        )
    facts |= {"selection": "last"} if file.name in (LAST, PREVIOUS) else {}  # whatever the run would have selected
    return facts


def common(values: Sequence[Any]) -> Any:
    """The value that all share, None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def read_model(settings: EvaluateSettings, file: Path) -> tuple[Any, dict[str, Any]]:
    """The model and its card: the shard fields that it reads and its class table (None for the authors' files)."""
    allow: dict[str, bool] = {"allow_pickle": settings.allow_pickle}
    if is_official_checkpoint(file, **allow):
        if settings.text_config is None:
            raise ConfigError(f"{file} is an authors' checkpoint: name its BERT's folder, TEXT=<folder> (text_config=)")
        official = load_official_checkpoint(file, settings.text_config, settings.official_activation, **allow)
        card = {"fields": OFFICIAL_FIELDS, "class_table": None}
        return official, card | {"official_activation": settings.official_activation}
    card = dict(read_checkpoint(file)["threeshnet"])
    return load_model(file), card | {"fields": list(card["fields"])}


def check_classes(file: Path, trained: str | None, scored: str | None) -> None:
    """Raise ConfigError where a class number means another class in training than in scoring."""
    if trained is not None and scored is not None and trained != scored:
        raise ConfigError(
            f"{file} was trained with the class table {trained[:12]} and these shards have {scored[:12]}; make the "
            "shards with the segmentation that the model was trained with"
        )
