"""A wheel works in an empty folder, with a configuration file of the user's own beside the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from threeshnet.installation import CONF, conf_files, own_conf

ROOT = Path(__file__).resolve().parents[2]
OWN = """# @package _global_
# Few sizes, few steps.
defaults: [region_demo]
experiment_name: mine
dim: 32
highlights: 0
"""


@pytest.fixture(scope="module")
def threeshnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment with the wheel alone; the libraries are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source(folder))]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--ignore-installed", str(wheel)], check=True
    )
    return python.with_name("threeshnet")


def source(folder: Path) -> Path:
    """A copy of what the wheel is built from: a build leaves files behind."""
    names = ["src", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE"]
    command = ["git", "ls-files", "-co", "--exclude-standard", *names]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in filter(lambda file: (ROOT / file).is_file(), files):
        (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / file).write_bytes((ROOT / file).read_bytes())
    return folder / "source"


def test_the_wheel_holds_conf_and_no_tests(threeshnet: Path) -> None:
    (wheel,) = threeshnet.parents[2].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for file in ROOT.joinpath("conf").rglob("*.yaml"):
        assert f"threeshnet/{file.relative_to(ROOT)}" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if "dist-info" not in top} == {"threeshnet", "hydra_plugins"}


def test_it_trains_by_a_file_of_the_users_own(
    threeshnet: Path, demo_shards: Path, tmp_path: Path, small: list[str]
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(OWN)
    words = ["experiment=mine", f"shards={demo_shards}", "out=runs/mine", "trainer.max_steps=2", *small]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "THREESHNET_CONF")}
    ended = subprocess.run([threeshnet, "train", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "rsum" in ended.stdout
    assert json.loads((tmp_path / "runs/mine/metrics.json").read_text())["steps"] == 2


def test_a_folder_of_the_users_own_adds_files_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert own_conf() is None  # the package's own
    (tmp_path / "conf" / "studies").mkdir(parents=True)
    for name in ("mine", "activation"):
        (tmp_path / "conf" / "studies" / f"{name}.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    files = conf_files("studies")
    assert files["mine"] == tmp_path / "conf" / "studies" / "mine.yaml"
    assert files["activation"] == CONF / "studies" / "activation.yaml"
