"""The order of COCO's 5,000 test images, which decides the content of the five folds of 1,000.

Published 1K numbers follow the order of Karpathy's `dataset_coco.json`. It is identified by the SHA-256 of the image
numbers, joined by commas. The numbers are those of `coco_test_ids.npy` in eccv-caption 0.1.0 (Chun et al., ECCV 2022),
which lists the captions of the test images in that order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

SOURCE = "846d98a8a15391c14a85a522bf41d71bd94d6a34db1785f5dc7941e553b7d296"
ASCENDING = "d2e58497f4f6026c39880dccacc37acb466ad764f2257cfe509d531eded9867d"  # the same numbers, sorted
FIRST = 391895  # first image of the source's order
NAME = re.compile(r"COCO_(?:train|val)2014_\d+(?:\.jpg)?")
NUMBER = re.compile(r"(?:COCO_(?:train|val)2014_)?0*(\d+)(?:\.jpg)?")


def image_order(image_ids: Sequence[str]) -> Literal["source", "other", "other images", "unknown"]:
    """Whether images are in the source's order; `unknown` when the ids are not COCO's numbers of the test images.

    An id is the number, or the photo's name `COCO_val2014_000000391895.jpg`. Such names prove `other images`; bare
    numbers may be another file's own count.
    """
    matches = [NUMBER.fullmatch(name) for name in image_ids]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(matches) or digest(sorted(numbers)) != ASCENDING:
        return "other images" if image_ids and all(map(NAME.fullmatch, image_ids)) else "unknown"
    return "source" if digest(numbers) == SOURCE else "other"


def digest(numbers: Sequence[int]) -> str:
    """SHA-256 of the numbers, joined by commas."""
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()
