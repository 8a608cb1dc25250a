"""Arrays, vocabularies and sentences of others: undone, inferred from several facts, or refused with the way out."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import BertTokenizer

from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.shards.reader import ShardedSplit

COCO = [9, 2, 34, 5, 42, 49, 391895, 522418, 184613, 318219]


def tsv(folder: Path, wrap: Any = bytes.decode, doubled: str = "", regions: int = 4) -> None:
    """Bottom-up attention's lines of three images, each region filled with the image's number."""
    with (folder / "a.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        for number, name in enumerate(("391895", "522418", "184613"), start=1):
            boxes = np.array([[10, 20, 600, 400]] * regions, np.float32)
            features = wrap(base64.b64encode(np.full((regions, 12), number, np.float32).tobytes()))
            features = features * 2 if name == doubled else features
            writer.writerow([name, 640, 480, regions, wrap(base64.b64encode(boxes.tobytes())), features])
    lines = [
        f"{name},a photo,{split}" for name, split in (("391895", "train"), ("522418", "train"), ("184613", "test"))
    ]
    (folder / "captions.csv").write_text("\n".join(["file,caption,split", *lines]))


@pytest.mark.parametrize("regions", [4, 1])  # base64 with padding in the middle, and without: twice as wide then
def test_features_that_stand_there_twice(imported, regions: int, raw: Path) -> None:
    tsv(raw, doubled="184613", regions=regions)
    _, folder = imported(on_error="stop", code=1, says=["a.tsv line 3: ", "stand there twice"])
    _, folder = imported(says=["a.tsv line 3: "])
    assert list(ShardedSplit(folder, "train").image_ids) == ["391895", "522418"]


def test_bytes_as_python_shows_them_are_undone(imported, raw: Path) -> None:
    tsv(raw, wrap=str)
    _, folder = imported()
    features = ShardedSplit(folder, "train").read([0, 1]).regions
    assert [rows[0, 0] for rows in features] == [1, 2]


def test_neighbours_are_named_and_are_no_layout(imported, raw: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        np.save(raw / f"{split}_ims.npy", np.random.default_rng(count).random((count, 36, 8), np.float32))
        np.save(raw / f"{split}_ims_bbx.npy", np.ones((count, 36, 4), np.float32))
        np.save(raw / f"{split}_ims_size.npy", np.ones((count, 2), np.float32))
        (raw / f"{split}_caps.txt").write_text("".join(f"b'caption {number}'\n" for number in range(count * 5)))
        (raw / f"{split}_ids.txt").write_text("".join(f"{split}{number}\n" for number in range(count)))
    _, folder = imported(says=["not read: train_ims_bbx.npy, train_ims_size.npy, test_ims_bbx.npy, test_ims_size.npy"])
    split = ShardedSplit(folder, "train")
    assert split.manifest.fields == ("region",)
    assert split.caption_texts[0] == "caption 0"


def test_a_few_files_beside_a_table_are_no_layout(imported, raw: Path) -> None:
    tsv(raw)
    np.save(raw / "grids.npy", np.ones((8, 7, 7), np.float32))
    np.save(raw / "sizes.npy", np.ones((3, 2), np.float32))
    _, folder = imported(says=["not read: grids.npy, sizes.npy; if they hold images, say layout=grid_files"])
    assert ShardedSplit(folder, "train").manifest.fields == ("region",)


def test_a_join_by_numbers_that_only_look_alike_is_refused(imported, raw: Path) -> None:
    entries = [
        {
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "cocoid": number,
            "imgid": row,
            "split": "train" if row < 8 else "test",
            "sentences": [{"raw": f"caption {row}", "imgid": row}],
        }
        for row, number in enumerate(COCO)
    ]
    (raw / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    for row in range(10):
        np.save(raw / f"{row}.npy", np.full((4, 8), row + 1, np.float32))
    _, folder = imported(code=1, says=["only 3 of 10 ids are on both sides", "ids=imgid would match 10"])
    assert not folder.exists()
    _, folder = imported(ids="imgid")
    split = ShardedSplit(folder, "train")
    features = split.read(range(8)).regions
    assert [int(rows[0, 0]) for rows in features] == list(range(1, 9))
    assert list(split.caption_texts) == [f"caption {row}" for row in range(8)]


def test_ids_that_mostly_miss_are_refused(imported, raw: Path) -> None:
    tsv(raw)
    (raw / "captions.csv").write_text("file,caption,split\n391895,a,train\n1,b,train\n2,c,train\n")
    imported(code=1, says=["only 1 of 3 ids are on both sides: captions have 391895, 1, 2"])


def test_ids_that_pandas_made_floats_are_joined(imported, raw: Path) -> None:
    tsv(raw)
    text = (raw / "captions.csv").read_text()
    (raw / "captions.csv").write_text(text.replace(",a photo", ".0,a photo"))
    _, folder = imported(says=["391895 is 391895.0"])
    assert ShardedSplit(folder, "train").images == 2


@pytest.mark.parametrize("fact", ["bbox", "num_bbox", "scores"])
def test_regions_in_columns_are_seen_by_any_other_fact(imported, fact: str, raw: Path) -> None:
    facts = {"bbox": np.ones((5, 4), np.float32), "num_bbox": np.array(5), "scores": np.ones(5, np.float32)}
    features = np.random.default_rng(0).random((8, 5), np.float32)
    np.savez(raw / "7.npz", x=features, **{fact: facts[fact]})
    (raw / "captions.csv").write_text("file,caption,split\n7,a,train\n")
    _, folder = imported(says=["holds a region a column; it was turned"])
    regions = ShardedSplit(folder, "train").read([0]).regions
    assert regions[0].shape == (5, 8)


def test_npy_files_with_regions_in_columns_are_refused(imported, raw: Path) -> None:
    for name, count in (("7", 5), ("8", 6)):
        np.save(raw / f"{name}.npy", np.ones((8, count), np.float32))
    (raw / "captions.csv").write_text("file,caption,split\n7,a,train\n8,b,train\n")
    imported(code=1, says=["(8, 5), (8, 6), … have regions as columns"])


def test_an_array_that_changed_in_one_byte_is_another_source(imported, raw: Path) -> None:
    (raw / "captions.csv").write_text("file,caption,split\n7,a,train\n")
    values = np.ones((600, 300), np.float32)
    np.save(raw / "7.npy", values)
    imported(most_regions="first")
    values[301, 7] = 2
    np.save(raw / "7.npy", values)
    imported(most_regions="first", code=1, says=["train-00000.h5: made differently"])


# ---- vocabularies and sentences

WORDS = ["a", "caf", "##e", "##\u00e9", "cafe", "caf\u00e9", "Dog", "dog", "!", "\u72ac", "##\u72ac"]


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": False},
        {"do_lower_case": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
def test_a_tokenizer_follows_its_own_folder(config: dict[str, Any], tmp_path: Path) -> None:
    """The same wordpieces as the library that the folder was made for."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    ours = Wordpieces.from_file(tmp_path)
    vocabulary = {piece: number for number, piece in enumerate([*SPECIALS, *WORDS])}
    theirs = BertTokenizer(vocab=vocabulary, **config)
    for sentence in ("A Dog", "a dog!", "Caf\u00e9 cafe", "a\u72ac\u72ac"):
        assert ours.encode([sentence])[0].ids == theirs(sentence)["input_ids"], sentence
    again = Wordpieces.from_lines(ours.lines, **ours.options)  # as a checkpoint stores it
    assert again.encode(["A Caf\u00e9 \u72ac"]) == ours.encode(["A Caf\u00e9 \u72ac"])


