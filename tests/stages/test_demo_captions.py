"""Captions of the demo world are true, and tags say what tells twins apart.

Checked by a slow, separate reader of captions: it knows the words, not how they were put together.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations
from random import Random

from threeshnet.demo.captions import captions
from threeshnet.demo.scene import KINDS, Scene, single, twins

SAME = (
    "balloon", "lantern", "jet", "glider", "butterfly", "moth", "ferry", "yacht", "duck", "goose", "ambulance", "taxi",
    "house", "barn", "horse", "cow", "ball", "globe", "mushroom", "umbrella", "apple", "peach", "vase", "jug", "clock",
    "compass",
)  # fmt: skip
NOUNS = {word: word for word in SAME} | {"cab": "taxi", "cottage": "house", "pony": "horse", "pitcher": "jug"}
COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "gray", "black", "brown"}
SIZES = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"}
TEXTURES = {"striped": "striped", "spotted": "spotted", "dotted": "spotted"}
ENDINGS = {" with stripes": "striped", " with dots": "spotted"}
STUFF = {
    "sky": "sky", "water": "water", "lake": "water", "sand": "sand", "beach": "sand", "grass": "grass", "lawn": "grass",
    "mountains": "mountain", "hills": "mountain", "forest": "forest", "trees": "forest", "road": "road",
    "street": "road", "snow": "snow", "wall": "wall", "floor": "floor", "table": "table", "carpet": "carpet",
    "rug": "carpet", "white fence": "fence", "fence": "fence",
}  # fmt: skip
RELATIONS = {
    "to the left of": "left", "left of": "left", "to the right of": "right", "right of": "right", "above": "above",
    "high over": "above", "below": "below", "beneath": "below", "in front of": "front", "nearer than": "front",
    "further away than": "behind", "behind": "behind", "next to": "beside", "beside": "beside",
}  # fmt: skip
PLACES = {
    "on the left side": ("column", "left"), "on the left": ("column", "left"), "at the left": ("column", "left"),
    "on the right side": ("column", "right"), "on the right": ("column", "right"), "at the right": ("column", "right"),
    "in the middle": ("column", "middle"), "in the center": ("column", "middle"), "up high": ("row", "air"),
    "near the top": ("row", "air"), "far away": ("row", "far"), "in the distance": ("row", "far"),
    "further back": ("row", "far"), "very close": ("row", "near"), "up close": ("row", "near"),
    "near the viewer": ("row", "near"),
}  # fmt: skip
FILLERS = {"is", ",", "and", "while", "there", "you", "see", "we", "can", "this", "picture", "shows", "stands", "sits",
           "rests", "floats", "flies", "hangs"}  # fmt: skip
CHOICE = "|".join
THING = re.compile(
    rf"\ban? ((?:(?:{CHOICE([*COLOURS, *SIZES, *TEXTURES])}) )*)({CHOICE(NOUNS)})( with stripes| with dots)?(?= |$)"
)
STAGE = re.compile(rf"with (?:an? |the )?({CHOICE(STUFF)}) (?:in the background|at the back|behind)$")
ON = re.compile(rf"(?:on|in|against) the ({CHOICE(STUFF)})\b")


def said(caption: str) -> tuple[list[dict], list[tuple], list[tuple], list[str]]:
    """Things, places (thing, kind, value), relations (thing, kind, thing) and stuff; fails on unknown words."""
    things, places, relations, stuff = [], [], [], []
    spans = list(THING.finditer(caption))
    for match in spans:
        words = match[1].split()
        things.append({
            "name": NOUNS[match[2]],
            "colour": next((w for w in words if w in COLOURS), None),
            "size": next((SIZES[w] for w in words if w in SIZES), None),
            "texture": next((TEXTURES[w] for w in words if w in TEXTURES), None) or ENDINGS.get(match[3] or ""),
        })  # fmt: skip
    edges = [0, *(edge for match in spans for edge in match.span()), len(caption)]
    gaps = [caption[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    for number, gap in enumerate(gaps):
        last = number == len(gaps) - 1
        if last and (match := STAGE.search(gap)):
            stuff.append(STUFF[match[1]])
            gap = gap[: match.start()]
        before, _, after = split_at_link(gap)
        read_places(before, number - 1 if number else 0, places, relations, last)
        if after:
            read_places(after, number, places, relations, last)
    return things, places, relations, stuff


def split_at_link(gap: str) -> tuple[str, str, str]:
    """What is said of the thing before and of the thing after the first `and`, `while` or comma."""
    match = re.search(r"(, and|,|\band\b|\bwhile\b)", gap)
    return (gap[: match.start()], match[0], gap[match.end() :]) if match else (gap, "", "")


def read_places(text: str, owner: int, places: list, relations: list, last: bool) -> None:
    """Take every known phrase out of a piece of text; what is left must be fillers."""
    text = f" {text.strip()} "
    for phrase in sorted(RELATIONS, key=len, reverse=True):
        if f" {phrase} " in text and text.rstrip().endswith(phrase) and not last:
            relations.append((owner, RELATIONS[phrase], owner + 1))
            text = text.replace(f" {phrase} ", " ", 1)
            break
    for phrase in sorted(PLACES, key=len, reverse=True):
        if f" {phrase} " in text:
            places.append((owner, *PLACES[phrase]))
            text = text.replace(f" {phrase} ", " ", 1)
    for match in ON.finditer(text):
        places.append((owner, "on", STUFF[match[1]]))
    left = set(ON.sub(" ", text).split()) - FILLERS
    assert not left, f"words that the reader does not know: {left}"


def stuff_at(scene: dict, column: str, row: str) -> str:
    """The stuff at a place, from the scene's record."""
    if row == "air":
        return scene["back"]
    if scene["division"] == "sides":
        return scene["front"][1 if column == "right" else 0]
    if scene["division"] == "depth":
        return scene["front"][1 if row == "near" else 0]
    return scene["front"][0]


