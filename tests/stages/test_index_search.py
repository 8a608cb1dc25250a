"""Filters, exact search, near-duplicates and short forms, each against the obvious way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from omegaconf import OmegaConf

from threeshnet.cli.quick import quick_settings, run_quickly
from threeshnet.cli.validation import without_target
from threeshnet.cli.words import expanded
from threeshnet.errors import ConfigError, IndexFault
from threeshnet.index.approximate import Approximate, write_approximate
from threeshnet.index.cluster import Cluster
from threeshnet.index.duplicates import DISTANCE, LEAST_BITS, folded
from threeshnet.index.exact import nearest
from threeshnet.index.filters import Areas, allowed_rows, conditions_of
from threeshnet.index.objects import areas
from threeshnet.index.ranking import PENALTY, Hubs, Ranking, Wanted
from threeshnet.installation import CONF
from threeshnet.shards import leakage

CLASSES = ("dog", "sky-other-merged", "wall-brick", "wall-stone", "traffic light")
MAPS = np.full((4, 64, 64), 255, np.uint8)
MAPS[0, 20:40, :10] = 0  # a dog on the left
MAPS[0, 40:60, 50:] = 0  # and one on the right, below
MAPS[1, :20] = 1  # sky above
MAPS[2, 30:34, 30:34] = 4  # a light in the centre
MAPS[2, 50:] = 3
MAPS[3, 5, 5] = 0  # too small for a dog


class Photos:
    """Four photos, as filters read them."""

    class_names: Sequence[str] = CLASSES

    def __len__(self) -> int:
        return len(MAPS)

    def column(self, name: str) -> np.ndarray:
        days = [datetime(2024, month, 15).timestamp() for month in (1, 2, 3, 12)]
        found = {"file": ["a/x/1.jpg", "a/2.jpg", "ax/3.jpg", None], "taken": days, "bytes": [100, 10**6, 2 * 10**6, 0]}
        return np.array(found[name], object if name == "file" else None)

    def read_areas(self) -> Areas:
        lists = [areas(one) for one in MAPS]
        keys = ("class", "share", "x", "y")
        flat = [(row, *(area[key] for key in keys)) for row, own in enumerate(lists) for area in own]
        return Areas(*(np.array(column) for column in zip(*flat, strict=True)))


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("has:dog", [0]),
        ("has:DOG", [0]),
        ("!has:dog", [1, 2, 3]),
        ("count:dog>=2", [0]),
        ("count:dog=2", [0]),
        ("count:dog<1", [1, 2, 3]),
        ("share:sky>0.3", [1]),
        ("share:sky>30%", [1]),
        ("share:dog<=0.1", [1, 2, 3]),
        ("dog:left", [0]),
        ("dog:right", [0]),
        ("dog:top", []),
        ("dog:bottom", [0]),
        ("sky:top", [1]),
        ("sky:centre", []),
        ("traffic light:center", [2]),
        ("wall:bottom", [2]),
        ("folder:a", [0, 1]),
        ("folder:/a/x/", [0]),
        ("after:2024-02-15", [1, 2, 3]),
        ("before:2024-03", [0, 1]),
        ("after:2025", []),
        ("larger:1MB", [2]),
        ("smaller: 1KB", [0, 3]),
        ("has:dog folder:ax", []),
        ("!has:dog !has:sky !wall:bottom", [3]),
    ],
)
def test_filters(words: str, rows: list[int]) -> None:
    split = [words] if ": " in words or "traffic" in words else words.split()
    mask = allowed_rows(split, Photos())
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == rows


def test_wrong_filters_are_all_named_with_what_is_near() -> None:
    wrong = ["has:dgo", "dog:under", "count:dog", "after:yesterday", "larger:heavy", "dog", "share:dog>1.2.3"]
    wrong.append("sky-brick:top")
    with pytest.raises(ConfigError) as refused:
        allowed_rows(wrong, Photos())
    said = str(refused.value)
    for part in ("8 problems", "did you mean dog?", "places are: left, right", "count:dog>=2", "no day", "no size"):
        assert part in said
    assert allowed_rows([], Photos()) is None


FILTERS = [
    [],
    ["has:dog"],
    ["!has:dog"],
    ["has:wall"],
    ["count:dog<1"],
    ["count:dog=2"],
    ["share:sky>0.3"],
    ["dog:left"],
]
FILTERS += [["wall:bottom"], ["folder:a"], ["after:2024-02-15", "larger:1MB"], ["!dog:top", "before:2024-03"]]


@pytest.mark.parametrize("given", FILTERS)
def test_a_cluster_filters_as_we_do(given: list[str], cluster: Cluster) -> None:
    queries = np.random.default_rng(4).standard_normal((2, 6)).astype(np.float32)
    rows, scores = cluster.nearest(queries, 3, conditions_of(given, CLASSES))
    expected = nearest(cluster.index.rows.embeddings, queries, 3, allowed=allowed_rows(given, Photos()))
    assert rows.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The four photos in Qdrant's local mode."""
    pytest.importorskip("qdrant_client")
    index: Any = Photos()
    index.folder = tmp_path_factory.mktemp("cluster")
    index.manifest = SimpleNamespace(rows="rows-1", source=SimpleNamespace(model_hash="0" * 64, dim=6))
    index.rows = SimpleNamespace(embeddings=np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32))
    made = Cluster(index, str(index.folder / "qdrant"))
    with pytest.raises(IndexFault, match="does not hold threeshnet-cluster0-000000000000-rows-1; send it"):
        made.nearest(np.zeros((1, 6), np.float32), 1)
    made.push()
    made.push()
    return made


