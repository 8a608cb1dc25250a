"""An index of photos: what is encoded, what is found, and that a slow search finds the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threeshnet import Retriever
from threeshnet.errors import ConfigError, IndexFault
from threeshnet.files import sha256
from threeshnet.index.beside import Correction
from threeshnet.index.build import Options, update_index
from threeshnet.index.index import Index
from threeshnet.index.query import Query
from threeshnet.index.rows import read_array
from threeshnet.index.sources import PhotoFolder, ShardCaptions, ShardImages
from threeshnet.metrics.corrections import dynamic_inverted_softmax
from threeshnet.shards.reader import ShardedSplit

QUIET = Options(progress=False, text_tower=False)
PARITY = ("even", "odd")
SENTENCES = ["a dog", "a red ball on the table"]


@pytest.fixture(scope="module")
def retriever(photo_run: Path) -> Retriever:
    return Retriever.load(photo_run, device="cpu")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, photo_shards: Path) -> Path:
    """Twenty rendered photos in two folders."""
    split, out = ShardedSplit(photo_shards, "test"), tmp_path_factory.mktemp("photos")
    for number in range(len(split)):
        file = split.image_path(number)
        (out / PARITY[number % 2]).mkdir(exist_ok=True)
        shutil.copy(file, out / PARITY[number % 2] / file.name)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, command, photo_run: Path, raw: Path) -> Path:
    """An index of these photos, made by the command."""
    out = tmp_path_factory.mktemp("index") / "photos"
    ended = command("index", str(photo_run), str(raw), str(out), "progress=false", "workers=0")
    assert ended.code == 0, ended.err
    assert "20 items; 20 encoded, 0 unchanged" in ended.out
    return out


def test_embeddings_are_those_of_the_retriever(folder: Path, raw: Path, retriever: Retriever) -> None:
    index = Index.open(folder)
    files = [raw / file for file in index.column("file")]
    assert files == sorted(raw.rglob("*.*"))
    np.testing.assert_allclose(index.rows.embeddings, retriever.encode_photos(files).numpy(), atol=1e-6)
    assert index.photo_path(index.column("id")[3]) == files[3]
    for wrong in ("../" + str(files[3]), "", str(files[3])):
        with pytest.raises(KeyError):
            index.photo_path(wrong)


def test_a_search_finds_what_a_slow_one_does(folder: Path, retriever: Retriever) -> None:
    index = Index.open(folder)
    answers = index.search([Query(text) for text in SENTENCES], 5, fold=False)
    images = torch.from_numpy(np.array(index.rows.embeddings))
    expected = (retriever.encode_texts(SENTENCES) @ images.T).topk(5)
    for answer, scores, rows in zip(answers, expected.values.tolist(), expected.indices.tolist(), strict=True):
        assert [result.row for result in answer.results] == rows
        assert [result.score for result in answer.results] == pytest.approx(scores, abs=1e-6)


def test_a_photo_finds_itself(folder: Path, raw: Path) -> None:
    index = Index.open(folder)
    (answer,) = index.search([Query(image=raw / index.column("file")[4])], 1)
    assert answer.results[0].row == 4
    assert answer.results[0].score == pytest.approx(1, abs=1e-5)
    (mixed,) = index.search([Query("a dog", image=raw / index.column("file")[4], text_weight=0.0)], 1)
    assert mixed.results[0].row == 4


def test_the_command_line(folder: Path, command, tmp_path: Path) -> None:
    ended = command("search", str(folder), "a dog", "--top", "3", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["query"], len(found["results"])) == ("a dog", 3)
    assert set(found["results"][0]) >= {"id", "file", "score", "probability"}
    ended = command("search", f"index={folder}", "query=a dog", "top=3", "format=csv")
    assert ended.code == 0, ended.err
    assert [line.split(",")[2] for line in ended.out.splitlines()[1:]] == [each["id"] for each in found["results"]]
    ended = command("search", str(folder), "a dog", "--paths", "-0", "--top=2")
    paths = [Path(path) for path in ended.out.split("\0")[:-1]]
    assert [path.is_file() for path in paths] == [True, True]
    (tmp_path / "queries.txt").write_text('a dog\n{"query": "a cat", "filters": ["folder:even"]}\n')
    ended = command("search", str(folder), "--queries", str(tmp_path / "queries.txt"), "--json", "--top", "2")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["query"] for line in lines] == ["a dog", "a cat"]
    assert all(result["file"].startswith("even/") for result in lines[1]["results"])
    assert command("search", str(folder), "a dog").out.count("\n") > 10


def test_a_page_needs_no_server(folder: Path, command, tmp_path: Path) -> None:
    words = [str(folder), '<b>"a dog"</b>', "--html", str(tmp_path / "found.html"), "--top", "3"]
    ended = command("search", *words)
    assert ended.code == 0, ended.err
    page = (tmp_path / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count('href="file:///') == 3
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    command("search", *words, "--no-embed")
    assert "data:image" not in (tmp_path / "found.html").read_text()


def test_a_sentence_is_searched_without_torch(folder: Path) -> None:
    code = "import sys; from threeshnet.cli import main; main(['search', sys.argv[1], 'a dog', '--json'])\n"
    code += "sys.stderr.write(' '.join(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert len(json.loads(ended.stdout)["results"]) == 10
    heavy = {"torch", "transformers", "pytorch_lightning", "lightning_fabric", "scipy", "pandas", "matplotlib", "h5py"}
    assert heavy.isdisjoint(ended.stderr.split())


def test_what_is_asked_wrongly(folder: Path, command, tmp_path: Path) -> None:
    said = command("search", str(tmp_path / "nothing"), "a dog").err
    assert "no index is there; make one with: make index" in said
    assert "neither a sentence nor a photo" in command("search", str(folder)).err
    assert "a word too many" in command("search", str(folder), "a", "dog").err
    assert "no --colour; there are: --json" in command("search", str(folder), "--colour", "red").err
    with pytest.raises(ConfigError, match="top=0"):
        Index.open(folder).search([Query("a dog")], 0)


def test_an_approximate_structure_beside_rows(raw: Path, folder: Path, retriever: Retriever, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    out = shutil.copytree(folder, tmp_path / "index")
    options = Options(progress=False, text_tower=False, approximate="hnsw")
    assert update_index(PhotoFolder(retriever, raw), retriever, out, options).encoded == 0
    index = Index.open(out)
    queries = [Query("a dog"), Query("a cat", filters=("folder:even",)), Query("a boat", without=("a dog",))]
    found = index.search(queries, 4)
    assert found == index.search(queries, 4, exact=True)  # twenty photos are all looked at
    assert "_approximate" in vars(index)


def test_an_index_is_searched_from_any_folder(
    raw: Path, photo_run: Path, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model was stored as it was typed."""
    run = shutil.copytree(photo_run, tmp_path / "here" / "run")
    monkeypatch.chdir(run.parent)
    ended = command("index", "run", str(raw), "index", "text_tower=false", "progress=false", "workers=0")
    assert ended.code == 0, ended.err
    monkeypatch.chdir(tmp_path)
    (found,) = Index.open("here/index").search([Query("a dog")], 1)
    assert found.results
    run.rename(tmp_path / "moved")
    for words in ([], ["checkpoint=nowhere"]):
        ended = command("search", "here/index", "a dog", *words)
        assert (ended.code, "checkpoint=<run or file>" in ended.err) == (1, not words), ended.err
    assert command("search", "here/index", "a dog", "checkpoint=moved").code == 0


