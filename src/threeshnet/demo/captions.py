"""Captions of the demo world: claims about a scene, whether they are true of another, and their words.

A caption is built from claims that are true of its scene. Its tag is what tells the scene from its twin: the twins'
kind when the claims are false of the twin, and `plain` when they are true of both or there is no twin.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import NamedTuple

from threeshnet.demo.classes import COLUMNS
from threeshnet.demo.scene import Scene, Thing
from threeshnet.demo.words import mention, place_words, relation_words, stuff_words, verb

CAPTIONS = 5  # a photo
TELLING = 3  # of them tell a twin from its twin
WORDS = range(8, 19)
MOST_TRIES = 400


class Mention(NamedTuple):
    """What a caption says of a thing itself; None is not said."""

    name: str
    colour: str | None = None
    size: str | None = None
    texture: str | None = None


class Place(NamedTuple):
    """Where mention number `of` is: (column, left), (row, far) or (on, grass)."""

    of: int
    kind: str
    value: str


class Relation(NamedTuple):
    """How two mentions stand to each other: left, right, above, below, front, behind or beside."""

    one: int
    kind: str
    other: int


class Claims(NamedTuple):
    """All that a caption says."""

    mentions: tuple[Mention, ...]
    places: tuple[Place, ...] = ()
    relations: tuple[Relation, ...] = ()
    stuff: tuple[str, ...] = ()


class Caption(NamedTuple):
    """A sentence of a scene, what tells it from the twin, and all that it says."""

    sentence: str
    tag: str  # what, where, both or plain
    claims: Claims


def column(thing: Thing) -> int:
    """0 left, 1 middle, 2 right."""
    return COLUMNS.index(thing.column)


def near_columns(one: Thing, other: Thing) -> bool:
    """Whether two things are not at opposite sides."""
    return abs(column(one) - column(other)) <= 1


def in_air(thing: Thing) -> bool:
    """Whether a thing is above the horizon."""
    return thing.row == "air"


RELATIONS: dict[str, Callable[[Thing, Thing], bool]] = {
    "left": lambda one, other: column(one) < column(other),
    "right": lambda one, other: column(one) > column(other),
    "above": lambda one, other: in_air(one) and not in_air(other) and near_columns(one, other),
    "below": lambda one, other: in_air(other) and not in_air(one) and near_columns(one, other),
    "front": lambda one, other: (one.row, other.row) == ("near", "far") and near_columns(one, other),
    "behind": lambda one, other: (one.row, other.row) == ("far", "near") and near_columns(one, other),
    "beside": lambda one, other: one.row == other.row and abs(column(one) - column(other)) == 1,
}


def true_of(claims: Claims, scene: Scene) -> bool:
    """Whether the scene holds different things for the mentions such that every claim holds."""
    return set(claims.stuff) <= set(scene.stuff) and any(
        all(
            value in (None, getattr(thing, field))
            for thing, said in zip(chosen, claims.mentions, strict=True)
            for field, value in said._asdict().items()
        )
        and all(where(chosen[place.of], place.kind, scene) == place.value for place in claims.places)
        and all(RELATIONS[r.kind](chosen[r.one], chosen[r.other]) for r in claims.relations)
        for chosen in permutations(scene.things, len(claims.mentions))
    )


def where(thing: Thing, kind: str, scene: Scene) -> str:
    """The column or row of a thing, or the stuff that it is on."""
    return scene.under(thing.column, thing.row) if kind == "on" else getattr(thing, kind)


def describe(rng: Random, thing: Thing) -> Mention:
    """Some of what is true of a thing itself."""
    return Mention(
        thing.name,
        thing.colour if rng.random() < 0.6 else None,
        thing.size if thing.size != "medium" and rng.random() < 0.35 else None,
        thing.texture if thing.texture != "plain" and rng.random() < 0.55 else None,
    )


def locate(rng: Random, number: int, thing: Thing, scene: Scene) -> Place:
    """Something true of where a thing is."""
    kind = rng.choice(["column", "column", "row", "on"])
    return Place(number, kind, where(thing, kind, scene))


def relations_of(one: Thing, other: Thing) -> list[str]:
    """How two things stand to each other."""
    return [kind for kind, is_true in RELATIONS.items() if is_true(one, other)]


def relate(rng: Random, one: int, other: int, things: list[Thing]) -> Relation:
    """A true relation of two things; sides are as common as all the others."""
    kinds = relations_of(things[one], things[other])
    return Relation(one, rng.choice(kinds + [kind for kind in kinds if kind in ("left", "right")]), other)


class Speaker:
    """Puts true sentences about a scene together, from one random stream."""

    def __init__(self, rng: Random, scene: Scene) -> None:
        self.rng, self.scene = rng, scene

    def say(self, things: list[Thing]) -> tuple[Claims, str]:
        """Claims about two or three things, in this order, and a sentence that says them."""
        frames = [self.places, self.opening, self.relation, self.stage]
        frames += [self.three] if len(things) > 2 else []
        return self.rng.choice(frames)(things)

    def places(self, things: list[Thing]) -> tuple[Claims, str]:
        """`a red ball lies on the left and a small vase stands on the floor`"""
        mentions, (one, other) = self._mentions(things[:2])
        at = [locate(self.rng, n, things[n], self.scene) for n in range(2)]
        first, second = (place_words(self.rng, place.kind, place.value) for place in at)
        verbs = [self._verb(thing) for thing in things[:2]]
        link = self.rng.choice(["and", "while", ", and"])
        sentence = self.rng.choice(
            [
                f"{one} {verbs[0]} {first} {link} {other} {verbs[1]} {second}",
                f"there is {one} {first} and {other} {second}",
                f"{one} {first} and {other} {second}",
            ]
        )
        return Claims(mentions, tuple(at)), sentence

    def opening(self, things: list[Thing]) -> tuple[Claims, str]:
        """`on the left there is a red ball , and on the floor a small vase`"""
        mentions, (one, other) = self._mentions(things[:2])
        at = [locate(self.rng, n, things[n], self.scene) for n in range(2)]
        first, second = (place_words(self.rng, place.kind, place.value) for place in at)
        seen = self.rng.choice(["there is", "you see", "we can see", "is"])
        link = self.rng.choice([", and", "and", "while"])
        return Claims(mentions, tuple(at)), f"{first} {seen} {one} {link} {second} {seen} {other}"

    def relation(self, things: list[Thing]) -> tuple[Claims, str]:
        """`on the grass , a red ball lies to the left of a small vase`"""
        if not relations_of(*things[:2]):
            return self.places(things)
        mentions, (one, other) = self._mentions(things[:2])
        link = relate(self.rng, 0, 1, things)
        words = relation_words(self.rng, link.kind)
        claims = Claims(mentions, relations=(link,))
        choice = self.rng.randrange(3)
        if choice == 0:
            return claims, f"{self.rng.choice(['there is', 'this picture shows', 'you see'])} {one} {words} {other}"
        if choice == 1:
            at = locate(self.rng, 0, things[0], self.scene)
            sentence = f"{place_words(self.rng, at.kind, at.value)} , {one} {self._verb(things[0])} {words} {other}"
            return claims._replace(places=(at,)), sentence
        at = locate(self.rng, 1, things[1], self.scene)
        sentence = f"{one} {self._verb(things[0])} {words} {other} {place_words(self.rng, at.kind, at.value)}"
        return claims._replace(places=(at,)), sentence

    def stage(self, things: list[Thing]) -> tuple[Claims, str]:
        """`a red ball and a small vase , with a wall in the background`"""
        mentions, (one, other) = self._mentions(things[:2])
        stuff = self.scene.middle or self.scene.back
        words = stuff_words(self.rng, stuff)
        end = self.rng.choice([f"with {words} in the background", f"with {words} behind", f"with {words} at the back"])
        link, joined = (), "and"
        if relations_of(*things[:2]) and self.rng.random() < 0.7:
            link = (relate(self.rng, 0, 1, things),)
            joined = relation_words(self.rng, link[0].kind)
        return Claims(mentions, (), link, (stuff,)), f"{one} {joined} {other} {end}"

    def three(self, things: list[Thing]) -> tuple[Claims, str]:
        """`a red ball , a vase and , on the right , a clock` or two of three related"""
        mentions, (one, other, last) = self._mentions(things[:3])
        at = locate(self.rng, 2, things[2], self.scene)
        words = place_words(self.rng, at.kind, at.value)
        if relations_of(*things[:2]) and self.rng.random() < 0.7:
            link = relate(self.rng, 0, 1, things)
            joined = relation_words(self.rng, link.kind)
            start = self.rng.choice(["", "", "there is "])
            return Claims(mentions, (at,), (link,)), f"{start}{one} {joined} {other} , and {last} {words}"
        return Claims(mentions, (at,)), f"{one} , {other} and {last} {words}"

    def _mentions(self, things: list[Thing]) -> tuple[tuple[Mention, ...], list[str]]:
        said = tuple(describe(self.rng, thing) for thing in things)
        return said, [mention(self.rng, *one) for one in said]

    def _verb(self, thing: Thing) -> str:
        return verb(self.rng, thing, self.scene)


def captions(rng: Random, scene: Scene, twin: Scene | None = None, kind: str = "plain") -> list[Caption]:
    """`CAPTIONS` different sentences; `TELLING` of them tell the scene from its twin, if it has one."""
    speaker = Speaker(rng, scene)
    wanted = {kind: TELLING, "plain": CAPTIONS - TELLING} if twin is not None else {"plain": CAPTIONS}
    said: dict[str, Caption] = {}
    for attempt in range(MOST_TRIES):
        if len(said) == CAPTIONS:
            break
        claims, sentence = speaker.say(rng.sample(scene.things, min(3, len(scene.things))))
        tag = "plain" if twin is None or true_of(claims, twin) else kind
        # a scene may have next to nothing to say of one sort: then the other sort fills up
        open_ = wanted[tag] > 0 or attempt > MOST_TRIES // 2
        if open_ and len(sentence.split()) in WORDS and sentence not in said:
            said[sentence] = Caption(sentence, tag, claims)
            wanted[tag] -= 1
    if len(said) < CAPTIONS:
        raise RuntimeError(f"only {len(said)} captions found for {scene}")
    mixed = list(said.values())
    rng.shuffle(mixed)
    return mixed
