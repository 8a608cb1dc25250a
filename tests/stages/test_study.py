"""Studies: what a yaml makes of jobs, who wins over whom, and which of them are finished already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.cli.door import compose_training
from threeshnet.errors import ConfigError
from threeshnet.overrides import divided, listed, text
from threeshnet.runs.find import finished_runs
from threeshnet.studies.plan import Planned, chosen, plan
from threeshnet.studies.prepare import PreparedJob, Preparer
from threeshnet.studies.study import PERTURBATIONS, STUDIES, Study, load_study, parse_study
from threeshnet.studies.sweep import begin

NAMES = sorted(file.stem for file in STUDIES.glob("*.yaml"))
BEGUN: dict[str, Any] = {"title": "T", "question": "Q"}
TWO = BEGUN | {"factors": {"activation": ["sigmoid", "softmax"]}, "baseline": {"activation": "sigmoid"}}
TWO |= {"seeds": [0, 1]}
OPTION = BEGUN | {"baseline": {"option": "none"}, "seeds": [0]}
EXPERIMENT = "experiment=region_coco"
CORRECTED = {"factor": "activation", "of": ["sigmoid"], "correction": "csls"}
AWAY: dict[str, Any] = {"factor": "activation", "of": ["sigmoid"], "protocol": "transfer", "data": {"coco": "f30k"}}


def prepare(planned: list[Planned], study: Study, out: Path = Path("runs")) -> list[PreparedJob]:
    return Preparer(study, out, compose=compose_training).prepare(planned)


def names(content: dict[str, Any], *given: str) -> list[str]:
    return [job.name for job in plan(parse_study("s", content), [EXPERIMENT, *given])]


# ---- every study that there is


@pytest.mark.parametrize("name", NAMES)
def test_every_job_of_a_study_composes_and_is_a_run_of_its_own(name: str, synthetic_shards: Path) -> None:
    """On data that it does not name; of several seeds only the first is composed."""
    shards = f'shards="{synthetic_shards}"'
    planned = plan(load_study(name), ["experiment=hybrid_coco", "seed=0", shards])
    prepared = prepare([job for job in planned if not (job.rule and job.rule.data)], load_study(name))
    assert len({each.identity for each in prepared}) == len(prepared) >= 1
    assert {each.record["experiment"] for each in prepared} == {"hybrid_coco"}


def test_the_parts_study_ends_in_vse_infinity() -> None:
    without = {job.factors["without"]: job for job in plan(load_study("parts"), [EXPERIMENT, "seed=0"])}
    assert set(without) == {"nothing", "VSeM", "VSpM", "scene", "category", "fused", "local", "guidance"}
    cfg, _ = compose_training([*without["guidance"].overrides])
    assert (list(cfg.fusion), list(cfg.parts)) == ([], ["local"])
    cfg, _ = compose_training([*without["scene"].overrides])
    assert (set(cfg.fusion), set(cfg.parts)) == ({"semantic", "spatial"}, {"category", "local", "fused"})


def test_ensembles_take_the_same_seed_or_the_next() -> None:
    """Two kinds of one seed, or two models of one kind: this seed and the next, each pair once."""
    study = load_study("features")
    jobs = {job.name: job for job in plan(study, ["experiment=hybrid_demo"])}
    assert len(jobs) == 6 * 3
    late = jobs["features=late_ensemble,seed=2"]
    assert late.rule is not None
    assert (late.of, late.rule.protocol) == (("features=region,seed=2", "features=grid,seed=2"), "ensemble")
    for seeds, pairs in (((0, 1, 2), [(0, 1), (1, 2), (2, 0)]), ((4, 3), [(4, 3)]), ((5,), [])):
        alone = plan(study, ["experiment=hybrid_demo", "features=grid", f"seed={','.join(map(str, seeds))}"])
        derived = [job for job in alone if job.of]
        assert all(job.factors == {"features": "two_grids"} for job in derived)
        assert [tuple(int(name.rpartition("=")[2]) for name in job.of) for job in derived] == pairs


def test_an_ensemble_is_prepared_before_its_second_model_is_named(synthetic_shards: Path) -> None:
    """Jobs stand seed by seed: the model of the next seed comes after the ensemble that takes it."""
    study = load_study("features")
    planned = plan(study, ["experiment=hybrid_coco", "features=grid", "seed=0,1", f'shards="{synthetic_shards}"'])
    prepared = prepare(planned, study)
    assert [each.planned for each in prepared] == planned
    first, pair, second = prepared
    assert listed("checkpoint", [str(first.checkpoint), str(second.checkpoint)]) in pair.job.words
    assert pair.job.after == (first.job.name, second.job.name)


@pytest.mark.parametrize(
    ("name", "factor", "trained", "derived"),
    [
        ("recipe", "recipe", "short", {"short_corrected": ("correction=inverted_softmax", "bank=train")}),
        ("robustness", "seen", "as_it_is", {each: (f"perturb={each}",) for each in PERTURBATIONS}),
    ],
)
def test_a_derived_level_is_scored_from_the_same_checkpoint(
    synthetic_shards: Path, name: str, factor: str, trained: str, derived: dict[str, tuple[str, ...]]
) -> None:
    study = load_study(name)
    words = [EXPERIMENT, "seed=0", f'shards="{synthetic_shards}"']
    words += ["guidance=guided"] if name == "robustness" else ["recipe=short"]
    prepared = {each.planned.factors[factor]: each for each in prepare(plan(study, words), study)}
    assert set(prepared) == {trained, *derived}
    for level, overrides in derived.items():
        job = prepared[level].job
        assert {*overrides, "protocol=full"} <= set(job.words)
        assert listed("checkpoint", [str(prepared[trained].checkpoint)]) in job.words
    assert len({each.identity for each in prepared.values()}) == len(prepared)


def carried_over(shards: Path, experiment: str = "region_coco", *also: str) -> Any:
    study = load_study("transfer")
    words = [f"experiment={experiment}", "seed=0", f'shards="{shards}"', *also]
    return prepare(plan(study, words), study)


def test_a_model_is_carried_over_to_other_data(two_worlds: Path) -> None:
    """Also with a setting that chooses on dev: elsewhere the held-out split is scored."""
    dev = ("data.train_splits=[train]", "data.dev_split=null", "data.test_split=dev", "selection=last")
    for setting, split in (((), "test"), (dev, "dev")):
        prepared = {each.planned.name: each for each in carried_over(two_worlds, "region_demo", *setting)}
        home, away = (prepared[f"guidance=guided,scored_on={where},seed=0"] for where in ("home", "elsewhere"))
        assert (home.record["data"], away.record["data"]) == ("demo", "demo_dusk")
        assert home.record["fingerprint"] != away.record["fingerprint"]
        assert away.record["derived_from"] == [home.planned.name]
        assert f"split={split}" in home.scoring
        assert {"protocol=transfer", "split=test", text("shards", two_worlds / "demo_dusk")} <= set(away.job.words)
        assert len({each.identity for each in prepared.values()}) == 4


def test_data_to_carry_over_to_that_are_not_there_are_named(synthetic_shards: Path, two_worlds: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds synthetic alone, and .*scored_on=elsewhere,seed=0 is scored on f30k"):
        carried_over(synthetic_shards)
    with pytest.raises(ConfigError, match=r"shards=.*demo holds demo alone"):
        carried_over(two_worlds / "demo", "region_demo")
    study = parse_study("s", TWO | {"derived": {"away": {**AWAY, "data": {"flickr8k": "coco2017"}}}})
    planned = plan(study, ["experiment=region_demo", "seed=0", f'shards="{two_worlds}"'])
    with pytest.raises(ConfigError, match="no other data for models of demo, only for flickr8k"):
        prepare(planned, study)


# ---- jobs


def test_factors_make_a_product_with_every_seed() -> None:
    content = TWO | {"factors": {"activation": ["sigmoid", "softmax"], "masking": {"no": [], "yes, all": ["a=1"]}}}
    content |= {"baseline": {"activation": "sigmoid", "masking": "no"}}
    found = names(content)
    assert len(found) == 2 * 2 * 2
    assert found[0] == "activation=sigmoid,masking=no,seed=0"
    assert "activation=softmax,masking=yes,_all,seed=1" in found


def test_the_command_line_wins_over_the_study_and_that_over_the_experiment() -> None:
    small = {"factors": {"size": {"small": ["dim=8", "features=grid"]}}, "baseline": {"size": "small"}}
    study = parse_study("s", BEGUN | small)
    overrides = {"study": [], "command line": ["dim=16"]}
    found = {who: plan(study, [EXPERIMENT, *words])[0].overrides for who, words in overrides.items()}
    assert [compose_training(words)[0].dim for words in found.values()] == [8, 16]  # coco's own is 1,024
    assert compose_training(found["study"])[0].features.fields == ["grid"]


def test_the_command_line_can_take_fewer_levels_or_more_factors() -> None:
    assert names(TWO, "activation=softmax", "seed=7") == ["activation=softmax,seed=7"]
    assert names(TWO, "seed=0", "dim=8,16")[1] == "activation=sigmoid,dim=16,seed=0"
    planned = plan(parse_study("s", TWO), [EXPERIMENT])
    assert [job.name for job in chosen(planned, "*softmax*1")] == ["activation=softmax,seed=1"]
    with pytest.raises(ConfigError, match="fits no job; there are: activation=sigmoid,seed=0"):
        chosen(planned, "nothing")


def test_levels_with_names_are_taken_by_their_names() -> None:
    content = OPTION | {"factors": {"option": {"none": [], "soft": ["activation=softmax"], "wide": ["dim=8"]}}}
    content |= {"derived": {"hubs": {"factor": "option", "of": ["none"], "correction": "csls"}}}
    jobs = plan(parse_study("s", content), [EXPERIMENT, "option=none,wide", "seed=0"])
    assert {job.name: job.overrides for job in jobs} == {
        "option=none,seed=0": (EXPERIMENT, "seed=0"),
        "option=wide,seed=0": ("dim=8", EXPERIMENT, "seed=0"),
        "option=hubs,seed=0": (),
    }
    assert names(content, "option=soft", "seed=0") == ["option=soft,seed=0"]
    with pytest.raises(ConfigError, match="option='narrow' does not exist; there are: none, soft, wide"):
        names(content, "option=none,narrow")


def test_levels_that_need_something_made_are_run_when_they_are_named() -> None:
    content = OPTION | {"factors": {"option": {"none": [], "views": ["augment.views=[a]"]}}}
    content |= {"when_named": {"option": ["views"]}}
    assert names(content) == ["option=none,seed=0"]
    assert names(content, "option=none,views") == ["option=none,seed=0", "option=views,seed=0"]
    assert names(content, "option=views") == ["option=views,seed=0"]
    assert [level.name for level in parse_study("s", content).factors["option"]] == ["none", "views"]  # for the report
    seen = {"factor": "option", "of": ["none"], "views": [1], "beside": ["views"]}
    assert names(content | {"derived": {"seen": seen}}) == ["option=none,seed=0"]
    both = names(content | {"derived": {"seen": seen}}, "option=none,views")
    assert both == ["option=none,seed=0", "option=views,seed=0", "option=seen,seed=0"]


def test_a_removed_level_is_reported_and_never_run() -> None:
    content = OPTION | {"factors": {"option": {"none": [], "mixed": ["objective=mixed"]}}}
    content |= {"removed": {"option": {"mixed": "ae0343b"}}}
    assert names(content) == ["option=none,seed=0"]
    assert [level.name for level in parse_study("s", content).factors["option"]] == ["none", "mixed"]
    with pytest.raises(ConfigError, match="option=mixed was removed; commit ae0343b is the last one that has it"):
        names(content, "option=none,mixed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"removed": {"activation": {"tanh": "0"}}}, "removed activation='tanh' does not exist; there are: sigmoid"),
        ({"factor": {}}, "key='factor' does not exist; there are: title, question, factors"),
        ({"title": "", "seeds": "0"}, "2 problems\n  - title is missing\n  - seeds='0'"),
        ({"baseline": {}, "derived": {"a": {"factor": "x", "of": ["y"]}}}, "2 problems\n  - derived a: x='y'"),
        ({"when_named": {"activation": ["tanh"]}}, "when_named activation='tanh' does not exist; there are: sigmoid"),
        ({"when_named": {"activation": ["sigmoid"]}}, "sigmoid is the baseline, which always runs"),
        ({"baseline": {}}, "no level of activation is named"),
        ({"baseline": {"activation": "tanh"}}, "'tanh' does not exist; there are: sigmoid, softmax"),
        ({"derived": {"both": {"factor": "activation", "of": ["sigmoid", "tanh"]}}}, "'tanh'"),
        ({"derived": {"both": {"factor": "pooling", "of": ["mean"]}}}, "pooling='mean' does not exist"),
        ({"derived": {"a": AWAY | {"of": ["sigmoid", "softmax"]}}}, "scores one model, and `of` names 2"),
        ({"derived": {"a": AWAY | {"data": {}}}}, "protocol=transfer and `data`"),
        ({"derived": {"a": CORRECTED | {"correction": "csl"}}}, "correction='csl' does not exist; there are: inverted"),
        ({"derived": {"a": CORRECTED | {"protocol": "fold"}}}, "protocol='fold' does not exist; there are: full"),
        ({"derived": {"a": CORRECTED | {"of": ["sigmoid", "softmax"]}}}, "correction=csls scores one model"),
        ({"derived": {"a": AWAY | {"correction": "csls"}}}, "a correction takes training queries"),
        ({"derived": {"a": CORRECTED | {"correction": None, "perturb": "fog"}}}, "perturb='fog' does not exist"),
        ({"derived": {"a": AWAY | {"views": [1]}}}, "views are of the training"),
        ({"derived": {"a": CORRECTED | {"views": [1, 1]}}}, "expected different numbers from 0"),
        ({"derived": {"a": CORRECTED | {"beside": ["tanh"]}}}, "'tanh' does not exist; there are: sigmoid"),
        ({"derived": {"a": AWAY | {"date": {}}}}, "key='date' does not exist; there are: factor, of, protocol, data"),
    ],
)
def test_a_study_that_is_wrong_says_where(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_study("s", TWO | change)
    assert said in str(error.value)
    assert "conf/studies/s.yaml" in str(error.value)


def test_wrong_calls_say_what_there_is(synthetic_shards: Path) -> None:
    with pytest.raises(ConfigError, match="study='activatoin' does not exist; there are: activation"):
        load_study("activatoin")
    with pytest.raises(ConfigError, match="give an experiment: EXP="):
        plan(parse_study("s", TWO), ["dim=8"])
    with pytest.raises(ConfigError, match="one name"):
        names(TWO | {"factors": {"a": {"b c": [], "b-c": [], "b  c": []}}, "baseline": {"a": "b c"}})
    for override, said in {"dimm=8": "did you mean dim", "text=tinny": "text"}.items():
        with pytest.raises(ConfigError, match=said):
            compose_training([EXPERIMENT, override])
    two = {"factors": {"fusion off": {"a": ["fusion=[spatial]"], "b": ["fusion=[semantic]"]}}}
    study = parse_study("s", BEGUN | two | {"baseline": {"fusion off": "a"}})
    with pytest.raises(ConfigError, match="are the same run: an override of the command line undoes a factor"):
        prepare(plan(study, [EXPERIMENT, f'shards="{synthetic_shards}"', "fusion=[]", "seed=0"]), study)


def test_the_sweep_for_wandbs_agents_gives_overrides_that_exist(root: Path) -> None:
    content: Any = yaml.safe_load((root / "experiments/activation/wandb_sweep.yaml").read_text(encoding="utf-8"))
    values = {key: given.get("values", [given.get("value")]) for key, given in content["parameters"].items()}
    composed = [compose_training([f"{key}={each[0]}" for key, each in values.items()])[0]]
    composed += [compose_training([f"{key}={value}"])[0] for key, each in values.items() for value in each[1:]]
    assert len({str(cfg.activation) for cfg in composed}) == 2
    assert content["command"][2:] == ["-m", "${program}", "train", "${args_no_hyphens}"]
    assert content["program"] == "threeshnet"


# ---- words


@given(value=st.text(st.characters(blacklist_categories=("C", "Zl", "Zp"))))
def test_any_text_reaches_hydra_as_it_is(value: str) -> None:
    one, several = OverridesParser.create().parse_overrides([text("out", value), listed("overrides", [value, "b"])])
    assert (one.value(), several.value()) == (value, [value, "b"])


def test_words_of_train_are_put_together() -> None:
    own = ["study", "out", "cluster", "overrides"]
    words = ["study=a", "dim=8", "cluster.executor=slurm", 'shards="a b"', "--help", "hydra.verbose=true", "~logger"]
    kept = ["study=a", "cluster.executor=slurm", "hydra.verbose=true"]
    assert divided(words, own) == [*kept, listed("overrides", ["dim=8", 'shards="a b"', "~logger"]), "--help"]
    assert divided(["study=a"], own) == ["study=a"]
    with_flags = divided(["--cfg", "job", "study=a", "dim=8"], own)
    assert with_flags == ["study=a", listed("overrides", ["dim=8"]), "--cfg", "job"]
    assert divided(["study=a", "dim=[8"], own) == ["study=a", "dim=[8"]  # Hydra says what is wrong with it


# ---- folders


@pytest.fixture
def prepared(synthetic_shards: Path, tmp_path: Path) -> Any:
    """A function that prepares the jobs of TWO in a folder."""

    def call(out: str, *words: str) -> Any:
        study = parse_study("s", TWO)
        return prepare(plan(study, [EXPERIMENT, f'shards="{synthetic_shards}"', *words]), study, tmp_path / out)

    return call


RECALLS = {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}


def finish(job: Any, **more: Any) -> None:
    """As a run that ended would leave its folder."""
    folder = job.job.folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "job.json").write_text(json.dumps(dict(job.record) | {"identity": job.identity, "commit": "c"} | more))
    (folder / "metrics.json").write_text(json.dumps({"rsum": 6.0, "i2t": RECALLS, "t2i": RECALLS}))


def states(prepared: Any, *roots: Path) -> list[str]:
    return [status.state for status in begin(prepared, roots)]


def test_what_is_finished_is_not_run_again_by_any_study(prepared: Any, tmp_path: Path) -> None:
    one, other = prepared("runs/one"), prepared("runs/other", "highlights=0", "trainer.enable_progress_bar=true")
    finish(one[0], study="another")
    assert states(one) == ["finished before", *["waiting"] * 3]
    assert states(other) == ["waiting"] * 4, "no root, nothing found"
    assert states(other, tmp_path / "runs") == ["finished before", *["waiting"] * 3]
    folder = other[0].job.folder
    found = json.loads((folder / "job.json").read_text())
    assert (found["study"], found["commit"]) == ("s", "c")
    assert (folder / found["source"]).resolve() == one[0].job.folder.resolve()
    assert (folder / "metrics.json").resolve() == (one[0].job.folder / "metrics.json").resolve()
    sources = {name: run.folder for name, run in finished_runs([tmp_path / "runs"]).items()}
    assert sources == {one[0].identity: one[0].job.folder}, "what points elsewhere is no source"


def test_a_run_whose_scores_are_damaged_is_run_again(
    prepared: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its damaged metrics.json was linked, and the job counted as finished."""
    one, other = prepared("runs/one"), prepared("runs/other")
    finish(one[0])
    file = one[0].job.folder / "metrics.json"
    for content in ("", '{"rsum": 6.0', "[]", '{"rsum": "high"}'):
        caplog.clear()
        file.write_text(content)
        assert states(one) == states(other, tmp_path / "runs") == ["waiting"] * 4, content
        assert f"{file} is damaged" in caplog.text
        assert not (other[0].job.folder / "metrics.json").exists()


