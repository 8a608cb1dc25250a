"""Commands in processes that cost milliseconds: forks of one that has imported everything and computed nothing.

    python tests/fuzz/forks.py    reads a request a line (JSON) and answers each with a line

A forked child has its own limits of time and memory, so that a hang, a native crash or an explosion of memory ends the
child and nothing else. The parent is not pytest's process: torch may have threads there, which no fork survives.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "threeshnet.commands."
TIMED_OUT = "timed out"
LOG_BYTES = 1 << 20  # of what a child printed; a message that is longer is none


class Ended(NamedTuple):
    """How a command ended: its exit code, minus the signal that killed it, or None where it ran out of time."""

    code: int | None
    out: str
    err: str
    seconds: float


class Forks:
    """The parent of all commands that are run; a context manager."""

    def __init__(self, *, commands: Sequence[str], gigabytes: float = 3.0) -> None:
        """gigabytes: what a command may take beyond what the imports took."""
        self.gigabytes = gigabytes
        words = [sys.executable, str(Path(__file__)), *commands]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, command: str, overrides: Sequence[str], *, folder: Path, seconds: float = 60) -> Ended:
        """Run a command in `folder`, where its `out.txt` and `err.txt` stay."""
        limits = {"seconds": seconds, "bytes": int(self.gigabytes * 2**30)}
        request = {"command": command, "overrides": list(overrides), "folder": str(folder), **limits}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = (tail(folder / name) for name in ("out.txt", "err.txt"))
        return Ended(None if answer["code"] == TIMED_OUT else answer["code"], out, err, answer["seconds"])

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def tail(file: Path) -> str:
    """The last megabyte of a file."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - LOG_BYTES))
        return stream.read().decode("utf-8", "replace")


def serve(commands: Sequence[str]) -> None:
    """Import everything, then fork for every request until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    mains = {name: importlib.import_module(PREFIX + name).main for name in commands}
    prepare()
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.perf_counter()
        code = wait(start(mains, asked), asked["seconds"])
        answers.write(json.dumps({"code": code, "seconds": round(time.perf_counter() - begun, 3)}) + "\n")
        answers.flush()


def prepare() -> None:
    """What is made on first use and is the same for all: Hydra's plugins, the libraries behind models and figures."""
    import matplotlib.pyplot  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from transformers.models.bert import modeling_bert  # noqa: F401

    from threeshnet.commands import CONF

    torch.set_num_threads(1)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("train", ["experiment=hybrid_coco", "fusion=[semantic]", "trainer.max_steps=2", "out='a b'"])
    GlobalHydra.instance().clear()
    gc.freeze()  # else a child's first collection copies every page


def start(mains: dict[str, Any], asked: dict[str, Any]) -> int:
    """Begin a command in a process group of its own; returns its id."""
    sys.stdout.flush()
    if process := os.fork():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(asked["folder"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = address_space() + asked["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for name, descriptor in (("out.txt", 1), ("err.txt", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = call(mains[asked["command"]], [PREFIX + asked["command"], *asked["overrides"]])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent is to be closed twice


def call(main: Any, words: list[str]) -> int:
    """What a shell would see of `python -m` with these words."""
    import traceback

    from threeshnet.commands import run

    sys.argv = words
    try:
        run(main)
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def address_space() -> int:
    """Bytes of address space that this process has taken."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def wait(process: int, seconds: float) -> int | str:
    """The exit code of a child, minus the signal that ended it, or TIMED_OUT; none of its own children stays behind."""
    end = time.monotonic() + seconds
    state = None
    while state is None and time.monotonic() < end:
        state = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return TIMED_OUT if state is None else code


if __name__ == "__main__":
    serve(sys.argv[1:])
