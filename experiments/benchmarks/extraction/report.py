"""Tables here and in the guide to extractors, from the committed results.

python -m experiments.benchmarks.extraction.report
"""

from __future__ import annotations

import json
from pathlib import Path

from threeshnet.reports.markdown import fill

from ..common import ROOT, read_rows

HERE = Path(__file__).resolve().parent
GUIDE = ROOT / "docs" / "guides" / "extractors.md"
FIELDS = {"lite0": "region, grid, seg", **dict.fromkeys(("rtdetr", "detr", "conditional_detr"), "region, grid")}
PROCESSES = 2  # of one thread each, that share the work of a machine with two cores


def main() -> None:
    rows = read_rows(HERE / "throughput.csv")
    speed = json.loads((HERE / "import_speed.json").read_text(encoding="utf-8"))
    fill(HERE / "README.md", {"throughput": throughput(rows), "import": imports(speed)})
    fill(GUIDE, {"throughput": throughput(rows)})


def throughput(rows: list[dict[str, str]]) -> str:
    """A line an extractor; the hours are those of two processes."""
    lines = [
        "| extractor | fields | photos/s, one thread | memory, GB | Flickr30K, two cores | COCO, two cores |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        fields = FIELDS.get(row["name"], "seg" if row["group"] == "segmentation" else "grid")
        hours = [float(row[f"hours_{name}"]) / PROCESSES for name in ("Flickr30K", "COCO")]
        numbers = [f"{float(row['photos_a_second']):.3g}", f"{float(row['peak_gb']):.1f}", *map(duration, hours)]
        lines.append(f"| `{row['name']}` | {fields} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def duration(hours: float) -> str:
    """Hours in words.

    >>> duration(0.4), duration(5.25), duration(100)
    ('24 min', '5.2 h', '4.2 days')
    """
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def imports(speed: dict) -> str:
    """One paragraph."""
    copied, made = ([f"{second:.1f}" for second in speed[key]] for key in ("cp_seconds", "import_seconds"))
    size, rate, ratio = speed["gigabytes"], speed["import_megabytes_per_second"], speed["ratio"]
    return (
        f"{speed['images']:,} images of 36 x 2048 float32, {size:.1f} GB, beside another process: `cp` took\n"
        f"{' and '.join(copied)} s, the import {' and '.join(made)} s, of which {speed['start_up_seconds']:.1f} s are "
        f"Python's start:\n{rate:.0f} MB/s after that, {ratio:.1f} times as long as `cp` (it looks for NaN in each "
        f"number and reads the file once more\nfor its checksum). Peak memory "
        f"{speed['peak_megabytes']:.0f} MB; of 500 images 521 MB."
    )


if __name__ == "__main__":
    main()