def test_when_the_other_run_is_gone_it_is_run_here(prepared: Any, tmp_path: Path) -> None:
    one, other = prepared("runs/one"), prepared("runs/other")
    finish(one[0])
    begin(other, [tmp_path / "runs"])
    for file in ("metrics.json", "job.json", "checkpoints/last.ckpt"):
        (one[0].job.folder / file).unlink()
    assert states(other, tmp_path / "runs") == ["waiting"] * 4
    assert list(other[0].job.folder.iterdir()) == []


def test_a_folder_of_another_run_is_refused_and_says_what_differs(prepared: Any) -> None:
    one, other = prepared("runs"), prepared("runs", "dim=8")
    finish(one[0])
    (one[0].job.folder / "config.yaml").write_text("dim: 1024\n")
    with pytest.raises(ConfigError, match=r"(?s)holds another run \(.*Give another OUT") as error:
        begin(other, [])
    assert str(one[0].job.folder) in str(error.value)
    (one[0].job.folder / "checkpoints" / "last.ckpt").unlink()
    assert states(other) == ["waiting"] * 4, "one that failed before its first checkpoint is no loss"


def test_other_data_are_another_run(prepared: Any, demo_shards: Path) -> None:
    demo = prepared("a", "experiment=region_demo", f'shards="{demo_shards}"')
    assert prepared("a")[0].identity == prepared("b")[0].identity != demo[0].identity
