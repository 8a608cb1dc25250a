"""An exported folder: the same embeddings, plain files alone, and nothing run that is written in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from threeshnet import Retriever
from threeshnet.cli.door import compose_training
from threeshnet.errors import CheckpointError
from threeshnet.export.onnx_text import OnnxText
from threeshnet.metrics.answerability import Calibration
from threeshnet.pretrained import _digest
from threeshnet.training.checkpoint import checkpoint_hash, model_card

OFFICIAL = Path(__file__).parents[1] / "golden" / "official_checkpoint.pth"
TEXTS = ["a dog", "two red buses near a table"]
PLAIN = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as far as an export reads it, of a model that nobody trained."""
    settings, _ = compose_training(["experiment=region_demo", "text=tiny", "dim=32"])
    settings = settings.with_sizes(region_width=16, grid_width=None, classes=5)
    model = instantiate(settings.model, _convert_="all")
    training = {"experiment": "region_demo", "seed": 3, "guidance": ["semantic", "spatial"]}
    card = model_card(settings.model, model, {"fields": ["region", "seg"], "data": "demo", "run": training})
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    torch.save({"threeshnet": card, "state_dict": weights}, folder / "checkpoints" / "best.ckpt")
    side = dict.fromkeys(("R@1", "R@5", "R@10", "median_rank", "mean_rank"), 12.5)
    scores = {"i2t": side, "t2i": side, "rsum": 75.0, "data": "demo", "split": "test", "trained": [training]}
    scores |= {"checkpoint": checkpoint_hash(folder / "checkpoints" / "best.ckpt"), "selection": "best"}
    (folder / "metrics.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Path, command) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    ended = command("export", f"checkpoint={run}", f"out={out}", "format=onnx", "int8=true", "most_tokens=9")
    assert ended.code == 0, ended.err
    assert "model.safetensors" in ended.out
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def changed(folder: Path, change: Any) -> Path:
    """The folder with a changed config, whose own hash is right: as somebody who knows the form would leave it."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    del content["sha256"]
    (folder / "config.json").write_text(json.dumps(content | {"sha256": _digest(content)}))
    return folder


def test_it_gives_the_embeddings_of_the_checkpoint(exported: Path, run: Path) -> None:
    ours, theirs = Retriever.load(run, device="cpu"), Retriever.from_pretrained(exported, device="cpu")
    assert torch.equal(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS))
    one, other = ours.model.state_dict(), theirs.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())
    assert theirs.card == ours.card
    assert not theirs.model.training
    np.testing.assert_allclose(OnnxText(exported).encode_texts(TEXTS), ours.encode_texts(TEXTS).numpy(), atol=2e-6)


def test_the_folder_says_where_the_model_comes_from(exported: Path, run: Path, tmp_path: Path) -> None:
    text = (exported / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: threeshnet\n")
    for said in ("# Model card: region_demo", "| rsum | 75.0 |", "| seed | 3 |", "from_pretrained("):
        assert said in text
    lone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path)  # without its run nobody knows its scores
    Retriever.load(lone).save_pretrained(tmp_path / "lone")
    assert "No evaluation of this file is known." in (tmp_path / "lone" / "README.md").read_text()


def test_saved_again_it_is_the_same(exported: Path, tmp_path: Path) -> None:
    again = Retriever.load(exported).save_pretrained(tmp_path / "again")
    assert {file.name for file in again.iterdir()} == PLAIN
    assert all((again / name).read_bytes() == (exported / name).read_bytes() for name in PLAIN)


def test_calibration_goes_along(run: Path, tmp_path: Path) -> None:
    retriever, generator = Retriever.load(run), np.random.default_rng(0)
    images, owners = generator.normal(size=(40, 32)), np.arange(40)
    fitted = Calibration.fit(images, images + generator.normal(size=(40, 32)), owners)
    retriever.card["calibration"] = fitted.model_dump()
    again = Retriever.load(retriever.save_pretrained(tmp_path / "with"))
    assert again.calibration == fitted


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json"])
def test_a_changed_byte_is_refused(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    place = content.index(b"region_demo") if name == "config.json" else len(content) // 2
    (copied / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match=rf"(?s){name}: its sha256 differs.*Export or download it again"):
        Retriever.load(copied)


def foreign(content: dict[str, Any]) -> None:
    content["card"]["model"]["text_encoder"]["pooling"] = {"_target_": "os.system", "command": "true"}


def through_ours(content: dict[str, Any]) -> None:
    content["card"]["model"]["tokenizer"] = {"_target_": "threeshnet.batches.tokenizers.json.loads", "s": "1"}


def later(content: dict[str, Any]) -> None:
    content["format"] = 2


def half(content: dict[str, Any]) -> None:
    del content["card"]["fields"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (foreign, r"asks to build os\.system"),
        (through_ours, r"asks to build threeshnet\.batches\.tokenizers\.json\.loads"),
        (later, "format=2, and this version reads format 1"),
        (half, "card: no `fields`"),
    ],
)
def test_a_config_of_another_runs_nothing(copied: Path, change: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        Retriever.load(changed(copied, change))


def test_what_is_missing_is_said_at_once(copied: Path) -> None:
    (copied / "vocab.txt").unlink()
    (copied / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)2 problems.*model\.safetensors.*vocab\.txt is missing"):
        Retriever.load(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Retriever.load(copied)


def test_a_folder_of_others_is_left_alone(exported: Path, run: Path, tmp_path: Path, command) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    ended = command("export", f"checkpoint={run}", f"out={tmp_path}")
    assert ended.code == 1
    assert "holds something else than an exported model; give another OUT" in ended.err
    retriever = Retriever.load(exported)
    (tmp_path / "new.partial").mkdir()  # of an export that was killed
    retriever.save_pretrained(tmp_path / "new")
    retriever.save_pretrained(tmp_path / "new")  # over an earlier one
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["letter.txt", "new"]


def test_an_export_that_fails_leaves_what_was_there(exported: Path, tmp_path: Path, monkeypatch: Any) -> None:
    retriever = Retriever.load(exported)
    before = retriever.save_pretrained(tmp_path / "model")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("threeshnet.pretrained.write_text", full)
    with pytest.raises(OSError, match="No space"):
        retriever.save_pretrained(before)
    assert {file.name for file in before.iterdir()} == PLAIN
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["int8=true"], "int8=true is of the ONNX text tower: add format=onnx"),
        (["format=onxx"], "format='onxx': expected safetensors or onnx"),
        (["format=onnx", "most_tokens=0"], "most_tokens=0: expected 1 or more"),
    ],
)
def test_settings_that_do_not_go(words: list[str], said: str, run: Path, tmp_path: Path, command) -> None:
    ended = command("export", f"checkpoint={run}", f"out={tmp_path / 'out'}", *words)
    assert ended.code == 1
    assert said in ended.err
    assert not list(tmp_path.iterdir())


def test_an_authors_checkpoint_is_refused(tmp_path: Path) -> None:
    retriever = Retriever.load(OFFICIAL, text_config=OFFICIAL.parent / "bert")
    with pytest.raises(CheckpointError, match="has no recipe of its model"):
        retriever.save_pretrained(tmp_path / "out")


class Hub:
    """Stands in for huggingface_hub: a folder for each model, and the calls that an upload is made of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok  # a second upload is a new version
        self.private[repo_id] = private

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
        assert repo_id in self.private, "uploads need a repository"
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/{commit_message}"

    def download(self, name: str, *, allow_patterns: list[str]) -> str:
        assert {"*.json", "model.safetensors", "vocab.txt"} <= set(allow_patterns)
        return str(self.root / name)


def test_the_hub_gives_back_what_was_pushed(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, retriever = Hub(tmp_path), Retriever.load(exported)
    monkeypatch.setattr("threeshnet.retriever.HfApi", lambda: hub)
    monkeypatch.setattr("threeshnet.pretrained.snapshot_download", hub.download)
    assert retriever.push_to_hub("someone/model", private=True).startswith("https://hub/someone/model")
    assert hub.private == {"someone/model": True}
    assert {file.name for file in (tmp_path / "someone/model").iterdir()} == PLAIN
    there = Retriever.from_pretrained("someone/model")
    assert torch.equal(there.encode_texts(TEXTS), retriever.encode_texts(TEXTS))
