"""Ways to round the text tower, on the dev split: python -m experiments.benchmarks.export.int8_choice …"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from threeshnet import Retriever
from threeshnet.export.onnx_text import OnnxText, session_of
from threeshnet.export.onnx_towers import write_text_tower
from threeshnet.shards.reader import ShardedSplit

from ..common import add_row
from .int8 import images_of, quality, seconds_of

COLUMNS = ("option", "dev_rsum", "sentences_a_second", "megabytes")
CHANNEL, BOTH = {"per_channel": True}, {"per_channel": True, "reduce_range": True}
LAST_LAYER = "/encoder/linear/MatMul"


def main(arguments: Sequence[str] | None = None) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--shards", required=True, help="its shards")
    parser.add_argument("--out", type=Path, required=True, help="CSV file, written anew")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(1)
    unsigned = {"weight_type": QuantType.QUInt8}
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "per channel": CHANNEL,
        "reduced range": {"reduce_range": True},
        "per channel, reduced range": BOTH,
        "unsigned weights": unsigned,
        "unsigned weights, per channel": unsigned | CHANNEL,
        "per channel, reduced range, without the last layer": BOTH | {"nodes_to_exclude": [LAST_LAYER]},
        "per channel, reduced range, without the word table": BOTH | {"op_types_to_quantize": ["MatMul"]},
    }
    retriever, split = Retriever.load(settings.run, device="cpu"), ShardedSplit(settings.shards, "dev")
    images, texts = images_of(retriever, split), list(split.caption_texts)
    settings.out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_text_tower(retriever.model, folder)
        exact, rounded, tower = Path(folder) / "text.onnx", Path(folder) / "rounded.onnx", OnnxText(folder, threads=1)
        for name, chosen in {"float32": None, **options}.items():
            if chosen is not None:
                quantize_dynamic(str(exact), str(rounded), **{"weight_type": QuantType.QInt8, **chosen})
            file = exact if chosen is None else rounded
            tower.session = session_of(file, threads=1)
            row = {"option": name, "dev_rsum": round(quality(tower.encode_texts, images, split)["rsum"], 2)}
            row["sentences_a_second"] = round(len(texts) / seconds_of(lambda: tower.encode_texts(texts)))
            add_row(settings.out, COLUMNS, row | {"megabytes": round(file.stat().st_size / 1e6, 1)})


if __name__ == "__main__":
    main()
