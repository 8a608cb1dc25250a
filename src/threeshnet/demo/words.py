"""How the demo world puts things, places and relations into words of bert-base-uncased's vocabulary."""

from __future__ import annotations

from random import Random

from threeshnet.demo.scene import Scene, Thing, habitat

NOUNS = {
    "taxi": ("taxi", "cab"),
    "house": ("house", "cottage"),
    "horse": ("horse", "pony"),
    "jug": ("jug", "pitcher"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
TEXTURE_WORDS = {"striped": ("striped",), "spotted": ("spotted", "dotted")}
TEXTURE_ENDINGS = {"striped": "with stripes", "spotted": "with dots"}
STUFF_WORDS = {
    "sky": ("the sky",),
    "water": ("the water", "the lake"),
    "sand": ("the sand", "the beach"),
    "grass": ("the grass", "the lawn"),
    "mountain": ("mountains", "the hills"),
    "forest": ("a forest", "trees"),
    "road": ("the road", "the street"),
    "snow": ("the snow",),
    "wall": ("the wall",),
    "floor": ("the floor",),
    "table": ("the table",),
    "carpet": ("the carpet", "the rug"),
    "fence": ("a fence", "a white fence"),
}
ON = {"sky": ("in",), "water": ("on", "in"), "wall": ("on", "against")}
PLACE_WORDS = {
    ("column", "left"): ("on the left", "on the left side", "at the left"),
    ("column", "middle"): ("in the middle", "in the center"),
    ("column", "right"): ("on the right", "on the right side", "at the right"),
    ("row", "air"): ("up high", "near the top"),
    ("row", "far"): ("far away", "in the distance", "further back"),
    ("row", "near"): ("very close", "up close", "near the viewer"),
}
RELATION_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "high over"),
    "below": ("below", "beneath"),
    "front": ("in front of", "nearer than"),
    "behind": ("behind", "further away than"),
    "beside": ("next to", "beside"),
}
VERBS = {
    "air": ("flies", "floats", "is"),
    "water": ("floats", "rests", "is"),
    "ground": ("stands", "sits", "rests", "is"),
}


def mention(rng: Random, name: str, colour: str | None, size: str | None, texture: str | None) -> str:
    """A thing with its article and what is said of it: `a little green ball with stripes`."""
    words = [rng.choice(SIZE_WORDS[size])] if size else []
    ending = ""
    if texture and rng.random() < 0.4:
        ending = " " + TEXTURE_ENDINGS[texture]
    elif texture:
        words.append(rng.choice(TEXTURE_WORDS[texture]))
    words += [colour] if colour else []
    phrase = " ".join([*words, rng.choice(NOUNS.get(name, (name,)))])
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}{ending}"


def stuff_words(rng: Random, stuff: str) -> str:
    """A stuff with its article."""
    return rng.choice(STUFF_WORDS[stuff])


def place_words(rng: Random, kind: str, value: str) -> str:
    """Where a thing is."""
    if kind == "on":
        return f"{rng.choice(ON.get(value, ('on',)))} {stuff_words(rng, value)}"
    return rng.choice(PLACE_WORDS[kind, value])


def relation_words(rng: Random, kind: str) -> str:
    """How one thing stands to the next."""
    return rng.choice(RELATION_WORDS[kind])


def verb(rng: Random, thing: Thing, scene: Scene) -> str:
    """What a thing does where it is."""
    hanging = thing.row == "air" and scene.back == "wall"
    return rng.choice(("hangs", "is") if hanging else VERBS[habitat(scene, thing.column, thing.row)])
