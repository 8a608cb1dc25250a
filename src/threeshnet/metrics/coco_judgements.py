"""ECCV Caption and CxC: scores on COCO's 5,000 test images with more right pairs than the five captions.

ECCV Caption (Chun et al., ECCV 2022) judges further pairs of 1,261 images and 1,332 captions, and reports mAP@R,
R-Precision and R@1. CxC (Parekh et al., EACL 2021) adds right pairs, and reports recalls. The tables come with the
optional package `eccv-caption`; the numbers are computed here.

The tables identify captions by COCO's numbers, and shards by their order. So the n-th of the five captions that the
package lists for an image is the n-th caption of that image in the shards; later captions are left out.
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
from threeshnet.metrics.precision import Rows, caption_rows, image_rows, percent_of, positions_in_rows
from threeshnet.metrics.similarity import SimilarityLike, as_similarity

PACKAGE = "eccv_caption"
FILES = {"eccv": "eccv_{}_to_{}.json", "cxc": "cxc_{}_to_{}.json"}
REPORTED = {"eccv": ("map_at_r", "r_precision", "R@1"), "cxc": ("R@1", "R@5", "R@10")}
Table = Mapping[int, Sequence[int]]  # number of a query -> numbers of its right items


class Judgements(NamedTuple):
    """The tables, with COCO's numbers."""

    captions: np.ndarray  # caption numbers in the order of the test split, five an image
    owners: Mapping[int, int]  # image of each caption
    i2t: Mapping[str, Table]  # eccv, cxc
    t2i: Mapping[str, Table]


def load_judgements() -> Judgements:
    """The tables of the installed package.  Raises ConfigError when it is missing, or a file of it is."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "ECCV Caption and CxC need the package `eccv-caption`, which is not installed; "
            "install it with `pip install 'threeshnet[judgements]'`"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
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

    Raises DataError unless `image_ids` are COCO's numbers of the tables' images, each with five captions or more.
    """
    source, owners = as_similarity(similarity), torch.as_tensor(owner).long()
    captions = caption_numbers(owners, image_ids, judgements)
    listed = torch.tensor(sorted(captions.values()))
    if len(listed) < source.captions:
        source = source.part(torch.arange(source.images), listed)
    caption_row = {number: row for row, number in enumerate(sorted(captions, key=captions.__getitem__))}
    image_row = {int(name): row for row, name in enumerate(image_ids)}
    every_image, every_caption = torch.arange(source.images), torch.arange(source.captions)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for name, numbers in REPORTED.items():
        i2t, t2i = judgements.i2t[name], judgements.t2i[name]
        rows = image_rows(source.part(_rows_of(i2t, image_row), every_caption))
        of_images = _percents(rows, source.captions, i2t, caption_row)
        rows = caption_rows(source.part(every_image, _rows_of(t2i, caption_row)))
        of_captions = _percents(rows, source.images, t2i, image_row)
        scores[name] = {
            side: {key: values[key] for key in numbers} for side, values in (("i2t", of_images), ("t2i", of_captions))
        }
    return scores


def caption_numbers(owner: Tensor, image_ids: Sequence[str], judgements: Judgements) -> dict[int, int]:
    """COCO's number of a caption -> its row in the split.  Raises DataError as `judged` does."""
    rows_of: dict[str, list[int]] = {name: [] for name in image_ids}
    for row, name in enumerate(np.array(image_ids)[owner.numpy()].tolist()):
        rows_of[name].append(row)
    listed: dict[str, list[int]] = {}
    for number in judgements.captions.tolist():
        listed.setdefault(str(judgements.owners[number]), []).append(number)
    problems = Problems(f"{len(image_ids)} images to be scored by tables of {len(listed)}")
    unlisted = [name for name in image_ids if name not in listed]
    missing = len(listed.keys() - rows_of.keys())
    if unlisted:
        problems.add(f"{len(unlisted)} images are not in the tables, the first of them {unlisted[0]!r}")
    if missing:
        problems.add(f"{missing} images of the tables are not in the split")
    short = [name for name, rows in rows_of.items() if name in listed and len(rows) < len(listed[name])]
    if short:
        problems.add(f"{len(short)} images have too few captions, the first of them {short[0]!r}")
    problems.raise_as(DataError, "They need COCO's testall (Karpathy's 5,000 images), with COCO's numbers as ids.")
    return {
        number: row for name, numbers in listed.items() for number, row in zip(numbers, rows_of[name], strict=False)
    }


def _rows_of(table: Table, row: Mapping[int, int]) -> Tensor:
    return torch.tensor([row[number] for number in table])


def _percents(rows: Rows, items: int, table: Table, row: Mapping[int, int]) -> dict[str, float]:
    """`percent_of` the queries of a table; `row` are the rows of the items.

    ECCV's table has two captions (of images with more than five) that are not among the 25,000. They count as right
    items that are never found, as in the package and so in published numbers.
    """
    right = [[row[number] for number in numbers if number in row] for numbers in table.values()]
    ranked = positions_in_rows(rows, items, right)
    return percent_of(ranked._replace(counts=torch.tensor([len(numbers) for numbers in table.values()])))


def _table(file: Path) -> dict[int, list[int]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    return {int(query): [int(item) for item in items] for query, items in content.items()}
