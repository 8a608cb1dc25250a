"""Whether a `manifest.json` says what a manifest says, looked at before any of it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from types import NoneType
from typing import Any

from threeshnet.forms import form_faults
from threeshnet.records import VOID
from threeshnet.shards.schema import FEATURE_TYPES, FIELDS

MAYBE = (int, NoneType)
TOP = {"dataset": str, "layout": dict, "splits": dict, "class_names": list, "left_out": list}
TOP_OPTIONAL = {
    "class_table": (str, NoneType),
    "label_names": list,
    "raw": str,
    "commit": str,
    "fingerprint": str,
    "masks": str,
}
TOP_OPTIONAL |= {"extractors": dict, "config": dict}
LAYOUT = {"region_width": MAYBE, "grid_width": MAYBE, "grid_size": (list, NoneType), "classes": MAYBE}
LAYOUT |= {"boxes": bool, "labels": bool, "dtypes": dict}
SPLIT = {"images": int, "captions": int, "shards": list}
SHARD = {"file": str, "images": int, "captions": int, "sha256": str}
LONGEST_NAME = 200  # of a data set or a split: both are parts of file names
BEYOND = 2**31  # rows are counted in int32


def manifest_faults(content: dict[str, Any]) -> Iterator[str]:
    """What is of another form than `Manifest.save` writes, or could not be: sizes below 1, files in other folders."""
    found = list(form_faults(content, TOP, TOP_OPTIONAL))
    if not found:
        found += _name_faults(content)
        found += [f"layout: {fault}" for fault in _layout_faults(content["layout"])]
        for name, split in content["splits"].items():
            found += [f"split {name[:LONGEST_NAME]!r}: {fault}" for fault in _split_faults(name, split)]
    yield from found


def _name_faults(content: dict[str, Any]) -> Iterator[str]:
    if not is_plain_name(content["dataset"]):
        yield f"dataset={content['dataset'][:LONGEST_NAME]!r} is no name of a data set"
    for key in ("class_names", "label_names", "left_out"):
        if not all(isinstance(name, str) for name in content.get(key, ())):
            yield f"{key} holds something else than texts"
    for name, maker in content.get("extractors", {}).items():
        if not isinstance(maker, dict):
            yield f"extractors.{name} is no object"


def _layout_faults(layout: Any) -> Iterator[str]:
    """Sizes and types; a field that is in `dtypes` has its sizes."""
    faults = list(form_faults(layout, LAYOUT))
    yield from faults
    if faults:
        return
    yield from (f"{key!r} is not a part of it" for key in layout if key not in LAYOUT)
    sides, dtypes = layout["grid_size"], layout["dtypes"]
    if sides is not None and not (len(sides) == 2 and all(type(side) is int and 0 < side < BEYOND for side in sides)):
        yield f"grid_size={sides}: expected height and width"
    yield from (f"dtypes names {name!r}; there are: {', '.join(FIELDS)}" for name in dtypes if name not in FIELDS)
    for name, dtype in dtypes.items():
        if dtype not in FEATURE_TYPES:
            yield f"dtypes.{name}={str(dtype)[:LONGEST_NAME]!r}; expected {' or '.join(FEATURE_TYPES)}"
    for field, key in (("region", "region_width"), ("grid", "grid_width"), ("seg", "classes")):
        size, most = layout[key], VOID if key == "classes" else BEYOND - 1
        if (field in dtypes) != (size is not None):
            yield f"{key}={size} with the fields {', '.join(dtypes) or 'none'}"
        elif size is not None and not 1 <= size <= most:
            yield f"{key}={size}: expected 1 to {most}"
    if ("grid" in dtypes) != (sides is not None):
        yield f"grid_size={sides} with the fields {', '.join(dtypes) or 'none'}"


def _split_faults(name: str, split: Any) -> Iterator[str]:
    if not is_plain_name(name):
        yield "no name of a split"
    faults = list(form_faults(split, SPLIT))
    for number, shard in enumerate([] if faults else split["shards"]):
        wrong = list(form_faults(shard, SHARD))
        faults += [f"shards[{number}]: {fault}" for fault in wrong]
        faults += [f"shards[{number}]: {key!r} is not a part of it" for key in shard if not wrong and key not in SHARD]
        if not wrong and not is_plain_name(shard["file"]):
            faults.append(f"shards[{number}]: {shard['file'][:LONGEST_NAME]!r} is not the name of a file here")
    counted = [split, *split["shards"]] if not faults else []
    for entry in counted:
        for key in ("images", "captions"):
            if not 0 <= entry[key] < BEYOND:
                faults.append(f"{key}={entry[key]}: expected 0 to {BEYOND - 1}")
    yield from faults


def is_plain_name(name: str) -> bool:
    """Whether a name stays in the folder that it is looked for in.

    >>> is_plain_name("train-00000.h5"), is_plain_name("../x.h5"), is_plain_name("/etc/passwd"), is_plain_name("")
    (True, False, False, False)
    """
    short = 0 < len(name) <= LONGEST_NAME and name.isprintable()
    return short and PurePath(name).name == name and "\\" not in name and name not in (".", "..")
