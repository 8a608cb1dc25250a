"""Values that nobody meant: what stands in for a number, a text, a node of JSON, a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Generator = np.random.Generator

TEXTS = (
    "",
    " ",
    "\x00",
    "bell\x07 escape\x1b[31m delete\x7f",
    "line one\nline two\r\nthree\u2028four",
    "שלום עולם, a dog مرحبا",
    "\u202eevil\u202c right to left",
    "👩‍👩‍👧‍👦 🐕 🇺🇳",
    "e\u0301" * 40 + "Z\u0351\u0343\u0342",
    "\ud800 lone surrogate",
    "\ufeffbom",
    "\ufffe\uffff",
    "dog " * 10_000,
    "x" * 100_000,
    "[PAD] [MASK] [CLS]",
    "${oc.env:HOME}",
    "../../../x",
    "東京の犬",
    "%s %n {0} \\u0000 \\",
    "<script>alert(1)</script>",
)
NUMBERS = (-1, 0, 1, -(2**31), 2**31, 2**63, 2**64, 10**30, -(10**400), 0.5, 1e308, float("nan"), float("inf"))
NODES = (None, True, False, [], {}, [None], {"": ""}, [[[[]]]], "null")


def pick(generator: Generator, values: Sequence[Any]) -> Any:
    return values[int(generator.integers(len(values)))]


def node(generator: Generator) -> Any:
    """Something that JSON can say."""
    kind = generator.integers(3)
    return pick(generator, (TEXTS, NUMBERS, NODES)[kind])


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is anything in a tree of dictionaries and lists."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found = [prefix] if prefix else []
    for key, child in children:
        found += paths_of(child, (*prefix, key))
    return found


def parent_of(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def spoil_tree(tree: Any, generator: Generator, changes: int = 1) -> str:
    """Change a tree of dictionaries and lists in place at a few places; says what was done."""
    said = []
    for _ in range(changes):
        path = pick(generator, paths_of(tree) or [()])
        if not path:
            break
        parent, key = parent_of(tree, path), path[-1]
        where = ".".join(map(str, path))
        action = pick(generator, ("replace", "replace", "replace", "remove", "double", "add"))
        if action == "remove":
            del parent[key]
        elif action == "double" and isinstance(parent, list):
            parent.append(parent[key])
        elif action == "add" and isinstance(parent, dict):
            parent[pick(generator, TEXTS)] = node(generator)
        else:
            action, parent[key] = "replace", node(generator)
            where += f" by {str(parent[key])[:20]!a}"
        said.append(f"{action} {where}")
    return "; ".join(said)


def spoiled_json(content: Any, generator: Generator) -> tuple[bytes, str]:
    """A file of JSON with something wrong in what it says or in how it is written."""
    way = generator.integers(10)
    if way < 6:
        tree = json.loads(json.dumps(content))
        said = spoil_tree(tree, generator, changes=int(generator.integers(1, 4)))
        return json.dumps(tree).encode(), said
    text = json.dumps(content)
    if way == 6:
        end = int(generator.integers(len(text)))
        return text[:end].encode(), f"truncated to {end} characters"
    if way == 7:
        depth = pick(generator, (100, 5_000, 200_000))
        return b'{"images":' + b"[" * depth + b"]" * depth + b"}", f"{depth} lists in each other"
    if way == 8:
        encoding = pick(generator, ("utf-8-sig", "utf-16", "utf-32", "cp037"))
        return text.encode(encoding), f"encoded as {encoding}"
    whole = bytearray(text.encode())
    return flipped(whole, generator)


def flipped(content: bytearray, generator: Generator, first: int | None = None) -> tuple[bytes, str]:
    """Some bytes, or some of the first ones, turned over."""
    count = int(pick(generator, (1, 4, 32, 256)))
    places = generator.integers(0, min(first or len(content), len(content)) or 1, count)
    for place in places:
        if content:
            content[place] ^= int(generator.integers(1, 256))
    return bytes(content), f"{count} bytes turned over"


def spoil_bytes(file: Path, generator: Generator) -> str:
    """Damage a file as disks and downloads do; says how."""
    content = bytearray(file.read_bytes())
    way = generator.integers(6)
    if way == 0:
        end = int(generator.integers(len(content) or 1))
        content, said = content[:end], f"truncated to {end} of {len(content)} bytes"
    elif way == 1:
        content, said = content + generator.bytes(1000), "1000 bytes too long"
    elif way == 2:
        start = int(generator.integers(len(content) or 1))
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
        said = f"zeros from {start}"
    elif way == 3:
        content, said = bytearray(), "empty"
    else:
        content, said = flipped(content, generator, first=pick(generator, (None, 600, 4096)))
    file.write_bytes(content)
    return said
