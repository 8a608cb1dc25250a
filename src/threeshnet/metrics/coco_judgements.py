"""Scores by judgements beyond the five captions: ECCV Caption and CxC, of COCO's 5,000 test images.

ECCV Caption (Chun et al., ECCV 2022) judged many more pairs of 1,261 images and 1,332 captions: mAP@R, R-Precision and
R@1. CxC (Parekh et al., EACL 2021) adds pairs to the right ones: recalls. Their tables come with the optional package
`eccv-caption`; only its tables are read, and the numbers are computed here.

The tables know captions by COCO's numbers, shards by place: the n-th of the five captions that the package lists for an
image is taken for the n-th caption of that image in the source's order, and captions after the fifth are left out.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.metrics.precision import Positions, Rows, caption_rows, image_rows, percent_of, positions_in_rows
from threeshnet.metrics.similarity import SimilarityLike, as_similarity

PACKAGE = "eccv_caption"
FILES = {"eccv": "eccv_{}_to_{}.json", "cxc": "cxc_{}_to_{}.json"}
REPORTED = {"eccv": ("map_at_r", "r_precision", "R@1"), "cxc": ("R@1", "R@5", "R@10")}
Table = Mapping[int, Sequence[int]]  # number of a query -> numbers of its right answers


class Judgements(NamedTuple):
    """The tables, by COCO's numbers."""

    captions: np.ndarray  # caption numbers in the order of the test split, five an image
    owners: Mapping[int, int]  # image of each caption
    i2t: Mapping[str, Table]  # eccv, cxc
    t2i: Mapping[str, Table]


def load_judgements() -> Judgements:
    """The tables of the installed package.  Raises ConfigError when it is not installed or other than expected."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "ECCV Caption and CxC need the package `eccv-caption`, which is not installed; "
            "install it with `pip install 'threeshnet[judgements]'`"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "data"
    names = {
        "coco_test_ids.npy",
        "original_caption_to_image.json",
        *(name.format(*sides) for name in FILES.values() for sides in (("image", "caption"), ("caption", "image"))),
    }
    problems = Problems(f"{folder}")
    problems.extend(f"{name}: missing" for name in sorted(names) if not (folder / name).is_file())
    problems.raise_as(ConfigError, "Version 0.1.0 of eccv-caption has these files.")
    owners = {number: images[0] for number, images in _table(folder / "original_caption_to_image.json").items()}
    return Judgements(
        np.load(folder / "coco_test_ids.npy"),
        owners,
        {name: _table(folder / file.format("image", "caption")) for name, file in FILES.items()},
        {name: _table(folder / file.format("caption", "image")) for name, file in FILES.items()},
    )


def judged(
    similarity: SimilarityLike, owner: Tensor | np.ndarray, image_ids: Sequence[str], judgements: Judgements
) -> dict[str, dict[str, dict[str, float]]]:
    """`eccv` and `cxc`, each with i2t and t2i, in percent.

    Raises DataError unless the images are those of the tables, known by COCO's numbers, with five captions or more.
    """
    source, owners = as_similarity(similarity), torch.as_tensor(owner).long()
    captions = caption_numbers(owners, image_ids, judgements)
    known = torch.tensor(sorted(captions.values()))
    if len(known) < source.captions:
        source = source.part(torch.arange(source.images), known)
    caption_place = {number: place for place, number in enumerate(_inverse(captions, known))}
    image_place = {int(name): place for place, name in enumerate(image_ids)}
    every_image, every_caption = torch.arange(source.images), torch.arange(source.captions)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, numbers in REPORTED.items():
        asked = _asked(judgements.i2t[name], image_place, caption_place)
        rows = image_rows(source.part(asked.queries, every_caption))
        i2t = percent_of(_positions(rows, source.captions, asked))
        asked = _asked(judgements.t2i[name], caption_place, image_place)
        rows = caption_rows(source.part(every_image, asked.queries))
        t2i = percent_of(_positions(rows, source.images, asked))
        found[name] = {side: {key: value[key] for key in numbers} for side, value in (("i2t", i2t), ("t2i", t2i))}
    return found


def caption_numbers(owner: Tensor, image_ids: Sequence[str], judgements: Judgements) -> dict[int, int]:
    """COCO's number of a caption -> its place in the split.  Raises DataError as `judged` does."""
    places: dict[str, list[int]] = {name: [] for name in image_ids}
    for place, name in enumerate(np.array(image_ids)[owner.numpy()].tolist()):
        places[name].append(place)
    listed: dict[str, list[int]] = {}
    for number in judgements.captions.tolist():
        listed.setdefault(str(judgements.owners[number]), []).append(number)
    problems = Problems(f"{len(image_ids)} images to be judged by the tables of {len(listed)}")
    strangers = [name for name in image_ids if name not in listed]
    missing = len(listed.keys() - places.keys())
    if strangers:
        problems.add(f"{len(strangers)} images are not in the tables, the first of them {strangers[0]!r}")
    if missing:
        problems.add(f"{missing} images of the tables are not in the split")
    short = [name for name, rows in places.items() if name in listed and len(rows) < len(listed[name])]
    if short:
        problems.add(f"{len(short)} images have too few captions, the first of them {short[0]!r}")
    problems.raise_as(DataError, "They are those of COCO's testall (Karpathy's 5,000), with COCO's numbers as ids.")
    return {
        number: place for name, numbers in listed.items() for number, place in zip(numbers, places[name], strict=False)
    }


class _Asked(NamedTuple):
    """The queries of a table by their place, and the places of the right answers of each."""

    queries: Tensor
    right: list[list[int]]
    absent: Tensor  # [queries] int64, right answers that are not among the items


def _asked(table: Table, query_place: Mapping[int, int], item_place: Mapping[int, int]) -> _Asked:
    queries = torch.tensor([query_place[number] for number in table])
    right = [[item_place[number] for number in numbers if number in item_place] for numbers in table.values()]
    absent = [len(numbers) - len(there) for numbers, there in zip(table.values(), right, strict=True)]
    return _Asked(queries, right, torch.tensor(absent))


def _positions(rows: Rows, items: int, asked: _Asked) -> Positions:
    """ECCV's table has two captions (of images with more than five) that no ranking of the 25,000 holds.

    They count as right answers that are never found, as they do in the package and so in published numbers.
    """
    found = positions_in_rows(rows, items, asked.right)
    return found._replace(counts=found.counts + asked.absent)


def _inverse(captions: Mapping[int, int], known: Tensor) -> list[int]:
    numbers = {place: number for number, place in captions.items()}
    return [numbers[place] for place in known.tolist()]


def _table(file: Path) -> dict[int, list[int]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return {int(query): [int(item) for item in items] for query, items in content.items()}
