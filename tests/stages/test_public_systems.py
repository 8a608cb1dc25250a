"""Where people run it and how systems fail: it works, or says one sentence before the work, and nothing is lost."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from threeshnet import installation
from threeshnet.cli import main
from threeshnet.errors import ConfigError
from threeshnet.files import check_writable, write_text
from threeshnet.runs.tracking import facts_of_code, why_offline
from threeshnet.shards import provide
from threeshnet.shards.writer import ShardWriter

IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

# ---- where it runs


def repository(folder: Path) -> str:
    """A repository with all files of a folder in its one commit; returns that."""
    for words in (["init", "-q"], ["add", "-A"], [*IDENTITY, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def installed_in(package: Path) -> Any:
    """The module `installation` as it would be in that folder."""
    package.mkdir(parents=True)
    file = package / "installation.py"
    file.write_bytes(Path(installation.__file__).read_bytes())
    spec = importlib.util.spec_from_file_location("elsewhere", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("where", "committed"),
    [
        ("suite/src/threeshnet", True),  # a ZIP that somebody committed
        ("suite/src/threeshnet", False),
        ("venv/lib/python3.11/site-packages/threeshnet", False),
        ("lib/threeshnet", False),  # a vendored copy: the outer folder is where a checkout's root would be
    ],
)
def test_the_commit_of_somebody_elses_repository_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, committed: bool
) -> None:
    monkeypatch.delenv("THREESHNET_COMMIT", raising=False)
    (tmp_path / "theirs.txt").write_text("theirs")
    if not committed:
        repository(tmp_path)
    module = installed_in(tmp_path / where)
    if committed:
        repository(tmp_path)
    assert module.current_commit() == "unknown"
    assert module.git("diff", "HEAD", "--numstat") is None
    monkeypatch.setenv("THREESHNET_COMMIT", "abc")
    assert module.current_commit() == "abc"


def test_the_commit_is_ours_in_a_hook_of_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """setuptools-scm#381, python-versioneer#279: git hands a hook its own repository in GIT_DIR."""
    module = installed_in(tmp_path / "ours" / "src" / "threeshnet")
    ours = repository(tmp_path / "ours")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("theirs")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert module.current_commit() == ours
    (tmp_path / "ours" / "src" / "threeshnet" / "installation.py").write_text("changed")
    assert module.current_commit() == f"{ours}+"
    monkeypatch.setenv("PATH", "")  # no git
    assert module.current_commit() == os.environ.get("THREESHNET_COMMIT", "unknown")


