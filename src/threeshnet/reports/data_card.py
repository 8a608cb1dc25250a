"""The data card of a shard folder: contents, extractors, statistics and sample photos on one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from threeshnet.errors import ConfigError
from threeshnet.reports.card_numbers import SAMPLED, gather
from threeshnet.reports.charts import figures_of
from threeshnet.reports.contact_sheet import contact_sheet, thumbnail
from threeshnet.reports.html import write_html
from threeshnet.shards.leakage import Leak, coverage, crossing, leaks
from threeshnet.shards.manifest import CARD, Manifest

SHOWN_LEFT_OUT = 200
SHOWN_LEAKS = 12  # with thumbnails
FIELD_NAMES = {"region": "regions", "grid": "grid cells", "seg": "segmentation"}


class LeakSeen(NamedTuple):
    """A leak with thumbnails of both photos, empty where they cannot be read."""

    leak: Leak
    pictures: tuple[str, str]


def write_card(folder: Path, *, out: Path | None = None, photos: int = 12, seed: int = 0) -> Path:
    """Write the data card of a sound shard folder to `out`, or to `card.html` in the folder; returns the file.

    The page holds its pictures, so it can be sent and read anywhere. The same shards (and photos, where the manifest's
    `raw` still leads to them) give the same bytes. `photos` of the contact sheet are chosen by `seed`.
    """
    if photos < 0:
        raise ConfigError(f"photos={photos}: 0 is the least")
    folder = Path(folder)
    file = folder / CARD if out is None else Path(out)
    manifest = Manifest.load(folder)
    numbers = gather(folder, manifest)
    names = manifest.class_names or tuple(f"class {number}" for number in range(manifest.classes or 0))
    figures = list(figures_of(numbers, names))
    content = {
        "manifest": manifest,
        "fields": [FIELD_NAMES[name] for name in manifest.fields],
        "images": sum(split.images for split in manifest.splits.values()),
        "captions": sum(split.captions for split in manifest.splits.values()),
        "numbers": numbers,
        "makers": {FIELD_NAMES.get(name, name): maker for name, maker in manifest.extractors.items()},
        "figures": [figure for figure in figures if figure.light],
        "facts": [figure for figure in figures if not figure.light],
        "sampled": SAMPLED,
        "sheets": contact_sheet(folder, manifest, photos=photos, seed=seed),
        "seed": seed,
        "left_out": manifest.left_out[:SHOWN_LEFT_OUT],
        "config": json.dumps(manifest.config, indent=1, ensure_ascii=False, sort_keys=True),
        **leaked_photos(folder, manifest),
    }
    return write_html(file, "data_card.html", content, size=size_on_disk, count="{:,}".format)


def size_on_disk(count: int) -> str:
    """Bytes for people.

    >>> size_on_disk(999), size_on_disk(182_318_992), size_on_disk(1_304_566_248)
    ('999 B', '182 MB', '1.3 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count} B"


def leaked_photos(folder: Path, manifest: Manifest) -> Mapping[str, Any]:
    """What the page says of photos in two splits, with thumbnails of the first of them."""
    known, images = coverage(folder)
    found: Sequence[Leak] = leaks(folder) if known else []
    across = crossing(found)
    raw = manifest.photos(folder)
    pictures = [(thumbnail(raw / leak.files[0]), thumbnail(raw / leak.files[1])) for leak in across[:SHOWN_LEAKS]]
    return {
        "leak_known": known,
        "leak_images": images,
        "leaks": [LeakSeen(*pair) for pair in zip(across, pictures, strict=False)],
        "leak_count": len(across),
        "twice": len(found) - len(across),
    }
