"""Compare the ONNX file of each tower with PyTorch: python -m experiments.benchmarks.export.towers --out=<csv>

Models have the paper's sizes (D 1024, 36 regions of 2048, 49 cells of 2048, 133 classes) and random weights, with
biases and running statistics as after a training. A row is the largest difference of any value of an embedding over
three sizes that the file was not traced with, padded sets among them.

With --run and --shards the towers of a trained model encode its held-out split instead, into a JSON file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from threeshnet import Retriever, metrics
from threeshnet.batches.dataset import ImageDataset
from threeshnet.cli.door import compose_training
from threeshnet.export.onnx_text import OnnxText, session_of
from threeshnet.export.onnx_towers import (
    TextTower,
    images_of,
    photo_inputs,
    run_image_tower,
    text_inputs,
    write_image_tower,
    write_text_tower,
    write_towers,
)
from threeshnet.files import write_json
from threeshnet.shards.reader import ShardedSplit

from ..common import add_row, text_overrides

COLUMNS = ("tower", "model", "activation", "guidance", "megabytes", "export_seconds", "sizes", "largest_difference")
IMAGE_SIZES, TEXT_SIZES = ((1, 36), (3, 17), (8, 49)), ((1, 4), (3, 9), (16, 41))
WIDTHS = {"region_width": 2048, "grid_width": 2048, "classes": 133}
IMAGES_TOGETHER = 20
TEXTS = ("bert_base", "minilm", "bigru")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the result, written anew")
    parser.add_argument("--run", help="run directory of a trained model")
    parser.add_argument("--shards", help="its shards")
    options = parser.parse_args(arguments)
    if options.run:
        write_json(options.out, trained(options.run, options.shards))
        return
    options.out.unlink(missing_ok=True)
    for row in (*image_rows(), *text_rows()):
        add_row(options.out, COLUMNS, row)


def image_rows() -> Iterator[dict[str, Any]]:
    for kind in ("region", "grid", "hybrid"):
        for activation in ("sigmoid", "softmax"):
            for guidance in ("semantic, spatial", "none"):
                fusion = [] if guidance == "semantic, spatial" else ["fusion=[]", "parts=[local]"]
                if fusion and activation == "softmax":
                    continue  # of VSeM alone
                model, card = model_of(f"experiment={kind}_coco", f"activation={activation}", "text=tiny", *fusion)
                row = {
                    "tower": "image",
                    "model": kind,
                    "activation": activation if not fusion else "",
                    "guidance": guidance,
                }
                yield row | compared_images(model, card)


def text_rows() -> Iterator[dict[str, Any]]:
    for name in TEXTS:
        model, _ = model_of("experiment=region_coco", "fusion=[]", "parts=[local]", *text_overrides(name))
        yield {"tower": "text", "model": name, "activation": "", "guidance": ""} | compared_texts(model)


def model_of(*overrides: str) -> tuple[Any, dict[str, Any]]:
    """A model and its card."""
    torch.manual_seed(0)
    settings = compose_training([*overrides, "seed=0"])[0].with_sizes(**WIDTHS)
    model = instantiate(settings.model, _convert_="all").eval()
    draw_as_trained(model)
    return model, {"model": settings.model, "fields": [*settings.features.fields, "seg"]}


@torch.no_grad()
def draw_as_trained(model: nn.Module) -> None:
    """Biases and running statistics as after a training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.normal_(std=0.1)


def compared_images(model: Any, card: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_image_tower(model, card, folder)
        file, seconds = Path(folder) / "image.onnx", time.perf_counter() - started
        session, draw = session_of(file, threads=1), photo_inputs(model, card)
        apart = [
            torch.from_numpy(run_image_tower(session, images)) - model.encode_images(images)
            for images in (images_of(draw(*size)) for size in IMAGE_SIZES)
        ]
        return facts(file, seconds, IMAGE_SIZES, apart)


def compared_texts(model: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        started = time.perf_counter()
        write_text_tower(model, folder)
        file, seconds = Path(folder) / "text.onnx", time.perf_counter() - started
        session, draw, tower = (
            session_of(file, threads=1),
            text_inputs(len(model.tokenizer)),
            TextTower(model.text_encoder),
        )
        cases = [draw(*size) for size in TEXT_SIZES]
        apart = [
            torch.from_numpy(session.run(None, {name: value.numpy() for name, value in case.items()})[0])
            - tower(**case)
            for case in cases
        ]
        return facts(file, seconds, TEXT_SIZES, apart)


def trained(run: str, shards: str) -> dict[str, Any]:
    """rsum of a model's held-out split by PyTorch and by both ONNX files, and the largest difference of a value."""
    retriever, split = Retriever.load(run, device="cpu"), ShardedSplit(shards, "test")
    data, owners = ImageDataset(split=split, fields=retriever.card["fields"]), torch.as_tensor(split.owners)
    with tempfile.TemporaryDirectory() as folder:
        write_towers(retriever.model, retriever.card, folder, int8=False)
        session, images, ours = session_of(Path(folder) / "image.onnx"), [], []
        for start in range(0, split.images, IMAGES_TOGETHER):
            batch, _ = data.__getitems__(range(start, min(start + IMAGES_TOGETHER, split.images)))
            ours.append(retriever.model.encode_images(batch))
            images.append(torch.from_numpy(run_image_tower(session, batch)))
        texts = torch.from_numpy(OnnxText(folder).encode_texts(split.caption_texts))
    theirs, expected = torch.cat(images), torch.cat(ours)
    sentences = retriever.encode_texts(split.caption_texts)
    return {
        "experiment": retriever.card.get("experiment"),
        "images": split.images,
        "captions": split.captions,
        "rsum": {
            "torch": metrics.recall(expected @ sentences.T, owners)["rsum"],
            "onnx": metrics.recall(theirs @ texts.T, owners)["rsum"],
        },
        "largest_difference": {
            "image": float((theirs - expected).abs().max()),
            "text": float((texts - sentences).abs().max()),
        },
    }


def facts(file: Path, seconds: float, sizes: Any, apart: list[torch.Tensor]) -> dict[str, Any]:
    return {
        "megabytes": f"{file.stat().st_size / 1e6:.1f}",
        "export_seconds": f"{seconds:.1f}",
        "sizes": " ".join(f"{batch}x{tokens}" for batch, tokens in sizes),
        "largest_difference": f"{max(float(values.abs().max()) for values in apart):.1e}",
    }


if __name__ == "__main__":
    main()
