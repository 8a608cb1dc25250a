"""Questions to galleries with an answer, and to galleries without one: taken out, topic removed, elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from threeshnet.demo.words import NOUNS
from threeshnet.metrics.answerability import RESULTS, Calibration

TAKEN_OUT, TOPIC, ELSEWHERE = "taken out", "topic removed", "elsewhere"
SIZES = {"whole": 1, "quarter": 4, "tenth": 10}
POOLED = "all three sizes"
FEWEST_PHOTOS = 10  # that show a topic
ABSENT = -9.0  # below every similarity
# Words for things that are common in Flickr8k, chosen before anything was scored.
TOPICS: dict[str, tuple[str, ...]] = {
    "dog": ("dog", "dogs", "puppy", "puppies"),
    "snow": ("snow", "snowy", "ski", "skier", "skiing", "sled", "snowboard", "snowboarder"),
    "water": ("water", "ocean", "sea", "lake", "river", "pool", "beach", "wave", "waves", "surfer", "boat", "swimming"),
    "bicycle": ("bike", "bikes", "bicycle", "bicycles", "bicyclist", "cyclist", "biker"),
    "ball game": ("ball", "soccer", "football", "basketball", "baseball", "tennis", "volleyball", "rugby"),
    "climbing": ("climb", "climbs", "climbing", "climber", "cliff"),
    "skateboard": ("skateboard", "skateboarder", "skateboarding", "skateboards"),
    "motorcycle": ("motorcycle", "motorbike", "motorcyclist", "motorcross"),
    "horse": ("horse", "horses"),
    "child": ("child", "children", "kid", "kids", "boy", "boys", "girl", "girls", "baby", "toddler"),
}


class Encoded(NamedTuple):
    images: Any  # [G, D]
    captions: Any  # [Q, D]
    owners: Any  # [Q]
    texts: Sequence[str]
    ids: Sequence[str]


class Questions(NamedTuple):
    """Highest similarities, falling, of questions to one gallery that answers them, and to one that does not."""

    present: Any  # [Q, k]
    absent: Any  # [A, k]
    photos: tuple[int, int]  # of the two galleries
    levels: tuple[Any, Any]  # [Q] and [A]
    first: Any  # [Q] bool: whether the answer ranks first


def all_questions(
    calibration: Calibration, seen: Encoded, topics: Sequence[tuple[Any, Any]], elsewhere: Any
) -> Iterator[tuple[str, str, list[Questions]]]:
    """Of each kind and size of the gallery; `topics` are (photos that show it, sentences that name it)."""
    by_size = {name: taken_out(calibration, seen, count) for name, count in SIZES.items()}
    for name, questions in by_size.items():
        yield TAKEN_OUT, name, questions
    yield TAKEN_OUT, POOLED, [each for questions in by_size.values() for each in questions]
    everything = np.arange(len(seen.images))
    if topics:
        yield TOPIC, "whole", [removed(calibration, seen, *topic) for topic in topics]
    if elsewhere is not None:
        asked = asked_of(calibration, seen, np.arange(len(seen.captions)), everything)
        absent, levels = highest(elsewhere @ seen.images.T), (asked.levels[0], calibration.level(elsewhere))
        photos = (len(everything), len(everything))
        yield ELSEWHERE, "whole", [asked._replace(absent=absent, photos=photos, levels=levels)]


def taken_out(calibration: Calibration, seen: Encoded, count: int) -> list[Questions]:
    """The photos divided by chance into that many galleries, each asked for its own."""
    order = np.random.default_rng(0).permutation(len(seen.images))
    galleries = [np.sort(photos) for photos in np.array_split(order, count)]
    return [asked_of(calibration, seen, np.flatnonzero(np.isin(seen.owners, photos)), photos) for photos in galleries]


def removed(calibration: Calibration, seen: Encoded, shows: Any, names: Any) -> Questions:
    """Sentences that name a topic, to all photos and to those that do not show it."""
    asked = asked_of(calibration, seen, names, np.arange(len(seen.images)))
    absent = highest(seen.captions[names] @ seen.images[~shows].T)
    return asked._replace(absent=absent, photos=(len(shows), int((~shows).sum())))


def asked_of(calibration: Calibration, seen: Encoded, queries: Any, photos: Any) -> Questions:
    """These captions of a gallery with their photo, and of the same with it taken out."""
    scores = seen.captions[queries] @ seen.images[photos].T
    own = np.arange(len(queries)), np.searchsorted(photos, seen.owners[queries])
    without = scores.copy()
    without[own] = ABSENT
    level = calibration.level(seen.captions[queries])
    first = scores[own] > without.max(axis=1)
    sides = highest(scores), highest(without)[:, : len(photos) - 1]
    return Questions(*sides, (len(photos), len(photos) - 1), (level, level), first)


def highest(scores: Any) -> Any:
    return -np.sort(-scores, axis=1)[:, :RESULTS]


def topics_of(seen: Encoded, raw: Path | None) -> list[tuple[Any, Any]]:
    """(Photos that show it [G] bool, sentences that name it) of every topic with enough photos."""
    if raw is None:
        shown = {name: named(seen.texts, words) for name, words in TOPICS.items()}
        by_topic = {name: np.isin(np.arange(len(seen.images)), seen.owners[hit]) for name, hit in shown.items()}
    else:
        world = json.loads((raw / "dataset_demo.json").read_text())["images"]
        scenes = {Path(each["filename"]).stem: each["scene"] for each in world}
        things = [{thing["name"] for thing in scenes[name]["things"]} for name in seen.ids]
        names = sorted(set().union(*things))
        by_topic = {name: np.array([name in each for each in things]) for name in names}
        shown = {name: named(seen.texts, NOUNS.get(name, (name,))) for name in names}
    return [
        (shows, np.flatnonzero(shown[name]))
        for name, shows in by_topic.items()
        if shows.sum() >= FEWEST_PHOTOS and shown[name].any()
    ]


def named(texts: Sequence[str], words: Sequence[str]) -> Any:
    """Which sentences have one of the words, [Q] bool.

    >>> named(["A dog runs", "hotdogs"], ["dog"]).tolist()
    [True, False]
    """
    pattern = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)
    return np.array([bool(pattern.search(text)) for text in texts])
