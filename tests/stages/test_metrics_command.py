"""`make evaluate` with what goes beyond recall: what stands in metrics.json and in the table, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from threeshnet.errors import ConfigError
from threeshnet.evaluation import evaluate as evaluation
from threeshnet.evaluation import request
from threeshnet.evaluation.model_card import model_card
from threeshnet.evaluation.table import print_results
from threeshnet.metrics import recall
from threeshnet.metrics.corrections import CORRECTIONS
from threeshnet.shards.manifest import MANIFEST
from threeshnet.shards.reader import ShardedSplit

EXTRA = {"extended", "intervals"}


@pytest.fixture(scope="module")
def checkpoint(demo_run: Path) -> str:
    return f"checkpoint={demo_run / 'checkpoints' / 'last.ckpt'}"


@pytest.fixture
def evaluate(command, checkpoint: str, demo_shards: Path, tmp_path: Path):
    def call(*overrides: str) -> tuple[Any, str]:
        folder = tmp_path / "-".join(overrides or ["plain"]).replace("=", "-")  # Hydra splits at the sign
        ended = command(
            "evaluate", checkpoint, f"shards={demo_shards}", "workers=0", "accelerator=cpu", f"out={folder}", *overrides
        )
        assert ended.code == 0, ended.err
        return json.loads((folder / "metrics.json").read_text()), ended.out

    return call


def test_scores_in_bfloat16_say_so_and_are_nearly_the_same(evaluate) -> None:
    exact, _ = evaluate()
    rounded, table = evaluate("precision=bf16")
    assert "encoding_precision" not in exact
    assert rounded["encoding_precision"] == "bf16-mixed"
    assert rounded["described"] == exact["described"] + ", encoded in bf16-mixed"
    assert "encoded in bf16-mixed" in " ".join(table.split())
    assert rounded["rsum"] == pytest.approx(exact["rsum"], abs=0.2 * exact["rsum"])  # a few photos, and a tiny model


def test_extended_adds_and_changes_nothing(evaluate) -> None:
    plain, table = evaluate()
    found, with_intervals = evaluate("extended=true", "bank=train")
    assert EXTRA.isdisjoint(plain)
    assert {name: found[name] for name in plain} == plain
    assert set(found) - set(plain) == EXTRA | {"bank", "correction_constants"}
    beta = {"beta": 20.0}
    assert found["correction_constants"] == {
        "inverted_softmax": beta,
        "dynamic_inverted_softmax": beta,
        "csls": {"k": 10},
    }
    low, high = found["intervals"]["t2i"]["R@10"]
    assert low <= found["t2i"]["R@10"] <= high
    assert f"±{(high - low) / 2:.1f}" in with_intervals
    assert "±" not in table
    extended = found["extended"]
    assert extended["t2i"]["map_at_r"] == pytest.approx(found["t2i"]["R@1"])  # one right image a caption
    assert extended["groups"]["t2i"]["tag"]["what"]["R@1"] == found["by_tag"]["what"]["R@1"]
    assert sum(group["queries"] for group in extended["groups"]["t2i"]["length"].values()) == found["captions"]
    assert sum(group["queries"] for group in extended["groups"]["i2t"]["object_size"].values()) <= found["images"]
    assert set(extended["corrections"]) == {"inverted_softmax", "dynamic_inverted_softmax", "csls"}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrected_recalls_are_those_that_extended_lists(evaluate, name: str) -> None:
    listed = evaluate("extended=true", "bank=train")[0]["extended"]["corrections"][name]
    found, table = evaluate(f"correction={name}", "bank=train")
    assert {side: found[side] for side in ("i2t", "t2i", "rsum")} | {"hubness": listed["hubness"]} == listed
    assert (found["correction"], found["protocol"]) == (name, "full")
    assert list(found["correction_constants"]) == [name]
    assert f"protocol full, {name} by train" in " ".join(table.split())
    assert found["described"].endswith(f", corrected by {name}")
    assert "by_tag" not in found  # those would be of the similarities as they are


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("drop_regions", {"perturb_constants": {"share": 0.5}, "perturb_batch_size": 256}),
        ("shuffle_words", {"perturb_constants": {}}),
    ],
)
def test_a_model_is_scored_under_a_perturbation(evaluate, name: str, numbers: dict[str, Any]) -> None:
    plain, _ = evaluate()
    found, table = evaluate(f"perturb={name}", "perturb_seed=3")
    recorded = {key: value for key, value in found.items() if key.startswith("perturb")}
    assert recorded == {"perturb": name, "perturb_seed": 3} | numbers
    assert f"perturbed: {name}" in " ".join(table.split())
    assert {side: found[side] for side in ("i2t", "t2i")} != {side: plain[side] for side in ("i2t", "t2i")}


def test_what_cannot_be_asked_is_said_before_anything_runs(
    command, checkpoint: str, demo_shards: Path, synthetic_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "encode", lambda *_: pytest.fail("a model encodes"))
    name, golden = checkpoint.partition("=")[2], Path(__file__).parents[1] / "golden" / "official_checkpoint.pth"
    for overrides, said in {
        ("protocol=fulll",): "protocol='fulll' does not exist; there are: full, five_fold_1k",
        ("protocol=five_fold_1k",): "is for COCO's testall",
        ("protocol=transfer",): "trained on 'demo', which is scored",
        ("protocol=ensemble",): "averages models and got one",
        (f"checkpoint=['{name}','{name}']", "protocol=ensemble"): f"{name} is the same model as {name}",
        (f"checkpoint={Path(name).parents[1]}",): f"is a folder; there are: {Path(name).parent / 'best.ckpt'}",
        (f"checkpoint={demo_shards}",): "is a folder; there is no .ckpt in it",
        (f"checkpoint={Path(name).parents[1] / 'best.ckpt'}",): "no such file",
        (f"checkpoint={golden}",): "TEXT=<folder>",
        ("split=tset",): "'tset'; there are: dev, test, train",
        (f"shards={synthetic_shards}", "split=testall"): "class table",
        (f"shards={tmp_path / 'none'}",): "No shards",
        ("perturb=shuffle_map",): "would replace the unperturbed one",
        ("perturb=shufle_map", "out=x"): "perturb='shufle_map' does not exist; there are: drop_regions",
        ("bank=test", "extended=true"): "test queries must not correct each other",
        ("bank=train",): "add extended=true",
        ("correction=csls", "out=x"): "correction=csls without a bank",
        ("correction=csl", "bank=train", "out=x"): "correction='csl' does not exist; there are: inverted_softmax",
        ("correction=csls", "bank=train"): "would replace the uncorrected one",
        ("views=[1]",): "would replace that of the photos as they are",
        ("views=[1,1]", "out=x"): "expected different numbers from 0",
        ("views=[1]", "perturb=shuffle_map", "out=x"): "ask for one of them",
        ("views=[1]", "out=x"): "No shards of demo_view1",
        ("trained_on=coco",): "trained_on='coco', but ",
        ("correction=csls", "bank=train", "extended=true", "out=x"): "ask for it without correction",
        ("correction=csls", "bank=train", "protocol=transfer", "out=x"): "has seen nothing of these data",
    }.items():
        ended = command("evaluate", checkpoint, f"shards={demo_shards}", *overrides)
        assert ended.code == 1
        assert said in ended.err.replace("\n", " ")
        assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("evaluate", [], ["checkpoint= is missing: a file of `make train`", "shards= is missing: folder of"]),
        ("compare", ["other=a"], ["one= is missing: folder of an evaluation"]),
        ("collect", [], ["study= is missing: conf/studies/<name>.yaml"]),
    ],
)
def test_all_that_has_to_be_given_is_said_at_once(command, name: str, given: list[str], said: list[str]) -> None:
    ended = command(name, *given)
    assert ended.code == 1
    lines = [line for line in ended.err.splitlines() if " is missing" in line]
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
    assert f"threeshnet {name} --help" in ended.err
    assert "full_key" not in ended.err


def test_of_several_models_that_counts_which_has_seen_the_split(
    demo_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the warning beside the numbers of an ensemble is that of its worst model."""
    split = ShardedSplit(demo_shards, "dev")
    elsewhere, here = {"data": "coco", "train_splits": ["train"]}, {"data": "demo", "train_splits": ["train"]}
    both, unknown = here | {"train_splits": ["train", "dev"]}, {"selection": "best"}
    chosen = [evaluation.trained_on(about, split) for about in ([elsewhere, here], [here, both], [unknown, both])]
    assert [found["trained_on"] for found in chosen] == ["coco", "demo", "demo"]
    assert [found["train_splits"] for found in chosen] == [("train",), ("train", "dev"), ("train", "dev")]
    monkeypatch.setattr(evaluation, "share_photos", lambda one, other: {one, other} == {"coco", "demo"})
    assert evaluation.trained_on([unknown, elsewhere], split)["trained_on"] == "coco"
    assert evaluation.trained_on([elsewhere, both], split)["trained_on"] == "demo"
    assert evaluation.trained_on([unknown], split) == {"trained_on": None, "train_splits": ()}


