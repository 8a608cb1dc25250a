"""The words of the demo world: its things in look-alike pairs, its stuff, colours, places.

Two things of a family share the silhouette, the colours and the habitat; a detail inside tells them apart.
"""

from __future__ import annotations

from typing import NamedTuple

FRUIT = ("red", "yellow", "orange", "green", "purple")
PAINT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
COAT = ("brown", "white", "gray", "black", "orange")


class Family(NamedTuple):
    """Two look-alikes and what they have in common."""

    pair: tuple[str, str]
    habitats: tuple[str, ...]  # air, ground, water
    colours: tuple[str, ...]
    textures: bool  # whether stripes and spots may cover it without hiding the detail
    indoors: bool
    outdoors: bool


FAMILIES = (
    Family(("balloon", "lantern"), ("air", "ground"), PAINT, True, True, True),
    Family(("jet", "glider"), ("air", "ground"), PAINT, True, False, True),
    Family(("butterfly", "moth"), ("air",), PAINT, False, True, True),
    Family(("ferry", "yacht"), ("water",), PAINT, True, False, True),
    Family(("duck", "goose"), ("water", "ground"), COAT, False, False, True),
    Family(("ambulance", "taxi"), ("ground",), PAINT, False, False, True),
    Family(("house", "barn"), ("ground",), PAINT, True, False, True),
    Family(("horse", "cow"), ("ground",), COAT, False, False, True),
    Family(("ball", "globe"), ("ground", "air"), PAINT, True, True, True),
    Family(("mushroom", "umbrella"), ("ground",), PAINT, False, True, True),
    Family(("apple", "peach"), ("ground",), FRUIT, False, True, False),
    Family(("vase", "jug"), ("ground",), PAINT, True, True, False),
    Family(("clock", "compass"), ("air",), PAINT, False, True, False),
)
THINGS = tuple(name for family in FAMILIES for name in family.pair)
STUFF = (
    "sky", "water", "sand", "grass", "mountain", "forest", "road", "snow", "wall", "floor", "table", "carpet", "fence",
)  # fmt: skip
CLASSES = THINGS + STUFF  # things first, as in COCO's panoptic list; the number of a class is its place here

FAMILY_OF = {name: family for family in FAMILIES for name in family.pair}
LOOK_ALIKE = {a: b for family in FAMILIES for a, b in (family.pair, family.pair[::-1])}

COLOURS = {
    "red": (205, 48, 44),
    "orange": (236, 130, 38),
    "yellow": (243, 206, 62),
    "green": (66, 150, 74),
    "blue": (52, 104, 196),
    "purple": (132, 76, 170),
    "pink": (240, 140, 176),
    "white": (240, 238, 232),
    "gray": (140, 142, 148),
    "black": (52, 50, 56),
    "brown": (134, 88, 54),
}
TEXTURES = ("plain", "striped", "spotted")
SIZES = {"small": 0.78, "medium": 1.0, "large": 1.22}

COLUMNS = ("left", "middle", "right")
ROWS = ("air", "far", "near")
