"""What an evaluation may ask for: views, perturbations, a bank of training items, and hub correction by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from threeshnet.batches.datamodule import TEST_SPLITS, held_out
from threeshnet.errors import ConfigError, Problems, no_numbers, one_of
from threeshnet.metrics.corrections import CORRECTIONS, CSLS_NEAREST
from threeshnet.metrics.extended import constants
from threeshnet.metrics.perturbations import CAPTION_PERTURBATIONS, IMAGE_PERTURBATIONS, Perturbed, check_perturbation
from threeshnet.metrics.protocols import PROTOCOLS
from threeshnet.nn.precision import FULL, precision_of
from threeshnet.runs.identity import views_read
from threeshnet.settings import EvaluateSettings
from threeshnet.shards.manifest import Manifest, open_shards, view_name
from threeshnet.shards.reader import ShardedSplit

RECORDED = ("perturb", "correction", "bank", "trained_on")


def check_request(settings: EvaluateSettings, checkpoints: int) -> None:
    """Raise ConfigError, before anything is encoded, with all settings that are wrong or contradict each other."""
    problems = Problems("make evaluate")
    if settings.protocol not in PROTOCOLS:
        problems.add(one_of("protocol", settings.protocol, PROTOCOLS))
    if settings.perturb:
        check_perturbation(settings.perturb)
        if settings.out is None:
            problems.add(f"perturb={settings.perturb} without OUT: its metrics.json would replace the unperturbed one")
    if settings.views:
        problems.extend(_view_faults(settings))
    if settings.bank:
        problems.extend(_bank_faults(settings))
    if settings.bank and not settings.extended and not settings.correction:
        problems.add(f"bank={settings.bank!r} is used by hub corrections alone: add extended=true or correction=…")
    if settings.correction:
        problems.extend(_correction_faults(settings))
    if settings.calibrate:
        problems.extend(_calibration_faults(settings, checkpoints))
    if settings.bank and checkpoints > 1:
        problems.add(f"bank={settings.bank!r} with {checkpoints} checkpoints: corrections are of one model")
    if settings.bank and settings.protocol == "transfer":
        problems.add(
            f"bank={settings.bank!r} with protocol=transfer: a transferred model has seen nothing of these data, and a "
            "bank is their own photos and captions; leave it out, or take protocol=full"
        )
    try:
        precision_of(settings.precision, settings.accelerator)
    except ConfigError as error:
        problems.add(str(error))
    problems.raise_as(ConfigError, "See conf/evaluate.yaml for these keys.")


def scored_views(settings: EvaluateSettings) -> list[str]:
    """Names of the shards of the other views that images are scored in."""
    if not settings.views:
        return []
    dataset = Manifest.load(open_shards(settings.shards)).dataset
    return [view_name(dataset, number) for number in settings.views]


def _view_faults(settings: EvaluateSettings) -> Iterator[str]:
    yield from no_numbers("views", settings.views)
    if settings.out is None:
        yield f"views={settings.views} without OUT: its metrics.json would replace that of the photos as they are"
    if settings.perturb:
        yield f"views={settings.views} with perturb={settings.perturb}: ask for one of them"


def _bank_faults(settings: EvaluateSettings) -> Iterator[str]:
    """What is wrong with `bank`: it must share no image with the scored split.  Raises DataError without shards."""
    folder = open_shards(settings.shards)
    splits = Manifest.load(folder).splits
    bank, scored = (held_out(str(name), splits) for name in (settings.bank, settings.split))
    if bank == scored:
        yield f"bank={settings.bank!r} is the split that is scored, {bank!r}: test queries must not correct each other"
    if bank == scored or not {bank, scored} <= splits.keys():
        return  # a missing split is reported, with those that exist, where it is opened to be encoded
    images = ShardedSplit(folder, bank).image_ids
    if len(images) < CSLS_NEAREST and (settings.extended or settings.correction == "csls"):
        yield f"bank={settings.bank!r} has {len(images)} images: csls takes the {CSLS_NEAREST} nearest of a bank"
    # Karpathy's COCO has its first 1,000 held-out photos as `test` and all 5,000 as `testall`.
    shared = set(images) & set(ShardedSplit(folder, scored).image_ids)
    if shared:
        yield (
            f"bank={settings.bank!r} shares {len(shared)} images with split={settings.split!r}, the first of them "
            f"{min(shared)!r}: test queries must not correct each other"
        )


def _correction_faults(settings: EvaluateSettings) -> Iterator[str]:
    if settings.correction not in CORRECTIONS:
        yield one_of("correction", settings.correction, CORRECTIONS)
    if not settings.bank:
        yield f"correction={settings.correction} without a bank: name a split known before testing, bank=train"
    if settings.out is None:
        yield f"correction={settings.correction} without OUT: its metrics.json would replace the uncorrected one"
    if settings.extended:
        yield "extended=true is of the similarities as they are: ask for it without correction"


def _calibration_faults(settings: EvaluateSettings, checkpoints: int) -> Iterator[str]:
    if settings.split in TEST_SPLITS:
        yield f"calibrate=true with split={settings.split}: nothing is fitted on held-out photos; take split=dev"
    if checkpoints > 1:
        yield f"calibrate=true with {checkpoints} checkpoints: a calibration is of one model"
    changed = [f"{name}={getattr(settings, name)}" for name in ("views", "perturb", "correction")]
    changed = [words for words in changed if not words.endswith(("=None", "=[]"))]
    if changed:
        yield f"calibrate=true with {', '.join(changed)}: it is fitted on photos and captions as they are"


def recorded(settings: EvaluateSettings, views: Sequence[str]) -> dict[str, Any]:
    """Perturbation, correction and views with the constants that determine them, as they stand in metrics.json."""
    views_scored = {"scored_views": views_read(open_shards(settings.shards), views)} if views else {}
    facts = {name: getattr(settings, name) for name in RECORDED if getattr(settings, name)}
    if (precision := precision_of(settings.precision, settings.accelerator)) != FULL:
        facts["encoding_precision"] = precision
    if settings.perturb:
        change = (IMAGE_PERTURBATIONS | CAPTION_PERTURBATIONS)[settings.perturb]
        facts |= {"perturb_seed": settings.perturb_seed, "perturb_constants": constants(change)}
    if settings.perturb in IMAGE_PERTURBATIONS:
        facts["perturb_batch_size"] = settings.batch_size  # segmentations are exchanged within a batch
    if settings.bank:
        used = [settings.correction] if settings.correction else list(CORRECTIONS)
        facts["correction_constants"] = {name: constants(CORRECTIONS[name]) for name in used}
    return facts | views_scored


def perturb_inputs(name: str, model: Any, split: ShardedSplit, seed: int) -> None:
    """Perturb the images that the model encodes, or the captions of the split."""
    if name in IMAGE_PERTURBATIONS:
        perturb = IMAGE_PERTURBATIONS[name]
        model.image_encoder = Perturbed(encoder=model.image_encoder, perturb=perturb, seed=seed)
    else:
        generator, change = np.random.default_rng(seed), CAPTION_PERTURBATIONS[name]
        split.caption_texts = [change(caption, generator) for caption in split.caption_texts]
