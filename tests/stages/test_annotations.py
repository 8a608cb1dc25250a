"""The readers of `dataset_*.json` files and of folders: what they take, what they leave out, what they refuse."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from threeshnet.annotations.caption_lists import read_caption_lists
from threeshnet.annotations.folder import FolderReader
from threeshnet.annotations.karpathy import KarpathyReader
from threeshnet.errors import ConfigError, DataError


def entry(number: int, split: str, *captions: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": caption, "imgid": number} for caption in captions or ("a dog", "a cat")]
    return {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences, **more}


def write(raw: Path, entries: list[Any], folder: str = "images") -> Path:
    (raw / "dataset.json").write_text(json.dumps({"images": entries}))
    for item in entries:
        file = raw / folder / item.get("filepath", "") / item["filename"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return raw


def karpathy(raw: Path, **options: Any) -> Any:
    return KarpathyReader(name="mine", file="dataset.json", **options).read(raw)


def test_with_a_test_split_val_is_dev(tmp_path: Path) -> None:
    splits = ["train", "test", "restval", "val", "train"]
    annotated = karpathy(write(tmp_path, [entry(n, split) for n, split in enumerate(splits)]), dev_photos=1)
    assert [photo.split for photo in annotated.photos] == ["train", "test", "train", "dev", "train"]
    assert [photo.id for photo in annotated.photos] == [f"{n}.jpg" for n in range(5)]
    assert annotated.problems == ()


def test_without_one_val_is_held_out_and_dev_is_the_end_of_train(tmp_path: Path) -> None:
    splits = ["train", "train", "val", "train", "train"]
    raw = write(tmp_path, [entry(n, split) for n, split in enumerate(splits)])
    assert [p.split for p in karpathy(raw, dev_photos=2).photos] == ["train", "train", "test", "dev", "dev"]
    with pytest.raises(DataError, match=r"dev_photos=4.*4 train photos"):
        karpathy(raw, dev_photos=4)


def test_a_photo_left_out_moves_no_other_to_another_split(tmp_path: Path) -> None:
    raw = write(tmp_path, [entry(n, "train") for n in range(6)])
    (raw / "images" / "5.jpg").unlink()
    assert [p.split for p in karpathy(raw, dev_photos=2).photos] == ["train"] * 4 + ["dev"]


def test_coco_names_folders_ids_and_more_than_five_captions(tmp_path: Path) -> None:
    photos = [
        entry(0, "train", filepath="train2014", cocoid=57870),
        entry(1, "test", *"abcdefg", filepath="val2014", cocoid=391895),
    ]
    annotated = karpathy(write(tmp_path, photos, folder="."), test_name="testall")
    assert [(p.id, p.split) for p in annotated.photos] == [("57870", "train"), ("391895", "testall")]
    assert annotated.photos[1].captions == tuple("abcdefg")
    assert annotated.photos[1].file == tmp_path / "val2014" / "1.jpg"


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    photos = [entry(0, "train", "a  dog \n", " "), entry(1, "train", ""), entry(2, "train"), entry(3, "train")]
    photos[3]["sentences"][0]["imgid"] = 99
    raw = write(tmp_path, [*photos, entry(0, "train")])
    (raw / "images" / "2.jpg").unlink()
    annotated = karpathy(raw)
    assert [(p.id, p.captions) for p in annotated.photos] == [("0.jpg", ("a dog",)), ("3.jpg", ("a cat",))]
    said = "\n".join(annotated.problems)
    for reason in ("0.jpg: caption 1 is empty", "1.jpg: left without a caption", "2.jpg does not exist"):
        assert reason in said
    assert "3.jpg: caption 0 is of photo imgid=99" in said
    assert "0.jpg: a second entry of this id" in said
    assert len(annotated.problems) == 6


def test_faults_of_form_are_raised_once_together(tmp_path: Path) -> None:
    faulty: list[Any] = [entry(0, "training"), {"filename": "x"}, {**entry(2, "train"), "sentences": [{}]}, 7]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": faulty}))
    with pytest.raises(DataError) as caught:
        karpathy(tmp_path)
    message = str(caught.value)
    assert "split='training' does not exist; there are: train, restval, val, test" in message
    for fault in (
        "images[1]: no `split`",
        "images[1]: no `sentences`",
        "images[2]: sentences[0]: no `raw`",
        "images[3]",
    ):
        assert fault in message


@pytest.mark.parametrize(("content", "said"), [("{", "not readable JSON"), ("[]", "a list `images`")])
def test_a_torn_or_other_json(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=said):
        karpathy(tmp_path)


def test_missing_files_name_the_place_and_the_command(tmp_path: Path) -> None:
    for raw in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"missing: looked for .*make data DATA=mine RAW=<folder>"):
            karpathy(raw)
    write(tmp_path, [entry(0, "train")])
    (tmp_path / "images" / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"no photo with a caption(.|\n)*0\.jpg does not exist(.|\n)*RAW="):
        karpathy(tmp_path)
    with pytest.raises(DataError, match="dev_photos=-1"):
        karpathy(tmp_path, dev_photos=-1)


def photos(raw: Path, *names: str) -> Path:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()
    return raw


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("captions.txt", "a.jpg\tone dog\nsub/b.PNG\ttwo\nb.PNG\tthree\n"),
        ("captions.txt", "a.jpg#0\tone  dog\nb.PNG#0\ttwo\nb.PNG#1\tthree\n"),
        ("captions.txt", "image,caption\na.jpg,one dog\nb.PNG,two\nb.PNG,three\n"),
        ("captions.csv", "\ufeffFilename,Caption\na.jpg,one dog\nsub\\b.PNG,two\n./sub/b.PNG,three\n"),
        (
            "captions.jsonl",
            '{"file": "a.jpg", "caption": "one dog"}\n\n{"image": "b.PNG", "captions": ["two", "three"]}\n',
        ),
    ],
)
def test_a_folder_with_any_form_of_caption_file(tmp_path: Path, file: str, text: str) -> None:
    photos(tmp_path, "a.jpg", "sub/b.PNG")
    (tmp_path / file).write_text(text, encoding="utf-8")
    annotated = FolderReader().read(tmp_path)
    assert [(p.id, p.captions) for p in annotated.photos] == [("a.jpg", ("one dog",)), ("sub/b.PNG", ("two", "three"))]
    assert annotated.photos[1].file == tmp_path / "sub" / "b.PNG"
    assert annotated.problems == ()


def test_the_split_is_a_hash_of_the_name_unless_given(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(300)]
    photos(tmp_path, *names)
    (tmp_path / "captions.txt").write_text("".join(f"{name}\ta thing\n" for name in names))
    whole = {p.id: p.split for p in FolderReader().read(tmp_path).photos}
    counts = Counter(whole.values())
    assert counts["train"] > 200
    assert 15 < counts["dev"] < 50
    assert 15 < counts["test"] < 50
    for name in names[::2]:
        (tmp_path / name).unlink()
    assert {p.id: p.split for p in FolderReader().read(tmp_path).photos}.items() <= whole.items()
    assert {p.split for p in FolderReader(dev_percent=0, test_percent=0).read(tmp_path).photos} == {"train"}
    with pytest.raises(ConfigError, match="dev_percent=60, test_percent=50"):
        FolderReader(dev_percent=60, test_percent=50)


def test_a_column_of_splits(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "captions.csv").write_text("file,caption,split\na.jpg,x,val\nb.jpg,y,restval\nc.jpg,z,test\n")
    assert [p.split for p in FolderReader().read(tmp_path).photos] == ["dev", "train", "test"]
    (tmp_path / "captions.csv").write_text("file,caption,split\na.jpg,x,valid\nb.jpg,y,train\nb.jpg,y,test\n")
    with pytest.raises(DataError, match=r"split='valid' does not exist(.|\n)*b\.jpg: its captions name several splits"):
        FolderReader().read(tmp_path)


def test_unknown_photos_empty_captions_and_photos_without_one_are_listed(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "x/b.jpg", "y/b.jpg", "c.jpg")
    (tmp_path / "captions.txt").write_text("a.jpg\tok\na.jpg\t \nno.jpg\tlost\nb.jpg\twhich\n")
    annotated = FolderReader().read(tmp_path)
    assert [p.id for p in annotated.photos] == ["a.jpg"]
    said = "\n".join(annotated.problems)
    assert "line 2: empty caption of a.jpg" in said
    assert "line 3: caption of no.jpg left out (no such photo)" in said
    assert "line 4: caption of b.jpg left out (2 photos have this name, give its path)" in said
    assert "photo c.jpg: has no caption" in said


def test_a_folder_without_captions(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"captions\.txt, captions\.csv, captions\.jsonl.*make data DATA=folder"):
        FolderReader().read(tmp_path)
    (tmp_path / "words.doc").write_text("x")
    with pytest.raises(DataError, match=r"ending='\.doc' does not exist; there are: \.txt"):
        FolderReader(captions="words.doc").read(tmp_path)
    (tmp_path / "captions.txt").write_bytes("a.jpg\tcafé".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        FolderReader().read(tmp_path)


def test_captions_of_cocos_own_site_and_lists(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "width": 4, "height": 3},
            {"id": 8, "file_name": "8.jpg"},
        ],
        "annotations": [{"image_id": 9, "caption": " a \n dog "}],
    }
    file = tmp_path / "captions_val2017.json"
    file.write_text(json.dumps(content))
    photos = read_caption_lists([file], name="x").photos
    assert [(photo.id, photo.split, photo.captions, photo.size) for photo in photos] == [
        ("9", "test", ("a dog",), (4, 3)),
        ("8", "test", (), None),
    ]
    table = tmp_path / "captions.csv"
    table.write_text("file,caption,split\na.jpg,one,val\na.jpg,two,val\nb.jpg,three,train\n")
    photos = read_caption_lists([table], name="x").photos
    assert [(photo.id, photo.split, photo.captions) for photo in photos] == [
        ("a.jpg", "dev", ("one", "two")),
        ("b.jpg", "train", ("three",)),
    ]
    (tmp_path / "captions.txt").write_text("a.jpg\tone\n")
    with pytest.raises(DataError, match="split=test"):
        read_caption_lists([tmp_path / "captions.txt"], name="x")
    assert read_caption_lists([tmp_path / "captions.txt"], name="x", split="test").photos[0].split == "test"
