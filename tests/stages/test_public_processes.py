"""Processes, disks, folders and earlier runs of others: nothing outlives its parent, nothing is kept by name alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from transformers import BertConfig, BertModel

from threeshnet.encoders.text import sources
from threeshnet.encoders.text.sources import MINILM, bert_folder, is_same_bert, wordpieces
from threeshnet.errors import DataError
from threeshnet.overrides import quoted, text
from threeshnet.shards import fill
from threeshnet.training.module import RetrievalModule

from .compared_runs import STEPS

BERT = Path(__file__).parents[1] / "golden" / "bert"


# ---- children end with their parent

READS = """
import os, sys, time, torch
from functools import partial
from torch.utils.data import DataLoader
from threeshnet.batches.loader import Loader
from threeshnet.processes import reads_for

class Slow:
    def __len__(self):
        return 9
    def __getitem__(self, row):
        print(os.getpid(), flush=True)
        time.sleep(60)

own = {"worker_init_fn": partial(reads_for, os.getpid())}
loader = Loader(Slow(), num_workers=1) if sys.argv[1] == "training" else DataLoader(Slow(), num_workers=1, **own)
next(iter(loader))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
@pytest.mark.parametrize("kind", ["training", "making shards"])
def test_a_worker_ends_when_its_parent_is_killed_in_any_read(forks, tmp_path: Path, kind: str) -> None:
    """pytorch#5736, #6606: workers went on; torch looks every five seconds, between reads."""
    script = tmp_path / "reads.py"
    script.write_text(READS)
    started = forks.start(str(script), [kind], folder=tmp_path)
    end = time.monotonic() + 60
    while not (said := (tmp_path / "out.txt").read_text().split()) and time.monotonic() < end:
        time.sleep(0.02)
    worker = Path(f"/proc/{said[0]}")
    os.kill(started.processes[0], signal.SIGKILL)
    end = time.monotonic() + 30
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(worker)
    assert forks.wait(started, seconds=30).code == -signal.SIGKILL


def alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


# ---- disks


@pytest.mark.parametrize("verb", ["data", "import"])
def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """NOAA-EPIC/EAGLE#121: how much room does it need?"""
    monkeypatch.setattr(fill, "free_bytes", lambda _: 10**3)
    raw = root / "tests" / "golden" / "precomp"
    words = {"data": ["data=synthetic", "images=200"], "import": [f"raw={raw}"]}[verb]
    ended = command(verb, *words, f"out={tmp_path / 's'}", "workers=0", "progress=false")
    assert ended.code == 1, ended.out
    assert " GB, and 0.00 GB are free at " in ended.err
    assert "give another out=<folder>. Nothing was written" in ended.err
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


# ---- folders


@pytest.mark.parametrize("name", ["${x}", "a\\${b", 'it"s ${oc.env:HOME}', "100% @home #1", "a=b"])
def test_a_name_is_no_interpolation(name: str) -> None:
    """hydra#962, #1074, #1605, #2705: `%`, `@`, `$` and `#` in values."""
    value = OverridesParser.create().parse_override(f"out={quoted(name)}").value()
    assert OmegaConf.to_container(OmegaConf.create({"out": value}), resolve=True) == {"out": name}