def test_special_words_and_case_without_settings(tmp_path: Path) -> None:
    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join([*names, *WORDS]), encoding="utf-8")
    kinds = ("pad", "unk", "cls", "sep", "mask")
    config = {f"{kind}_token": {"content": name} for kind, name in zip(kinds, names, strict=True)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Wordpieces.from_file(tmp_path)
    assert tokenizer.encode(["Dog dog"])[0].ids == [2, 11, 12, 3], "a vocabulary with capitals keeps the case"
    assert tokenizer.mask_id == 4


def test_sentences_come_as_any_sequence() -> None:
    tokenizer = Wordpieces([*SPECIALS, *WORDS])
    text = BiGRUTextEncoder(vocabulary_size=len(tokenizer), dim=8, word_width=5, pooling=GeneralizedPooling())
    model = RetrievalModel(image_encoder=nn.Linear(1, 1), text_encoder=text, tokenizer=tokenizer).eval()
    expected = model.encode_texts(["a dog", "cafe"])
    for sentences in (("a dog", "cafe"), np.array(["a dog", "cafe"]), iter(["a dog", "cafe"])):
        assert (model.encode_texts(sentences) == expected).all()
    with pytest.raises(TypeError, match="takes sentences, not float"):
        model.encode_texts(["a dog", float("nan")])
