"""The 133 classes of COCO's panoptic segmentation, in the order of its category ids.

Source: the `categories` of COCO's panoptic JSON files (Kirillov et al., Panoptic Segmentation, CVPR 2019), which are
`panoptic_coco_categories.json` of cocodataset/panopticapi too. Ids 1 to 90 are things, 92 to 200 stuff.
"""

from __future__ import annotations

from collections.abc import Sequence

_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
_STUFF = """
banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house,
light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf,
snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind,
window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged,
food-other-merged, building-other-merged, rock-merged, wall-other-merged, rug-merged
"""


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(","))


COCO_THINGS = _names(_THINGS)  # countable: each is a segment of its own
COCO_STUFF = _names(_STUFF)  # uncountable: one segment a class
COCO_PANOPTIC = COCO_THINGS + COCO_STUFF
FILLERS = {"other", "merged", "stuff"}  # words that detectron2 takes out of the names of stuff


def plain(name: str) -> str:
    """A class name without case, blanks, hyphens and filler words, for comparison.

    >>> plain("wall-other-merged"), plain("Wall"), plain("Wine_Glass")
    ('wall', 'wall', 'wineglass')
    """
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in FILLERS)


def aligned(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """A table of classes, and the number of each of `names` in it.

    When the names are COCO's 133 in whatever order or spelling it is COCO's own table, so that its hash is that of the
    ground truth; else it is `names` as they stand.

    >>> table, places = aligned(COCO_PANOPTIC[::-1])
    >>> table == COCO_PANOPTIC, places[:2]
    (True, (132, 131))
    >>> aligned(["cat", "dog"])
    (('cat', 'dog'), (0, 1))
    """
    number_of = {plain(name): number for number, name in enumerate(COCO_PANOPTIC)}
    given = [plain(name) for name in names]
    if len(given) == len(number_of) and set(given) == set(number_of):
        return COCO_PANOPTIC, tuple(number_of[name] for name in given)
    return tuple(names), tuple(range(len(names)))
