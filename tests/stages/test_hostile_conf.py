"""What hostile files of a user's `conf/`, of runs and of studies once brought down (tests/fuzz)."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from threeshnet.annotations.coco_segmentation import INSTANCES, numbered
from threeshnet.cli.own_files import own_conf_faults
from threeshnet.cli.validation import part_faults
from threeshnet.encoders.text.bert import from_architecture
from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.features.published.hdf5 import Hdf5Layout
from threeshnet.features.published.layout import Request
from threeshnet.features.published.npy import NpyRows
from threeshnet.features.published.npz_files import NpzRows
from threeshnet.nn.mlp import MLP
from threeshnet.reports.pages import Rows, rendered
from threeshnet.reports.results import read_results
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest
from threeshnet.studies.study import load_study, parse_study

FILES: dict[str, tuple[bytes, str]] = {
    "UTF-16": ("name: x".encode("utf-16"), "can't decode byte"),
    "a tag of Python": (b"a: !!python/object/apply:os.mkdir [executed]", "could not determine a constructor"),
    "tabs": (b"a:\n\tb: 1", "cannot start any token"),
    "a key twice": (b"a: 1\na: 2\n", "found duplicate key a"),
    "a list": (b"[1, 2]", "holds a list, no names with values"),
    "an alias of itself": (b"a: &a [*a]", ""),
    "levels": (b"a: " + b"{a: " * 90 + b"1" + b"}" * 90, "more than 50 levels"),
    "names that are no texts": (b"1: 2\n", "names that are no texts: [1]"),
    "defaults": (b"defaults: 5", "`defaults` is no list of names"),
    "a choice that is an object": (b"defaults: [{extractor: {a: b}}]", "`defaults` is no list of names"),
    "a choice that is a number": (b"defaults: [{override /extractor: 5}]", "`defaults` is no list of names"),
    "choices of objects": (b"defaults: [{extractor: [{a: b}]}]", "`defaults` is no list of names"),
    "an interpolation": (b"a: ${", "no viable alternative at input"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_hydra_cannot_read_is_named(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = FILES[case]
    file = tmp_path / "conf" / "data" / "strange.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    faults = own_conf_faults()
    assert faults is not None
    assert "conf/data/strange.yaml: " in faults
    assert said in faults
    ended = command("data", "data=strange", "raw=x", "progress=false")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert ended.err.strip()
    assert not (tmp_path / "executed").exists()
    file.write_text("name: x\ndefaults: [folder, _self_]\n")
    assert own_conf_faults() is None


BUILDERS = {
    "os.mkdir": "the standard library has no parts",
    "builtins.eval": "the standard library has no parts",
    "subprocess.Popen": "the standard library has no parts",
    "torch.save": "is a function of another package, where a part is a class",
    "hydra.utils.instantiate": "is a function of another package",
    "threeshnet.files.write_text": "is no part; they are defined in threeshnet.{annotations,",
    "threeshnet.training.building.instantiate": "is no part",
    "threeshnet.nowhere.X": "does not exist",
}


@pytest.mark.parametrize("target", BUILDERS)
def test_a_part_is_a_class_and_no_function_is_called(target: str) -> None:
    (fault,) = part_faults({"objective": {"_target_": target, "x": 1}})
    assert fault[0] == "objective._target_"
    assert BUILDERS[target] in fault[1]


def test_a_flag_that_is_none() -> None:
    ((_, said),) = part_faults({"schedule": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": "a b"}})
    assert said == "schedule._partial_='a b': expected true or false"


def test_an_augmentation_without_a_builder(command, small: list[str], synthetic_shards: Path, tmp_path: Path) -> None:
    words = [*small, f"shards={synthetic_shards}", f"out={tmp_path}", "augment.alter_words='${oc.create:{a:1}}'"]
    ended = command("train", "experiment=region_coco", *words)
    assert ended.code == 1
    assert "augment.alter_words={'a': 1}: expected a part, with a `_target_`" in ended.err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("~trainer.sync_batchnorm", "trainer.sync_batchnorm is missing"),
        ("trainer.devices=2026", "trainer.devices=2026: "),  # `${now:%Y}` once; as many processes began
    ],
)
def test_options_of_the_trainer(
    command, small: list[str], synthetic_shards: Path, tmp_path: Path, word: str, said: str
) -> None:
    ended = command("train", "experiment=region_coco", *small, f"shards={synthetic_shards}", f"out={tmp_path}", word)
    assert (ended.code, said in ended.err) == (1, True), ended.err


def test_parts_of_others_are_taken() -> None:
    known: dict[str, Any] = {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_decay": 0.1}
    later = {"_target_": "transformers.get_constant_schedule", "_partial_": True}
    assert list(part_faults({"optimizer": known, "schedule": later})) == []


@pytest.mark.parametrize("name", ["milestone", "\ud800 lone surrogate"])
def test_names_that_a_part_of_others_does_not_take(name: str) -> None:
    """The schedule is called when the training begins, and PyTorch's TypeError came then."""
    part = {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "_partial_": True, "milestones": [15], name: 1}
    ((key, said),) = part_faults({"schedule": part})
    assert key == f"schedule.{name}"
    assert "there are: optimizer, milestones, gamma" in said


