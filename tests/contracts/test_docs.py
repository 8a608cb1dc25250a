"""Targets, verbs, settings and choices that the pages show exist."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from .shown import CONF, ROOT, command_faults, commands, faults, filled, module_faults

DOCUMENTS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "AGENTS")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
HELP = sorted((CONF / "hydra" / "help").glob("*.yaml"))
# Without which nothing can be composed.
NEEDED = {"train": ["experiment=region_demo"], "data": ["data=demo"], "sweep": ["study=options"]}
ONE_CHOICE = re.compile(r"\"[^\"]*\"|[^|\[\]]+|\[[^\]]*\]")  # of region|grid, [semantic,spatial]|[], or "a dog"


@pytest.mark.parametrize("file", HELP, ids=lambda file: file.stem)
def test_a_help_text_names_settings_that_are_there(file: Path) -> None:
    text = filled(OmegaConf.load(file).footer)
    named: dict[str, list[str]] = {}
    for key, value in re.findall(r"([a-z][a-z_.@]*)=(\"[^\"]*\"|\S+)", text):
        named.setdefault(key, []).extend(ONE_CHOICE.findall(value))
    assert named or file.stem == "report"
    for together in itertools.zip_longest(*named.values()):  # composing takes its time: a choice of every key at once
        words = [f"{key}={choice}" for key, choice in zip(named, together, strict=True) if choice is not None]
        faults = list(module_faults(["threeshnet", file.stem, *NEEDED.get(file.stem, []), *words]))
        assert not faults, "\n".join(faults)


def test_the_help_of_sweep_names_every_study() -> None:
    text = OmegaConf.load(CONF / "hydra" / "help" / "sweep.yaml").footer
    named = re.findall(r"[a-z_]+", text[text.index("data)") : text.index("Everyday")])
    assert {file.stem for file in (CONF / "studies").glob("*.yaml")} <= set(named)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


@needs_make
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_what_a_document_shows_is_there(document: Path) -> None:
    assert faults(document.read_text(encoding="utf-8")) == []


def test_most_pages_have_a_command() -> None:
    assert sum(bool(commands(page.read_text(encoding="utf-8"))) for page in DOCUMENTS) > len(DOCUMENTS) / 2


@needs_make
@pytest.mark.parametrize("report", sorted((ROOT / "experiments").rglob("README.md")), ids=lambda file: file.parent.name)
def test_a_reports_commands_are_there(report: Path) -> None:
    found = [fault for code in commands(report.read_text(encoding="utf-8")) for fault in command_faults(code)]
    assert found == []


@needs_make
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\nmake dta DATA=demo\n```\n", "no target 'dta'"),
        ("Say `make data\nDATUM=demo`.", "no variable DATUM"),
        ("- a list:\n\n  ```sh\n  make data DATA=demmo\n  ```\n", "demmo"),
        ('`make data DATA=demo ARGS="extractr=tiny"`', "extractr"),
        ("    make train EXP=hybrid_nowhere\n", "hybrid_nowhere"),
        ('```sh\nmake data DATA=demo \\\n  ARGS="workers=0 on_errors=stop"\n```\n', "on_errors"),
        ('    make data DATA=demo \\\n      ARGS="workers=0 on_errors=stop"\n', "on_errors"),
        ("`threeshnet trian experiment=region_demo`", "no verb 'trian'"),
        ("`torchrun --nproc-per-node 2 -m threeshnet data data=demo extractor=lite9`", "lite9"),
        ("`threeshnet train -m experiment=region_demo activation=sigmoid,softmin`", "softmin"),
        ("`make sweep STUDY=activatoin EXP=region_demo`", "activatoin"),
        ('`make sweep STUDY=activation EXP=region_demo ARGS="trainer.devises=2"`', "trainer.devises"),
        ('`make sweep STUDY=activation EXP=region_demo ARGS="activation=sigmoid,softmin"`', "softmin"),
        ('`make sweep STUDY=options EXP=region_demo ARGS="option=none,emma"`', "option='emma' does not exist"),
        ('`make sweep STUDY=options EXP=region_demo ARGS="boxes=[]"`', "option=geometry,seed=0 is undone"),
        (
            '`make sweep STUDY=options EXP=region_demo ARGS="option=none,cosine schedule=step"`',
            "option=cosine,seed=0 is",
        ),
        ("with `on_errors=skip`", "no setting 'on_errors'"),
        ("with `data.reader.devphotos=500`", "no setting 'data.reader.devphotos'"),
        ("with `fusion=[semantic,spacial]`", "no choice 'spacial' of fusion"),
        ("| key | choices |\n|---|---|\n| `pooling` | `generalized`, `medium` |\n", "no choice 'medium' of pooling"),
    ],
)
def test_the_check_finds_what_is_wrong(text: str, said: str) -> None:
    (found,) = faults(text)
    assert said in found


@needs_make
def test_the_check_lets_stand_ins_and_other_programs_pass() -> None:
    text = (
        "```sh\nmake data DATA=<name> RAW=<your folder> "
        'ARGS="extractor=… limit=3"  # a remark\ncurl -LO http://example.org\n```\n`make`, '
        "`make train EXP=<kind>_<data>`, "
        "`text.name=<folder>`, `HF_HOME=x`, `use: false`, `a == b`\n```python\nmake = nonsense\n```\n"
    )
    assert faults(text) == []
    assert len(commands(text)) == 3
