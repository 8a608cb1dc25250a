"""How a command ends when something is wrong: one message on stderr and exit code 1, without a traceback."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli.own_files import cause_of, own_conf_faults
from threeshnet.cli.stopping import Interruption, stopped, stopped_by_signals
from threeshnet.errors import DataError, Interrupted, Problems, ThreeSHNetError, one_of, shortened
from threeshnet.files import NO_ROOM, free_bytes
from threeshnet.installation import CONF, conf_files
from threeshnet.processes import SHARED_OUT, ends_with
from threeshnet.training.signals import ended_by, worker_death

NO_SUCH_KEY = re.compile(r"Could not override '([^']+)'")
NO_SUCH_CHOICE = re.compile(r"Could not (?:find|load) '([^']+)/([^'/]+)'")  # Hydra says `load` for a choice in a list

LOST_PEER = "Connection closed by peer"  # gloo
FAILED: list[ThreeSHNetError] = []  # the errors of the jobs of this command, in order
IN_A_WORKER = "DataLoader worker process"
OUT_OF_MEMORY = (
    "A process that reads batches has ended, or was killed, which a system short of memory does. Less is needed with "
    "fewer {workers} (0 reads in the main process), or a smaller {sizes}"
)
WORKERS = {"train": "batches.workers"}  # the keys of a verb; `workers` and `batch_size` of the others
SIZES = {"train": ("batches.batch_size", "batches.evaluation_batch_size")}
WITH_BATCHES = ("data", "import", "evaluate")
FOLDERS = {"collect": "into", "report": "into", "dashboard": "page"}  # the key of what a verb writes; `out` of others
STARTED_BY_OTHERS = (SHARED_OUT, "TORCHELASTIC_RUN_ID")  # set for the other processes of a run: by Lightning, torchrun
HYDRAS_CHOICES = ("hydra/_internal/defaults_list.py", "hydra/core/default_element.py")
SHOW_TRACEBACK = "THREESHNET_TRACEBACK"  # any value: every error is shown with its traceback

REMARKS = (
    "treespec, LeafSpec",
    "does not have many workers",
    "infer the batch indices",
    "exists and is not empty",  # folders of a run that is resumed
    "could not find the monitored key",  # a run without a finished epoch; `train` says so itself
    "is smaller than the logging interval",
)


def report_errors(main: Callable[[], Any], verb: str = "train", words: Sequence[str] = ()) -> None:
    """Call the main function of a verb.  An error for users ends the process with its message and exit code 1.

    Hydra's errors, files that the system refuses and failed allocations get a message as well. Other exceptions keep
    their traceback.
    """
    quiet()
    FAILED.clear()
    end_with_parent = ends_with(os.getppid()) if any(name in os.environ for name in STARTED_BY_OTHERS) else None
    if end_with_parent is not None:
        end_with_parent()
    try:
        _call(main)
        if FAILED:
            raise FAILED[0]
    except Interruption as left:
        _end(str(left.reason), left.reason.exit_code)
    except ThreeSHNetError as error:
        _end(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            sys.exit(1)
        message = _message_for_users(error, verb, words)
        if message is None or os.environ.get(SHOW_TRACEBACK):
            raise
        _end(message)


def _call(main: Callable[[], Any]) -> None:
    """Call `main` and flush the output here, where an error of writing can still be handled."""
    try:
        with stopped_by_signals():
            main()
    except SystemExit as ended:  # Hydra's after --help
        if ended.code:
            raise
    sys.stdout.flush()


def _reader_has_gone() -> bool:
    """Whether the reader of the output has ended, as `| head` does.  Later output is then discarded."""
    watched = select.poll()
    watched.register(sys.stdout, 0)  # an ended reader is reported without being asked for
    if gone := bool(watched.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
    return gone


def _message_for_users(error: Exception, verb: str, words: Sequence[str]) -> str | None:
    """A message that a user can act on; None for an error of this suite."""
    if isinstance(error, RuntimeError) and LOST_PEER in str(error):
        return "another process of this run has ended; its message stands above"
    if isinstance(error, InstantiationException):
        return _build_message(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explained(error, verb, words)
    if in_choices(error) and (message := wrong_choices(words)):
        return message
    if _of_the_system(error):
        return _system_message(error, verb)
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return f"{error.object[:200]!a} cannot be written in this locale ({error.encoding}): set PYTHONUTF8=1"
    return _out_of_memory(error, verb) or own_conf_faults()


def _of_the_system(error: Exception) -> TypeGuard[OSError]:
    """Whether the system refused a file, or any writing for want of room."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM)


def _system_message(error: OSError, verb: str) -> str:
    """What the system refuses, and for a full disk the way out."""
    file = "a file" if error.filename is None else os.fsdecode(error.filename)
    if error.errno not in NO_ROOM:
        return f"{file}: {error.strerror}"
    key = FOLDERS.get(verb, "out")
    free = "" if error.filename is None else f" ({free_bytes(Path(file).parent) / 1e6:.1f} MB are free)"
    return (
        f"{file} cannot be written: {error.strerror}{free}. What was finished before is kept: make room, or give "
        f"another {key}=<folder>, and run the same command again"
    )


def _build_message(error: InstantiationException) -> str:
    """Which setting's part could not be built, with the message of its class."""
    if isinstance(error.__cause__, ThreeSHNetError):
        return str(error.__cause__)
    message = shortened(str(error).strip())
    where = re.search(r"full_key: (\S+)", message)
    what = f"{where.group(1)}: {message.replace(where.group(0), '').strip()}" if where else message
    return f"{what}\n({SHOW_TRACEBACK}=1 shows where in the code)"