def stands(one: dict, kind: str, other: dict) -> bool:
    """Whether a relation holds between two things."""
    x, y = ({"left": 0, "middle": 1, "right": 2}[thing["column"]] for thing in (one, other))
    rows = (one["row"], other["row"])
    close = abs(x - y) < 2
    return {
        "left": x < y,
        "right": x > y,
        "above": close and rows in (("air", "far"), ("air", "near")),
        "below": close and rows in (("far", "air"), ("near", "air")),
        "front": close and rows == ("near", "far"),
        "behind": close and rows == ("far", "near"),
        "beside": rows[0] == rows[1] and abs(x - y) == 1,
    }[kind]


def is_true(caption: str, scene: dict) -> bool:
    """Whether a caption is true of a scene's record: some choice of different things makes all of it hold."""
    things, places, relations, stuff = said(caption)
    if any(name not in {scene["back"], scene["middle"], *scene["front"]} for name in stuff):
        return False
    for chosen in permutations(scene["things"], len(things)):
        described = all(
            value is None or thing[field] == value
            for thing, words in zip(chosen, things, strict=True)
            for field, value in words.items()
        )
        placed = all(
            (stuff_at(scene, chosen[n]["column"], chosen[n]["row"]) if kind == "on" else chosen[n][kind]) == value
            for n, kind, value in places
        )
        if described and placed and all(stands(chosen[a], kind, chosen[b]) for a, kind, b in relations):
            return True
    return False


def test_every_caption_is_true_and_its_tag_says_whether_it_tells_the_twin() -> None:
    """With the separate reader of captions, on scenes of every kind."""
    rng, kinds = Random(7), Counter[str]()
    for number in range(180):
        kind = KINDS[number % 3]
        one, other = twins(rng, kind)
        for scene, twin in ((one, other), (other, one)):
            for caption, tag, _ in captions(rng, scene, twin, kind):
                assert is_true(caption, record(scene)), (caption, scene)
                assert is_true(caption, record(twin)) == (tag == "plain"), (caption, tag, twin)
                kinds[tag] += 1
        alone = single(rng)
        assert all(is_true(caption.sentence, record(alone)) for caption in captions(rng, alone))
    assert all(kinds[kind] >= 120 for kind in (*KINDS, "plain"))


def record(scene: Scene) -> dict:
    return {**scene._asdict(), "things": [thing._asdict() for thing in scene.things]}


def test_captions_are_neither_curt_nor_long() -> None:
    rng = Random(1)
    lengths = [len(caption.sentence.split()) for _ in range(40) for caption in captions(rng, single(rng))]
    assert min(lengths) >= 8
    assert max(lengths) <= 18
