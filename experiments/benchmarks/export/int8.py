"""What the text tower costs in onnxruntime and in 8-bit integers: python -m experiments.benchmarks.export.int8 …

Photos are encoded once, by PyTorch from the shards; the captions of the split by PyTorch, by `text.onnx` and by
`text.int8.onnx`. The ways alternate, one thread each. A start is a new process that encodes one sentence and ends. All
times are CPU time: on a machine with other jobs the clock on the wall measures those.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threeshnet import Retriever, metrics
from threeshnet.batches.dataset import ImageDataset
from threeshnet.export.onnx_text import TEXT, OnnxText
from threeshnet.export.onnx_towers import write_text_tower
from threeshnet.files import write_json
from threeshnet.shards.reader import ShardedSplit

from ..common import processor, surroundings

SINGLE = 40  # sentences that are encoded alone
IMAGES_TOGETHER = 100
STARTS = {
    "torch": "from threeshnet import Retriever; Retriever.load({run!r}, device='cpu').encode_texts([{text!r}])",
    "float32": "from threeshnet.export.onnx_text import OnnxText; OnnxText({folder!r}).encode_texts([{text!r}])",
    "int8": "from threeshnet.export.onnx_text import OnnxText; "
    "OnnxText({folder!r}, precision='int8').encode_texts([{text!r}])",
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--shards", required=True, help="its shards")
    parser.add_argument("--rounds", type=int, default=5, help="passes over the captions, and starts, that are timed")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    retriever, split = Retriever.load(options.run, device="cpu"), ShardedSplit(options.shards, "test")
    images = images_of(retriever, split)
    found: dict[str, Any] = {
        "experiment": retriever.card.get("experiment"),
        "machine": processor(),
        "rounds": options.rounds,
    }
    found |= {"data": split.manifest.dataset, "images": split.images, "captions": split.captions}
    with tempfile.TemporaryDirectory() as folder:
        write_text_tower(retriever.model, folder, precisions=("float32", "int8"))
        ways: dict[str, Callable[[list[str]], Any]] = {
            "torch": lambda texts: retriever.encode_texts(texts, batch_size=64, progress=False),
            "float32": OnnxText(folder, threads=1).encode_texts,
            "int8": OnnxText(folder, precision="int8", threads=1).encode_texts,
        }
        found["ways"] = {name: quality(encode, images, split) for name, encode in ways.items()}
        for name, timed in speeds(ways, list(split.caption_texts), options.rounds).items():
            found["ways"][name] |= timed
        for name, seconds in starts(options.run, folder, split.caption_texts[0], options.rounds).items():
            found["ways"][name]["start_seconds"] = seconds
        for name, file in TEXT.items():
            found["ways"][name]["megabytes"] = round((Path(folder) / file).stat().st_size / 1e6, 1)
    write_json(options.out, found)
    return found


def images_of(retriever: Retriever, split: ShardedSplit) -> Tensor:
    """Embeddings [images, D] of a split, from its shards."""
    data = ImageDataset(split=split, fields=retriever.card["fields"])
    numbers = range(split.images)
    batches = (numbers[start : start + IMAGES_TOGETHER] for start in numbers[::IMAGES_TOGETHER])
    return torch.cat([retriever.model.encode_images(data.__getitems__(rows)[0]).cpu() for rows in batches])


def quality(encode: Callable[[list[str]], Any], images: Tensor, split: ShardedSplit) -> dict[str, float]:
    texts = torch.as_tensor(encode(list(split.caption_texts)))
    recalls = metrics.recall(images @ texts.T, torch.as_tensor(split.owners))
    return {"rsum": recalls["rsum"], "i2t_r1": recalls["i2t"]["R@1"], "t2i_r1": recalls["t2i"]["R@1"]}


def speeds(ways: dict[str, Callable[[list[str]], Any]], texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Sentences a second in batches of 64, and milliseconds of one alone: medians of rounds that alternate."""
    together: dict[str, list[float]] = {name: [] for name in ways}
    alone: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, encode in ways.items():
            together[name].append(len(texts) / seconds_of(lambda encode=encode: encode(texts)))
            alone[name] += [seconds_of(lambda encode=encode, text=text: encode([text])) for text in texts[:SINGLE]]
    return {
        name: {
            "sentences_a_second": round(statistics.median(together[name])),
            "slowest_round": round(min(together[name])),
            "fastest_round": round(max(together[name])),
            "one_sentence_ms": round(1e3 * statistics.median(alone[name]), 2),
        }
        for name in ways
    }


def starts(run: str, folder: str, text: str, rounds: int) -> dict[str, float]:
    """Seconds of a process that encodes one sentence: medians, after a start that warms the disk's cache."""
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    for attempt in range(rounds + 1):
        for name, code in STARTS.items():
            command = [sys.executable, "-c", code.format(run=run, folder=folder, text=text)]
            before = children_seconds()
            subprocess.run(command, check=True, env=surroundings())
            found[name] += [children_seconds() - before] if attempt else []
    return {name: round(statistics.median(taken), 2) for name, taken in found.items()}


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
