"""Arrays, vocabularies and sentences of others: undone, inferred from several facts, or refused with the way out."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from torch import nn
from transformers import BertTokenizer

from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.official import load_official_checkpoint
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.files import read_rows, write_text
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest
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


def test_regions_of_a_square_are_refused_with_the_key_that_decides(imported, raw: Path) -> None:
    """MILVLG/openvqa#60: which axis counts the regions is nowhere said, and here both are equally long."""
    values = np.arange(25, dtype=np.float32).reshape(5, 5) + 1
    np.savez(raw / "7.npz", x=values, bbox=np.ones((5, 4), np.float32))
    (raw / "captions.csv").write_text("file,caption,split\n7,a,train\n")
    imported(code=1, says=["7.npz: x of shape (5, 5): both axes have 5", "say regions=rows for [N, Dr]"])
    imported(code=1, says=["regions='across' does not exist; there are: rows, columns"], regions="across")
    _, folder = imported(regions="columns")
    assert (ShardedSplit(folder, "train").read([0]).regions[0] == values.T).all()
    np.savez(raw / "8.npz", x=np.ones((3, 5), np.float32), bbox=np.ones((3, 4), np.float32))  # which tells
    (raw / "captions.csv").write_text("file,caption,split\n7,a,train\n8,b,train\n")
    _, folder = imported(overwrite="true")
    assert (ShardedSplit(folder, "train").read([0]).regions[0] == values).all()


def hdf5(file: Path, **arrays: Any) -> None:
    with h5py.File(file, "w") as opened:
        opened["ids"] = np.array(["7", "8"], object)
        for name, values in arrays.items():
            opened[name] = values
    (file.parent / "captions.csv").write_text("file,caption,split\n7,a,train\n8,b,train\n")


@pytest.mark.parametrize("fact", ["boxes", "scores", "num_boxes"])
def test_axes_of_hdf5_are_told_by_another_array(imported, raw: Path, fact: str) -> None:
    """tgc1997/RMN#23: what an axis of a published HDF5 file counts has to be asked."""
    facts = {"boxes": np.ones((2, 5, 4)), "scores": np.ones((2, 5)), "num_boxes": np.array([5, 4])}
    values = np.random.default_rng(0).random((2, 8, 5), np.float32) + 1
    hdf5(raw / "all.h5", features=values, **{fact: facts[fact]})
    _, folder = imported(says=["all.h5 holds a region a column; it was turned"])
    regions = ShardedSplit(folder, "train").read([0, 1]).regions
    count = 4 if fact == "num_boxes" else 5
    assert (regions[1] == values[1].T[:count]).all()


REFUSED_HDF5 = {
    "nothing tells": ({"features": np.ones((2, 9, 4))}, "more regions than numbers of each"),
    "a square": ({"features": np.ones((2, 5, 5)), "boxes": np.ones((2, 5, 4))}, "both axes have 5"),
    "neither": (
        {"features": np.ones((2, 9, 4)), "num_boxes": np.array([5, 5])},
        "5 regions are counted, which is neither",
    ),
    "more counted than there are": (
        {"features": np.ones((2, 4, 8)), "boxes": np.ones((2, 4, 4)), "num_boxes": np.array([4, 6])},
        "num_boxes is up to 6, and an image has 4 regions",
    ),
    "boxes of more images": (
        {"features": np.ones((2, 4, 8)), "boxes": np.ones((3, 4, 4))},
        "2 rows of features, and of",
    ),
    "grids with channels last": (
        {"features": np.ones((2, 7, 7, 40))},
        "look like [H, W, C]; if they are, say channels=last",
    ),
}


@pytest.mark.parametrize("case", REFUSED_HDF5)
def test_axes_of_hdf5_that_nothing_tells_are_refused(imported, raw: Path, case: str) -> None:
    arrays, said = REFUSED_HDF5[case]
    hdf5(raw / "all.h5", **arrays)
    imported(code=1, says=["all.h5: ", said])


def test_grids_with_channels_last_in_hdf5(imported, raw: Path) -> None:
    values = np.random.default_rng(0).random((2, 3, 4, 6), np.float32)
    hdf5(raw / "all.h5", features=values)
    _, folder = imported(channels="last")
    split = ShardedSplit(folder, "train")
    assert split.manifest.grid_size == (3, 4)
    assert (split.read([0, 1]).grid == values.reshape(2, 12, 6)).all()


