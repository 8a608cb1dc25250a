"""Commands in processes that cost milliseconds: forks of one that has imported everything and computed nothing.

    python tests/forks.py    reads a request a line (JSON) and answers each with a line

Importing the libraries takes ten seconds of a core, and the tests start a hundred processes. A child may have its own
limits of time and memory, so that a hang, a native crash or an explosion of memory ends the child and nothing else. The
parent is not pytest's process: torch may have threads there, which no fork survives.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1] / "src" / "threeshnet"
TIMED_OUT = "timed out"
LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # whether a child has ended, and leave it there
PATIENCE = 60  # seconds that processes have when one of them has failed: they may wait for it
CANARY_VALUE = "canary-5be1"  # of HOSTILE_CANARY, which no command has a reason to read
LOG_BYTES = 1 << 20  # of what a child printed; a message that is longer is none


class Ended(NamedTuple):
    """How a command ended: its exit code, minus the signal that killed it, or None where it ran out of time."""

    code: int | None
    out: str
    err: str
    seconds: float


class Started(NamedTuple):
    """The processes of a command, by rank, and the folder that they work in."""

    processes: list[int]
    folder: Path


class Forks:
    """The parent of all commands that are run; a context manager.

    What is started is a command (`train`), a module (its dotted name) or a script (its path), with its words. Several
    `processes` find each other as those of torchrun do.
    """

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "", "CUDA_VISIBLE_DEVICES": ""}
        environment["HOSTILE_CANARY"] = CANARY_VALUE
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(
        self, name: str, words: Sequence[str], *, folder: Path, processes: int = 1, gigabytes: float | None = None
    ) -> Started:
        """Begin in `folder`, where `out.txt` and `err.txt` stay. gigabytes: what it may take beyond the imports."""
        limit = None if gigabytes is None else int(gigabytes * 2**30)
        request = {"name": name, "words": list(words), "folder": str(folder), "processes": processes, "limit": limit}
        return Started(self._ask(request)["started"], folder)

    def wait(self, started: Started, *, seconds: float) -> Ended:
        """Its end; the code is that of the first process that failed; one that failed leaves the others a minute."""
        answer = self._ask({"wait": started.processes, "seconds": seconds})
        failed = [code for code in answer["codes"] if code not in (0, TIMED_OUT)]
        code = failed[0] if failed else None if TIMED_OUT in answer["codes"] else 0
        out, err = (tail(started.folder / name) for name in ("out.txt", "err.txt"))
        return Ended(code, out, err, answer["seconds"])

    def run(self, name: str, words: Sequence[str], *, folder: Path, seconds: float = 60, **options: Any) -> Ended:
        """Begin and wait."""
        return self.wait(self.start(name, words, folder=folder, **options), seconds=seconds)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # not by the end of its input, which a process that a test left behind may hold open
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{__file__} has ended with {self._process.wait()}: what it said is on stderr")
        return json.loads(answer)


def tail(file: Path) -> str:
    """The last megabyte of a file."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - LOG_BYTES))
        return stream.read().decode("utf-8", "replace")


# ---- the parent


def serve() -> None:
    """Import everything, then fork for every request until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    prepare()
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(ends(**asked) if "wait" in asked else starts(**asked)) + "\n")
        answers.flush()


def prepare() -> None:
    """What is made on first use and is the same for all: Hydra's plugins, the libraries behind models and figures."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import get_method
    from omegaconf import OmegaConf
    from transformers.models.bert import modeling_bert  # noqa: F401

    from threeshnet.installation import CONF

    for file in CONF.glob("*.yaml"):
        get_method(OmegaConf.load(file)["_target_"])
    importlib.import_module("threeshnet.cli.door")
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("train", ["experiment=hybrid_coco", "fusion=[semantic]", "trainer.max_steps=2", "out='a b'"])
    GlobalHydra.instance().clear()
    gc.freeze()  # else a child's first collection copies every page


def starts(name: str, words: list[str], folder: str, processes: int, limit: int | None) -> dict[str, Any]:
    for file in ("out.txt", "err.txt"):
        (Path(folder) / file).write_bytes(b"")
    port = free_port()
    places = [torchrun(rank, processes, port) if processes > 1 else {} for rank in range(processes)]
    return {"started": [begin(name, words, folder, limit, place) for place in places]}


def torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells each process by its environment."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "NODE_RANK": 0, "WORLD_SIZE": processes}
    place |= {"LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    return {name: str(value) for name, value in place.items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(name: str, words: list[str], folder: str, limit: int | None, place: dict[str, str]) -> int:
    """A process in a group of its own; returns its id."""
    from lightning_utilities.core import rank_zero

    sys.stdout.flush()
    if process := os.fork():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ |= place
        if place:  # which Lightning read when it was imported
            rank_zero.rank_zero_only.rank = int(place["RANK"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limit is not None:
            most = address_space() + limit
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for file, descriptor in (("out.txt", 1), ("err.txt", 2)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = call(name, words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent is to be closed twice


def call(name: str, words: list[str]) -> int:
    """What a shell would see of a verb, or of `python -m` with a dotted name or a script, with these words."""
    import traceback

    script = Path(name)
    sys.path.insert(0, str(script.parent if script.suffix == ".py" else PACKAGE.parents[1]))  # experiments.benchmarks
    sys.argv = [name, *words] if "." in name else ["threeshnet", name, *words]
    try:
        if script.suffix == ".py":
            runpy.run_path(name, run_name="__main__")
        else:
            module = name if "." in name else "threeshnet.__main__"
            runpy.run_module(module, run_name="__main__", alter_sys="." in name)  # pickle looks for classes there
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


def ends(wait: list[int], seconds: float) -> dict[str, Any]:
    """The exit code of each, minus the signal that ended it, or TIMED_OUT; none of their own children stays behind."""
    begun = time.perf_counter()
    open_ones, until = set(wait), begun + seconds
    while open_ones and time.perf_counter() < until:
        for found in filter(None, [os.waitid(os.P_PID, process, LOOK) for process in open_ones]):
            open_ones.remove(found.si_pid)
            if found.si_status:
                until = min(until, time.perf_counter() + PATIENCE)
        time.sleep(0.005)
    codes = []
    for process in wait:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        codes.append(TIMED_OUT if process in open_ones else code)
    return {"codes": codes, "seconds": round(time.perf_counter() - begun, 3)}


if __name__ == "__main__":
    serve()
