"""Threads on a machine that others use too: how many, and how they wait for each other.

torch shares every larger operation among the threads of an OpenMP library, GNU's libgomp in the wheels for Linux. A
thread that is done waits for the others. libgomp lets it spin for some milliseconds before it sleeps, hundreds of times
a training step; beside another process this takes the core from the thread that it waits for. libgomp reads its
variables when it is loaded, so they are set before torch is imported, and for every process that this one starts.

Beside other processes even short waits cost more than the second thread gains (experiments/benchmarks/threads). So the
number of threads follows the cores that others leave, unless `OMP_NUM_THREADS` says it. Other numbers of threads round
sums differently: on a machine that others use, only a run with `OMP_NUM_THREADS` can be repeated bit for bit.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)
# Turns that a waiting thread spins before it sleeps: experiments/benchmarks/threads says what others cost.
SPINS = 10_000
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # whoever set one of these has decided
THREADS = "OMP_NUM_THREADS"
OURS = "THREESHNET_SET_THREADS"  # the number, where it is ours and not the user's: a process's share may be smaller
SECONDS_BETWEEN_LOOKS = 2.0
BUSY_STATES = ("user", "nice", "system", "irq", "softirq", "steal")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def prepare_threads(variables: MutableMapping[str, str] = os.environ) -> None:
    """Sets how threads wait, and their number where a quota is smaller than the machine; the user's values stay.

    Nothing changes for libraries that are loaded already.
    """
    if not any(name in variables for name in WAITING):
        variables["GOMP_SPINCOUNT"] = str(SPINS)
    if THREADS not in variables and cores() < allowed_cores():  # libgomp knows the allowed cores, but no quota
        set_threads(variables, cores())


def set_threads(variables: MutableMapping[str, str], number: int) -> int | None:
    """Sets the number of threads of a process, at least one, and returns it; None where the user has set another."""
    if THREADS in variables and variables.get(OURS) != variables[THREADS]:
        return None
    number = max(number, 1)
    variables[THREADS] = variables[OURS] = str(number)
    return number


def cores() -> int:
    """Cores that this process may use: those it is allowed to run on, and no more than the quotas of its cgroups."""
    quota = cpu_quota()
    return min(allowed_cores(), math.ceil(quota)) if quota else allowed_cores()


def allowed_cores() -> int:
    """Cores that this process is allowed to run on, as `taskset` and schedulers say it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """The smallest quota of the cgroups of this process, in cores; None without one, as outside of containers."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return None
    return min((quota for line in lines for quota in _quotas(root, *line.split(":", 2)[1:])), default=None)


def _quotas(root: Path, controllers: str, path: str) -> Iterator[float]:
    """Quotas of a cgroup and of those above it: of version 2, or of the controller `cpu` of version 1."""
    if controllers and "cpu" not in controllers.split(","):
        return
    mounts = (root, root / "unified") if not controllers else (root / controllers, root / "cpu")
    for mount in mounts:
        inner = mount / path.lstrip("/")
        # A container sees its own cgroup as the root of the mount, often by another path than this one.
        for folder in (inner, *inner.parents):
            yield from _quota(folder)
            if folder == mount:
                break


def _quota(folder: Path) -> Iterator[float]:
    """The quota that a cgroup's folder states."""
    try:
        if (file := folder / "cpu.max").is_file():
            limit, period = file.read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        if limit not in ("max", "-1"):
            yield int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return  # there is none, or none that can be understood


class Busy(NamedTuple):
    """Processor seconds since the machine started, at one moment."""

    moment: float
    all: float  # of all processes, on the cores that this one may use
    own: float  # of this process and of the processes that it started


class FreeCoresFollower:
    """Keeps the number of torch's threads at the cores that other processes leave, and says so at the first change.

    Call it between steps; most calls return at once. It changes nothing where the user has set `OMP_NUM_THREADS`.
    """

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self.decided = THREADS in variables and variables.get(OURS) != variables[THREADS]
        self.most = 0  # threads that torch started with
        self.before: Busy | None = None
        self.said = False

    def __call__(self) -> None:
        if self.decided or (self.before and time.monotonic() - self.before.moment < SECONDS_BETWEEN_LOOKS):
            return
        import torch  # reads its variables when it is imported, which prepare_threads sets

        now, last = busy(), self.before
        self.before, threads = now, torch.get_num_threads()
        self.most = self.most or threads
        if last is None or self.most == 1:
            self.decided = self.most == 1
            return
        others = others_use(last, now)
        wanted = wanted_threads(allowed_cores(), others, self.most)
        if wanted != threads:
            torch.set_num_threads(wanted)
            says = f"threads: {wanted} of {self.most}, as others use {others:.1f} of {allowed_cores()} cores"
            log.log(logging.DEBUG if self.said else logging.INFO, says)  # where load comes and goes, it changes often
            self.said = True


def others_use(before: Busy, after: Busy) -> float:
    """Cores that other processes used between two moments."""
    seconds = max(after.moment - before.moment, 1e-3)
    return max((after.all - before.all) - (after.own - before.own), 0.0) / seconds


def wanted_threads(cores: int, others: float, most: int) -> int:
    """Threads for the cores that others leave, rounded; the system gives one core's share in any case.

    >>> [wanted_threads(2, others, 2) for others in (0.3, 0.8, 1.6)]
    [2, 1, 1]
    """
    return min(max(round(cores - others), 1), most)


def busy() -> Busy:
    """The processor time of the machine and of this process now."""
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    each = psutil.cpu_times(percpu=True)
    times = [each[core] for core in allowed if core < len(each)]
    everything = sum(getattr(core, state, 0.0) for core in times for state in BUSY_STATES)
    this, own = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            own += sum(process.cpu_times()[:4])  # user and system, its own and of the processes that it has ended
        except psutil.Error:  # it ended just now
            continue
    return Busy(time.monotonic(), everything, own)


adapt_threads = FreeCoresFollower()  # one for the process, as the number of threads is