def test_areas_are_those_of_a_flood_fill() -> None:
    seg_map = np.random.default_rng(0).integers(0, 3, (16, 16)).astype(np.uint8)
    seg_map[seg_map == 2] = 255
    expected = []
    seen = np.zeros_like(seg_map, bool)
    for y, x in np.ndindex(seg_map.shape):
        if seg_map[y, x] == 255 or seen[y, x]:
            continue
        cells, edge = [], [(y, x)]
        seen[y, x] = True
        while edge:
            row, column = edge.pop()
            cells.append((row, column))
            for near in np.ndindex(3, 3):
                other = row + near[0] - 1, column + near[1] - 1
                inside = min(other) >= 0 and max(other) < 16
                if inside and not seen[other] and seg_map[other] == seg_map[y, x]:
                    seen[other] = True
                    edge.append(other)
        if len(cells) >= 4:
            rows, columns = np.array(cells).T
            centre = (columns.mean() + 0.5) / 16, (rows.mean() + 0.5) / 16
            expected.append((int(seg_map[y, x]), len(cells) / 256, *centre, columns.min() / 16, (rows.max() + 1) / 16))
    found = [(a["class"], a["share"], a["x"], a["y"], a["left"], a["bottom"]) for a in areas(seg_map)]
    np.testing.assert_allclose(sorted(found), sorted(expected))


