"""Hostile shards and manifests, for every command that reads shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .arena import Arena
from .attempts import Attempt
from .nonsense import TEXTS, Generator, pick, spoil_bytes, spoil_tree
from .payloads import INTERPOLATIONS, spoiled
from .raw_inputs import ODD_ARRAYS


def words_for(command: str, arena: Arena, shards: Path) -> list[str]:
    """The good command line of a command, with these shards in place of the good ones."""
    from .arena import GOOD

    words = [word for word in GOOD[command](arena) if not word.startswith("shards=")]
    return [*words, f"shards={shards}"]


def shards(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """Damaged or strange shard files; half of them with a manifest that vouches for them."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        copy = arena.copy(arena.shards, folder)
        file = pick(generator, sorted(copy.glob("*.h5")))
        way = generator.integers(10)
        said = spoil_bytes(file, generator) if way < 4 else spoil_inside(file, generator)
        if generator.integers(2):
            vouch(copy, file)
            said += "; vouched for"
        words = words_for(command, arena, copy)
        if command == "train" and generator.integers(4) == 0:
            words.append("highlights=1")
        return Attempt(words, f"{file.name}: {said}", (file.name, str(copy), file.name.split("-")[0]))

    return made


def vouch(folder: Path, file: Path) -> None:
    """Put the checksum that a file has now into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if shard["file"] == file.name:
                shard["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil_inside(file: Path, generator: Generator) -> str:
    """Write something into a shard that no writer of ours would."""
    with h5py.File(file, "a") as opened:
        keys: list[str] = []
        opened.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
        key = str(pick(generator, keys))
        name = str(pick(generator, tuple(SPOILERS)))
        return f"{key}: {SPOILERS[name](opened, key, generator) or name}"


def replaced(opened: h5py.File, key: str, values: Any, **options: Any) -> None:
    attributes = dict(opened[key].attrs)
    del opened[key]
    opened.create_dataset(key, data=values, **options).attrs.update(attributes)


def remove(opened: h5py.File, key: str, _: Generator) -> None:
    del opened[key]


def odd_array(opened: h5py.File, key: str, generator: Generator) -> str:
    name = str(pick(generator, tuple(ODD_ARRAYS)))
    stored: Any = opened[key]
    values = stored[:]
    try:
        values = ODD_ARRAYS[name](values)
        if values.dtype.kind in "OUM" or values.dtype.hasobject:
            values = np.array(["text"] * len(values), object)
        replaced(opened, key, values)
    except (TypeError, ValueError):
        replaced(opened, key, np.zeros(3))
    return name


def external(opened: h5py.File, key: str, generator: Generator) -> str:
    target = str(pick(generator, ("nowhere.h5", "/etc/passwd", "../manifest.json", opened.filename)))
    del opened[key]
    opened[key] = h5py.ExternalLink(target, f"/{key}")
    return f"external link to {Path(target).name}"


def soft(opened: h5py.File, key: str, generator: Generator) -> str:
    target = str(pick(generator, ("/nowhere", f"/{key}", "/", "/image/id")))
    del opened[key]
    opened[key] = h5py.SoftLink(target)
    return f"soft link to {target}"


def group(opened: h5py.File, key: str, _: Generator) -> None:
    del opened[key]
    opened.create_group(key)["x"] = np.zeros(3)


def huge(opened: h5py.File, key: str, generator: Generator) -> str:
    dataset: Any = opened[key]
    shape, kind = dataset.shape, dataset.dtype
    place, size = int(generator.integers(len(shape))), int(pick(generator, (2**31, 2**40, 2**62)))
    larger = tuple(size if axis == place else length for axis, length in enumerate(shape))
    attributes = dict(dataset.attrs)
    del opened[key]
    try:
        opened.create_dataset(key, shape=larger, dtype=kind, chunks=tuple(min(8, n) for n in larger))
    except (ValueError, OSError):
        opened.create_dataset(key, shape=(2**31, *shape[1:]), dtype=kind, chunks=tuple(min(8, n) for n in shape))
    opened[key].attrs.update(attributes)
    return f"shape {opened[key].shape} declared"  # pyright: ignore


def numbers(opened: h5py.File, key: str, generator: Generator) -> str | None:
    """Numbers that cannot be, in some rows."""
    dataset: Any = opened[key]
    if dataset.dtype.kind in "iu":
        limits = np.iinfo(dataset.dtype)
        value: Any = pick(generator, (limits.min, limits.max, limits.max // 2, 7))
    elif dataset.dtype.kind == "f":
        value = pick(generator, (np.nan, np.inf, -np.inf, 6e4, -6e4, 0.0))
    else:
        return texts(opened, key, generator)
    rows = slice(None) if generator.integers(2) else slice(0, 1)
    dataset[rows] = value
    return f"{value} in {'all rows' if rows == slice(None) else 'row 0'}"


def texts(opened: h5py.File, key: str, generator: Generator) -> str:
    dataset: Any = opened[key]
    text = str(pick(generator, TEXTS)).replace("\x00", "\x01")
    stored = text.encode("utf-8", "surrogatepass")
    if dataset.dtype.kind != "O":
        replaced(opened, key, np.array([stored[:100]] * len(dataset)))
    else:
        dataset[0] = stored
    return f"text {text[:20]!a}"


def descending(opened: h5py.File, key: str, _: Generator) -> None:
    dataset: Any = opened[key]
    dataset[:] = dataset[:][::-1]


def attribute(opened: h5py.File, _: str, generator: Generator) -> str:
    place: Any = pick(generator, (opened, opened.get("grid/features", opened)))
    name = str(pick(generator, tuple(place.attrs) or ("images",)))
    value = pick(generator, ("text", -1, 2**62, np.zeros(3), np.nan, None))
    place.attrs.pop(name, None)
    if value is not None:
        place.attrs[name] = value
    return f"attribute {name} is {value}"


SPOILERS: dict[str, Callable[[h5py.File, str, Generator], str | None]] = {
    function.__name__: function
    for function in (
        *(remove, odd_array, odd_array, external, soft, group, huge, numbers, numbers, texts),
        *(descending, attribute),
    )
}


def manifests(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """Manifests that are torn, strange, or lie."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        copy = arena.copy(arena.shards, folder)
        file = copy / "manifest.json"
        content = json.loads(file.read_text())
        if generator.integers(2):
            written, said = spoiled(content, folder, generator)
        else:
            said = lie(content, generator)
            written = json.dumps(content).encode()
        file.write_bytes(written)
        # A lie about a shard is found at the shard: its name will do.
        return Attempt(words_for(command, arena, copy), said, ("manifest", str(copy), "class table", "synthetic"))

    return made