@pytest.mark.parametrize("name", ["o'brien", 'a "b" c', "ends in \\", "a,b=[c]", "x: {y}", "Grüße 東京", "it's \\\"x"])
def test_folders_of_any_name_reach_the_command_that_makes_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """hydra#1577 and #1600: quotes, blanks and brackets in folders."""
    called: list[list[str]] = []
    monkeypatch.setattr(
        provide.subprocess, "run", lambda words, **_: called.append(words) or SimpleNamespace(returncode=1)
    )
    data: Any = SimpleNamespace(name="demo", made_here=True, how_to_get="")
    with pytest.raises(Exception, match="could not be made"):
        provide.provide_shards(tmp_path / name, data)
    (out,) = (word for word in called[0] if word.startswith("out="))
    assert OverridesParser.create().parse_override(out).value() == str(tmp_path / name)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_terminals_without_utf_8(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """enlighten#13, voxel51/eta#485: what a log cannot show is written as its number."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    main(["--help"])
    print("東京 ▁▂▃ …", file=stream, flush=True)
    assert b"usage: threeshnet" in stream.buffer.getvalue()  # pyright: ignore


def test_a_name_that_the_locale_cannot_express(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_shards: Path
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")

    def refuse(*_: Any) -> None:
        raise UnicodeEncodeError("latin-1", "東京.jpg", 0, 2, "ordinal not in range(256)")

    monkeypatch.setattr("threeshnet.cli.verify.look_through", refuse)
    ended = command("verify", f"shards={demo_shards}", f"out={tmp_path / 'card.html'}", "progress=false")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].endswith("cannot be written in this locale (latin-1): set PYTHONUTF8=1")


def test_containers_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """h2o-llmstudio#974, truenas/apps#4603: a number as the user, no HOME, no line in /etc/passwd."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("XDG_CACHE_HOME", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert installation.cache_folder() == tmp_path / f"threeshnet-{os.getuid()}"
    monkeypatch.setenv("HOME", "")
    installation.provide_home()
    assert Path(os.environ["HOME"]).parent == tmp_path
    shutil.rmtree(os.environ["HOME"])
    (tmp_path / f"threeshnet-{os.getuid()}").symlink_to("/")  # of somebody else
    assert installation.cache_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("WANDB_MODE", "online")
    assert why_offline()
    assert facts_of_code()["commit"]


# ---- full and read-only disks

LESS_MEMORY = "with fewer workers (0 reads in the main process), or a smaller batch_size"
WRITES = {
    "data": ["data=folder", "raw=nowhere", "out={out}"],
    "import": ["raw=nowhere", "out={out}"],
    "verify": ["shards={shards}", "out={out}/card.html", "progress=false"],
    "train": ["experiment=region_demo", "shards=nowhere", "out={out}"],
    "evaluate": ["checkpoint={checkpoint}", "shards={shards}", "split=test", "out={out}"],
    "compare": ["one=nowhere", "other=nowhere", "out={out}"],
    "sweep": ["study=activation", "experiment=region_demo", "shards=nowhere", "out={out}"],
    "collect": ["study=activation", "out={runs}", "into={out}"],
    "report": ["into={out}"],
    "dashboard": ["study=activation", "out=nowhere", "page={out}/page.html"],
}


@pytest.mark.parametrize("verb", WRITES)
def test_what_cannot_be_written_at_the_end_is_tried_before(
    command, demo_shards: Path, tmp_path: Path, verb: str
) -> None:
    """The first sentence is of the folder, before one of the inputs that are missing too."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "a.ckpt").write_bytes(b"never read")
    (tmp_path / "runs" / "job").mkdir(parents=True)
    write_text(tmp_path / "runs" / "job" / "job.json", "{}")
    given = {"out": tmp_path / "file" / "out", "shards": demo_shards, "checkpoint": tmp_path / "a.ckpt"}
    ended = command(verb, *(word.format(**given, runs=tmp_path / "runs") for word in WRITES[verb]))
    (line,) = ended.err.splitlines()
    assert ended.code == 1
    assert f"{given['out']}" in line
    assert "cannot be written: " in line
    assert "=<folder>)" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_why_a_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    check_writable("out", tmp_path / "new" / "folder")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=f"out=.*cannot be written: {os.strerror(number)}; give another OUT"):
        check_writable("out", tmp_path)


@pytest.mark.parametrize("verb", ["data", "import"])
def test_a_disk_that_fills_while_shards_are_written(command, root: Path, tmp_path: Path, verb: str) -> None:
    """h5py#914, #1120, PyTables#695: HDF5 crashes the process. A limit of a file's size stands for the disk here."""
    words = {
        "data": ["data=synthetic", "images=40", "workers=0"],
        "import": [f"raw={root / 'tests' / 'golden' / 'precomp'}", "workers=0"],
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        ended = command(verb, *words[verb], f"out={tmp_path}", "progress=false")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert ".h5.partial cannot be written: File too large" in line
    assert "another out=<folder>" in line
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    assert command(verb, *words[verb], f"out={tmp_path}", "progress=false").code == 0


def raised(error: Exception) -> None:
    raise error


def test_a_file_that_cannot_be_finished_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of writing to an open file names no file."""
    write_text(tmp_path / "page.md", "before")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_text", lambda file, *_, **__: file.write_bytes(b"half") and raised(full))
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "page.md", "after")
    assert caught.value.filename == str(tmp_path / "page.md")
    assert [file.name for file in tmp_path.iterdir()] == ["page.md"]
    assert (tmp_path / "page.md").read_text() == "before"


# ---- signals, and processes that end with their parent


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_is_a_signal(command, demo_shards: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def signalled(*_: Any) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(5)

    before = signal.getsignal(signal.Signals[name])
    monkeypatch.setattr("threeshnet.cli.verify.look_through", signalled)
    ended = command("verify", f"shards={demo_shards}", "card=false", "progress=false")
    assert (ended.code, ended.err) == (
        75,
        f"{name}: stopped. Run the same command again; finished shards and jobs are kept\n",
    )
    assert signal.getsignal(signal.Signals[name]) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_shards_are_written(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Lightning has a handler of its own there, which would go on."""

    def signalled(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.Signals[name])

    words = ["data=synthetic", "images=4", "workers=0", f"out={tmp_path}", "progress=false"]
    monkeypatch.setattr(ShardWriter, "append", signalled)
    ended = command("data", *words)
    assert (ended.code, f"{name}: stopped." in ended.err) == (75, True), ended.err
    assert not list(tmp_path.rglob("*.partial"))


def test_a_signal_that_was_ignored_stays_ignored(command, demo_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell starts jobs in the background with SIGINT ignored."""
    monkeypatch.setattr("threeshnet.cli.verify.bytes_to_look_at", lambda _: os.kill(os.getpid(), signal.SIGINT) or 1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command("verify", f"shards={demo_shards}", "card=false", "progress=false").code == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("death", "code", "message"),
    [
        ("is killed by signal: Terminated. ", 75, "SIGTERM: stopped."),
        ("is killed by signal: Interrupt. ", 75, "SIGINT: stopped."),
        (
            "is killed by signal: Killed. ",
            1,
            "with fewer workers (0 reads in the main process), or a smaller batch_size",
        ),
        ("exited unexpectedly", 1, "with fewer workers (0 reads in the main process), or a smaller batch_size"),
    ],
)
def test_a_worker_that_was_signalled_is_no_shortage_of_memory(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, code: int, message: str
) -> None:
    """pytorch#4507: a scheduler signals the whole group, and a worker may be the first to end."""

    def die(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"DataLoader worker (pid 7) {death}")

    monkeypatch.setattr("threeshnet.shards.make.predictor", die)
    ended = command("data", "data=synthetic", "images=4", f"out={tmp_path}", "progress=false")
    assert (ended.code, message in ended.err) == (code, True), ended.err
    assert "batches." not in ended.err  # which are keys of `train`


PARENT = """
import os, subprocess, sys, time
from threeshnet.processes import ends_with
child = subprocess.Popen(["sleep", "60"], preexec_fn=ends_with(os.getpid()))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent(number: signal.Signals) -> None:
    """bbot#3207, sandlock#238: what a killed process had started ran on."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = Path(f"/proc/{parent.stdout.readline().strip()}")
    assert child.is_dir()
    parent.send_signal(number)
    parent.wait()
    end = time.monotonic() + 10
    while child.is_dir() and "\nState:\tZ" not in (child / "status").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.is_dir() or "\nState:\tZ" in (child / "status").read_text()
