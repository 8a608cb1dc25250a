"""Every yaml is a test case: it composes, builds, and its part takes a step; wrong names are answered clearly."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations, cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from threeshnet.encoders.text.sources import bert_folder
from threeshnet.errors import DataError
from threeshnet.features.extractor import Extractor
from threeshnet.records import ImageBatch, Photo, TokenSet
from threeshnet.studies.study import load_study
from threeshnet.training.building import fields_read
from threeshnet.training.trainer_options import lightning_options

from .command_line import taken

CONF = Path(__file__).parents[2] / "conf"
SIZES = ["sizes.region_width=6", "sizes.grid_width=5", "sizes.classes=4", "dim=8"]
LISTS = ("fusion", "parts", "boxes")  # groups of which several options are taken together
INSIDE = ("branch", "hydra/help", "hydra/launcher")  # options that other yamls take in
STUDIES = "studies"  # read by `sweep`, which composes `train` for every job: see tests/stages/test_study.py
OF_SHARDS = ("extractor", "segmentation")
PRIMARY = dict.fromkeys((*OF_SHARDS, "view"), "data") | {"layout": "import"}  # of groups that `train` does not have
NUMBERS = (1, 2)  # of two views


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def every_option() -> list[tuple[str, str]]:
    files = sorted(CONF.glob("*/**/*.yaml"))
    return [(str(file.parent.relative_to(CONF)), file.stem) for file in files]


def composed(*overrides: str, primary: str = "train") -> DictConfig:
    return copy.deepcopy(_composed(overrides, primary))


@cache
def _composed(overrides: tuple[str, ...], primary: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, [*overrides, *(SIZES if primary == "train" else [])])


def subsets(names: list[str]) -> list[list[str]]:
    return [list(chosen) for count in range(len(names) + 1) for chosen in combinations(names, count)]


def image_batch(count: int = 3) -> ImageBatch:
    """Photos with 2 regions and more, 4 cells and 4 classes; one cell of the map is void."""
    mask = torch.arange(4) < torch.tensor([4, 2, 3]).unsqueeze(1)
    grid = TokenSet(torch.rand(count, 4, 5), torch.ones(count, 4, dtype=torch.bool))
    seg_map = torch.randint(0, 4, (count, 64, 64), dtype=torch.uint8)
    seg_map[:, 0, 0] = 255
    semantic = torch.rand(count, 4, 7, 7).softmax(dim=1)
    corners = torch.rand(2, count, 4, 2, 2).sort(dim=3).values.transpose(3, 4)  # x1 <= x2 and y1 <= y2
    boxes = corners.transpose(3, 4).flatten(3)
    return ImageBatch(
        TokenSet(torch.rand(count, 4, 6), mask), grid, semantic, seg_map, torch.ones(count, 4), boxes[0], boxes[1]
    )


def step(cfg: DictConfig, images: ImageBatch) -> dict[str, Tensor]:
    """One forward and backward pass of the image side and the objective; every weight must learn."""
    encoder, objective = instantiate(cfg.features.image_encoder), instantiate(cfg.objective)
    if hasattr(objective, "prepare"):
        objective.prepare(["a dog", "snow"], np.arange(2))
    embedding = encoder(images)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(len(embedding)))
    captions = torch.nn.functional.normalize(torch.rand(embedding.shape), dim=-1)
    numbers = objective(embedding, captions, torch.tensor([0, 0, 1]), 0)
    numbers["loss"].backward()
    gradients = {name: weight.grad for name, weight in encoder.named_parameters()}
    assert all(grad is None or grad.isfinite().all() for grad in gradients.values())
    return {name: grad for name, grad in gradients.items() if grad is not None}


# ---- every yaml


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_setting_has_the_name_of_another_commands_group(file: Path) -> None:
    """Hydra would take every value for a choice of that group, and refuse it."""
    content = OmegaConf.load(file)
    entries = [entry for entry in content.get("defaults", []) if not isinstance(entry, str)]
    its_own = {name.split("@")[0] for entry in entries for name in entry}
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert not groups & set(content) - its_own - {"hydra"}


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_a_yaml_begins_by_saying_what_it_is(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 10


@pytest.mark.parametrize(("group", "option"), [found for found in every_option() if found[0] != STUDIES])
def test_every_option_composes_and_resolves(group: str, option: str) -> None:
    if group in INSIDE:
        pytest.skip("taken in by others")
    primary = "data" if (group, option) == ("data", "synthetic") else PRIMARY.get(group, "train")
    name = f"[{option}]" if group in LISTS else option
    data = ["data=demo"] if primary == "data" and group != "data" else []
    cfg = composed(f"{group}={name}", *data, primary=primary)
    assert OmegaConf.to_container(cfg, resolve=True)


def test_options_taken_in_by_others_are_named_somewhere() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in CONF.rglob("*.yaml"))
    for group in INSIDE:
        for option in options(group):
            assert f"{group}" in text
            assert f": {option}" in text


@pytest.mark.parametrize(
    "group", ["activation", "averaging", "pooling", "objective", "optimizer", "schedule", "augment"]
)
def test_parts_are_built(group: str) -> None:
    for option in options(group):
        assert instantiate(composed(f"{group}={option}")[group]) is not None


@contextmanager
def offline_names(*ways_out: str) -> Iterator[None]:
    """What is built inside may need a model that neither the hub nor the cache has: then the ways out are named."""
    try:
        yield
    except InstantiationException as error:
        offline = error.__cause__
    else:
        return
    assert isinstance(offline, DataError), offline
    for way_out in ways_out:
        assert way_out in str(offline)


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in OF_SHARDS for option in options(group)])
def test_extractors_and_segmentations_are_built(group: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # models of hundreds of megabytes are not fetched for this; those in the cache are built
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cfg = composed(f"{group}={option}", "data=demo", primary="data")[group]
    with offline_names(cfg.get("name", ""), f"{group}.name=<folder>", "HF_HOME", f"{group}=lite0"):
        built = instantiate(cfg)
        assert isinstance(built, Extractor)
        assert built.fields


@pytest.mark.parametrize("option", options("view"))
def test_views_are_built_and_say_which_they_are(option: str) -> None:
    view = composed(f"view={option}", "data=demo", primary="data").view
    one, other = (instantiate(view, number=number) for number in NUMBERS)
    photo, image = Photo("a", Path("a.png"), "train", ()), Image.new("RGB", (9, 6))
    assert one(photo, image).size <= image.size
    assert one.identity != other.identity


@pytest.mark.parametrize("option", options("data"))
def test_data_sets_have_a_reader_and_say_how_to_get_them(option: str) -> None:
    cfg = composed(f"data={option}", primary="data")
    assert cfg.data.name == option
    assert list(inspect.signature(instantiate(cfg.data.reader).read).parameters) == ["raw"]
    if option != "synthetic":  # the only one that is not trained on by its name
        assert cfg.data.how_to_get
        assert cfg.data.test_split not in {cfg.data.dev_split, *cfg.data.train_splits}
        assert cfg.data.dev_split not in cfg.data.train_splits


@pytest.mark.parametrize("option", options("logger"))
def test_loggers_write_where_they_are_told(option: str, tmp_path: Path) -> None:
    settings = composed(f"logger={option}").logger
    built = [instantiate(each, save_dir=str(tmp_path)) for each in settings.values()]
    assert all(str(tmp_path) in str(logger.save_dir) for logger in built)


@pytest.mark.parametrize("option", options("trainer"))
def test_trainers_are_built(option: str) -> None:
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    trainer = instantiate(lightning_options(composed(f"trainer={option}", *quiet).trainer), logger=False)
    assert trainer.num_devices == 1


@pytest.mark.parametrize("option", options("experiment"))
def test_an_experiment_is_only_its_difference(option: str) -> None:
    kind, data = option.split("_")
    cfg = composed(f"experiment={option}")
    assert cfg.experiment_name == option
    assert (cfg.data.name, cfg.objective.mask_same_image) == (data, False)
    assert set(cfg.features.fields) == {"region": {"region"}, "grid": {"grid"}, "hybrid": {"region", "grid"}}[kind]
    assert len((CONF / "experiment" / f"{option}.yaml").read_text().splitlines()) < 20


@pytest.mark.parametrize(("data", "batch"), [("coco", 256), ("f30k", 128)])
def test_the_papers_recipe(data: str, batch: int) -> None:
    for kind in ("region", "grid", "hybrid"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [f"experiment={kind}_{data}"])
        assert cfg.dim == 1024
        assert cfg.batches.batch_size == batch
        assert (cfg.text.name, cfg.activation._target_.rsplit(".", 1)[-1]) == ("bert-base-uncased", "Sigmoid")
        assert (cfg.trainer.max_epochs, list(cfg.schedule.milestones), cfg.schedule.gamma) == (25, [15], 0.1)
        assert (cfg.trainer.gradient_clip_val, cfg.optimizer.weight_decay) == (2.0, 1e-4)
        assert (cfg.optimization.learning_rate, cfg.optimization.pretrained_factor) == (5e-4, 0.1)
        assert (cfg.objective.margin, cfg.objective.warm_up_epochs) == (0.2, 1)
        assert (cfg.augment.drop_tokens.probability, cfg.augment.alter_words.probability) == (0.2, 0.2)


def test_short_is_infonce_on_whole_sentences_without_same_images() -> None:
    short = composed("recipe=short", "experiment=region_coco")
    assert short.objective._target_.endswith("InfoNCELoss")
    assert short.objective.mask_same_image is True
    assert (short.augment.drop_tokens.probability, short.augment.alter_words.probability) == (0.2, 0.0)
    assert composed("recipe=short", "augment=none").augment.alter_words is None
    assert composed("recipe=short", "augment=standard").augment.alter_words.probability == 0.2
    assert composed("recipe=short", "objective=triplet").objective.mask_same_image is True


@pytest.mark.parametrize("experiment", ["region_coco", "grid_flickr8k"])
def test_recommended_is_the_papers_recipe_with_other_views(experiment: str) -> None:
    official, recommended = (
        OmegaConf.to_container(composed(f"recipe={recipe}", f"experiment={experiment}"), resolve=True)
        for recipe in ("official", "recommended")
    )
    views = recommended["augment"].pop("views")  # pyright: ignore
    name = recommended["data"]["name"]  # pyright: ignore
    assert views == [f"{name}_view1", f"{name}_view2", f"{name}_view3"]
    assert official["augment"].pop("views") == []  # pyright: ignore
    assert recommended == official


# ---- every part takes a step


@pytest.mark.parametrize("features", options("features"))
@pytest.mark.parametrize(("group", "also"), [("fusion", ["parts=[category,local,fused,scene]"]), ("boxes", [])])
def test_every_subset_takes_a_step(features: str, group: str, also: list[str]) -> None:
    torch.manual_seed(0)
    for chosen in subsets(options(group)):
        learned = step(composed(f"features={features}", f"{group}=[{','.join(chosen)}]", *also), image_batch())
        for name in options(group):
            assert any(f".{name}." in weight for weight in learned) == (name in chosen)


def test_every_parts_subset_takes_a_step() -> None:
    torch.manual_seed(0)
    for parts in filter(None, subsets(options("parts"))):
        learned = step(composed(f"parts=[{','.join(parts)}]"), image_batch())
        assert any("parts.scene" in weight for weight in learned) == ("scene" in parts)
        assert any("parts.fused" in weight for weight in learned) == ("fused" in parts)


@pytest.mark.parametrize("features", options("features"))
def test_every_activation_pooling_and_objective_takes_a_step(features: str) -> None:
    torch.manual_seed(0)
    choices = {group: options(group) for group in ("activation", "pooling", "objective")}
    turns = [cycle(values) for values in choices.values()]
    for _ in range(max(map(len, choices.values()))):
        overrides = [f"{group}={next(turn)}" for group, turn in zip(choices, turns, strict=True)]
        step(composed(f"features={features}", *overrides), image_batch())


@pytest.mark.parametrize("option", options("text"))
def test_every_text_encoder_takes_a_step(option: str) -> None:
    cfg = composed(f"text={option}")
    with offline_names(cfg.text.get("name", ""), "text.name=<folder>", "HF_HOME", "text=minilm"):
        encoder, tokenizer = instantiate(cfg.text.encoder), instantiate(cfg.text.tokenizer)
        embedding = encoder(tokenizer(["a dog", "a red bike on a street"]))
        assert embedding.shape == (2, 8)
        embedding.sum().backward()
        assert all(weight.grad.isfinite().all() for weight in encoder.parameters() if weight.grad is not None)


def test_vse_infinity_needs_no_segmentation() -> None:
    cfg = composed("fusion=[]", "parts=[local]")
    assert fields_read(cfg) == ["region"]
    assert step(cfg, image_batch()._replace(seg_semantic=None, seg_map=None, seg_categories=None))
    assert fields_read(composed("features=grid")) == ["grid", "seg"]
    assert fields_read(composed("features=hybrid", "fusion=[]", "parts=[local,scene]")) == ["region", "grid", "seg"]
    assert fields_read(composed("fusion=[]", "parts=[local]", "boxes=[geometry]")) == ["region"]


# ---- wrong names


def test_a_bert_that_is_nowhere_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text=minilm"):
        bert_folder("no-such-organisation/no-such-bert")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"vocab\.txt"):
        bert_folder(tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fusion=[semantc]", ["fusion='semantc'", "semantic, spatial"]),
        ("parts=[local,scenery]", ["parts='scenery'", "category, fused, local, scene"]),
        ("features=gird", ["features='gird'", "grid, grid_kernel, hybrid, region"]),
        ("experiment=hybrid_cocoo", ["experiment='hybrid_cocoo'", "hybrid_coco"]),
        ("batches.batchsize=3", ["'batches.batchsize'", "batches.batch_size"]),
        ("lerning_rate=1", ["'lerning_rate'", "optimization.learning_rate"]),
        ("sead=1", ["'sead'", "seed"]),
    ],
)
def test_wrong_names_get_one_clear_message(command, override: str, said: list[str]) -> None:
    ended = command("train", override)
    assert ended.code == 1
    assert all(part in ended.err for part in said), ended.err
    assert len(ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err + ended.out


def test_two_wrong_keys_do_not_hide_the_names(command) -> None:
    ended = command("train", "trainer.devises=2", "batches.batchsize=3")
    assert "trainer.devices" in ended.err


def test_settings_that_cannot_be_name_the_key_and_the_value(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    for override, said in {
        "parts=[]": "parts=[]",
        "selection=bets": "selection='bets': expected best or last",
        "batches.batch_size=0": "batch_size=0",
        "batches.workers=-1": "workers=-1",
        "batches.limit_train_images=0": "limit_train_images=0",
        "augment.drop_tokens.probability=2": "probability=2",
        "data.train_splits=[dev]": "data.train_splits=['dev'] holds the dev split",
        "data.train_splits=[testall]": "holds the split that is scored, 'testall'",
        "data.dev_split=null": "selection=last",
        "data.dev_split=val": "'val'",
    }.items():
        ended = command("train", "data=coco", f"shards={synthetic_shards}", *small, override, f"out={tmp_path}")
        assert ended.code == 1, override
        assert said in ended.err, ended.err
        assert "Traceback" not in ended.err


def level_overrides() -> list[tuple[str, ...]]:
    """What the levels of every study put on the command line of `train`, each once."""
    studies = [load_study(file.stem) for file in sorted((CONF / STUDIES).glob("*.yaml"))]
    factors = [(levels, study.removed.get(factor, ())) for study in studies for factor, levels in study.factors.items()]
    kept = [level.overrides for levels, removed in factors for level in levels if level.name not in removed]
    return sorted(set(filter(None, kept)))


@pytest.mark.parametrize("overrides", level_overrides(), ids=" ".join)
def test_every_level_of_every_study_is_taken_from_the_command_line(overrides: tuple[str, ...]) -> None:
    """Before shards are read, when their sizes are missing still."""
    taken("train", ["experiment=hybrid_demo", *overrides])
