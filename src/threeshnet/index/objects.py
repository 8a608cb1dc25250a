"""Where the classes of a segmentation lie: one entry for each connected area."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

VOID = 255  # as in `records`
LEAST_CELLS = 4  # of the 64 x 64: smaller areas are noise of the segmentation
TOUCHING = np.ones((3, 3), bool)  # cells that meet at a corner are connected


def areas(seg_map: np.ndarray) -> list[dict[str, Any]]:
    """The connected areas of a map of class numbers [H, W], void left out, as `rows.OBJECT`.

    >>> areas(np.repeat([[1, 1, 255, 255]], 4, axis=0))[0]["x"]
    0.25
    """
    height, width = seg_map.shape
    objects = []
    for number in np.unique(seg_map):
        if number == VOID:
            continue
        labelled: Any = ndimage.label(seg_map == number, TOUCHING)
        labels, count = labelled
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels, count), start=1):
            inside = labels[rows, columns] == label
            cells = int(inside.sum())
            if cells < LEAST_CELLS:
                continue
            y, x = (float(positions.mean()) + 0.5 for positions in np.nonzero(inside))
            objects.append(
                {
                    "class": int(number),
                    "share": cells / (height * width),
                    "x": (x + columns.start) / width,
                    "y": (y + rows.start) / height,
                    "left": columns.start / width,
                    "top": rows.start / height,
                    "right": columns.stop / width,
                    "bottom": rows.stop / height,
                }
            )
    return objects
