"""Zero-shot baselines: the whole script with tiny random models, against a photo and a caption at a time."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from threeshnet.errors import ConfigError, DataError
from threeshnet.features.huggingface import PROCESSOR
from threeshnet.metrics import recall

from .tiny_models import LAYERS, made, saved

BASELINES = Path(__file__).parents[2] / "experiments/baselines"
MODULES = ("run", "zero_shot")
COLOURS = ("red", "green", "blue", "white", "grey")
SHAPES = ("box", "disc", "bar")
WORDS = ["<pad>", "</s>", "<unk>", "a", "on", *COLOURS, *SHAPES]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,"
LENGTH = 12  # wordpieces that the tiny models take
TINY = {**LAYERS, "intermediate_size": 32}
VISION = {**TINY, "image_size": 32, "patch_size": 8}
PHOTOS = 13  # of the test split: R@10 must leave something out, and batches of 4 must not divide it
SIZES = [(40, 32), (33, 57), (64, 64)]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The experiment's files by name, without leaving their folder on the path or their names to others."""
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(BASELINES))
    try:
        return {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(BASELINES))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@pytest.fixture
def zero_shot(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["zero_shot"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn photos with one to three captions each, one of another split and one that is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for number in range(PHOTOS + 2):
        words = COLOURS[number % 5], SHAPES[number // 5], COLOURS[(number + 2) % 5]
        draw(folder / f"{number:02d}.png", SIZES[number % 3], *words)
        captions = f"A {words[0]} {words[1]} on {words[2]} .", f"{words[1]}, {words[0]}", f"on a {words[2]} " * 8
        split = "dev" if number == PHOTOS else "test"
        lines += [{"file": f"{number:02d}.png", "caption": text, "split": split} for text in captions[: 1 + number % 3]]
    (folder / f"{PHOTOS + 1:02d}.png").write_bytes(b"no photo")
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def draw(file: Path, size: tuple[int, int], colour: str, shape: str, ground: str) -> None:
    image = Image.new("RGB", size, ground)
    pen, box = ImageDraw.Draw(image), (4, 4, size[0] - 6, size[1] // 2 if shape == "bar" else size[1] - 4)
    (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=colour)
    image.save(file)


def clip(folder: Path) -> Path:
    """A tiny CLIP with the tokenizer of a published one: letters for pieces, lower case, `<|endoftext|>` at the end."""
    torch.manual_seed(0)
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ed</w>", "<|startoftext|>", "<|endoftext|>"]
    numbered = {piece: number for number, piece in enumerate(pieces)}
    merges: Any = [("e", "d</w>")]
    tokenizer = CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=77)
    marks: dict[str, Any] = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    text = CLIPTextConfig(**TINY, vocab_size=len(pieces), max_position_embeddings=LENGTH, **marks)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=VISION, projection_dim=8))
    size = {"height": 32, "width": 32}
    saved(model, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size), folder)
    tokenizer.save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    """A tiny SigLIP whose tokenizer is of the class that published ones name, and keeps case and punctuation itself."""
    torch.manual_seed(0)
    text = {
        **TINY,
        "vocab_size": len(WORDS),
        "max_position_embeddings": LENGTH,
        "projection_size": LAYERS["hidden_size"],
    }
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    saved(
        SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)),
        SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        folder,
    )
    whole = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=whole, **marks, model_max_length=64).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {"clip": clip, "siglip": siglip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("models")
    return {name: make(made / name) for name, make in MODELS.items()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with the table as it is committed, and its rows."""
    shutil.copy(BASELINES / "results.csv", tmp_path)
    return tmp_path


@pytest.fixture
def score(zero_shot: ModuleType, raw: Path, out: Path) -> Callable[..., None]:
    """Runs the script with a model, on the photos or on those of another folder."""
    return lambda model, *more, raw=raw: zero_shot.main(asked_for(raw, out, model, *more))


def rows_of(out: Path, data: str = "folder") -> list[dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as opened:
        return [row for row in csv.DictReader(opened) if row["data"] == data]


def asked_for(raw: Path, out: Path, model: Path | str, *more: str) -> list[str]:
    where = ["--data", "folder", "--raw", str(raw), "--out", str(out), "--batch", "4"]
    return [*where, "--model", str(model), *more]


# ---- the slow twin


def annotated(raw: Path) -> dict[str, list[str]]:
    """The captions of each photo of the test split that can be read."""
    found: dict[str, list[str]] = {}
    for line in (raw / "captions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] == "test" and entry["file"] != f"{PHOTOS + 1:02d}.png":
            found.setdefault(entry["file"], []).append(entry["caption"])
    return found


def ids_of(kind: str, caption: str) -> list[int]:
    """Wordpieces by hand: letters for the tiny CLIP, padded words for the tiny SigLIP."""
    words = "".join(letter for letter in caption.lower() if letter not in ".,").split()
    if kind == "siglip":
        padded = [WORDS.index(word) for word in (*words[: LENGTH - 1], "</s>")]
        return padded + [WORDS.index("<pad>")] * (LENGTH - len(padded))
    ids: list[int] = []
    last, ed, start, end = len(LETTERS), 2 * len(LETTERS), 2 * len(LETTERS) + 1, 2 * len(LETTERS) + 2
    for word in caption.lower().replace(",", " ,").split():
        numbers = [LETTERS.index(letter) for letter in word]
        ids += [numbers[0], ed] if word == "red" else [*numbers[:-1], last + numbers[-1]]
    return [start, *ids[: LENGTH - 2], end]


def one_by_one(kind: str, folder: Path, raw: Path) -> tuple[np.ndarray, list[int]]:
    """Cosines [images, captions] by the model's own `forward`, a photo and a caption at a time; owners."""
    network: Any = AutoModel.from_pretrained(folder).eval()
    kinds = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}
    processor: Any = kinds[kind].from_pretrained(folder)
    found = annotated(raw)
    texts = [(number, text) for number, name in enumerate(found) for text in found[name]]
    cosines = np.zeros((len(found), len(texts)))
    for row, name in enumerate(found):
        pixels = processor(images=Image.open(raw / name).convert("RGB"), return_tensors="pt")["pixel_values"]
        for column, (_, text) in enumerate(texts):
            with torch.no_grad():
                made = network(pixel_values=pixels, input_ids=torch.tensor([ids_of(kind, text)]))
            image, sentence = (side[0].double().numpy() for side in (made.image_embeds, made.text_embeds))
            cosines[row, column] = image @ sentence / np.sqrt(image @ image) / np.sqrt(sentence @ sentence)
    return cosines, [number for number, _ in texts]


# ---- what a run does


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_is_what_plain_loops_find(
    score: Any, folders: dict[str, Path], raw: Path, out: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    before = rows_of(out, "demo")
    score(folders[kind])
    said = capsys.readouterr()
    assert f"{PHOTOS + 1:02d}.png: no image" in said.out  # left out, and named
    assert f"{PHOTOS + 1}/{PHOTOS + 1}" in said.err  # the bar counts photos
    cosines, owners = one_by_one(kind, folders[kind], raw)
    (row,) = rows_of(out)
    assert (row["baseline"], row["split"], row["protocol"], row["seed"]) == (f"zero-shot {kind}", "test", "full", "")
    assert (row["images"], row["captions"]) == (str(PHOTOS), str(len(owners)))
    expected = recall(cosines, np.array(owners))
    sides = {f"{side}_R@{k}": expected[side][f"R@{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10)}
    assert {key: row[key] for key in sides} == {key: f"{value:.2f}" for key, value in sides.items()}
    assert row["rsum"] == f"{expected['rsum']:.2f}"
    assert 0 < float(row["rsum"]) < 600
    assert rows_of(out, "demo") == before  # the floors of other data stay


def test_another_tokenizer_of_siglip_keeps_punctuation(
    zero_shot: ModuleType, folders: dict[str, Path], tmp_path: Path
) -> None:
    """SigLIP 2 was trained on lower case, with punctuation; its tokenizer is of another class."""
    folder = shutil.copytree(folders["siglip"], tmp_path / "siglip2")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    ids = zero_shot.Towers(folder).sentences(["A red ."])["input_ids"]
    assert ids[0, :4].tolist() == [WORDS.index(word) for word in ("a", "red", "<unk>", "</s>")]


# ---- rows without weights


def test_without_weights_there_is_a_row_that_says_so(
    scripts: dict[str, ModuleType], score: Any, folders: dict[str, Path], out: Path, capsys: pytest.CaptureFixture
) -> None:
    """It replaces no measured row, and a measured one replaces it."""
    absent = "someone/no-such-clip"
    score(absent)
    (row,) = rows_of(out)
    assert row["baseline"] == f"zero-shot {absent}"
    assert {row[name] for name in (*scripts["run"].RECALLS, "rsum", "machine", "fingerprint")} == {""}
    assert row["reason"] == "weights were not at hand"
    assert (row["images"], row["captions"]) == (str(PHOTOS + 1), str(sum(1 + n % 3 for n in (*range(13), 14))))
    said = capsys.readouterr().out
    assert f"{absent} was not run" in said
    assert "stays" not in said
    assert said.count("\n") == 1
    score(folders["clip"], "--name", absent)
    (measured,) = rows_of(out)
    assert measured["rsum"]
    capsys.readouterr()
    score(absent)
    assert rows_of(out) == [measured]
    assert "The row that was measured stays." in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["", "model.safetensors", PROCESSOR])
def test_what_the_cache_holds_of_a_model(
    score: Any, folders: dict[str, Path], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Where the weights are there and something else is not, their absence is no excuse."""
    model, commit = tmp_path / "models--someone--tiny", "0" * 40
    shutil.copytree(folders["clip"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    if lacking:
        (model / "snapshots" / commit / lacking).unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    if lacking == PROCESSOR:
        with pytest.raises(DataError, match="someone/tiny: neither a folder"):
            score("someone/tiny")
        return
    score("someone/tiny")
    (row,) = rows_of(out)
    assert (row["baseline"], bool(row["rsum"])) == ("zero-shot someone/tiny", not lacking)


def test_floors_and_zero_shot_rows_leave_each_other_alone(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    run, file = scripts["run"], tmp_path / "results.csv"
    empty = dict.fromkeys(run.COLUMNS, "") | {"data": "folder", "split": "test"}
    rows = [
        empty | {"baseline": name, "rsum": "1"} for name in ("bag of words (ridge 1)", "zero-shot a", "zero-shot b")
    ]
    run.write(rows, file)
    run.write([empty | {"baseline": "bag of words (ridge 10)", "rsum": "2"}], file)
    found = run.write([empty | {"baseline": "zero-shot a", "rsum": "3"}], file)
    assert {row["baseline"]: row["rsum"] for row in found} == {
        "bag of words (ridge 10)": "2",
        "zero-shot a": "3",
        "zero-shot b": "1",
    }


# ---- photos of the shards


@pytest.fixture(scope="module")
def shards(raw: Path, tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Any]) -> Path:
    out = tmp_path_factory.mktemp("shards")
    where = [f"raw={raw}", f"out={out}", "progress=false", "workers=0"]
    assert command("data", "data=folder", "extractor=tiny", *where).code == 0
    return out / "folder"


def photos_of(zero_shot: ModuleType, raw: Path, *more: str) -> list[str]:
    annotated = zero_shot.photos_of(zero_shot.parsed(asked_for(raw, raw, "any", *more)))
    return [photo.id for photo in annotated.photos]


def test_shards_and_the_script_leave_out_the_same(zero_shot: ModuleType, raw: Path, shards: Path) -> None:
    """Without --shards the damaged photo is found when it is opened, with it before."""
    assert photos_of(zero_shot, raw, "--shards", str(shards)) == list(annotated(raw))
    assert photos_of(zero_shot, raw) == [*annotated(raw), f"{PHOTOS + 1:02d}.png"]


def test_shards_of_another_annotation_are_refused(
    zero_shot: ModuleType, raw: Path, shards: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(raw, tmp_path / "other")
    file = other / "captions.jsonl"
    text = file.read_text()
    for changed, message in (
        (text.replace("bar", "bow"), "captions are not"),
        (text.replace("03.png", "14.png"), "03.png"),
    ):
        file.write_text(changed)
        with pytest.raises(DataError, match=message):
            photos_of(zero_shot, other, "--shards", str(shards))


def test_a_photo_that_the_shards_hold_must_be_readable_and_one_must_be_left(
    score: Any, folders: dict[str, Path], raw: Path, shards: Path, tmp_path: Path
) -> None:
    other, empty = shutil.copytree(raw, tmp_path / "other"), tmp_path / "empty"
    (other / "03.png").write_bytes(b"no photo any more")
    with pytest.raises(DataError, match=r"03.png(.|\n)*The shards hold them"):
        score(folders["clip"], "--shards", str(shards), raw=other)
    empty.mkdir()
    (empty / "one.png").write_bytes(b"no photo")
    (empty / "captions.csv").write_text("file,caption,split\none.png,a dog,test\n")
    with pytest.raises(DataError, match=r"one.png: no image(.|\n)*No photo is left"):
        score(folders["clip"], raw=empty)


def test_settings_of_the_reader_are_those_of_shards(zero_shot: ModuleType, raw: Path) -> None:
    assert photos_of(zero_shot, raw, "limit=3") == ["00.png", "01.png", "02.png"]
    with pytest.raises(DataError, match="no-such"):
        photos_of(zero_shot, raw, "data.reader.captions=no-such.txt")


# ---- refusals


def test_refusals_say_what_is_wrong(score: Any, folders: dict[str, Path], out: Path, tmp_path: Path) -> None:
    empty, other = tmp_path / "empty", made("resnet", tmp_path / "resnet")
    empty.mkdir()
    untold = shutil.copytree(folders["clip"], tmp_path / "untold")
    (untold / "tokenizer.json").unlink()
    (untold / "vocab.json").write_text("{}")  # without merges.txt
    before = (out / "results.csv").read_bytes()
    refused = {
        (str(empty),): "neither a folder with config.json",
        ("../no/folder",): "nor the name of such a model",
        (str(other),): "does not embed photos and sentences",
        (str(untold),): "tokenizer is missing",
        (str(folders["clip"]), "--split", "tets"): "there are: test, dev",
        (str(folders["clip"]), "no_such=1"): "no_such",
        (str(folders["clip"]), "--batch", "0"): "1 is the least",
        (str(folders["clip"]), "--data", "no_such"): "flickr8k",
    }
    for words, message in refused.items():
        with pytest.raises((DataError, ConfigError), match=message):
            score(*words)
    assert (out / "results.csv").read_bytes() == before


def test_examples_in_docstrings(scripts: dict[str, ModuleType]) -> None:
    found = [doctest.testmod(module) for module in scripts.values()]
    assert [result.failed for result in found] == [0, 0]
    assert all(result.attempted for result in found)
