"""What the hostile cases of `tests/fuzz` once brought down, each as small as it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from threeshnet.annotations.common import load_json, tidy
from threeshnet.cli.errors import for_terminals
from threeshnet.encoders.official import load_official_checkpoint
from threeshnet.errors import CheckpointError, DataError, Problems, one_of
from threeshnet.features.published.image_files import grid_of
from threeshnet.features.published.layout import Request
from threeshnet.features.published.npy import NpyRows
from threeshnet.features.published.npz_files import NpzLayout
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.records import ImageArrays, Photo
from threeshnet.reports.contact_sheet import draw_boxes
from threeshnet.reports.dashboard import write_dashboard
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import look_through
from threeshnet.training.checkpoint import load_model

from ..shard_folders import write_shard

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = h5py.string_dtype()


# ---- settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=2024"], "out=2024: expected a text (in quotes: 'out=\"2024\"')"),
        (["text.encoder.pooling=mean"], "'mean': expected a part, with a `_target_`"),
        (["dim=wide"], "dim='wide': expected a whole number"),
        (["dim=1000000000000000000000000000000"], "expected a whole number of 64 bits"),
        (["seed=1.5"], "seed=1.5: expected a whole number"),
        (["seed=true"], "seed=True: expected a whole number"),
        (["seed=null"], "seed=null: expected a whole number"),
        (["optimization.learning_rate=nan"], "optimization.learning_rate=nan: expected a number"),
        (["+batches.batch_size.more=1"], "batches.batch_size={'more': 1}: expected a whole number"),
        (["batches={workers: many}"], "batches.workers='many': expected a whole number"),
        (["shards=[a,b]"], "shards=['a', 'b']: expected a text"),
        (["trainer.max_epochs=many"], "trainer.max_epochs='many'"),
        (["objective=null"], "objective=None does not exist; there are: infonce, soft_labels, subspaces, triplet"),
        (["activation=true"], "activation=True does not exist; there are: sigmoid, softmax"),
        (["activation=[[a]]"], "activation=[['a']] does not exist; there are: sigmoid, softmax"),
        (["fusion.spatial.classes=[[[[]]]]"], "fusion.spatial.classes=[[[[]]]]: expected a whole number"),
        (["boxes='${oc.create:{a:1}}'"], "boxes='${oc.create:{a:1}}' does not exist; there are: "),
        (["+checkpoints.more={}"], "checkpoints.more is not a setting; in checkpoints there are: minutes, steps"),
        (["checkpoints.steps=-0.0"], "checkpoints.steps=-0.0: expected a whole number"),
    ],
)
def test_settings_of_another_kind_are_named_with_what_was_expected(command, words: list[str], message: str) -> None:
    ended = command("train", "experiment=region_coco", *words)  # whose shards are not made by themselves
    assert ended.code == 1
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_factors_are_words_whatever_they_are_named_after(command) -> None:
    """A sweep hands them on as texts; a search of `warm_up_epochs` was refused for that."""
    ended = command("train", "experiment=region_coco", "factors={warm_up_epochs: '4', checkpoints.steps: '7'}")
    assert ended.code == 1
    assert "No shards of coco" in ended.err


def test_intervals_between_checkpoints_are_looked_at(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    where = [f"shards={synthetic_shards}", f"out={tmp_path / 'run'}", *small]
    ended = command("train", "experiment=region_coco", *where, "checkpoints.steps=0", "checkpoints.minutes=-1")
    assert ended.code == 1
    for said in (
        "checkpoints.steps=0 must be at least 1",
        "checkpoints.minutes=-1 must be at least 0",
        "null is for none",
    ):
        assert said in ended.err


def test_an_empty_page_is_the_usual_one(command, tmp_path: Path) -> None:
    ended = command("dashboard", f"out={tmp_path}", "study=activation", "page=''")
    assert (ended.code, "no run directory" in ended.err) == (1, True)


def test_all_wrong_settings_are_said_at_once(command) -> None:
    ended = command("train", "experiment=region_coco", "seed=a", "dim=b", "batches.workers=c")
    assert "settings: 3 problems" in ended.err


def test_a_part_that_cannot_be_built_names_its_setting(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    where = [f"shards={synthetic_shards}", f"out={tmp_path / 'run'}"]
    ended = command("train", "experiment=region_coco", *small, *where, "trainer.max_epochs=-7")
    assert ended.code == 1
    assert "Error in call to target 'pytorch_lightning.trainer.trainer.Trainer'" in ended.err
    assert "`max_epochs` must be a non-negative integer or -1. You passed in -7." in ended.err
    assert "THREESHNET_TRACEBACK=1" in ended.err
    assert "Traceback" not in ended.err


def test_a_file_that_the_system_refuses_is_named(command, synthetic_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    ended = command("train", "experiment=region_coco", f"shards={synthetic_shards}", f"out={out}")
    assert ended.code == 1
    assert f"{out}" in ended.err
    assert "Not a directory" in ended.err
    assert "Traceback" not in ended.err


def test_messages_are_bounded_and_steer_no_terminal() -> None:
    problems = Problems("x")
    problems.add("y" * 10**6)
    problems.add(one_of("split", "z" * 10**6, ["train"]))
    assert len(problems.text()) < 3000
    assert for_terminals("\x1b[2J\x00a\u202e\ud800\tb\n") == r"\x1b[2J\x00a\u202e\ud800" + "\tb\n"


# ---- annotations and arrays


def test_lists_in_lists_without_end(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.json is not readable JSON"):
        load_json(tmp_path / "deep.json", "the captions", "coco")


def test_a_header_that_no_parser_takes(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'shape': ((((".ljust(117) + "\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(DataError, match=r"x\.npy: not a \.npy file"):
        NpyRows(tmp_path / "x.npy")


def test_a_npy_of_less_than_nothing_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (-1, 4)})
    with pytest.raises(DataError, match=r"x\.npy: a shape of \(-1, 4\)"):
        NpyRows(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"num_bbox": np.ones(3, complex)}, "num_bbox holds complex128; expected numbers"),
        ({"num_bbox": np.arange(3)}, r"num_bbox holds int64 of shape \(3,\); expected one whole number"),
        ({"num_bbox": np.array(np.nan)}, "expected one whole number"),
        ({"num_bbox": np.array(2), "bbox": np.ones((2, 4), complex)}, "bbox holds complex128"),
    ],
)
def test_an_npz_with_strange_counts_is_refused(tmp_path: Path, held: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "1.npz", x=np.ones((2, 4), np.float32), **held)
    with pytest.raises(DataError, match=message):
        NpzLayout().open(tmp_path, Request(), Problems("x"))


def test_a_manifest_in_another_encoding_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{" + " " * 50_000 + "}", encoding="utf-32")
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest of format 1 \(UnicodeDecodeError: ") as found:
        Manifest.load(tmp_path)
    assert len(str(found.value)) < 1000


def test_totals_that_lie_are_refused_before_anything_is_scored(synthetic_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_shards, tmp_path / "shards")
    content = json.loads((synthetic_shards / "manifest.json").read_text())
    content["splits"]["testall"].update(images=1)
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json: the split has 1 images, its shards "):
        ShardedSplit(tmp_path / "shards", "testall")


def test_an_empty_tensor_file(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be opened for weights alone"):
        grid_of(tmp_path / "x.pth", "first")


def test_zeros_and_half_letters_in_texts_are_kept_out_of_hdf5(tmp_path: Path) -> None:
    assert tidy("a\0 dog\n") == "a dog"
    photo = Photo("id\0\ud800", tmp_path / "x.png", "train", ("a \ud83d dog",), tags=("t\0",))
    arrays = ImageArrays(grid=np.ones((1, 4, 3), np.float32))
    write_shard(tmp_path / "x.h5", [photo], arrays, grid_size=(2, 2))
    with h5py.File(tmp_path / "x.h5") as shard:
        stored = [shard[key][0].decode() for key in ("image/id", "caption/text", "caption/tag")]  # pyright: ignore
    assert stored == ["id\\x00\\ud800", "a \\ud83d dog", "t\\x00"]


# ---- shards


def spoiled(shards: Path, folder: Path, change: Callable[[h5py.File], Any]) -> Path:
    """A copy of the shards with something else in the file of the dev split."""
    for file in shards.glob("*"):
        (folder / file.name).write_bytes(file.read_bytes())
    with h5py.File(folder / "dev-00000.h5", "a") as opened:
        change(opened)
    return folder


def link(target: Any) -> Callable[[h5py.File], Any]:
    def change(opened: h5py.File) -> None:
        del opened["caption/text"]
        opened["caption/text"] = target

    return change


def replaced(key: str, *shape_and_type: Any, **options: Any) -> Callable[[h5py.File], Any]:
    """Another array under a name; without shape and type a group."""

    def change(opened: h5py.File) -> None:
        del opened[key]
        opened.create_dataset(key, *shape_and_type, **options) if shape_and_type else opened.create_group(key)

    return change


def put(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda opened: opened[key].__setitem__(slice(0, 1), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link(h5py.ExternalLink("/etc/x.h5", "/a")), "caption/text is a link, which is never followed"),
        (link(h5py.SoftLink("/image/id")), "caption/text is a link"),
        (
            replaced("seg/map", (4, 64, 64), "u1", external=[("/etc/passwd", 0, 16384)]),
            "seg/map has its data in another file, which is never read",
        ),
        (replaced("image/id", 2**40, TEXT, chunks=(64,)), "image/id declares 8,796,093,022,208 bytes and stores 0"),
        (replaced("grid/features"), "grid/features is no dataset"),
        (replaced("caption/text", (3,), "f8", data=np.zeros(3)), "caption/text is of type float64"),
        (put("caption/owner", -1), "caption/owner from -1"),
        (put("region/offsets", 9999), "region/offsets"),
    ],
)
def test_a_shard_that_lies_is_refused_by_reader_and_verify(
    synthetic_shards: Path, tmp_path: Path, change: Callable[[h5py.File], Any], message: str
) -> None:
    folder = spoiled(synthetic_shards, tmp_path, change)
    with pytest.raises(DataError) as refused:
        ShardedSplit(folder, "dev")
    assert f"dev-00000.h5: {message}" in str(refused.value)
    assert any(message in fault for fault in look_through(folder).faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content, _: content.update(format=True), "format True"),
        (lambda content, _: content.update(dataset="../x"), "dataset: '../x' is not a plain name"),
        (lambda content, _: content.update(raw="a\0b"), "raw='a\\x00b': a text with a zero byte in it"),
        (lambda content, _: content["layout"].update(classes=10**9), "=1000000000: expected less than or equal to 255"),
        (lambda content, _: content["layout"].update(classes=None), "classes=None with the fields region, grid, seg"),
        (lambda content, _: content["layout"].update(grid_size=[7]), "grid_size=[7]: expected 2 values or more"),
        (
            lambda content, _: content["layout"]["dtypes"].update(region="int8"),
            "dtypes: region='int8' does not exist; there are: float16",
        ),
        (lambda _, dev: dev.update(images=-1), "dev: images=-1: expected greater than"),
        (lambda _, dev: dev["shards"][0].update(file="../x.h5"), "'../x.h5' is not a plain name"),
        (lambda _, dev: dev["shards"][0].update(file="/etc/passwd"), "'/etc/passwd' is not a"),
        (lambda _, dev: dev["shards"][0].update(file=5), "file=5: expected a text"),
        (lambda _, dev: dev["shards"][0].update(surprise=5), "splits: dev: shards[0]: surprise is not a part of it"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    synthetic_shards: Path, tmp_path: Path, change: Callable[[Any, Any], Any], message: str
) -> None:
    content = json.loads((synthetic_shards / "manifest.json").read_text())
    change(content, content["splits"]["dev"])
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as refused:
        Manifest.load(tmp_path)
    assert message in str(refused.value)


def test_a_box_one_pixel_high_is_drawn() -> None:
    photo, ones = Image.new("RGB", (11, 11)), np.ones(3, np.float32)
    boxes = np.array([[0.1, 0.1, 0.9, 0.2], [0.5, 0.5, 0.5, 0.5], [0.2, 0.1, 0.3, 0.9]], np.float32)
    assert draw_boxes(photo, boxes, ones).getbbox() is not None


@pytest.mark.parametrize("name", ["job", "progress", "metrics", "inspection"])
@pytest.mark.parametrize(
    "content", ['{"rsum": "9"}', '{"updated": 1e400, "pooling": {"a": {"b": [[]]}}}', '{"factors": 5}']
)
def test_a_strange_file_of_a_run_counts_as_not_there(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    (tmp_path / "run" / f"{name}.json").write_text(content)
    assert "waiting" in write_dashboard(tmp_path, study="x\ud800").read_text()


# ---- checkpoints


@pytest.fixture(scope="module")
def content(command, synthetic_shards: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("run")
    words = [*small, f"shards={synthetic_shards}", "trainer.max_steps=1", "highlights=0", f"out={out}"]
    assert command("train", "experiment=region_coco", *words).code == 0
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card, _: card.update(format=99), "format=99 does not exist; there are: 1"),
        (lambda card, _: card.update(fields="region"), "fields='region': expected a list"),
        (lambda card, _: card.update(fields=["depth"]), "there are: region, grid, seg"),
        (lambda card, _: card.update(model=5), "model=5: expected an object"),
        (lambda card, _: card.update(model=card["model"]["image_encoder"]), "not a model of images and texts"),
        (lambda card, _: card["model"]["image_encoder"]["project"].update(dim=10**8), "size mismatch"),
        (lambda _, state: state.update({5: torch.zeros(1)}), "state_dict[5]=5: expected a text"),
        (lambda _, state: state.update({first(state): "text"}), "is no tensor but str"),
        (lambda _, state: state.update({first(state): state[first(state)] * torch.nan}), "not finite"),
        (lambda _, state: state.update({first(state): torch.zeros(1).expand(2**45)}), "size mismatch"),
        (lambda _, state: state.update({first(state): torch.eye(3).to_sparse()}), "is no plain tensor"),
    ],
)
def test_a_checkpoint_that_lies_is_refused(
    content: Any, tmp_path: Path, change: Callable[[Any, Any], Any], message: str
) -> None:
    import copy

    card, state = copy.deepcopy(content["threeshnet"]), dict(content["state_dict"])
    change(card, state)
    torch.save({**content, "threeshnet": card, "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError) as refused:
        load_model(tmp_path / "x.ckpt")
    assert message in str(refused.value)
    assert "x.ckpt" in str(refused.value)


def first(state: dict[str, Any]) -> str:
    return next(key for key in state if key.startswith("model.") and key.endswith("weight"))


class Options:
    """A class of somebody's own training code."""


