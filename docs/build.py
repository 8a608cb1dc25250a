"""Builds the documentation site: assembles build/docs as the repository's tree, then `zensical build` writes site/.

Relative links between README.md, docs/ and experiments/ are the same on the site as in the checkout. Reference pages
have marks such as `<!-- generated: settings -->`, which are replaced by what conf/ says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from threeshnet.cli import help_text, verbs

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md", "docs/**/*.md", "experiments/**/README.md")
LINK = re.compile(r"\]\(([^()\s#]+)[^()\s]*\)")


def main(folder: Path = ROOT) -> int:
    """Builds the site in `folder`/site from `folder`/build/docs; zensical's exit code."""
    assemble(folder / "build" / "docs")
    if folder != ROOT:
        config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        write(folder / "mkdocs.yml", config.replace("paths: [src]", f"paths: [{ROOT / 'src'}]"))
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--clean"], cwd=folder, check=False).returncode


def assemble(folder: Path) -> None:
    """Copies every page and the files that it links to, and fills in the reference pages."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]
    for page in pages:
        text = re.sub(r"<!-- generated: (\w+) -->", lambda mark: GENERATED[mark[1]](), page.read_text(encoding="utf-8"))
        write(folder / page.relative_to(ROOT), text)
        for target in LINK.findall(text):
            file = (page.parent / target).resolve()
            if urlsplit(target).scheme or file in pages or not file.exists():
                continue
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.is_dir():
                shutil.copytree(file, copy, dirs_exist_ok=True)
            else:
                shutil.copyfile(file, copy)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


# ---- reference pages


def settings() -> str:
    """Each verb's settings file with its comments, then each group with its choices."""
    parts = [f"## {verb}\n\n```yaml\n{own_keys(ROOT / 'conf' / f'{verb}.yaml')}\n```" for verb in verbs()]
    groups = sorted({file.parent for file in (ROOT / "conf").glob("*/*.yaml")})
    rows = [row for group in groups if group.name != "hydra" for row in choices(group)]
    return "\n\n".join([*parts, "## Groups\n\n| choice | what it is |\n|---|---|\n" + "\n".join(rows)])


def own_keys(file: Path) -> str:
    """The text of a settings file without Hydra's own section and overrides.

    >>> print(own_keys(ROOT / "conf" / "compare.yaml").splitlines()[1].split(":")[0])
    one
    """
    text = file.read_text(encoding="utf-8").split("\nhydra:")[0]
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith("- override hydra/"))


def choices(group: Path) -> list[str]:
    """A table row for each choice of a group, with the comment that its file begins with."""
    rows = []
    for file in sorted(group.glob("*.yaml")):
        comment: list[str] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment += [] if "@package" in line else [line.lstrip("# ")]
        rows.append(f"| `{group.name}={file.stem}` | {' '.join(comment).replace('|', chr(92) + '|')} |")
    return rows


def command_line() -> str:
    """What `--help` says: of the program, then of each verb without the list of groups, which is on another page."""
    parts = [f"```text\n{help_text(verbs())}```"]
    for verb in verbs():
        text = OmegaConf.load(ROOT / "conf" / "hydra" / "help" / f"{verb}.yaml")
        parts.append(f"## threeshnet {verb}\n\n```text\n{text.header}\n{text.footer}```")
    return "\n\n".join(parts)


GENERATED = {"settings": settings, "verbs": command_line}

if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
