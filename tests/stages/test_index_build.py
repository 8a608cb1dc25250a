"""Bringing an index up to date: changes, interruptions, two at once, full disks, damaged photos."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from threeshnet.errors import ConfigError, DataError, IndexFault
from threeshnet.index import build
from threeshnet.index.build import Counts, Options, update_index
from threeshnet.index.index import Index
from threeshnet.index.sources import Encoded, Item

QUIET = Options(progress=False, text_tower=False)


class Stored:
    """A source of named contents whose embedding is made of their hash."""

    kind, raw, class_names, extractors = "photos", "", (), {}

    def __init__(self, contents: dict[str, str], dies_at: str = "") -> None:
        self.contents, self.dies_at = contents, dies_at
        self.encoded: list[str] = []

    def items(self) -> list[Item]:
        return [
            Item(n, name, name, None, len(text), hash(text)) for n, (name, text) in enumerate(self.contents.items())
        ]

    def key(self, item: Item) -> str:
        return hashlib.sha256(self.contents[item.id].encode()).hexdigest()

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        for item in items:
            text = self.contents[item.id]
            if text == self.dies_at:
                raise KeyboardInterrupt
            self.encoded.append(item.id)
            damaged = [f"{item.id}: torn"] if text.startswith("damaged") else []
            own = [] if damaged else [item]
            yield Encoded(own, vector(text)[: len(own)], {"sha256": [self.key(each) for each in own]}, damaged)


def vector(text: str) -> np.ndarray:
    return np.random.default_rng(list(text.encode())).standard_normal((1, 4)).astype(np.float32)


@pytest.fixture
def model() -> Any:
    """A retriever as far as the building of an index asks for one."""
    module = torch.nn.Linear(2, 2)
    return SimpleNamespace(
        model=module, name="model", card={}, encode_texts=lambda texts, **_: torch.zeros(len(texts), 4)
    )


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PART", 3)


def contents(out: Path) -> dict[str, str]:
    """What each item of an index is, found by its embedding alone; each is checked against its name."""
    index = Index.open(out)
    return dict(zip(index.column("id").tolist(), map(bytes, index.rows.embeddings), strict=True))


def expected(source: Stored) -> dict[str, bytes]:
    return {n: bytes(vector(text)[0]) for n, text in source.contents.items() if not text.startswith("damaged")}


def test_every_change_is_followed(model: Any, tmp_path: Path) -> None:
    held = {f"{n}.jpg": f"photo {n}" for n in range(11)}
    fewer = {name.replace("5", "V"): text for name, text in held.items() if name != "4.jpg"}
    steps: list[tuple[dict[str, str], dict[str, Any]]] = [
        (held, {"encoded": 11}),
        (held, {"unchanged": 11}),
        (held | {"11.jpg": "photo 11"}, {"encoded": 1, "unchanged": 11}),
        (held | {"3.jpg": "another"}, {"encoded": 1, "changed": 1, "unchanged": 10, "removed": 1}),
        (fewer, {"encoded": 1, "changed": 1, "unchanged": 8, "moved": 1, "removed": 2}),
        (fewer | {"copy": "photo 1", "bad": "damaged"}, {"unchanged": 10, "moved": 1, "unreadable": ["bad: torn"]}),
    ]
    for photos, counted in steps:
        source: Any = Stored(photos)
        counts = update_index(source, model, tmp_path, QUIET)
        nothing = dict.fromkeys(Counts._fields, 0) | {"unreadable": []}
        assert counts._asdict() == nothing | {"items": len(expected(source))} | counted
        assert contents(tmp_path) == expected(source)
        assert len(source.encoded) == counts.encoded + len(counts.unreadable)


@pytest.mark.parametrize("dies_at", [0, 4, 10])
def test_an_interruption_loses_a_part_at_most(model: Any, tmp_path: Path, dies_at: int) -> None:
    held = {f"{n}.jpg": f"photo {n}" for n in range(11)}
    killed: Any = Stored(held, f"photo {dies_at}")
    with pytest.raises(KeyboardInterrupt):
        update_index(killed, model, tmp_path, QUIET)
    with pytest.raises(IndexFault, match="has not finished: run it again"):
        Index.open(tmp_path)
    source: Any = Stored(held)
    counts = update_index(source, model, tmp_path, QUIET)
    assert (counts.encoded, counts.resumed) == (11 - dies_at // 3 * 3, dies_at // 3 * 3)
    assert contents(tmp_path) == expected(source)
    with torch.no_grad():
        model.model.weight += 1
    assert update_index(source, model, tmp_path, QUIET).encoded == 11


@pytest.mark.parametrize("at", ["_table", "save"])
def test_the_old_index_stays_until_the_new_one_is_whole(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    first: Any = Stored({"1.jpg": "photo 1"})
    second: Any = Stored({"2.jpg": "photo 2"})
    update_index(first, model, tmp_path, QUIET)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    owner = build.IndexManifest if at == "save" else build
    with monkeypatch.context() as patched:
        patched.setattr(owner, at, die)
        with pytest.raises(KeyboardInterrupt):
            update_index(second, model, tmp_path, QUIET)
    assert contents(tmp_path) == expected(first)
    counts = update_index(second, model, tmp_path, QUIET)
    assert (counts.encoded, counts.resumed, counts.removed) == (0, 1, 1)
    assert contents(tmp_path) == expected(second)
    assert sum(path.name.startswith("rows-") for path in tmp_path.iterdir()) == 1


def test_what_stops_an_indexing(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = Stored({"1.jpg": "photo 1", "bad.jpg": "damaged"})
    torn: Any = Stored({"bad.jpg": "damaged"})
    with build.locked(tmp_path / "a"), pytest.raises(ConfigError, match="is working there"):
        update_index(source, model, tmp_path / "a", QUIET)
    with pytest.raises(DataError, match=r"bad\.jpg: torn\n.*on_error=skip"):
        update_index(source, model, tmp_path / "a", Options("stop", False, text_tower=False))
    assert update_index(source, model, tmp_path / "a", QUIET).resumed == 1
    with pytest.raises(DataError, match="none of 1 items can be indexed: bad"):
        update_index(torn, model, tmp_path / "b", QUIET)
    monkeypatch.setattr("threeshnet.index.plan.free_bytes", lambda _: 100)
    with pytest.raises(ConfigError, match="are needed for 2 items and 0 MB are free; make room"):
        update_index(source, model, tmp_path / "c", QUIET)