def test_a_split_of_the_training_says_so(evaluate) -> None:
    found, table = evaluate("split=train")
    assert found["warning"] == "trained on this split (train): these numbers say what was learned by heart"
    assert found["described"].endswith(found["warning"])
    assert "trained on this split (train)" in " ".join(table.split())
    assert f"| warning | {found['warning']} |" in model_card(found)
    assert "warning" not in evaluate("split=dev")[0]


def test_a_bank_shares_no_image_with_what_is_scored(
    command, checkpoint: str, demo_shards: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    """Not by the other name of the one held-out split, and not where `testall` holds `test`."""
    asked = ["extended=true", f"out={tmp_path / 'out'}"]
    both = shutil.copytree(demo_shards, tmp_path / "both")
    manifest = json.loads((both / MANIFEST).read_text())
    manifest["splits"]["testall"] = manifest["splits"]["test"]
    (both / MANIFEST).write_text(json.dumps(manifest))
    for folder, overrides, said in (
        (synthetic_shards, ("bank=testall",), "bank='testall' is the split that is scored, 'testall'"),
        (synthetic_shards, ("bank=test", "split=testall"), "bank='test' is the split that is scored, 'testall'"),
        (both, ("bank=testall",), "bank='testall' shares 12 images with split='test', the first of them"),
    ):
        ended = command("evaluate", checkpoint, f"shards={folder}", *asked, *overrides)
        assert ended.code == 1
        assert said in ended.err.replace("\n", " ")
        assert "Traceback" not in ended.err


def test_a_bank_that_is_too_small_for_csls_is_refused_before_anything_is_encoded(
    demo_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All corrections are of `extended`: the last of them would fail when everything else is done."""
    monkeypatch.setattr(request, "CSLS_NEAREST", 10_000)
    keys = {"shards": str(demo_shards), "split": "test", "protocol": "full", "bank": "train", "out": "x"}
    keys |= {"precision": "32-true", "accelerator": "cpu"}
    for more in ({"extended": True}, {"correction": "csls"}):
        settings = SimpleNamespace(
            **{"perturb": None, "views": [], "correction": None, "extended": False, "calibrate": False} | keys | more
        )
        with pytest.raises(ConfigError, match=r"bank='train' has .* images: csls takes the 10000 nearest of a bank"):
            request.check_request(settings, 1)
    settings.correction = "inverted_softmax"
    request.check_request(settings, 1)


def test_the_table_has_room_for_intervals() -> None:
    found = recall(torch.eye(4), torch.arange(4)) | {"protocol": "full", "data": "demo", "split": "test"}
    intervals = {"i2t": {}, "t2i": {}, "rsum": [560.0, 600.0], "level": 0.95}
    for side in ("i2t", "t2i"):
        intervals[side] = {"R@1": [90.0, 100.0], "R@5": [99.0, 100.0], "R@10": [100.0, 100.0]}
    console = Console(width=80, record=True, file=io.StringIO())
    print_results(found | {"images": 4, "captions": 4, "intervals": intervals}, console=console)
    text = console.export_text()
    for part in ("100.0 ±5.0", "100.0 ±0.5", "600.0 ±20.0 (± half the 95% interval over images)"):
        assert part in text
