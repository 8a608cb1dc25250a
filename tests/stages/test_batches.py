"""Tokenizing, augmentation, samplers and collation, each by itself."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.collate import collate_images
from threeshnet.batches.dataset import CaptionDataset, ImageDataset, TextDataset
from threeshnet.batches.order import CaptionBatches, EveryItemOnce
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.errors import ConfigError, DataError
from threeshnet.records import ImageArrays
from threeshnet.shards.texts import Texts

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = ("a", "red", "bike", "##s", "dog", ".", "[", "]", "sep", "cafe")


@pytest.fixture(scope="module")
def tokenizer() -> Wordpieces:
    return Wordpieces([*SPECIALS, *WORDS])


class FakeSplit:
    """A split in memory that writes down what was read."""

    def __init__(self, images: int, first: int = 0) -> None:
        self.images = images
        self.owners = np.repeat(np.arange(images, dtype=np.int32), 2)
        self.caption_texts = ["a red dog" if row % 2 else "bikes" for row in range(2 * images)]
        self.arrays = [np.full((3 + number, 4), first + number, np.float16) for number in range(images)]
        self.asked: list[list[int]] = []

    def read(
        self, numbers: Sequence[int], fields: Collection[str] | None = None, *, extras: bool = True
    ) -> ImageArrays:
        assert not extras  # no model reads scores and labels
        assert fields == ("region", "grid")
        self.asked.append(list(numbers))
        grid = np.stack([np.full((4, 6), self.arrays[number][0, 0], np.float16) for number in numbers])
        return ImageArrays(regions=[self.arrays[number] for number in numbers], grid=grid)


# --- tokenizers


def test_golden_wordpiece_ids() -> None:
    tokenizer = Wordpieces.from_file(GOLDEN / "bert")
    captions = (GOLDEN / "precomp" / "testall_caps.txt").read_text().splitlines()
    expected = load_file(GOLDEN / "precomp" / "expected.safetensors")["caption_input_ids"]
    found = tokenizer(captions)
    assert torch.equal(found.values, expected)
    assert torch.equal(found.mask, expected != 0)


def test_bert_rules(tokenizer: Wordpieces) -> None:
    piece = dict(zip([*SPECIALS, *WORDS], range(99), strict=False))
    ids = tokenizer.encode(["Café, RED  bikes."])[0]
    named = ["[CLS]", "cafe", "[UNK]", "red", "bike", "##s", ".", "[SEP]"]
    assert ids.ids == [piece[name] for name in named]
    assert ids.words == [None, 0, 1, 2, 3, 3, 4, None]


def test_a_special_name_in_a_caption_is_only_text(tokenizer: Wordpieces) -> None:
    assert tokenizer.encode(["a [SEP]"])[0].ids[2:-1] == tokenizer.encode(["[ sep ]"])[0].ids[1:-1]


def test_long_captions_are_cut_and_keep_their_end(tokenizer: Wordpieces) -> None:
    short = Wordpieces(tokenizer.vocabulary, max_wordpieces=5).encode(["a red dog a red dog"])[0]
    assert len(short.ids) == 5
    assert short.ids[-1] == tokenizer.sep_id
    assert len(tokenizer.encode(["a " * 500])[0].ids) == 128


def test_padding_masks_by_length_and_not_by_id(tokenizer: Wordpieces) -> None:
    padded = tokenizer.pad([np.array([2, tokenizer.pad_id, 3]), [2, 3]])
    assert padded.mask.tolist() == [[True] * 3, [True, True, False]]
    assert padded.values.dtype == torch.int64
    assert tokenizer.pad([]).values.shape == (0, 0)


def test_vocabulary_faults_are_named_together(tokenizer: Wordpieces, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[MASK\] is missing(.|\n)*'a' occurs more than once"):
        Wordpieces([*SPECIALS[:-1], "a", "a"])
    with pytest.raises(DataError, match="no such vocabulary"):
        Wordpieces.from_file(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*tokenizer.vocabulary, "\u2028"]) + "\n", encoding="utf-8")
    assert len(Wordpieces.from_file(tmp_path)) == len(tokenizer) + 1
    with pytest.raises(DataError, match=r"'a\\nb' contains a line end"):
        Wordpieces([*SPECIALS, "a\nb"])


def test_a_vocabulary_is_one_text(tokenizer: Wordpieces) -> None:
    longer = Wordpieces([*tokenizer.vocabulary, "\u2028", "\r"])
    assert Wordpieces.from_lines(longer.lines).vocabulary == longer.vocabulary


# --- augmentation


@given(count=st.integers(1, 40), probability=st.floats(0, 1), seed=st.integers(0, 9))
def test_dropping_keeps_at_least_one_in_order(count: int, probability: float, seed: int) -> None:
    kept = DropTokens(probability=probability)(count, np.random.default_rng(seed))
    assert 1 <= len(kept) <= count
    assert (np.diff(kept) > 0).all()
    assert set(kept.tolist()) <= set(range(count))


def test_dropping_drops_the_share_it_says() -> None:
    kept = DropTokens(probability=0.2)(100_000, np.random.default_rng(0))
    assert abs(len(kept) / 100_000 - 0.8) < 0.01


@given(seed=st.integers(0, 50), lengths=st.lists(st.integers(1, 4), max_size=8))
@pytest.mark.parametrize(("mask", "random"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_wordpieces_share_the_fate_of_their_word(mask: float, random: float, seed: int, lengths: list[int]) -> None:
    tokenizer = Wordpieces([*SPECIALS, *WORDS])
    numbers = [word for word, length in enumerate(lengths) for _ in range(length)]
    ids = [tokenizer.cls_id, *range(1000, 1000 + len(numbers)), tokenizer.sep_id]
    alter = AlterWords(tokenizer=tokenizer, probability=0.5, mask=mask, random=random)
    altered = alter(ids, [None, *numbers, None], np.random.default_rng(seed)).tolist()
    assert (altered[0], altered[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
    stayed = [piece for piece in altered[1:-1] if piece >= 1000]
    assert stayed == [1000 + place for place, word in enumerate(numbers) if word in {numbers[p - 1000] for p in stayed}]
    changed = [piece for piece in altered[1:-1] if piece < 1000]
    assert len(changed) == (len(numbers) - len(stayed) if mask or random else 0)
    assert not mask or set(changed) <= {tokenizer.mask_id}
    assert not random or not set(changed) & tokenizer.special_ids


def test_words_are_altered_in_the_shares_of_the_recipe(tokenizer: Wordpieces) -> None:
    count = 50_000
    ids = [tokenizer.cls_id, *[1_000] * count, tokenizer.sep_id]
    altered = AlterWords(tokenizer=tokenizer)(ids, [None, *range(count), None], np.random.default_rng(0))
    shares = Counter(altered[1:-1].tolist())
    assert abs(shares[tokenizer.mask_id] / count - 0.1) < 0.005
    assert abs((count - (len(altered) - 2)) / count - 0.08) < 0.005
    swapped = sum(number for piece, number in shares.items() if piece not in (1_000, tokenizer.mask_id))
    assert abs(swapped / count - 0.02) < 0.003
    assert not tokenizer.special_ids - {tokenizer.mask_id} & set(shares)


def test_impossible_shares_are_refused(tokenizer: Wordpieces) -> None:
    with pytest.raises(ConfigError, match=r"drop_tokens(.|\n)*probability=1\.5"):
        DropTokens(probability=1.5)
    with pytest.raises(ConfigError, match="at most 1"):
        AlterWords(tokenizer=tokenizer, mask=0.8, random=0.4)


# --- samplers


@settings(deadline=None, max_examples=60)
@given(
    captions=st.integers(1, 60),
    share=st.integers(1, 5),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_batches_are_those_of_one_process(
    captions: int, share: int, world_size: int, drop_last: bool, epoch: int
) -> None:
    options = {"batch_size": share * world_size, "seed": 3, "drop_last": drop_last}
    if captions < (share * world_size if drop_last else world_size):
        with pytest.raises(ConfigError, match="do not fill one batch"):
            CaptionBatches(captions, world_size=world_size, **options)
        return
    samplers = [CaptionBatches(captions, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    alone = CaptionBatches(captions, **options)
    for sampler in (*samplers, alone):
        sampler.set_epoch(epoch)
    shares = [list(sampler) for sampler in samplers]
    assert len({len(batches) for batches in shares}) == 1
    assert all(len(batches) == len(sampler) for batches, sampler in zip(shares, samplers, strict=True))
    assert all(batch for batches in shares for batch in batches)
    joined = [[item for rank in parts for item in rank] for parts in zip(*shares, strict=True)]
    assert joined == list(alone)[: len(joined)]
    assert len(list(alone)) - len(joined) <= (not drop_last)
    rows = [row for batch in alone for _, row in batch]
    assert len(rows) == len(set(rows))
    assert drop_last or sorted(rows) == list(range(captions))
    assert {number for batch in alone for number, _ in batch} == {epoch}


def test_a_resumed_epoch_skips_what_was_done_once() -> None:
    batches = CaptionBatches(20, batch_size=5)
    whole = list(batches)
    batches.start_at(3)
    assert list(batches) == whole[3:]
    assert len(batches) == 4
    batches.set_epoch(1)
    assert len(list(batches)) == 4
    with pytest.raises(ConfigError, match="batch 9 of an epoch of 4"):
        batches.start_at(9)


def test_batches_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size=10 counts all processes and does not divide by 4; take 8 or 12"):
        CaptionBatches(100, batch_size=10, world_size=4)
    with pytest.raises(ConfigError, match="7 captions do not fill one batch: batch_size=8"):
        CaptionBatches(7, batch_size=8)
    with pytest.raises(ConfigError, match="seed=-1"):
        CaptionBatches(100, batch_size=10, seed=-1)


@given(items=st.integers(0, 30), batch_size=st.integers(1, 7), world_size=st.integers(1, 4))
def test_evaluation_deals_out_each_item_once(items: int, batch_size: int, world_size: int) -> None:
    order = np.random.default_rng(0).permutation(items)
    samplers = [
        EveryItemOnce(items, batch_size=batch_size, rank=r, world_size=world_size, order=order)
        for r in range(world_size)
    ]
    dealt = [number for sampler in samplers for batch in sampler for number in batch]
    assert sorted(dealt) == list(range(items))
    assert all(len(sampler) == len(list(sampler)) for sampler in samplers)


# --- collation and data sets


@given(parts=st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), max_size=6), max_size=4))
def test_any_texts_come_back_in_any_process(parts: list[list[str]]) -> None:
    texts = pickle.loads(pickle.dumps(Texts(*parts)))
    expected = [text for part in parts for text in part]
    assert [texts[number] for number in range(len(texts))] == expected
    assert texts.lengths.tolist() == list(map(len, expected))


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_padded_sets_equal_the_sets(lengths: list[int]) -> None:
    sets = [
        np.random.default_rng(place).normal(size=(length, 3)).astype(np.float16) for place, length in enumerate(lengths)
    ]
    padded = collate_images(ImageArrays(regions=sets)).regions
    assert padded.values.shape == (len(sets), max(lengths), 3)
    for row, tokens in enumerate(sets):
        assert np.array_equal(padded.values[row][padded.mask[row]].numpy(), tokens.astype(np.float32))
    assert not padded.values[~padded.mask].any()


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 5))
def test_float16_on_the_way_gives_the_same_numbers(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [rng.normal(size=(length, 3)).astype(np.float16) for length in lengths]
    semantic = rng.random((len(sets), 2, 7, 7)).astype(np.float16)
    arrays = ImageArrays(regions=sets, seg_semantic=semantic)
    places = rng.integers(0, len(sets), 4)
    drop = DropTokens(probability=0.5)
    plain, stored = [
        collate_images(
            arrays, places, keep=lambda place, count: drop(count, np.random.default_rng(place)), as_stored=way
        )
        for way in (False, True)
    ]
    assert stored.regions.values.dtype == stored.seg_semantic.dtype == torch.float16
    arrived = stored.to("cpu")
    assert arrived.regions.values.dtype == arrived.seg_semantic.dtype == torch.float32
    assert torch.equal(arrived.regions.values, plain.regions.values)
    assert torch.equal(arrived.regions.mask, plain.regions.mask)
    assert torch.equal(arrived.seg_semantic, plain.seg_semantic)  # pyright: ignore


def test_absent_fields_stay_absent() -> None:
    batch = collate_images(ImageArrays(seg_map=np.zeros((2, 64, 64), np.uint8)))
    assert batch.regions is batch.grid is batch.seg_semantic is batch.seg_categories is None
    assert batch.seg_map.dtype == torch.uint8


def dataset_of(splits: list[FakeSplit], tokenizer: Wordpieces, **options: object) -> CaptionDataset:
    return CaptionDataset(splits=splits, tokenizer=tokenizer, fields=("region", "grid"), **options)  # pyright: ignore


def test_an_image_is_read_once_and_dropped_from_independently(tokenizer: Wordpieces) -> None:
    split = FakeSplit(8)
    dataset = dataset_of([split], tokenizer, drop_tokens=DropTokens(probability=0.5))
    batch = dataset.__getitems__([(0, 14), (0, 15), (0, 2), (0, 14)])
    assert split.asked == [[1, 7]]
    assert batch.owners.tolist() == [7, 7, 1, 7]
    assert batch.rows.tolist() == [14, 15, 2, 14]
    lengths = batch.images.regions.lengths.tolist(), batch.images.grid.lengths.tolist()
    assert (lengths[0][0], lengths[1][0]) != (lengths[0][1], lengths[1][1])
    assert (lengths[0][0], lengths[1][0]) == (lengths[0][3], lengths[1][3])
    assert [values[0, 0].item() for values in batch.images.regions.values] == [7, 7, 1, 7]


def test_a_pair_is_the_same_in_any_company(tokenizer: Wordpieces) -> None:
    options = {"drop_tokens": DropTokens(), "alter_words": AlterWords(tokenizer=tokenizer, probability=0.5), "seed": 4}
    dataset = dataset_of([FakeSplit(8)], tokenizer, **options)
    alone, among = dataset[(2, 9)], dataset.__getitems__([(2, 3), (2, 9), (2, 15)])
    length = alone.captions.mask.sum()
    assert among.captions.lengths[1] == length
    assert torch.equal(among.captions.values[1, :length], alone.captions.values[0])
    assert among.images.regions.lengths[1] == alone.images.regions.lengths[0]
    epochs = {tuple(dataset[(epoch, 9)].captions.values[0].tolist()) for epoch in range(12)}
    assert len(epochs) > 1


def test_splits_are_numbered_through(tokenizer: Wordpieces) -> None:
    first, second = FakeSplit(3), FakeSplit(4, first=3)
    dataset = dataset_of([first, second], tokenizer)
    assert len(dataset) == 14
    batch = dataset.__getitems__([(0, 13), (0, 0), (0, 6)])
    assert (first.asked, second.asked) == ([[0]], [[0, 3]])
    assert batch.owners.tolist() == [6, 0, 3]
    assert batch.images.grid.values[:, 0, 0].tolist() == [6, 0, 3]
    assert len(dataset_of([FakeSplit(3), FakeSplit(4)], tokenizer, limit_images=5)) == 10


def test_evaluation_data_sets_return_numbers(tokenizer: Wordpieces) -> None:
    split = FakeSplit(4)
    images, numbers = ImageDataset(split=split, fields=("region", "grid")).__getitems__([2, 0])
    assert numbers.tolist() == [2, 0]
    assert images.regions.values[:, 0, 0].tolist() == [2, 0]
    texts = TextDataset(split=split, tokenizer=tokenizer)
    captions, numbers = texts.__getitems__([1, 4])
    assert (numbers.tolist(), captions.lengths.tolist()) == ([1, 4], [5, 4])
    assert texts.by_length().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
