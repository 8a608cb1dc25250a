"""Verbs that start without Hydra, whose import takes longer than a search: for words that need none of its grammar.

The settings are those that Hydra would give, checked by the same models. Words that this file does not read (flags of
Hydra, interpolations, groups, lists of lists) and all errors are left to the usual door.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from threeshnet.cli.stopping import Interruption, stopped_by_signals
from threeshnet.cli.words import NO_SETTINGS, expanded
from threeshnet.errors import ThreeSHNetError
from threeshnet.installation import CONF, own_conf

QUICK = ("search",)
KEY = re.compile(r"(\w+)=(.*)", re.DOTALL)
QUOTED = re.compile(r'"((?:[^"\\$]|\\+[^"\\$])*)"')  # without quotes, dollars and last backslashes inside
PLAIN = re.compile(r"[A-Za-z0-9_./][\w./-]*")
LIST = re.compile(r"\[(.*)\]", re.DOTALL)
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?")
NAMED = {"null": None, "true": True, "false": False}


def run_quickly(verb: str, words: Sequence[str]) -> bool:
    """Run a verb whose words are plain, and say whether that was done."""
    if verb not in QUICK or own_conf() is not None:
        return False
    settings = quick_settings(verb, words)
    if settings is None:
        return False
    from threeshnet.cli.search import search_index

    try:
        with stopped_by_signals():
            search_index(settings)
        sys.stdout.flush()
    except (Exception, Interruption) as error:
        from threeshnet.cli.errors import report_errors

        failed = error

        def again() -> None:
            raise failed

        report_errors(again, verb, words)
    return True


def quick_settings(verb: str, words: Sequence[str]) -> Any:
    """The settings of a verb; None where Hydra has to read the words, or where they are wrong."""
    primary = yaml.safe_load((CONF / f"{verb}.yaml").read_text(encoding="utf-8"))
    tree = {key: value for key, value in primary.items() if key not in NO_SETTINGS}
    try:
        for word in expanded(verb, words, primary):
            pair = KEY.fullmatch(word)
            if pair is None or pair[1] not in tree:
                return None
            tree[pair[1]] = value_of(pair[2])
    except (ValueError, ThreeSHNetError):
        return None
    from threeshnet.cli.validation import model_of, setting_faults

    if "???" in tree.values() or setting_faults(verb, tree):
        return None
    return model_of(verb).model_validate(tree)


def value_of(text: str) -> Any:
    """What Hydra reads in a plain value.  Raises ValueError for any other.

    >>> value_of('"a dog"'), value_of("[has,dog]"), value_of("20"), value_of("null")
    ('a dog', ['has', 'dog'], 20, None)
    """
    if quoted := QUOTED.fullmatch(text):
        return quoted[1]
    if listed := LIST.fullmatch(text):
        return [value_of(part) for part in listed[1].split(",")] if listed[1] else []
    if text in NAMED:
        return NAMED[text]
    if NUMBER.fullmatch(text):
        return ast.literal_eval(text.lstrip("+"))
    if PLAIN.fullmatch(text) and not text[0].isdigit() and text.lower() not in (*NAMED, "nan", "inf", "infinity"):
        return text
    raise ValueError(repr(text))