@pytest.mark.parametrize("single", [True, False])  # numbers that were float32 before end in zeros
@pytest.mark.parametrize("boxes", [np.float32, np.float64])
def test_float64_in_base64_is_seen(imported, raw: Path, single: bool, boxes: Any) -> None:
    """airsplay/py-bottom-up-attention#24: arrays of another type do not fit their boxes, or are twice as wide."""
    values = np.random.default_rng(0).random((4, 12)) + 1
    values = values.astype(np.float32).astype(np.float64) if single else values
    cells = [np.array([[10, 20, 600, 400]] * 4, boxes), values]
    encoded = [base64.b64encode(cell.tobytes()).decode() for cell in cells]
    (raw / "a.tsv").write_text("\t".join(["391895", "640", "480", "4", *encoded]) + "\n")
    (raw / "captions.csv").write_text("file,caption,split\n391895,a,train\n")
    _, folder = imported(says=["float64 becomes float32"])
    arrays = ShardedSplit(folder, "train").read([0])
    assert (arrays.regions[0] == values.astype(np.float32)).all()
    np.testing.assert_allclose(arrays.boxes[0][0], [10 / 640, 20 / 480, 600 / 640, 400 / 480], rtol=1e-3)


def test_names_that_are_numbers_keep_their_zeros(imported, raw: Path) -> None:
    """fastai#1008, sisinflab/Ducho#2: `000123` was read as 123 and not found; 0 is an id as well."""
    for name in ("000123", "123", "0"):
        np.save(raw / f"{name}.npy", np.full((2, 4), int(name) + len(name), np.float32))
    (raw / "captions.csv").write_text("file,caption,split\n000123,a,train\n123,b,train\n0,c,train\n")
    _, folder = imported()
    split = ShardedSplit(folder, "train")
    regions = split.read(range(3)).regions
    assert {name: rows[0, 0] for name, rows in zip(split.image_ids, regions, strict=True)} == {
        "000123": 129,
        "123": 126,
        "0": 1,
    }


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


def test_an_authors_checkpoint_follows_the_folder_of_its_bert(tmp_path: Path) -> None:
    """biobert-pytorch#24, clip-as-service#291: a cased vocabulary, and sentences in small letters all the same."""
    golden = Path(__file__).parents[1] / "golden"
    words = (golden / "bert" / "vocab.txt").read_text().split("\n")
    piece = next(word for word in words if word.isalpha() and len(word) > 1)
    bert = tmp_path / "bert"
    shutil.copytree(golden / "bert", bert)
    for cased in (True, False):
        (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}), encoding="utf-8-sig")
        model = load_official_checkpoint(golden / "official_checkpoint.pth", bert)
        ids = model.tokenizer.encode([piece.upper()])[0].ids[1:-1]
        assert (ids == [words.index(piece)]) == (not cased)


def test_files_of_ours_may_have_a_byte_order_mark(synthetic_shards: Path, tmp_path: Path) -> None:
    """PowerShell and editors of Windows write one (language-tags#7, OpenViking#500)."""
    content = (synthetic_shards / "manifest.json").read_text(encoding="utf-8")
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8-sig")
    assert Manifest.load(tmp_path) == Manifest.load(synthetic_shards)
    for name, text in {"job.json": '{"seed": 3}', "config.yaml": "seed: 3\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert (Run(tmp_path).job.seed, Run(tmp_path).settings) == (3, {"seed": 3})
    write_text(tmp_path / "results.csv", "\ufeffjob,seed\na,3\n")
    assert read_rows(tmp_path / "results.csv") == [{"job": "a", "seed": "3"}]


def test_every_text_file_is_opened_in_an_encoding_of_its_own(root: Path) -> None:
    """sd-civitai-browser-plus#177, language-tags#7: Windows else reads UTF-8 as cp1252."""
    rule = ["check", "--isolated", "--preview", "--select", "PLW1514", "--no-cache", "--output-format", "concise"]
    ended = subprocess.run([sys.executable, "-m", "ruff", *rule, "src"], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


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
