"""Calls that may take their process down: HDF5's C library can crash on a file with damaged inner pages."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# A fork starts in milliseconds, but only Linux's is safe beside a library's threads; the child touches none of them.
METHOD = "fork" if sys.platform == "linux" else "spawn"


class CrashError(RuntimeError):
    """The process of a guarded call ended without an answer."""


def guarded(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `call(*arguments)`, made in a process of its own; CrashError when that dies.

    `call` has to catch its own exceptions: one that it lets through counts as a crash, and is shown on stderr.
    """
    context = multiprocessing.get_context(METHOD)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, call, arguments), daemon=True)
    process.start()
    there.close()  # else the end of the process would not be the end of the pipe
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise CrashError(f"the process that read it ended with code {process.exitcode}") from None
    finally:
        process.join()
        here.close()


def _answer(pipe: Connection, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(call(*arguments))
