"""Our recalls beside those of mteb and CLIP_benchmark: python -m experiments.benchmarks.export.evaluators …

All three get one model, its photos and its captions. Neither evaluator is a dependency: install each where this runs
(`pip install mteb`; `pip install --no-deps clip-benchmark`, which else replaces torch).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from threeshnet import Retriever, metrics
from threeshnet.export.adapters import ClipModel, MtebEncoder
from threeshnet.files import write_json
from threeshnet.shards.reader import ShardedSplit

from .int8 import images_of

CUTOFFS = (1, 5, 10)
DIGITS = 4  # CLIP_benchmark means in float32, which has seven
DIRECTIONS = {"t2i": "image", "i2t": "text"}  # CLIP_benchmark names what is found


class FromShards(Retriever):
    """Embeddings of photos from their shards, found by the pixels: the demo's model needs masks beside its photos."""

    def encode_photos(self, photos: Sequence[Any], **_: Any) -> Tensor:
        return torch.stack([self.known[digest(photo)] for photo in photos])

    def know(self, split: ShardedSplit, images: Tensor) -> None:
        self.known = {digest(Image.open(split.image_path(row))): images[row] for row in range(split.images)}


def digest(photo: Image.Image) -> str:
    return hashlib.sha256(photo.convert("RGB").tobytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--shards", required=True, help="its shards")
    parser.add_argument("--photos", action="store_true", help="encode the photos anew, as an evaluator would")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args(arguments)
    split, plain = ShardedSplit(options.shards, "test"), Retriever.load(options.run, device="cpu")
    retriever = plain if options.photos else FromShards(plain.model, plain.card)
    if isinstance(retriever, FromShards):
        retriever.know(split, images_of(plain, split))
    photos = [Image.open(split.image_path(row)).convert("RGB") for row in range(split.images)]
    ours = metrics.recall(
        retriever.encode_photos(photos) @ retriever.encode_texts(split.caption_texts).T, torch.as_tensor(split.owners)
    )
    found: dict[str, Any] = {"experiment": plain.card.get("experiment"), "data": split.manifest.dataset}
    found |= {"images": split.images, "captions": split.captions, "photos": "encoded" if options.photos else "stored"}
    found["ours"] = {
        side: {f"R@{cutoff}": round(ours[side][f"R@{cutoff}"], DIGITS) for cutoff in CUTOFFS} for side in DIRECTIONS
    }
    found["clip_benchmark"] = by_clip_benchmark(retriever, photos, split)
    found["mteb"] = by_mteb(retriever, photos, split)
    write_json(options.out, found)
    return found


def by_clip_benchmark(retriever: Retriever, photos: list[Image.Image], split: ShardedSplit) -> dict[str, Any]:
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    model = ClipModel(retriever)
    captions: list[list[str]] = [[] for _ in photos]
    for text, owner in zip(split.caption_texts, split.owners, strict=True):
        captions[owner].append(text)
    data: Any = [(model.preprocess(photo), texts) for photo, texts in zip(photos, captions, strict=True)]
    loader = DataLoader(data, batch_size=64, collate_fn=stacked)
    scores = evaluate(model, loader, model.tokenizer, "cpu", amp=False, recall_k_list=list(CUTOFFS))
    return {
        side: {f"R@{cutoff}": round(100 * scores[f"{found}_retrieval_recall@{cutoff}"], DIGITS) for cutoff in CUTOFFS}
        for side, found in DIRECTIONS.items()
    }


def stacked(batch: Any) -> tuple[Tensor, list[list[str]]]:
    images, texts = zip(*batch, strict=True)
    return default_collate(list(images)), list(texts)


def by_mteb(retriever: Retriever, photos: list[Image.Image], split: ShardedSplit) -> dict[str, Any]:
    """Hit rates of two retrieval tasks: mteb's `recall_at_k` is the share of all captions of a photo, not ours."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    sides = {
        "image": Dataset.from_dict({"id": [f"i{row}" for row in range(len(photos))], "image": photos}),
        "text": Dataset.from_dict(
            {"id": [f"t{row}" for row in range(split.captions)], "text": list(split.caption_texts)}
        ),
    }
    pairs = [(f"t{row}", f"i{owner}") for row, owner in enumerate(split.owners)]
    found = {}
    for side, (query, document) in {"t2i": ("text", "image"), "i2t": ("image", "text")}.items():
        relevant: dict[str, dict[str, int]] = {}
        for text, image in pairs:
            asked, answer = (text, image) if query == "text" else (image, text)
            relevant.setdefault(asked, {})[answer] = 1

        class Task(AbsTaskRetrieval):
            metadata = TaskMetadata(
                name=f"Own{side.upper()}Retrieval",
                description="Photos and captions of one split.",
                dataset={"path": "none", "revision": "none"},
                type="Any2AnyRetrieval",
                category=side,
                modalities=["text", "image"],
                eval_splits=["test"],
                eval_langs=["eng-Latn"],
                main_score="hit_rate_at_1",
            )

        task = Task()
        task.dataset = {
            "default": {
                "test": {
                    "queries": sides[query],
                    "corpus": sides[document],
                    "relevant_docs": relevant,
                    "top_ranked": None,
                }
            }
        }
        task.data_loaded = True
        result = mteb.evaluate(MtebEncoder(retriever), tasks=[task], cache=None)
        scores = result.task_results[0].scores["test"][0]
        found[side] = {f"R@{cutoff}": round(100 * scores[f"hit_rate_at_{cutoff}"], DIGITS) for cutoff in CUTOFFS}
        found[side] |= {f"recall_at_{cutoff}": round(100 * scores[f"recall_at_{cutoff}"], DIGITS) for cutoff in CUTOFFS}
    return found


if __name__ == "__main__":
    main()
