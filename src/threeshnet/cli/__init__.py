"""The command line: `threeshnet <verb> [key=value …]`, which is `python -m threeshnet <verb> [key=value …]`.

A verb is a file `conf/<verb>.yaml`: its first line is its help, its `_target_` the function that does the work.
"""

from __future__ import annotations

import ctypes
import difflib
import io
import sys
from collections.abc import Sequence

from threeshnet.installation import CONF, provide_home
from threeshnet.threads import prepare_threads

# As the work goes, from photos to pages; verbs that are not named here follow.
ORDER = (
    "data",
    "import",
    "verify",
    "train",
    "evaluate",
    "compare",
    "index",
    "search",
    "explain",
    "serve",
    "demo",
    "export",
    "sweep",
    "collect",
    "report",
    "dashboard",
)
HELP = ("-h", "--help", "help")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def main(words: Sequence[str] | None = None) -> None:
    """Run the verb that `words` begin with, the words of this process's command line unless given."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals and logs without UTF-8
    provide_home()
    prepare_threads()  # before anything imports torch
    words = list(sys.argv[1:] if words is None else words)
    known_verbs = verbs()
    if not words or words[0] in HELP:
        sys.stdout.write(help_text(known_verbs))
        return
    verb, *words = words
    if verb not in known_verbs:
        near = difflib.get_close_matches(verb, known_verbs, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known_verbs)}"
        sys.exit(f"threeshnet has no verb {verb!a}; {hint}  (threeshnet --help)")
    keep_freed_memory()
    from threeshnet.cli.quick import run_quickly  # which takes what a search needs anyway

    if run_quickly(verb, words):
        return
    from threeshnet.cli.door import run  # Hydra takes half a second

    run(verb, words)


def keep_freed_memory() -> None:
    """Let glibc keep large blocks of memory, as the Makefile does by environment variables.

    Without it glibc returns them to the system and faults them in again at every step, which makes CPU training up to
    three times slower on small virtual machines. Nothing is changed on systems without glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def verbs() -> dict[str, str]:
    """Every verb with what it does, from the first lines of `conf/*.yaml`."""
    descriptions = {file.stem: _first_line(file.read_text(encoding="utf-8")) for file in CONF.glob("*.yaml")}
    rest = sorted(set(descriptions) - set(ORDER))
    return {verb: descriptions[verb] for verb in (*ORDER, *rest) if verb in descriptions}


def _first_line(text: str) -> str:
    """`What it does.` of `# threeshnet <verb>: what it does.`"""
    says = text.partition("\n")[0].partition(": ")[2]
    return says[:1].upper() + says[1:]


def help_text(descriptions: dict[str, str]) -> str:
    """What `threeshnet --help` says."""
    lines = (f"  {verb:<{max(map(len, descriptions))}}  {says}\n" for verb, says in descriptions.items())
    usage = "usage: threeshnet <verb> [key=value …]\n\nImage-sentence retrieval with 3SHNet.\n\n"
    return f"{usage}{''.join(lines)}\nthreeshnet <verb> --help lists the keys of a verb.\n"
