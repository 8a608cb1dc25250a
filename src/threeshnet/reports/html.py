"""HTML pages of one file, from the templates beside this module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from threeshnet.files import write_text


def write_html(file: Path, template: str, content: Mapping[str, Any], **filters: Callable[..., str]) -> Path:
    """Render `templates/<template>` into `file`, and return it. Text is escaped, since captions may hold anything."""
    environment = Environment(
        loader=PackageLoader("threeshnet.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= filters
    page = environment.get_template(template).render(content)
    write_text(file, page, errors="backslashreplace")  # a log may hold half a letter
    return file