@pytest.mark.parametrize("content", ["", "gamma: 0.1\n", "_target_: null\n", "_partial_: true\n_target_: [a]\n"])
@pytest.mark.parametrize("group", ["schedule", "objective", "pooling"])
def test_a_part_that_names_no_class(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, content: str
) -> None:
    """An empty file or one that was cut short: `{} is not a callable object`, after the model was built."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "strange.yaml").write_text(content)
    ended = command("train", "experiment=region_coco", f"{group}=strange")
    assert ended.code == 1
    assert f"{group}=" in ended.err
    assert "expected a part, with a `_target_` as in a file of conf/" in ended.err


@pytest.mark.parametrize("key", ["fusion.semantic", "logger.csv", "features.image_encoder"])
def test_a_part_below_a_group_that_names_no_class(command, key: str) -> None:
    ended = command("train", "experiment=region_coco", f"{key}='${{oc.create:{{a:1}}}}'")
    assert (ended.code, f"{key}={{'a': 1}}: expected a part, with a `_target_`" in ended.err) == (1, True), ended.err


def test_an_interpolation_that_is_none_is_explained(command) -> None:
    """Hydra's error had no text, and the command ended without a word."""
    ended = command("data", "data=folder", "raw=x", "extractor='${..}'")
    assert ended.code == 1
    assert "extractor='${..}'" in ended.err


def test_a_null_group_in_a_sweep(command, tmp_path: Path) -> None:
    ended = command("sweep", "study=seeds", "experiment=region_demo", "objective=null", f"out={tmp_path}")
    assert (ended.code, "objective=None does not exist; there are: infonce" in ended.err) == (1, True), ended.err


@pytest.mark.parametrize("content", ["[1]", "a: ${", "5", "a: &a [*a]"])
def test_settings_of_a_run_that_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(DataError, match=r"config\.yaml "):
        _ = Run(tmp_path).settings


@pytest.mark.parametrize("width", [0, -4, 10**19])
def test_a_photo_of_no_size_in_cocos_file(width: int) -> None:
    image = {"id": 1, "width": width, "height": 4}
    with pytest.raises(DataError, match=rf"x\.json: 1 problem\n.*images\[0\]: width={width}"):
        numbered(Path("x.json"), {"images": [image], "annotations": [], "categories": []}, INSTANCES)


