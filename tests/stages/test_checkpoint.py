"""Checkpoints build their model again, and run nothing that a stranger wrote into them."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.encoders.official import is_official_checkpoint, load_official_checkpoint
from threeshnet.errors import CheckpointError, ConfigError, DataError
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, load_model, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL, BERT = GOLDEN / "official_checkpoint.pth", GOLDEN / "bert"


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


# ---- ours


TEXTS = ["a dog runs in the deep snow of a field", "a cat", "two red buses near a table"]
WITH_BERT, WITH_BIGRU = "region_coco text=tiny", "hybrid_coco text=bigru activation=softmax"
both = pytest.mark.parametrize("run", [WITH_BERT, WITH_BIGRU], indirect=True)


@pytest.fixture(scope="module")
def run(request, tmp_path_factory: pytest.TempPathFactory, command, synthetic_shards: Path, small: list[str]) -> Path:
    """A run of one step; the checkpoint is its `last`."""
    out = tmp_path_factory.mktemp("run")
    experiment, *more = getattr(request, "param", WITH_BERT).split()
    settings = [*small, *more, f"shards={synthetic_shards}", "trainer.max_steps=1", "highlights=0", f"out={out}"]
    ended = command("train", f"experiment={experiment}", *settings)
    assert ended.code == 0, ended.err
    return out / "checkpoints" / "last.ckpt"


@pytest.fixture
def content(run: Path) -> dict[str, Any]:
    return torch.load(run, weights_only=True)


def saved(content: dict[str, Any], folder: Path) -> Path:
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


@both
def test_a_checkpoint_builds_its_model_again(run: Path, synthetic_shards: Path) -> None:
    """The weights, the sizes and the vocabulary are all in the file; two loads embed alike, bit for bit."""
    split = ShardedSplit(synthetic_shards, "testall")
    images = collate_images(split.read([5, 0, 3]))
    one, two = threeshnet.load_model(run), load_model(str(run))
    assert not any(module.training for module in one.modules())
    assert torch.equal(one.encode_images(images), two.encode_images(images))
    assert torch.equal(one.encode_texts(split.caption_texts[:7]), two.encode_texts(split.caption_texts[:7]))
    weights = torch.load(run, weights_only=True)["state_dict"]
    loaded = one.state_dict()
    assert set(weights) >= {f"model.{name}" for name in loaded}
    assert all(torch.equal(weights[f"model.{name}"], value) for name, value in loaded.items())


def test_a_vocabulary_that_is_a_list_is_read_too(run: Path, content: dict[str, Any], tmp_path: Path) -> None:
    """So it was written once; and a list takes weights-only loading as long as the rest of the file."""
    tokenizer = content["threeshnet"]["model"]["tokenizer"]
    tokenizer["_target_"] = "threeshnet.batches.tokenizers.Wordpieces"
    tokenizer["vocabulary"] = tokenizer.pop("lines").split("\n")
    older = load_model(saved(content, tmp_path))
    assert torch.equal(older.encode_texts(TEXTS), load_model(run).encode_texts(TEXTS))


@both
def test_sentences_keep_their_order(run: Path) -> None:
    model = load_model(run)
    together, alone = model.encode_texts(TEXTS), torch.cat([model.encode_texts([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@both
def test_a_checkpoint_needs_neither_hub_nor_package(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint holds what its model needs")

    for name in ("bert_folder", "pretrained", "wordpieces"):
        monkeypatch.setattr(f"threeshnet.encoders.text.sources.{name}", gone)
    assert load_model(run).encode_texts(["a dog"]).shape == (1, 32)


def test_a_hash_tells_files_apart(run: Path, content: dict[str, Any], tmp_path: Path) -> None:
    other = saved(content | {"epoch": 99}, tmp_path)
    assert len(checkpoint_hash(run)) == 12
    assert checkpoint_hash(run) == checkpoint_hash(run) != checkpoint_hash(other)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "threeshnet.encoders.image.torch.load",  # what a module of ours imports is not ours
        "threeshnet.encoders.text.sources.os.system",
        "threeshnet.runs.facts.machine",  # ours, but no part of a model
        "threeshnet.training.checkpoint.load_model",
        "threeshnet.encoders.image.NoSuchEncoder",
        "threeshnet.encoders.${oc.env:HOME}",
    ],
)
def test_foreign_builders_are_refused(content: dict[str, Any], tmp_path: Path, target: str) -> None:
    trace = tmp_path / "trace"
    content["threeshnet"]["model"]["image_encoder"]["pooling"] = {"_target_": target, "command": f"touch {trace}"}
    with pytest.raises(CheckpointError) as refused:
        load_model(saved(content, tmp_path))
    assert target in str(refused.value)
    assert not trace.exists()


def test_options_of_earlier_versions_that_were_off_change_nothing(
    content: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    recipe = content["threeshnet"]["model"]
    recipe["text_encoder"]["residual"] = recipe["image_encoder"]["project"]["real_rows"] = False
    recipe["image_encoder"]["parts"]["fused"]["fusions"]["spatial"] |= {"places": None, "real_rows": False}
    found, expected = load_model(saved(content, tmp_path)).state_dict(), load_model(run).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


SUMMED = {"pooling": {"_target_": "threeshnet.pooling.summed.SummedPooling"}}
CLASSES = {"boxes": {"a": {"_target_": "threeshnet.fusion.box_knowledge.BoxClasses"}}}
BINDING = {"boxes": {"a": {"_target_": "threeshnet.fusion.box_knowledge.BoxBinding"}}}


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_encoder", {"residual": True}, "residual=True was removed; commit ae0343b is the last one that can read"),
        ("text_encoder", SUMMED, "summed.SummedPooling was"),
        ("image_encoder", CLASSES, "BoxClasses was removed; commit ae0343b"),
        ("image_encoder", BINDING, "BoxBinding was removed; commit aa0546d"),
        ("image_encoder", {"colour": "red"}, "describes a model that this version cannot build: .*colour"),
    ],
)
def test_an_option_that_was_removed_or_never_was_is_named(
    content: dict[str, Any], tmp_path: Path, part: str, change: dict[str, Any], said: str
) -> None:
    content["threeshnet"]["model"][part] |= change
    with pytest.raises(CheckpointError, match=said):
        load_model(saved(content, tmp_path))


def test_strings_in_a_checkpoint_are_only_strings(content: dict[str, Any], tmp_path: Path) -> None:
    """OmegaConf would build a node, and so a call, out of such a string."""
    trace = tmp_path / "trace"
    evil = "${oc.create:{_target_: os.system, command: 'touch " + str(trace) + "'}}"
    content["threeshnet"]["model"]["image_encoder"]["pooling"] = evil
    with pytest.raises(CheckpointError, match="pooling"):
        load_model(saved(content, tmp_path))
    assert not trace.exists()


def test_a_file_that_is_not_there_names_its_neighbours(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.ckpt: no such file; there are: .*last\.ckpt"):
        load_model(run.with_name("best.ckpt"))
    with pytest.raises(CheckpointError, match=r"there is no \.ckpt beside it"):
        load_model(tmp_path / "nowhere" / "last.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_torn_file_says_so(run: Path, tmp_path: Path, share: float) -> None:
    whole = run.read_bytes()
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"torn\.ckpt is torn"):
        load_model(torn)


def test_code_in_a_file_is_not_run(content: dict[str, Any], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(CheckpointError, match=r"it holds \S+system "):
        read_checkpoint(saved(content | {"extra": Bomb(trace)}, tmp_path))
    plain = tmp_path / "plain.pickle"
    plain.write_bytes(pickle.dumps({"threeshnet": {}, "extra": Bomb(trace)}))
    with pytest.raises(CheckpointError):
        read_checkpoint(plain)
    assert not trace.exists()


def test_other_files_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load_official_checkpoint"):
        load_model(saved({"weights": torch.zeros(2)}, tmp_path))
    with pytest.raises(CheckpointError, match="load_official_checkpoint"):
        load_model(OFFICIAL)


def test_weights_that_do_not_fit_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    weights = content["state_dict"]
    name = next(name for name in weights if name.endswith("score.weight"))
    missing = {key: value for key, value in weights.items() if key != name}
    more = {"model.image_encoder.unheard_of": torch.zeros(1)}
    for states, said in (
        (missing, f"{name.removeprefix('model.')} is missing"),
        (weights | {name: torch.zeros(1, 3)}, "size mismatch"),
        (weights | more, "unheard_of has no place"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(said)):
            load_model(saved(content | {"state_dict": states}, tmp_path))


# ---- the authors'


@pytest.fixture
def official() -> dict[str, Any]:
    allowed = [argparse.Namespace, np.dtype, type(np.dtype("f8")), np.float64(0).__reduce__()[0]]
    with torch.serialization.safe_globals(allowed):
        return torch.load(OFFICIAL, weights_only=True)


def refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        load_official_checkpoint(file, BERT)
    return str(refused.value)


POOL = "gpool.linear.weight"


@pytest.mark.parametrize(
    ("side", "without", "more", "said"),
    [
        (0, "nothing", {"new_head.weight": (2,), "fc.scale": (2,)}, "image key new_head.weight has no place"),
        (0, "nothing", {"new_head.weight": (2,), "fc.scale": (2,)}, "image key fc.scale has no place"),
        (0, POOL, {}, "image weight pooling.score.weight is missing"),
        (1, POOL, {}, "text weight pooling.score.weight is missing"),
        (0, "nothing", {POOL: (1, 7)}, f"{POOL} is (1, 7), expected (1, 32)"),
        (0, "embed_category.0.weight", {}, "embed_category.0.weight"),
    ],
)
def test_weights_of_the_authors_that_do_not_fit_are_named(
    official: dict[str, Any], tmp_path: Path, side: int, without: str, more: dict[str, tuple[int, ...]], said: str
) -> None:
    states = [dict(state) for state in official["model"]]
    prefix = next(key for key in states[side] if key.endswith(POOL)).removesuffix(POOL)
    states[side] = {key: value for key, value in states[side].items() if not key.endswith(without)}
    states[side] |= {(prefix if key == POOL else "") + key: torch.zeros(shape) for key, shape in more.items()}
    torch.save(official | {"model": states}, tmp_path / "changed.pth")
    assert said in refusal(tmp_path / "changed.pth")


def test_with_and_without_data_parallel_and_with_numpy_numbers_are_read(
    official: dict[str, Any], tmp_path: Path
) -> None:
    bare = [{key.removeprefix("module."): value for key, value in state.items()} for state in official["model"]]
    assert set(bare[0]) != set(official["model"][0])  # the file was written by DataParallel
    options = argparse.Namespace(embed_size=8)
    torch.save({"model": bare, "opt": options, "best_rsum": np.float64(512.5), "epoch": 3}, tmp_path / "w.pth.tar")
    found = load_official_checkpoint(tmp_path / "w.pth.tar", BERT).encode_texts(TEXTS)
    assert torch.equal(found, threeshnet.load_official_checkpoint(OFFICIAL, BERT).encode_texts(TEXTS))


def test_code_in_an_authors_file_is_not_run(official: dict[str, Any], tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save(official | {"opt": Bomb(trace)}, file)
    assert "could not be read without running code in it: it holds " in refusal(file)
    file.write_bytes(pickle.dumps(Bomb(trace)))
    assert "could not be read" in refusal(file)
    assert not is_official_checkpoint(file)
    assert not trace.exists()


def test_what_is_no_authors_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pth")
    torch.save({"state": 1}, tmp_path / "other.pth")
    assert "found ['state']" in refusal(tmp_path / "other.pth")
    assert is_official_checkpoint(OFFICIAL)


def test_an_authors_file_needs_a_bert_and_an_activation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="activation='gelu' does not exist; there are: sigmoid, softmax"):
        load_official_checkpoint(OFFICIAL, BERT, activation="gelu")
    with pytest.raises(DataError, match=r"config\.json, vocab\.txt missing"):
        load_official_checkpoint(OFFICIAL, tmp_path)