def test_another_pickle_is_read_when_it_is_asked_for_and_never_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    home = types.ModuleType("their_code")
    monkeypatch.setitem(sys.modules, "their_code", home)
    Options.__module__, home.Options = "their_code", Options  # pyright: ignore[reportAttributeAccessIssue]
    whole = torch.load(GOLDEN / "official_checkpoint.pth", weights_only=False)  # our own file
    torch.save(whole | {"opt": Options()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"it holds their_code\.Options.*; allow_pickle=true runs it"):
        load_official_checkpoint(tmp_path / "x.pth", GOLDEN / "bert")
    assert not caplog.records
    model = load_official_checkpoint(tmp_path / "x.pth", GOLDEN / "bert", allow_pickle=True)
    assert "is RUN now" in caplog.text
    assert model.encode_texts(["a dog"]).shape[0] == 1


@pytest.mark.parametrize("start", [12, 33, 60])
def test_a_mask_whose_chunks_are_damaged(start: int, tmp_path: Path) -> None:
    """Pillow raises SyntaxError for a PNG that breaks off between two chunks."""
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (40, 40), np.uint8)).save(tmp_path / "m.png")
    content = bytearray((tmp_path / "m.png").read_bytes())
    content[start : start + 400] = bytes(len(content[start : start + 400]))
    (tmp_path / "m.png").write_bytes(content)
    extractor = AnnotatedSegmentation()
    extractor.class_names = ("a", "b", "c")
    photo = Photo("1", tmp_path / "1.png", "", (), segmentation=tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png: not a readable mask"):
        extractor.load(photo, None)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("held", ["weights", "code"])
def test_a_checkpoint_in_another_protocol_is_read_or_refused_in_one_message(
    command, synthetic_shards: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, protocol: int, held: str
) -> None:
    """torch's warning came first, with a path of its own code."""
    content = {"state_dict": {}, "threeshnet": {} if held == "weights" else print}
    torch.save(content, tmp_path / "x.ckpt", pickle_protocol=protocol)
    ended = command("evaluate", f"checkpoint={tmp_path / 'x.ckpt'}", f"shards={synthetic_shards}", "split=testall")
    assert ended.code == 1
    assert ended.err.startswith(str(tmp_path / "x.ckpt"))
    assert not [one for one in recwarn if "pickle protocol" in str(one.message)]