def test_a_run_in_a_folder_with_a_dollar(command, small: list[str], synthetic_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "a ${b} #1"
    brief = ["trainer.max_steps=1", "highlights=0", f"shards={synthetic_shards}", text("out", out)]
    ended = command("train", "experiment=region_coco", *small, *brief)
    assert ended.code == 0, ended.err
    assert (out / "metrics.json").is_file()
    assert (out / "log" / "metrics.csv").is_file()


# ---- kept by content


def archive(file: Path, weights: bytes) -> None:
    """The package's archive in small."""
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").write_text("")
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("m/config.json", (BERT / "config.json").read_text())
        opened.writestr("m/model.safetensors", weights)
        opened.writestr("m/onnx/config.json", "{}")
        opened.writestr("tokenizer.json", json.dumps({"model": {"vocab": {"[PAD]": 0, "a": 1}}}))


def test_the_unpacked_minilm_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zeldarose#111, ultralytics#26207: what was unpacked before was taken by name and size."""
    package = SimpleNamespace(origin=str(tmp_path / "package" / "__init__.py"))
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: package)
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(sources, "WHOLE", set())
    archive(tmp_path / "package" / "model.zip", b"weights")
    first = bert_folder(MINILM)
    assert (first / "vocab.txt").read_text() == "[PAD]\na"
    assert (first / "config.json").read_bytes() == (BERT / "config.json").read_bytes()
    (first / "model.safetensors").write_bytes(b"damaged")  # of the same size
    monkeypatch.setattr(sources, "WHOLE", set())
    assert bert_folder(MINILM) == first
    assert (first / "model.safetensors").read_bytes() == b"weights"
    archive(tmp_path / "package" / "model.zip", b"another")
    other = bert_folder(MINILM)
    assert other != first
    assert (other / "model.safetensors").read_bytes() == b"another"
    (tmp_path / "package" / "model.zip").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be unpacked"):
        bert_folder(MINILM)


# ---- going on


def tiny_bert(folder: Path) -> Path:
    """The golden tests' BERT with weights."""
    shutil.copytree(BERT, folder)
    BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_run_goes_on_where_its_bert_was_moved(
    command, small: list[str], synthetic_shards: Path, tmp_path: Path
) -> None:
    """simpletransformers#151, lerobot#4023: the folder of the pre-trained model has another name now."""
    here, there = tiny_bert(tmp_path / "here"), tmp_path / "there"
    settings = [word for word in small if not word.startswith("text=")] + ["text=bert", "trainer.max_steps=1"]
    words = [
        "experiment=region_coco",
        *settings,
        "highlights=0",
        f"shards={synthetic_shards}",
        f"out={tmp_path / 'run'}",
    ]
    ended = command("train", *words, f"text.name={here}")
    assert ended.code == 0, ended.err
    here.rename(there)
    again = command("train", *words, f"text.name={there}", "resume=true")
    assert (again.code, "finished already" in again.out) == (0, True), again.err
    lines = (there / "vocab.txt").read_text().split("\n")
    (there / "vocab.txt").write_text("\n".join([*lines[:-2], *reversed(lines[-2:])]))  # other ids
    ended = command("train", *words, f"text.name={there}", "resume=true")
    assert (ended.code, f"text.name='{there}', but the run began with '{here}'" in ended.err) == (1, True), ended.err


def test_a_pre_trained_bert_learns_with_its_dropout(attempt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lightning-AI/pytorch-lightning#20105: what `from_pretrained` gives is in evaluation mode, and was left in it."""
    step, at_rest = RetrievalModule.training_step, []

    def watched(self: RetrievalModule, *arguments: Any) -> Any:
        at_rest.append([name for name, each in self.model.named_modules() if not each.training])
        return step(self, *arguments)

    monkeypatch.setattr(RetrievalModule, "training_step", watched)
    words = ("text=bert", f"text.name={tiny_bert(tmp_path / 'bert')}")
    for more in ((), ("trainer.max_epochs=3", "resume=true")):  # after each there is an evaluation of dev
        assert attempt(tmp_path / "run", *words, *more).code == 0
    assert len(at_rest) == 3 * STEPS
    assert not any(at_rest)


@pytest.mark.parametrize(
    ("change", "same"), [({}, True), ({"num_hidden_layers": 9}, False), ({"transformers_version": "0"}, True)]
)
def test_which_bert_is_the_same(change: dict[str, Any], same: bool) -> None:
    tokenizer = wordpieces(BERT)
    config = BertConfig.from_pretrained(BERT).to_diff_dict()
    recipe = {"tokenizer": {"lines": tokenizer.lines, **tokenizer.options}, "text_encoder": {"bert": config | change}}
    assert is_same_bert(BERT, recipe) == same
    assert not is_same_bert(BERT, {**recipe, "tokenizer": {}})
    assert not is_same_bert(BERT.parent / "nowhere", recipe)
