"""Scenes of the demo world: what stands where, and twins that differ in exactly one respect."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from threeshnet.demo.classes import (
    COLUMNS,
    FAMILIES,
    FAMILY_OF,
    LOOK_ALIKE,
    ROWS,
    SIZES,
    TEXTURES,
    Family,
)

KINDS = ("what", "where", "both")
MOST_TRIES = 200


class Thing(NamedTuple):
    """One thing in its cell of the 3 x 3 places."""

    name: str
    colour: str
    size: str
    texture: str
    column: str
    row: str
    flipped: bool  # faces left; no caption speaks of it


class Scene(NamedTuple):
    """What a picture shows: stuff at the back, in the middle (or "") and in front, and things."""

    back: str
    middle: str
    front: tuple[str, str]  # the same twice, or two parts
    division: str  # none, sides (left | right) or depth (far | near)
    things: tuple[Thing, ...]
    look: int  # seed of everything that no caption speaks of: textures, waves, jitter; twins share it

    @property
    def stuff(self) -> tuple[str, ...]:
        """The stuff in the picture, each once."""
        return tuple(dict.fromkeys(part for part in (self.back, self.middle, *self.front) if part))

    def under(self, column: str, row: str) -> str:
        """The stuff at a place."""
        if row == "air":
            return self.back
        second = column == "right" if self.division == "sides" else self.division == "depth" and row == "near"
        return self.front[second]


def background(rng: Random) -> Scene:
    """An empty scene, outdoors two times of three."""
    if rng.random() < 0.35:
        back, middle, choices = "wall", "", [("floor", "floor"), ("table", "table"), ("floor", "carpet")]
        front = rng.choice(choices)
        division = "none" if front[0] == front[1] else rng.choice(["depth", "sides"])
    else:
        back, middle = "sky", rng.choice(["mountain", "forest", "fence", ""])
        grounds = ["grass", "sand", "snow", "road", "water"]
        division = rng.choice(["none", "sides", "depth"])
        first = rng.choice(grounds)
        front = (first, first if division == "none" else rng.choice([g for g in grounds if g != first]))
    return Scene(back, middle, front, division, (), rng.getrandbits(32))


def places(scene: Scene) -> list[tuple[str, str]]:
    """Every (column, row) of a scene; the middle column of the ground is the border where sides differ."""
    border = scene.division == "sides"
    return [(c, r) for r in ROWS for c in COLUMNS if not (border and c == "middle" and r != "air")]


def habitat(scene: Scene, column: str, row: str) -> str:
    """air, water or ground."""
    if row == "air":
        return "air"
    return "water" if scene.under(column, row) == "water" else "ground"


def fits(scene: Scene, family: Family, place: tuple[str, str]) -> bool:
    """Whether things of a family are found at a place of the scene."""
    indoors = scene.back == "wall"
    return (family.indoors if indoors else family.outdoors) and habitat(scene, *place) in family.habitats


def random_thing(rng: Random, scene: Scene, place: tuple[str, str]) -> Thing:
    """Some thing that fits a place."""
    family = rng.choice([family for family in FAMILIES if fits(scene, family, place)])
    texture = rng.choice(TEXTURES) if family.textures and rng.random() < 0.6 else "plain"
    size = rng.choice(list(SIZES))
    return Thing(rng.choice(family.pair), rng.choice(family.colours), size, texture, *place, rng.random() < 0.5)


def single(rng: Random) -> Scene:
    """A scene of three to five things, one a place, no two of the same class and colour."""
    scene = background(rng)
    taken = rng.sample(places(scene), rng.choice([3, 4, 4, 5]))
    things: list[Thing] = []
    for place in taken:
        thing = random_thing(rng, scene, place)
        while any(same_looks(thing, other) for other in things):
            thing = random_thing(rng, scene, place)
        things.append(thing)
    return scene._replace(things=tuple(things))


def same_looks(one: Thing, other: Thing) -> bool:
    """Whether two things are of one family and colour."""
    return FAMILY_OF[one.name] is FAMILY_OF[other.name] and one.colour == other.colour


def twins(rng: Random, kind: str) -> tuple[Scene, Scene]:
    """Two scenes that differ only in a class (what), in places (where), or in which class is at which place (both)."""
    make = {"what": what_twins, "where": where_twins, "both": both_twins}[kind]
    for _ in range(MOST_TRIES):
        pair = make(rng, single(rng))
        if pair is not None:
            return pair
    raise RuntimeError(f"no scene allows {kind} twins after {MOST_TRIES} tries")


def what_twins(rng: Random, scene: Scene) -> tuple[Scene, Scene] | None:
    """One thing becomes its look-alike."""
    number = rng.randrange(len(scene.things))
    thing = scene.things[number]
    if too_small(thing):
        return None
    return scene, with_thing(scene, number, thing._replace(name=LOOK_ALIKE[thing.name]))


def where_twins(rng: Random, scene: Scene) -> tuple[Scene, Scene] | None:
    """All things change sides, or one thing goes to the other side, the other depth or the other height."""
    if scene.division != "sides" and rng.random() < 0.5:
        mirrored = tuple(thing._replace(column=COLUMNS[2 - COLUMNS.index(thing.column)]) for thing in scene.things)
        changed = scene._replace(things=mirrored)
        return None if changed == scene else (scene, changed)
    number = rng.randrange(len(scene.things))
    thing = scene.things[number]
    free = [place for place in places(scene) if place not in {(t.column, t.row) for t in scene.things}]
    goals = [place for place in free if opposite(thing, place) and fits(scene, FAMILY_OF[thing.name], place)]
    if not goals:
        return None
    column, row = rng.choice(goals)
    return scene, with_thing(scene, number, thing._replace(column=column, row=row))


def opposite(thing: Thing, place: tuple[str, str]) -> bool:
    """Whether a place is straight across, or straight before, behind, above or below."""
    column, row = place
    across = row == thing.row and {column, thing.column} == {"left", "right"}
    return across or (column == thing.column and row != thing.row)


def both_twins(rng: Random, scene: Scene) -> tuple[Scene, Scene] | None:
    """Two look-alikes of the same colour, size and texture change places."""
    number, other = rng.sample(range(len(scene.things)), 2)
    thing, look_alike = scene.things[number], scene.things[other]
    alike = thing._replace(name=LOOK_ALIKE[thing.name], column=look_alike.column, row=look_alike.row)
    rest = [t for n, t in enumerate(scene.things) if n not in (number, other)]
    blocked = too_small(thing) or too_small(alike) or any(same_looks(thing, t) for t in rest)
    if blocked or not fits(scene, FAMILY_OF[thing.name], (look_alike.column, look_alike.row)):
        return None
    first = with_thing(scene, other, alike)
    exchanged = with_thing(first, number, thing._replace(name=alike.name))
    return first, with_thing(exchanged, other, alike._replace(name=thing.name))


def too_small(thing: Thing) -> bool:
    """Whether the detail that tells look-alikes apart would be lost in the pixels."""
    return thing.size == "small" and thing.row != "near"


def with_thing(scene: Scene, number: int, thing: Thing) -> Scene:
    """The scene with one thing replaced."""
    return scene._replace(things=(*scene.things[:number], thing, *scene.things[number + 1 :]))