@pytest.mark.parametrize("name", ["text.onnx", "tokenizer.json", "onnx.json"])
def test_a_damaged_text_encoder(folder: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (file,) = copy.glob(f"text-*/{name}")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(IndexFault, match="remove its folder: searches load the model then"):
        Index.open(copy).search([Query("a dog")])
    shutil.rmtree(file.parent)
    assert Index.open(copy).search([Query("a dog")])


def test_a_text_encoder_in_8_bit_integers(folder: Path, raw: Path, retriever: Retriever, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = shutil.copytree(folder, tmp_path / "index")
    exact = Index.open(out).encode_texts(SENTENCES)
    options = Options(progress=False, text_tower="int8")
    assert update_index(PhotoFolder(retriever, raw), retriever, out, options).encoded == 0
    (tower,) = out.glob("text-*")
    assert sorted(file.name for file in tower.iterdir()) == ["onnx.json", "text.int8.onnx", "tokenizer.json"]
    near = Index.open(out).encode_texts(SENTENCES)
    assert 0 < np.abs(near - exact).max() < 0.1
    alone = np.concatenate([Index.open(out).encode_texts([sentence]) for sentence in SENTENCES])
    np.testing.assert_array_equal(near, alone)  # a sentence does not depend on those that are encoded beside it
    (tower / "text.int8.onnx").write_bytes(b"damaged")
    update_index(PhotoFolder(retriever, raw), retriever, out, options)
    np.testing.assert_array_equal(Index.open(out).encode_texts(SENTENCES), near)
    update_index(PhotoFolder(retriever, raw), retriever, out, Options(progress=False))
    np.testing.assert_array_equal(Index.open(out).encode_texts(SENTENCES), exact)
    assert tower.name not in {other.name for other in out.glob("text-*")}
    (out / "text-notes").mkdir()
    update_index(PhotoFolder(retriever, raw), retriever, out, Options(progress=False, text_tower=False))
    assert [other.name for other in out.glob("text-*")] == ["text-notes"]


def test_an_encoder_that_onnx_cannot_express_leaves_an_index_that_is_searched_without(
    folder: Path,
    raw: Path,
    retriever: Retriever,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("onnxruntime")

    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("cannot be exported")

    out = shutil.copytree(folder, tmp_path / "index", ignore=shutil.ignore_patterns("text-*"))
    monkeypatch.setattr("threeshnet.export.onnx_towers.write_text_tower", refuse)
    update_index(PhotoFolder(retriever, raw), retriever, out, Options(progress=False))
    assert "cannot be exported. Searches will load the whole model" in caplog.text
    assert not list(out.glob("text-*"))
    assert Index.open(out).search([Query("a dog")])
    with pytest.raises(ConfigError, match="cannot be exported"):
        update_index(PhotoFolder(retriever, raw), retriever, out, Options(progress=False, text_tower="int8"))


def test_8_bit_integers_need_onnx(
    raw: Path, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threeshnet.index.beside.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"text_tower=int8: .*threeshnet\[onnx\]"):
        update_index(
            PhotoFolder(retriever, raw), retriever, tmp_path / "index", Options(progress=False, text_tower="int8")
        )
    assert not (tmp_path / "index").exists()  # it is said before anything is encoded


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", "{", "\0", "(" * 200])
def test_a_damaged_array_is_named(header: str, tmp_path: Path) -> None:
    """NumPy's parser of headers lets errors of Python's through."""
    text = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    (tmp_path / "bias.npy").write_bytes(content + bytes(64))
    with pytest.raises(IndexFault, match=r"bias\.npy cannot be read .*; make the index again"):
        read_array(tmp_path / "bias.npy")


def test_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / "manifest.json").read_text())
    content["source"]["model_hash"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(IndexFault, match="made with another model"):
        Index.open(copy).search([Query("a dog")])
    (copy / "rows-1" / "embeddings.npy").write_bytes(b"torn")
    with pytest.raises(IndexFault, match="make the index again"):
        Index.open(copy)


def test_what_is_known_is_not_encoded_again(folder: Path, raw: Path, retriever: Retriever, tmp_path: Path) -> None:
    photos, out = shutil.copytree(raw, tmp_path / "photos"), shutil.copytree(folder, tmp_path / "index")
    first, second, third, *_ = sorted(photos.rglob("*.*"))
    first.rename(first.with_stem("moved"))
    second.unlink()
    shutil.copy(first.with_stem("moved"), third)

    def again():
        return update_index(PhotoFolder(retriever, photos), retriever, out, QUIET)

    counts = again()
    assert (counts.items, counts.encoded, counts.removed, counts.moved) == (19, 0, 2, 2)
    shutil.copy(raw / second.relative_to(photos), second)
    assert again()[:2] == (20, 1)
    assert again()[:2] == (20, 0)
    assert [each.name for each in out.iterdir() if each.name.startswith("rows-")] == ["rows-3"]


def test_shards_and_photos_give_the_same_index(retriever: Retriever, photo_shards: Path, tmp_path: Path) -> None:
    split = ShardedSplit(photo_shards, "test")
    images = ShardImages(retriever, split)
    assert update_index(images, retriever, tmp_path / "images", QUIET).encoded == 20
    assert update_index(images, retriever, tmp_path / "images", QUIET).encoded == 0
    index = Index.open(tmp_path / "images")
    files = [index.photo_path(name) for name in index.column("id")]
    assert files == [split.image_path(number) for number in range(20)]
    photos = PhotoFolder(retriever, files[0].parent)
    update_index(photos, retriever, tmp_path / "photos", QUIET)
    other = Index.open(tmp_path / "photos")
    by_name = {path.name: row for row, path in enumerate(map(Path, other.column("file")))}
    rows = [by_name[file.name] for file in files]
    np.testing.assert_allclose(other.rows.embeddings[rows], index.rows.embeddings, atol=1e-6)
    for name in ("width", "height", "perceptual_hash", "bytes", "mtime", "taken"):
        np.testing.assert_array_equal(other.column(name)[rows], index.column(name))
    assert dict(other.classes) != {}
    assert other.rows.table(["objects"]).to_pylist()[rows[3]] == index.rows.table(["objects"]).to_pylist()[3]


def test_a_photo_of_the_index_needs_no_mask(command, demo_run: Path, demo_shards: Path, tmp_path: Path) -> None:
    """The demo's models need the exact segmentation, which a photo alone does not have."""
    split = ShardedSplit(demo_shards, "test")
    words = [f"checkpoint={demo_run}", f"shards={demo_shards}", "split=test", f"out={tmp_path / 'index'}"]
    assert command("index", *words, "text_tower=false", "progress=false").code == 0
    index = Index.open(tmp_path / "index")
    photo = Path(shutil.copy(split.image_path(4), tmp_path / "dropped.png"))  # under another name
    (stored,) = index._photos([Query(image=photo)])
    np.testing.assert_array_equal(np.asarray(stored), index.rows.embeddings[4])
    (sent,) = index.search([Query(image=Image.open(photo), sha256=sha256(photo))], 1)
    assert sent.results[0].row == 4
    other = ShardedSplit(demo_shards, "dev").image_path(0)
    refused = command("search", f"index={tmp_path / 'index'}", f"image={other}")
    assert refused.code == 1
    assert "annotated segmentation, which this photo does not have: give its 8-bit PNG" in refused.err
    assert "a photo that is in the index is found without" in refused.err
    mask = other.parent.parent / "segmentation" / other.name
    (found,) = index.search([Query(image=other, mask=mask)], 3)
    expected = Retriever.load(demo_run, device="cpu").encode_photos([other], masks=[mask]).numpy()
    np.testing.assert_allclose(np.asarray(index._photos([Query(image=other, mask=mask)])), expected, atol=1e-6)
    assert len(found.results) == 3
    ended = command("search", f"index={tmp_path / 'index'}", f"image={other}", f"mask={mask}", "top=3", "format=json")
    assert [each["id"] for each in json.loads(ended.out)["results"]] == [each.id for each in found.results]


def test_captions_are_found_by_photos(retriever: Retriever, photo_shards: Path, tmp_path: Path) -> None:
    split = ShardedSplit(photo_shards, "test")
    update_index(ShardCaptions(retriever, split), retriever, tmp_path, QUIET)
    index = Index.open(tmp_path)
    (answer,) = index.search([Query(image=split.image_path(2))], 3)
    scores = retriever.encode_photos([split.image_path(2)]) @ retriever.encode_texts(split.caption_texts).T
    assert [result.score for result in answer.results] == pytest.approx(scores[0].topk(3).values.tolist(), abs=1e-6)
    assert answer.results[0].caption == split.caption_texts[answer.results[0].row]
    assert index.column("id")[7] == f"{split.image_ids[int(split.owners[7])]}#2"


def test_a_hub_correction_is_that_of_the_metrics(retriever: Retriever, photo_shards: Path, tmp_path: Path) -> None:
    bank = ShardCaptions(retriever, ShardedSplit(photo_shards, "train"))
    correction = Correction("dynamic_inverted_softmax", bank, {"rows": 1})
    options = Options(progress=False, text_tower=False, correction=correction)
    images = ShardImages(retriever, ShardedSplit(photo_shards, "test"))
    update_index(images, retriever, tmp_path, options)
    index = Index.open(tmp_path)
    texts = ["a dog", "a red ball on the table", "a boat"]
    embeddings, queries = torch.from_numpy(np.array(index.rows.embeddings)), retriever.encode_texts(texts)
    made = dynamic_inverted_softmax(embeddings, retriever.encode_texts(list(bank.split.caption_texts)))
    scores = queries.double() @ embeddings.double().T
    assert made.hubs is not None
    active = made.hubs.among()[scores.argmax(dim=1)].double()
    rows = (scores - active[:, None] * made.bias).topk(5).indices.tolist()
    answers = index.search([Query(text) for text in texts], 5, fold=False)
    assert [[result.row for result in answer.results] for answer in answers] == rows
    plain = index.search([Query(text) for text in texts], 5, fold=False, corrected=False)
    assert [[result.row for result in answer.results] for answer in plain] == scores.topk(5).indices.tolist()
