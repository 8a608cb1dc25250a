"""Any text at all, through the readers of captions and annotations, into a shard and out of it again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threeshnet.annotations.caption_lists import read_caption_lists
from threeshnet.annotations.captions import read_captions
from threeshnet.annotations.common import tidy
from threeshnet.annotations.karpathy import KarpathyReader
from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import ThreeSHNetError
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.manifest import Manifest

from ..shard_folders import write_shard

ANYTHING = st.text(st.characters(), max_size=60)  # lone surrogates, control characters and all
NAMES = ("images", "annotations", "filename", "split", "sentences", "raw", "imgid", "cocoid", "id", "file_name")
NAMES += ("image_id", "caption", "format", "dataset", "splits", "class_names", "left_out", "train", "shards")
NAMES += ("layout", "filepath")
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANYTHING,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | ANYTHING, inner, max_size=5),
    max_leaves=12,
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s"]
examples = settings(max_examples=60)


def refusal(call: Callable[[], Any]) -> str | None:
    """The message of a refusal; any other exception is a fault."""
    try:
        call()
    except ThreeSHNetError as refused:
        return str(refused)
    return None


@examples
@given(st.lists(ANYTHING, min_size=1, max_size=5))
def test_a_caption_of_any_text_can_be_written_and_read(texts: list[str]) -> None:
    import h5py

    captions = tuple(text for text in map(tidy, texts) if text) or ("a",)
    with tempfile.TemporaryDirectory() as folder:
        photo = Photo(texts[0] or "id", Path(folder) / "x.png", "train", captions)
        arrays = ImageArrays(grid=np.ones((1, 4, 3), np.float32))
        file = write_shard(Path(folder) / "x.h5", [photo], arrays, grid_size=(2, 2)).path
        with h5py.File(file) as shard:
            stored: Any = shard["caption/text"]
            assert len(stored.asstr()[:]) == len(captions)


@examples
@given(ANYTHING)
def test_any_text_has_wordpieces(text: str) -> None:
    (sentence,) = Wordpieces(VOCABULARY, max_wordpieces=9).encode([text.encode("utf-8", "replace").decode()])
    assert 2 <= len(sentence.ids) <= 9
    assert set(sentence.ids) <= set(range(len(VOCABULARY)))


@examples
@given(st.binary(max_size=200) | ANYTHING.map(lambda text: text.encode("utf-8", "surrogatepass")), st.data())
def test_a_caption_file_of_any_bytes_is_read_or_refused(content: bytes, data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from(["txt", "csv", "jsonl"]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"captions.{ending}"
        file.write_bytes(content)
        refused = refusal(lambda: read_captions(file))
        assert refused is None or file.name in refused


@examples
@given(TREES)
@pytest.mark.parametrize("name", ["dataset_x.json", "captions_train2017.json", "manifest.json"])
def test_json_of_any_form_is_read_or_refused(name: str, tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(json.dumps(tree))
        calls = {
            "dataset_x.json": [lambda: KarpathyReader(name="x", file=name).read(Path(folder))],
            "captions_train2017.json": [],
            "manifest.json": [lambda: Manifest.load(Path(folder))],
        }[name]
        for call in [*calls, lambda: read_caption_lists([file], name="x")]:
            refused = refusal(call)
            assert refused is None or name in refused or folder in refused
