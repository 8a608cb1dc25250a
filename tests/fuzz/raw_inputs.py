"""Hostile raw data: caption files, annotations, photos, published arrays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .arena import MAKE, Arena
from .attempts import Attempt
from .nonsense import TEXTS, Generator, flipped, pick, spoil_bytes
from .payloads import INTERPOLATIONS, spoiled

SHARDS = ("extractor=tiny", "accelerator=cpu", *MAKE)


def caption_text(generator: Generator) -> tuple[str, str]:
    """A name of a caption file and what stands in it."""
    ending = str(pick(generator, (".txt", ".csv", ".jsonl")))
    rows = [(f"{number}.png", str(pick(generator, (*TEXTS, *INTERPOLATIONS)))) for number in range(5)]
    rows.append((str(pick(generator, TEXTS)), "a caption"))
    if ending == ".txt":
        return f"captions{ending}", "".join(f"{name}\t{said}\n" for name, said in rows)
    if ending == ".csv":
        quoted = (f'"{name}","{said.replace(chr(34), chr(34) * 2)}"\n' for name, said in rows)
        return f"captions{ending}", "file,caption\n" + "".join(quoted)
    lines = [json.dumps({"file": name, "caption": said}) + "\n" for name, said in rows]
    return f"captions{ending}", "".join(lines)


def spoil_captions(folder: Path, generator: Generator) -> tuple[str, str]:
    """Put a hostile caption file into a folder; its name, and what is wrong with it."""
    for file in folder.glob("captions.*"):
        file.unlink()
    name, text = caption_text(generator)
    content, said = text.encode("utf-8", "surrogatepass"), "strange texts"
    way = generator.integers(5)
    if way == 0:
        content, said = flipped(bytearray(content), generator)
    elif way == 1:
        encoding = pick(generator, ("utf-16", "latin-1", "utf-8-sig"))
        content, said = text.encode(encoding, "replace"), f"encoded as {encoding}"
    elif way == 2:
        content, said = generator.bytes(3000), "random bytes"
    elif way == 3:
        lines = text.splitlines(keepends=True)
        generator.shuffle(lines)
        content = "".join(lines * 3)[: int(generator.integers(len(text)))].encode("utf-8", "replace")
        said = "lines shuffled, repeated and cut"
    (folder / name).write_bytes(content)
    return name, said


def captions(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.photos, folder)
    name, said = spoil_captions(raw, generator)
    return Attempt(["data=folder", f"raw={raw}", *SHARDS], f"{name}: {said}", (name, str(raw), "folder"))


def karpathy(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.karpathy, folder)
    file = raw / "dataset_flickr8k.json"
    content, said = spoiled(json.loads(file.read_text()), folder, generator)
    file.write_bytes(content)
    return Attempt(["data=flickr8k", f"raw={raw}", *SHARDS], said, (file.name, "flickr8k"))


def coco(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.coco, folder)
    kind, split = pick(generator, ("captions", "instances")), pick(generator, ("train2017", "val2017"))
    file = raw / "annotations" / f"{kind}_{split}.json"
    content, said = spoiled(json.loads(file.read_text()), folder, generator)
    file.write_bytes(content)
    words = ["data=coco2017", f"raw={raw}", "data.reader.dev_photos=2", f"data.reader.segmentation={kind}"]
    words[-1] = words[-1].replace("captions", "none")
    return Attempt([*words, *SHARDS], f"{kind}: {said}", (file.name, "coco2017"))


def photos(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.photos, folder)
    said = [f"{name}: {spoil_bytes(raw / name, generator)}" for name in ("0.png", "3.png")]
    on_error = pick(generator, ("skip", "stop"))
    words = ["data=folder", f"raw={raw}", f"on_error={on_error}", *SHARDS]
    return Attempt(words, "; ".join(said), ("0.png", "3.png"))


ODD_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "objects": lambda values: values.astype(object),
    "texts": lambda values: values.astype("U5"),
    "complex": lambda values: values.astype(np.complex64),
    "times": lambda values: values.astype("M8[s]"),
    "integers": lambda values: (values * 10).astype(np.int64),
    "doubles": lambda values: values.astype(np.float64) * 1e300,
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "scalar": lambda _: np.float32(3),
    "no rows": lambda values: values[:0],
    "a row less": lambda values: values[:-1],
    "a row more": lambda values: np.concatenate([values, values[:1]]),
    "one axis": lambda values: values.reshape(-1),
    "nine axes": lambda values: values.reshape(*[1] * 8, -1),
    "width 0": lambda values: values[..., :0],
    "columns": lambda values: np.asfortranarray(values),
    "NaN": lambda values: np.where(np.arange(values.size).reshape(values.shape) == 3, np.nan, values),
    "infinity": lambda values: np.full(values.shape, np.inf, np.float32),
    "zeros": lambda values: np.zeros_like(values),
    "negative": lambda values: -values.astype(np.float32) - 1,
    "beyond uint8": lambda values: values.astype(np.int32) + 300,
    "fields": lambda values: np.zeros(len(values), [("a", "f4"), ("b", "O")]),
}


def spoil_array(file: Path, generator: Generator) -> str:
    """Put another array into a .npy file, or damage it."""
    way = generator.integers(4)
    if way == 0:
        return spoil_bytes(file, generator)
    if way == 1:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {pick(generator, SHAPES)}, }}"
        text = header.ljust(117) + "\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4096))
        return f"header {header}"
    name = str(pick(generator, tuple(ODD_ARRAYS)))
    np.save(file, ODD_ARRAYS[name](np.load(file)), allow_pickle=True)
    return name


SHAPES = ("(2**40, 4)", "(1099511627776, 4, 6)", "(-1, 4, 6)", "(4, 4, -6)", "(4.5, 4, 6)", "()", "(4, 0, 6)", "'ab'")
SHAPES += ("(4, 99999999999999999999, 6)", "__import__('os').getpid()", "(" * 300, "(True, 4, 6)")


def npy(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.arrays, folder)
    file = pick(generator, sorted(raw.glob("*")))
    said = spoil_bytes(file, generator) if file.suffix == ".txt" else spoil_array(file, generator)
    return Attempt([f"raw={raw}", "progress=false"], f"{file.name}: {said}", (file.name, str(raw), "dev"))


def published(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    layout = str(pick(generator, ("region_files", "grid_files", "npz_files", "hdf5", "tsv")))
    raw = arena.copy(arena.published / layout, folder)
    file = pick(generator, sorted(file for file in raw.glob("*") if file.name != "captions.jsonl"))
    if file.suffix == ".npy":
        said = spoil_array(file, generator)
    elif file.suffix == ".npz" and generator.integers(2):
        said = spoil_members(file, generator)
    elif file.suffix == ".hdf5" and generator.integers(2):
        said = spoil_hdf5(file, generator)
    elif file.suffix == ".tsv" and generator.integers(2):
        said = spoil_cells(file, generator)
    else:
        said = spoil_bytes(file, generator)
    layout_word = [f"layout={layout}"] if generator.integers(2) else []
    names = (file.name, file.stem, str(raw), layout)
    return Attempt([f"raw={raw}", "progress=false", *layout_word], f"{layout} {file.name}: {said}", names)


def spoil_members(file: Path, generator: Generator) -> str:
    """Other arrays under the names of an .npz, objects among them; or one that unpacks to a gigabyte."""
    held = dict(np.load(file))
    name, odd = str(pick(generator, sorted(held))), str(pick(generator, tuple(ODD_ARRAYS)))
    if generator.integers(4) == 0:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
            header = "{'descr': '<f4', 'fortran_order': False, 'shape': (268435456, 1), }".ljust(117) + "\n"
            stream.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            for _ in range(64):
                stream.write(bytes(1 << 20))
        return "x: a gigabyte declared, 64 MB of zeros in 64 kB"
    held[name] = ODD_ARRAYS[odd](held[name] if held[name].ndim else held[name].reshape(1))
    np.savez(file, **held)
    return f"{name}: {odd}"


def spoil_hdf5(file: Path, generator: Generator) -> str:
    with h5py.File(file, "a") as opened:
        name, odd = str(pick(generator, sorted(opened))), str(pick(generator, tuple(ODD_ARRAYS)))
        values = opened[name][:]  # pyright: ignore
        del opened[name]
        try:
            opened[name] = ODD_ARRAYS[odd](values)
        except (TypeError, ValueError):
            return f"{name} removed"
    return f"{name}: {odd}"


def spoil_cells(file: Path, generator: Generator) -> str:
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    row, cell = int(generator.integers(len(lines))), int(generator.integers(len(lines[0])))
    lines[row][cell] = str(pick(generator, (*TEXTS[:9], "-1", "1e9", "99999999999999999999", "====", "QUJD")))
    file.write_bytes("\n".join("\t".join(line) for line in lines).encode("utf-8", "surrogatepass") + b"\n")
    return f"line {row} cell {cell} is {lines[row][cell][:20]!a}"


def caption_lists(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    raw = arena.copy(arena.published / "region_files", folder)
    (raw / "captions.jsonl").unlink()
    if generator.integers(2):
        name, said = spoil_captions(raw, generator)
    else:
        name = str(pick(generator, ("dataset_x.json", "captions_train2017.json")))
        source = arena.karpathy / "dataset_flickr8k.json"
        source = arena.coco / "annotations" / "captions_train2017.json" if name.startswith("captions") else source
        content, said = spoiled(json.loads(source.read_text()), folder, generator)
        (raw / name).write_bytes(content)
    words = [f"raw={raw}", "progress=false", *(["split=train"] if generator.integers(2) else [])]
    return Attempt(words, f"{name}: {said}", (name, str(raw), "captions", "region_files"))