def in_choices(error: Exception) -> bool:
    """Whether Hydra failed while it looked up the files of groups."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.replace(os.sep, "/").endswith(HYDRAS_CHOICES)


def wrong_choices(words: Sequence[str]) -> str | None:
    """The groups whose choice is no name, which Hydra does not say; None when there is none."""
    problems = Problems("choices")
    for word in (word for word in words if "=" in word and not word.startswith("-")):
        given = OverridesParser.create().parse_override(word)
        group, value = given.key_or_group.partition("@")[0], given.value()
        choices = sorted(conf_files(group))
        names = value if isinstance(value, list) else [value]
        if choices and not all(isinstance(name, str) and "${" not in name for name in names):
            problems.add(one_of(given.key_or_group, value, choices))
    return (
        problems.text("A group takes the name of one of its files, a list where it takes several.")
        if problems
        else None
    )


def _out_of_memory(error: Exception, verb: str) -> str | None:
    """For an allocation that failed; None for every other error."""
    message = str(error).strip()
    if not isinstance(error, MemoryError) and "can't allocate memory" not in message:
        return None
    keys = {
        "train": "batches.batch_size or dim",
        "data": "batch_size",
        "import": "batch_size",
        "evaluate": "batch_size",
    }
    lower = f": lower {keys[verb]}" if verb in keys else ""
    return f"there is not enough memory ({message or 'while allocating'}){lower}"


def handled(task: Callable[[DictConfig], Any], verb: str = "train") -> Callable[[DictConfig], Any]:
    """Handles errors for users before Hydra, which would print the whole command line of the job first.

    A multirun therefore goes on with its next job and ends with the first error. An interruption ends it at once.
    """

    @functools.wraps(task)
    def quietly(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Interrupted as interrupted:
            raise Interruption(interrupted) from interrupted
        except ThreeSHNetError as error:
            _failed(error)
        except OSError as error:
            if isinstance(error, BrokenPipeError) or not _of_the_system(error) or SHOW_TRACEBACK in os.environ:
                raise
            _failed(DataError(_system_message(error, verb)))
        except RuntimeError as error:
            if not worker_death(error):
                raise
            if name := ended_by(error):
                raise Interruption(stopped(name)) from error
            sizes = " or ".join(SIZES.get(verb, ("batch_size",)))
            _failed(DataError(OUT_OF_MEMORY.format(workers=WORKERS.get(verb, "workers"), sizes=sizes)))

    return quietly


def _failed(error: ThreeSHNetError) -> None:
    if FAILED:  # the first error is reported at the end
        sys.stderr.write(f"{error}\n")
    FAILED.append(error)


def quiet() -> None:
    """Silences Lightning's remarks about devices, tips and worker counts.

    Called again after Lightning's import, which sets its loggers.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning").setLevel(logging.WARNING)
    for message in REMARKS:
        warnings.filterwarnings("ignore", f".*{message}.*")


def for_terminals(message: str) -> str:
    r"""A message without control characters: text from untrusted files must not steer the terminal.

    >>> for_terminals("a \x1b[31mred\u202e dog\n  - 東京 🐕")
    'a \\x1b[31mred\\u202e dog\n  - 東京 🐕'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in message)


def _end(message: str, code: int = 1) -> None:
    """End the process.  Processes that Lightning started leave the message to rank 0, which a code but 0 would kill."""
    if code == Interrupted.exit_code and SHARED_OUT in os.environ:
        sys.exit(0)
    if IN_A_WORKER in message:  # torch puts the traceback of the worker before the message
        message = re.split(r"^threeshnet\.errors\.\w+: ", message, flags=re.MULTILINE)[-1].strip()
    sys.stderr.write(f"{for_terminals(message)}\n")
    sys.exit(code)


def explained(error: Exception, verb: str, words: Sequence[str]) -> str:
    """What is wrong with the words after a verb, and the names that are close to the wrong one."""
    message = str(error) or cause_of(error, words)
    if choice := NO_SUCH_CHOICE.search(message):
        return _no_such_choice(*choice.groups())
    wrong = NO_SUCH_KEY.search(message)
    if wrong is None:
        return message
    key = wrong.group(1)
    keys = sorted(set(_known_keys(verb, words, {key})))
    near = difflib.get_close_matches(key, keys, 5, 0.6)
    near = near or [name for name in keys if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    top = ", ".join(name for name in keys if "." not in name)
    hint = f"did you mean {' or '.join(near[:5])}?" if near else f"there are: {top}"
    return f"{key!r} is not a setting of {verb}; {hint}  (threeshnet {verb} --help)"


def _no_such_choice(group: str, option: str) -> str:
    return one_of(group, option, sorted(conf_files(group)))


def _known_keys(verb: str, words: Sequence[str], wrong: set[str]) -> Iterator[str]:
    """The settings that the words give without the wrong ones."""
    GlobalHydra.instance().clear()
    given = [word for word in words if "=" in word and not word.startswith("-")]
    overrides = [word for word in given if word.split("=", 1)[0].lstrip("+~") not in wrong]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield from _flat(compose(verb, overrides), "")
    except (HydraException, OmegaConfBaseException) as error:
        another = NO_SUCH_KEY.search(str(error))
        if another and another.group(1) not in wrong:
            yield from _known_keys(verb, words, wrong | {another.group(1)})


def _flat(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in (key for key in node if key != "_target_"):
        name = f"{prefix}{key}"
        yield name
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_missing() and not value._is_none():
            yield from _flat(value, f"{name}.")
