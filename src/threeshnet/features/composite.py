"""Extractors made of several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import nn

from threeshnet.features.extractor import Extractor
from threeshnet.records import Photo


class Composite(Extractor):
    """Base of extractors that join what their `parts` make. Each part loads and collates its own inputs.

    `parts`: extractors by the names of their arguments, each limited to the field that is used.
    """

    def __init__(self, *, parts: Mapping[str, Extractor], fields: Sequence[str] | None) -> None:
        super().__init__(fields=fields)
        self.parts: Any = nn.ModuleDict(dict(parts))
        self.name, self.weights = (
            "+".join(getattr(part, key) for part in parts.values()) for key in ("name", "weights")
        )
        self.options = {key: part.identity()["options"] for key, part in parts.items()}
        self.small = all(part.small for part in parts.values())

    def identity(self) -> dict[str, str]:
        versions = "+".join(part.identity()["version"] for part in self.parts.values())
        return super().identity() | {"version": versions}

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Any]:
        return {key: part.load(photo, image) for key, part in self.parts.items()}

    def collate(self, loaded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {key: part.collate([item[key] for item in loaded]) for key, part in self.parts.items()}