def lie(content: dict[str, Any], generator: Generator) -> str:
    """Change one thing that decides what is read."""
    split = str(pick(generator, sorted(content["splits"])))
    entry = content["splits"][split]
    shard = entry["shards"][0]
    outside = ("../../x.h5", "/etc/passwd", "../synthetic/dev-00000.h5", "", ".", "a\x00b", "x" * 300, "~/x.h5", 5)
    ways: dict[str, Callable[[], Any]] = {
        "file": lambda: shard.update(file=pick(generator, outside)),
        "images": lambda: (shard.update(images=10**6), entry.update(images=10**6)),
        "captions": lambda: (shard.update(captions=0), entry.update(captions=0)),
        "negative images": lambda: shard.update(images=-3),
        "split total": lambda: entry.update(images=entry["images"] + pick(generator, (-1, 1, 10**12))),
        "no shards": lambda: entry.update(shards=[]),
        "the same shard twice": lambda: entry["shards"].append(dict(shard)),
        "class names": lambda: content.update(class_names=["a", "b"]),
        "class table": lambda: content.update(class_table="unknown-7"),
        "future format": lambda: content.update(format=pick(generator, (2, 99, "1", 1.5, None, True))),
        "classes": lambda: content["layout"].update(classes=pick(generator, (0, -1, 10**9, "5", None, 300))),
        "width": lambda: content["layout"].update(region_width=pick(generator, (0, -8, 10**9, "8", None, 8.0))),
        "grid size": lambda: content["layout"].update(grid_size=pick(generator, ([7], [0, 0], [-7, -7], "77", [7, 8]))),
        "types": lambda: content["layout"].update(dtypes=pick(generator, ({}, {"region": "float16"}, [], {"x": "f8"}))),
        "boxes": lambda: content["layout"].update(boxes=pick(generator, (False, True, "no", None))),
        "splits": lambda: content.update(splits=pick(generator, ({}, [], {"": entry}, {"train": entry}, None))),
        "dataset": lambda: content.update(
            dataset=pick(generator, ("../x", "", 5, None, "\x1b[31m", "x" * 10**5, INTERPOLATIONS[0]))
        ),
        "a key more": lambda: shard.update(surprise=1),
        "raw": lambda: content.update(raw=pick(generator, ("/nowhere", "\x00", 5, None))),
        "left out": lambda: content.update(left_out=pick(generator, (["x"] * 10**5, 5, "text", [None]))),
        "tree": lambda: spoil_tree(content["layout"], generator),
    }
    name = str(pick(generator, tuple(ways)))
    ways[name]()
    return f"{name} of {split}"
