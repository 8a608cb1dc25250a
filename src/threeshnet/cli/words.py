"""Short forms of the command line: what a person types becomes the `key=value` of Hydra, which alone is parsed.

threeshnet search photos.index "a dog" --top 20 --json
threeshnet search index="photos.index" query="a dog" top=20 format=json
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from threeshnet.errors import ConfigError
from threeshnet.overrides import text


class ShortForms(NamedTuple):
    """Of one verb: the keys of its words without a key, in order, and what its own flags stand for."""

    positional: tuple[str, ...]
    flags: Mapping[str, tuple[str, ...]] = {}  # flag -> overrides; one that ends with `=` takes the next word


VERBS = {
    "index": ShortForms(("checkpoint", "raw", "out")),
    "search": ShortForms(
        ("index", "query"),
        {
            "--json": ("format=json",),
            "--csv": ("format=csv",),
            "--paths": ("format=paths",),
            "-0": ("zero=true",),
            "--html": ("format=html", "out="),
        },
    ),
    "serve": ShortForms(("index",)),
}
OF_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"}
NO_SETTINGS = ("_target_", "defaults", "hydra")
OF_HYDRA_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name", "-cn"}
OF_HYDRA_WITH_VALUE |= {"--config-dir", "-cd", "--experimental-rerun"}
OVERRIDE = re.compile(r"[+~]{0,2}([A-Za-z_][\w/@]*)[\w.@/:-]*=")
FLAG = re.compile(r"--(no-)?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)


def expanded(verb: str, words: Sequence[str], defaults: Mapping[str, Any]) -> list[str]:
    """The words after a verb with every short form written out; `defaults` are the keys of its file in conf/.

    Raises ConfigError for a flag that does not exist, one without its value, and a word too many.

    >>> expanded("search", ["photos", "a dog", "--top", "20", "--json"], {"index": "???", "query": None, "top": 10})
    ['index="photos"', 'query="a dog"', 'top=20', 'format=json']
    """
    if verb not in VERBS:
        return list(words)
    forms, rest = VERBS[verb], list(words)
    done: list[str] = []
    several: dict[str, list[str]] = {}
    named = {word.partition("=")[0] for word in words if _is_override(word, defaults)}
    positional = [key for key in forms.positional if key not in named]
    while rest:
        word = rest.pop(0)
        if word in forms.flags:
            done += [each + _quoted(word, rest) if each.endswith("=") else each for each in forms.flags[word]]
        elif word in OF_HYDRA_WITH_VALUE:
            done += [word, *rest[:1]]
            rest = rest[1:]
        elif word in OF_HYDRA or word.partition("=")[0] in OF_HYDRA_WITH_VALUE or _is_override(word, defaults):
            done.append(word)
        elif word.startswith("--"):
            key, _, value = _flag(verb, word, rest, defaults).partition("=")
            if isinstance(defaults[key], list):  # given several times, it has several values
                several.setdefault(key, []).append(value)
            else:
                done.append(f"{key}={value}")
        elif positional:
            done.append(text(positional.pop(0), word))
        else:
            places = " ".join(f"<{key}>" for key in forms.positional)
            raise ConfigError(
                f"{word!r} is a word too many: threeshnet {verb} {places} [key=value …]; put a sentence in quotes"
            )
    return [*done, *(f"{key}=[{','.join(values)}]" for key, values in several.items())]


def _is_override(word: str, defaults: Mapping[str, Any]) -> bool:
    """Whether a word sets a key, also one that Hydra will refuse; `x=y` in a sentence of several words does not."""
    override = OVERRIDE.match(word)
    if override is None:
        return False
    names_a_setting = override[1] in defaults or override[1].startswith("hydra") or word[0] in "+~"
    return names_a_setting or len(word.split()) == 1


def _flag(verb: str, word: str, rest: list[str], defaults: Mapping[str, Any]) -> str:
    flag = FLAG.fullmatch(word)
    key = flag[2].replace("-", "_") if flag else ""
    keys = [key for key in defaults if key not in NO_SETTINGS]
    if flag is None or key not in keys or (flag[1] and not isinstance(defaults[key], bool)):
        flags = ", ".join([*VERBS[verb].flags, *(f"--{key}" for key in keys)])
        raise ConfigError(f"threeshnet {verb} has no {word}; there are: {flags}")
    if flag[1] or (isinstance(defaults[key], bool) and flag[3] is None):
        return f"{key}={str(not flag[1]).lower()}"
    value = flag[3] if flag[3] is not None else _next(word, rest)
    return f"{key}={value}" if isinstance(defaults[key], bool | int | float) else text(key, value)


def _next(word: str, rest: list[str]) -> str:
    if not rest:
        raise ConfigError(f"{word} is given without its value")
    return rest.pop(0)


def _quoted(word: str, rest: list[str]) -> str:
    return text("", _next(word, rest)).removeprefix("=")