@pytest.mark.parametrize("share", [None, 0.05, 0.5, 0.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_exact_search_is_a_sort_of_all_scores(share: float | None, with_bias: bool, monkeypatch) -> None:
    monkeypatch.setattr("threeshnet.index.exact.BLOCK_CELLS", 700)  # blocks that do not divide
    random = np.random.default_rng(1)
    items = random.standard_normal((301, 17)).astype(np.float32)
    items[7] = items[200]  # a tie
    queries = np.concatenate([random.standard_normal((4, 17)), items[7:8]]).astype(np.float32)
    allowed = None if share is None else random.random(301) < share
    bias = random.random(301) if with_bias else None
    rows, scores = nearest(items, queries, 23, allowed=allowed, bias=bias)
    everything = queries.astype(float) @ items.T.astype(float) - (0 if bias is None else bias)
    if allowed is not None:
        everything[:, ~allowed] = -np.inf
    count = min(23, 301 if allowed is None else int(allowed.sum()))
    assert rows.shape == (5, count)
    np.testing.assert_array_equal(rows, np.argsort(-everything, axis=1, kind="stable")[:, :count])
    np.testing.assert_allclose(scores, np.take_along_axis(everything, rows, 1), atol=1e-6)


@given(arrays.arrays(np.uint64, st.integers(0, 12), elements=st.integers(0, 2**64 - 1)))
def test_near_duplicates_are_those_of_two_loops(hashes: np.ndarray) -> None:
    hashes[::2] = hashes[::2] & np.uint64(0xF) | np.uint64(0x00FFFFFF00FFFF00)  # many alike
    expected: list[list[int]] = []
    for place, one in enumerate(hashes.tolist()):
        for group in expected:
            first = int(hashes[group[0]])
            if min(first.bit_count(), one.bit_count()) >= LEAST_BITS and (first ^ one).bit_count() <= DISTANCE:
                group.append(place)
                break
        else:
            expected.append([place])
    assert folded(hashes) == expected


def test_what_is_a_near_duplicate_is_said_once() -> None:
    assert (DISTANCE, LEAST_BITS) == (leakage.DISTANCE, leakage.LEAST_BITS)


class TestRanking:
    """What is ranked beyond a plain search, against the same in one line."""

    random = np.random.default_rng(2)
    items = random.standard_normal((60, 8)).astype(np.float32)
    query, other = random.standard_normal((2, 8)).astype(np.float32)
    none = np.zeros((0, 8), np.float32)

    def ranking(self, hashes: np.ndarray | None = None, hubs: Hubs | None = None) -> Ranking:
        def search(queries: np.ndarray, top: int, bias: np.ndarray | None = None):
            return nearest(self.items, queries, top, bias=bias)

        return Ranking(search, 60, hashes, hubs, None)

    def test_negatives(self) -> None:
        plain, turned = self.ranking()(
            [Wanted(self.query, self.none, True), Wanted(self.query, self.other[None], True)], 5
        )
        assert plain.rows.tolist() == np.argsort(-(self.items @ self.query))[:5].tolist()
        scores = self.items @ self.query - PENALTY * (self.items @ self.other)
        assert turned.rows.tolist() == np.argsort(-scores)[:5].tolist()
        np.testing.assert_allclose(turned.scores, np.sort(scores)[::-1][:5], atol=1e-5)

    def test_hubs_are_corrected_where_a_hub_is_nearest(self) -> None:
        bias = self.random.random(60)
        scores = self.items @ self.query
        (found,) = self.ranking(hubs=Hubs(bias, None))([Wanted(self.query, self.none, True)], 5)
        assert found.rows.tolist() == np.argsort(-(scores - bias))[:5].tolist()
        np.testing.assert_allclose(found.scores, scores[found.rows], atol=1e-5)
        hub = np.arange(60) == scores.argmax()
        (same,) = self.ranking(hubs=Hubs(bias, ~hub))([Wanted(self.query, self.none, True)], 5)
        assert same.rows.tolist() == np.argsort(-scores)[:5].tolist()
        (changed,) = self.ranking(hubs=Hubs(bias, hub))([Wanted(self.query, self.none, True)], 5)
        assert changed.rows.tolist() == found.rows.tolist()

    def test_many_duplicates_leave_as_many_results(self) -> None:
        hashes = np.full(60, 2**40 - 1, np.uint64)
        order = np.argsort(-(self.items @ self.query))
        hashes[order[-3:]] = [2**63, 2**62, 2**61]  # plain pictures: nothing is like them
        (found,) = self.ranking(hashes)([Wanted(self.query, self.none, True)], 4)
        assert [len(group) for group in found.groups] == [57, 1, 1, 1]
        assert [found.rows[group[0]] for group in found.groups] == [order[0], *order[-3:]]


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-flat"])
def test_an_approximate_search_finds_most_of_what_an_exact_one_does(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    random = np.random.default_rng(3)
    basis = random.standard_normal((12, 40))
    items = (random.standard_normal((2000, 12)) @ basis + 3).astype(np.float32)  # of low rank, and not centred
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries = items[:50] + 0.1 * random.standard_normal((50, 40)).astype(np.float32)
    write_approximate(tmp_path, items, kind)
    approximate = Approximate(tmp_path, items)
    for allowed in (None, random.random(2000) < 0.5):
        found = approximate.nearest(queries, 10, allowed=allowed)
        assert found is not None
        rows, _ = nearest(items, queries, 10, allowed=allowed)
        shared = [len(set(one) & set(other)) for one, other in zip(found[0].tolist(), rows.tolist(), strict=True)]
        assert np.mean(shared) > {"hnsw": 9, "ivf": 5, "ivf-flat": 5}[kind]
        exact = (items[found[0]] * queries[:, None]).sum(axis=2)
        np.testing.assert_allclose(found[1], exact, atol=1e-5)
        assert allowed is None or allowed[found[0]].all()
    assert approximate.nearest(queries, 10, allowed=np.arange(2000) < 3) is None


DEFAULTS = {"_target_": "x", "index": "???", "query": None, "top": 10, "filters": [], "fold": True, "out": None}
DEFAULTS["hydra"] = {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["i", "a dog"], ['index="i"', 'query="a dog"']),
        (["i", "x=y, a dog"], ['index="i"', 'query="x=y, a dog"']),
        (["index=i", "a dog", "--top", "3"], ["index=i", 'query="a dog"', "top=3"]),
        (["--no-fold", "--fold", "--fold=false"], ["fold=false", "fold=true", "fold=false"]),
        (
            ["--filters", "count:dog>=2", "i", "--filters=!has:cat"],
            ['index="i"', 'filters=["count:dog>=2","!has:cat"]'],
        ),
        (["--json", "-0", "--html", "a b.html"], ["format=json", "zero=true", "format=html", 'out="a b.html"']),
        (["--cfg", "job", "--help", "-m", "hydra.job.chdir=true", "+new=1", "unknown=x"], None),
        (['--query=-dog "quoted" \\', "--query", "--top"], ['query="-dog \\"quoted\\" \\\\"', 'query="--top"']),
    ],
)
def test_short_forms(words: list[str], expected: list[str] | None) -> None:
    assert expanded("search", words, DEFAULTS) == (words if expected is None else expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "c"], "'c' is a word too many"),
        (["--colour"], "no --colour"),
        (["--no-top"], "no --no-top"),
        (["--top"], "without its value"),
        (["--hydra", "x"], "no --hydra"),
        (["--html"], "without its value"),
    ],
)
def test_short_forms_that_do_not_exist(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        expanded("search", words, DEFAULTS)


@pytest.mark.parametrize(
    "words",
    [
        ["i", "a dog"],
        ["i", "x=y, a \\ dog", "--top", "3", "--json", "--no-fold"],
        [
            "index=a/b.c",
            "query=dog",
            "filters=[has,dog]",
            "text_weight=0.25",
            "out=null",
            "corrected=true",
            "zero=false",
        ],
        ["i", 'the "best" dog'],
        ["i", "costs $5 \\"],
        ["i", "--filters", "has:dog", "--filters", "!dog:left"],
        ["i", "--filters", "folder:a,b"],
        ["index=i", "query=007"],
        ["index=i", "query=True"],
        ["index=i", "query=a dog"],
        ["index=i", "query='a dog'"],
    ],
)
def test_quick_settings_are_those_of_hydra(words: list[str]) -> None:
    found = quick_settings("search", words)
    primary = yaml.safe_load((CONF / "search.yaml").read_text())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree: Any = OmegaConf.to_container(compose("search", expanded("search", words, primary)))
    tree = without_target(tree)
    if found is None:
        assert any(sign in " ".join(words) for sign in ('"', "$", ":", "=007", "=True", "=a dog", "'"))
    else:
        assert found.model_dump() == tree


@pytest.mark.parametrize(
    "words", [["i"], ["--help"], ["--cfg", "job"], ["i", "--top", "x"], ["i", "-m"], ["i", "a", "b"]]
)
def test_what_is_not_plain_or_is_wrong_is_left_to_hydra(words: list[str]) -> None:
    assert (quick_settings("search", words) is None) == (words != ["i"])
    assert not run_quickly("train", ["experiment=region_demo"])


def test_other_verbs_are_left_alone() -> None:
    assert expanded("train", ["--anything", "x"], {}) == ["--anything", "x"]
