"""What `extended=true` adds to metrics.json: numbers beyond recall, and intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from threeshnet.batches.datamodule import held_out
from threeshnet.errors import ConfigError, DataError, Problems, no_numbers, one_of
from threeshnet.metrics.coco_judgements import judged, load_judgements
from threeshnet.metrics.constants import constants
from threeshnet.metrics.corrections import CORRECTIONS, CSLS_NEAREST
from threeshnet.metrics.ensemble import MeanSimilarity
from threeshnet.metrics.extended import Bank, beyond_recall
from threeshnet.metrics.groups import Groups, by_class, by_label, by_length, by_size, of_captions, typical_size
from threeshnet.metrics.intervals import bootstrap_recalls
from threeshnet.metrics.perturbations import (
    CAPTION_PERTURBATIONS,
    IMAGE_PERTURBATIONS,
    Perturbed,
    check_perturbation,
)
from threeshnet.metrics.protocols import PROTOCOLS, Scored, folds_of, is_coco_5k
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.runs.identity import views_read
from threeshnet.shards.manifest import Manifest, open_shards, view_name
from threeshnet.shards.reader import ShardedSplit
from threeshnet.studies.study import TRANSFER

PHOTOS_AT_ONCE = 500
FEWEST = 10  # images of a class that is reported: of fewer, one photo is more than ten points of recall


def extended_metrics(
    protocol: str,
    similarities: Sequence[EmbeddingSimilarity],
    split: ShardedSplit,
    scored: Scored,
    ranks: Ranks,
    bank: Bank | None,
) -> dict[str, Any]:
    """`extended` (of the whole split at once, whatever the protocol) and `intervals` (of the protocol's recalls)."""
    similarity = similarities[0] if len(similarities) == 1 else MeanSimilarity(similarities)
    whole = ranks if folds_of(protocol) == 1 else rank_similarity(similarity, split.owners)
    image_groups, caption_groups = groups_of(split)
    found = beyond_recall(
        similarity, whole, split.owners, image_groups=image_groups, caption_groups=caption_groups, bank=bank
    )
    if is_coco_5k(scored):
        found["judgements"] = coco_judgements(similarity, split)
    return {"extended": found, "intervals": bootstrap_recalls(ranks, split.owners, folds=folds_of(protocol))}


def check_extras(cfg: DictConfig, checkpoints: int) -> None:
    """Say at once what cannot be asked together, before anything is encoded."""
    problems = Problems("make evaluate")
    if cfg.protocol not in PROTOCOLS:
        problems.add(one_of("protocol", cfg.protocol, PROTOCOLS))
    if cfg.perturb:
        check_perturbation(cfg.perturb)
        if cfg.out is None:
            problems.add(f"perturb={cfg.perturb} without OUT: its metrics.json would replace the unperturbed one")
    if cfg.views:
        problems.extend(_of_views(cfg))
    if cfg.bank:
        problems.extend(_of_bank(cfg))
    if cfg.bank and not cfg.extended and not cfg.correction:
        problems.add(f"bank={cfg.bank!r} is used by the corrections of hubs alone: add extended=true or correction=…")
    if cfg.correction:
        problems.extend(_of_correction(cfg))
    if cfg.bank and checkpoints > 1:
        problems.add(f"bank={cfg.bank!r} with {checkpoints} checkpoints: corrections are of one model")
    if cfg.bank and cfg.protocol == TRANSFER:
        problems.add(
            f"bank={cfg.bank!r} with protocol={TRANSFER}: a model that is carried over has seen nothing of these data, "
            "and a bank is their own photos and captions; leave it out, or take protocol=full"
        )
    problems.raise_as(ConfigError, "See conf/evaluate.yaml for these keys.")


def scored_views(cfg: DictConfig) -> list[str]:
    """The shards of the other views that images are scored in, by the numbers that were asked for."""
    if not cfg.views:
        return []
    dataset = Manifest.load(open_shards(cfg.shards)).dataset
    return [view_name(dataset, number) for number in cfg.views]


def _of_views(cfg: DictConfig) -> Iterator[str]:
    """What is wrong with the views that are asked for."""
    yield from no_numbers("views", cfg.views)
    if cfg.out is None:
        yield f"views={cfg.views} without OUT: its metrics.json would replace that of the photos as they are"
    if cfg.perturb:
        yield f"views={cfg.views} with perturb={cfg.perturb}: ask for one of them"


def _of_bank(cfg: DictConfig) -> list[str]:
    """What is wrong with a bank: by name or by its images it is what is scored.  DataError for shards that are not."""
    folder = open_shards(cfg.shards)
    splits = Manifest.load(folder).splits
    bank, scored = (held_out(str(name), splits) for name in (cfg.bank, cfg.split))
    if bank == scored:
        return [f"bank={cfg.bank!r} is the split that is scored, {scored!r}: test queries must not correct each other"]
    if not {bank, scored} <= splits.keys():
        return []  # said, with the splits that there are, where they are opened to be encoded
    known = ShardedSplit(folder, bank).image_ids
    problems = []
    if len(known) < CSLS_NEAREST and (cfg.extended or cfg.correction == "csls"):
        problems.append(f"bank={cfg.bank!r} has {len(known)} images: csls takes the {CSLS_NEAREST} nearest of a bank")
    # Karpathy's COCO has its first 1,000 held-out photos as `test` and all 5,000 as `testall`.
    shared = set(known) & set(ShardedSplit(folder, scored).image_ids)
    if shared:
        problems.append(
            f"bank={cfg.bank!r} shares {len(shared)} images with split={cfg.split!r}, the first of them "
            f"{min(shared)!r}: test queries must not correct each other"
        )
    return problems


def _of_correction(cfg: DictConfig) -> list[str]:
    """What is wrong with corrected recalls as they are asked for."""
    problems = []
    if cfg.correction not in CORRECTIONS:
        problems.append(one_of("correction", cfg.correction, list(CORRECTIONS)))
    if not cfg.bank:
        problems.append(f"correction={cfg.correction} without a bank: name a split known before testing, bank=train")
    if cfg.out is None:
        problems.append(f"correction={cfg.correction} without OUT: its metrics.json would replace the uncorrected one")
    if cfg.extended:
        problems.append("extended=true is of the similarities as they are: ask for it without correction")
    return problems


def recorded(cfg: DictConfig, views: Sequence[str]) -> dict[str, Any]:
    """What was changed or corrected for, with the numbers that determine how: of metrics.json, where it was asked."""
    seen = {"scored_views": views_read(open_shards(cfg.shards), views)} if views else {}
    found = {name: cfg[name] for name in ("perturb", "correction", "bank", "trained_on") if cfg[name]}
    if cfg.perturb:
        change = (IMAGE_PERTURBATIONS | CAPTION_PERTURBATIONS)[cfg.perturb]
        found |= {"perturb_seed": cfg.perturb_seed, "perturb_constants": constants(change)}
    if cfg.perturb in IMAGE_PERTURBATIONS:
        found["perturb_batch_size"] = cfg.batch_size  # images are changed, and segmentations exchanged, by the batch
    if cfg.bank:
        used = [cfg.correction] if cfg.correction else list(CORRECTIONS)
        found["correction_constants"] = {name: constants(CORRECTIONS[name]) for name in used}
    return found | seen


def perturb_inputs(name: str, model: Any, split: ShardedSplit, seed: int) -> None:
    """Let the model see perturbed images, or put perturbed captions into the split."""
    if name in IMAGE_PERTURBATIONS:
        perturb = IMAGE_PERTURBATIONS[name]
        model.image_encoder = Perturbed(encoder=model.image_encoder, perturb=perturb, seed=seed)
    else:
        generator, change = np.random.default_rng(seed), CAPTION_PERTURBATIONS[name]
        split.caption_texts = [change(caption, generator) for caption in split.caption_texts]


def coco_judgements(similarity: Any, split: ShardedSplit) -> dict[str, Any]:
    """ECCV Caption and CxC, or why they are not there: they are an extra, and the other numbers hold without."""
    try:
        return judged(similarity, split.owners, split.image_ids, load_judgements())
    except (ConfigError, DataError) as absent:  # no package; or other ids, or fewer captions, than its tables have
        return {"not_run": str(absent)}


def groups_of(split: ShardedSplit) -> tuple[dict[str, Groups], dict[str, Groups]]:
    """Groups of the images and of the captions, as far as the shards know of them."""
    of_images: dict[str, Groups] = {}
    if "seg" in split.manifest.fields:
        categories, sizes = _segmentation(split)
        names = split.manifest.class_names or [f"class {number}" for number in range(categories.shape[1])]
        of_images = {"class": by_class(categories, names, least=FEWEST), "object_size": by_size(sizes)}
    captions: dict[str, Groups] = {"length": by_length(split.caption_texts)}
    captions |= {kind: of_captions(groups, split.owners) for kind, groups in of_images.items()}
    if any(split.caption_tags):
        captions["tag"] = by_label(split.caption_tags)
    return of_images, captions


def _segmentation(split: ShardedSplit) -> tuple[Tensor, Tensor]:
    """Classes in each image [G, C] and their typical size [G]."""
    categories, sizes = [], []
    for numbers in np.array_split(np.arange(split.images), -(-split.images // PHOTOS_AT_ONCE)):
        arrays = split.read(numbers, ["seg"])
        assert arrays.seg_categories is not None
        assert arrays.seg_map is not None
        categories.append(torch.from_numpy(arrays.seg_categories))
        sizes.append(typical_size(arrays.seg_map))
    return torch.cat(categories), torch.cat(sizes)