@pytest.mark.parametrize("place", ["superblock", "middle", "end"])
def test_a_damaged_hdf5_file(place: str, tmp_path: Path) -> None:
    """h5py raises KeyError, RuntimeError and others by the place of the damage."""
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["ids"] = np.array(["a", "b"], object)
        file["features"] = np.ones((2, 3, 4), np.float32)
    content = (tmp_path / "all.h5").read_bytes()
    start = {"superblock": 40, "middle": len(content) // 4, "end": len(content) // 2}[place]
    for step in range(0, 160, 20):
        spoiled = bytearray(content)
        spoiled[start + step : start + step + 20] = bytes(b ^ 0x5A for b in content[start + step : start + step + 20])
        (tmp_path / "all.h5").write_bytes(spoiled)
        layout, problems = Hdf5Layout(), Problems("x")
        if layout.missed(tmp_path):
            continue
        source = layout.open(tmp_path, Request(), problems)
        for entry in () if problems else source.entries:
            with contextlib.suppress(DataError):
                source.reader.read(entry.key)


def test_boxes_without_an_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=np.ones((2, 4), np.float32), bbox=np.float32(3), num_bbox=2)
    with pytest.raises(DataError, match=r"bbox of shape \(\); expected a row a region"):
        NpzRows({"regions": "x", "boxes": "bbox", "count": "num_bbox"}, turned=False).read(tmp_path / "1.npz")


def test_a_shape_of_truth_values(tmp_path: Path) -> None:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }".ljust(117) + "\n"
    (tmp_path / "1.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64))
    with pytest.raises(DataError, match=r"1\.npy: "):
        NpyRows(tmp_path / "1.npy")


def test_a_maker_without_a_name(synthetic_shards: Path, tmp_path: Path) -> None:
    """It was found after the training, in the card of the checkpoint."""
    content = json.loads((synthetic_shards / "manifest.json").read_text())
    content["extractors"]["grid"]["name"] = float("nan")
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"extractors.*expected a text"):
        Manifest.load(tmp_path)


def test_a_study_that_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "studies").mkdir(parents=True)
    (tmp_path / "conf" / "studies" / "strange.yaml").write_text("[1]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"conf/studies/strange.yaml holds a list"):
        load_study("strange")


def test_a_study_with_half_a_letter_for_a_name() -> None:
    with pytest.raises(ConfigError, match=r"conf/studies/x\.yaml: [1-9] problem"):
        parse_study("x", {"title": "a", "\ud800 lone surrogate": 1})


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n3,4,5,6\n'])
def test_rows_that_are_no_table(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_results(load_study("seeds"), tmp_path)


@pytest.mark.parametrize("cell", ["nan", "${oc.env:HOME}", "1,5", ""])
def test_a_recall_that_is_no_number(command, root: Path, cell: str, tmp_path: Path) -> None:
    shutil.copy(root / "experiments" / "activation" / "results.csv", tmp_path)
    lines = (tmp_path / "results.csv").read_text().split("\n")
    cells = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    cells["i2t_r5"] = json.dumps(cell) if "," in cell else cell
    (tmp_path / "results.csv").write_text("\n".join([lines[0], ",".join(cells.values()), ""]))
    ended = command("report", "study=activation", f"into={tmp_path}")
    assert (ended.code, " i2t_r" in ended.err, "Traceback" in ended.err) == (1, True, False), ended.err


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ table.__globals__ }}",
        "{{ lipsum.__globals__['os'].mkdir('executed') }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for a in range(10 ** 12) %}x{% endfor %}",
        "{% for a in range(1000000000000) %}x{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_a_template_reaches_its_vocabulary_alone(template: str, tmp_path: Path) -> None:
    file = tmp_path / "README.md.j2"
    file.write_text(template)
    with pytest.raises(DataError, match=r"README\.md\.j2:"):
        rendered(file, Rows(tmp_path))


def test_a_checkpoint_that_asks_for_a_billion_layers() -> None:
    """Their outline alone, without numbers, took longer than anybody waits."""
    with pytest.raises(ConfigError, match="num_hidden_layers=1000000000: 1000 is the most"):
        from_architecture(num_hidden_layers=10**9)


def test_a_block_without_a_width() -> None:
    with pytest.raises(ConfigError, match="dim=2 is the least"):
        MLP(width=4, hidden=0, out=1)
