"""The order of COCO's 5,000 test images: what the five folds of 1,000 hold depends on it, and nothing else does.

The order is that of Karpathy's `dataset_coco.json`, which published 1K numbers follow. It is known here by its SHA-256,
over the numbers with commas between them; the numbers are those of `coco_test_ids.npy` in eccv-caption 0.1.0 (Chun et
al., ECCV 2022), which lists the captions of the test images in that order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

SOURCE = "846d98a8a15391c14a85a522bf41d71bd94d6a34db1785f5dc7941e553b7d296"
ASCENDING = "d2e58497f4f6026c39880dccacc37acb466ad764f2257cfe509d531eded9867d"  # the same numbers, sorted
FIRST = 391895  # of the source's order
NAME = re.compile(r"COCO_(?:train|val)2014_\d+(?:\.jpg)?")
NUMBER = re.compile(r"(?:COCO_(?:train|val)2014_)?0*(\d+)(?:\.jpg)?")


def image_order(image_ids: Sequence[str]) -> Literal["source", "other", "other images", "unknown"]:
    """Whether images stand in the source's order; unknown where the ids are not COCO's numbers of the test images.

    An id is the number, or the name of the photo, `COCO_val2014_000000391895.jpg`. Such names show other
    images; bare numbers may be those of a file that counts for itself.
    """
    found = [NUMBER.fullmatch(name) for name in image_ids]
    numbers = [int(match[1]) for match in found if match]
    if len(numbers) < len(found) or digest(sorted(numbers)) != ASCENDING:
        return "other images" if image_ids and all(map(NAME.fullmatch, image_ids)) else "unknown"
    return "source" if digest(numbers) == SOURCE else "other"


def digest(numbers: Sequence[int]) -> str:
    """SHA-256 of the numbers with commas between them."""
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()
