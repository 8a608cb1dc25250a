"""ONNX files of both towers, in float32 compared with PyTorch before they are kept; 8-bit files are made of these."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import CheckpointError, ConfigError, shortened
from threeshnet.export.exportable import with_twins
from threeshnet.export.onnx_text import (
    BITS,
    FORMAT,
    IMAGE,
    NOT_INSTALLED,
    RECORD,
    TEXT,
    TOKENIZER,
    TextPrecision,
    read_record,
    session_of,
)
from threeshnet.files import replacing, sha256, write_json, write_text
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, ImageBatch, TokenSet

OPSET = 17  # of 2022: onnxruntime 1.12 and later
MOST_TOKENS = 256  # regions, and grid cells, of a photo: 16x16 cells
ALLOWED = 1e-4  # largest difference of an embedding's value from PyTorch's; 1e-6 is usual
IMAGE_SIZES, TEXT_SIZES = ((1, 1), (3, 5)), ((1, 3), (3, 7))  # batch and tokens that are compared, beside the largest
TOKENS = {"regions": "region", "grid": "grid"}
SEGMENTATION = ("seg_semantic", "seg_map", "seg_categories")


class ImageTower(nn.Module):
    """The image encoder with arrays, in the order of `names`, for inputs."""

    def __init__(self, encoder: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.names = encoder, tuple(names)

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.encoder(images_of(dict(zip(self.names, arrays, strict=True)))).float()


class TextTower(nn.Module):
    """The text encoder with ids and mask, both [B, N], for inputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(TokenSet(ids, mask)).float()


def write_towers(
    model: RetrievalModel, card: Mapping[str, Any], folder: str | Path, *, int8: bool, most_tokens: int = MOST_TOKENS
) -> None:
    """Write both towers, for photos of up to `most_tokens` regions and as many cells; `card` is of the checkpoint.

    Raises as `write_text_tower` does.
    """
    write_text_tower(model, folder, precisions=("float32", "int8") if int8 else ("float32",))
    record, image = read_record(Path(folder)), write_image_tower(model, card, folder, most_tokens=most_tokens)
    write_json(Path(folder) / RECORD, record | image | {"files": {**record["files"], **image["files"]}})


def write_text_tower(
    model: RetrievalModel, folder: str | Path, *, precisions: Sequence[TextPrecision] = ("float32",)
) -> None:
    """Write what `OnnxText` reads: `tokenizer.json`, `onnx.json`, and `text.onnx`, `text.int8.onnx` or both.

    Raises ConfigError where onnx or onnxruntime is not installed or the text encoder cannot be exported, and
    CheckpointError where the file would not give PyTorch's embeddings.
    """
    folder, tokenizer = Path(folder), model.tokenizer
    longest = tokenizer.max_wordpieces
    draw = text_inputs(len(tokenizer))
    width = _write_tower(
        folder / TEXT["float32"], TextTower(model.text_encoder), draw, (*TEXT_SIZES, (2, longest)), "text_encoder"
    )
    if "int8" in precisions:
        _quantise(folder / TEXT["float32"], folder / TEXT["int8"])
    if "float32" not in precisions:
        (folder / TEXT["float32"]).unlink()
    names = [TOKENIZER, *(TEXT[name] for name in precisions)]
    write_text(folder / TOKENIZER, tokenizer.to_json())
    record = {"format": FORMAT, "width": width, "pad": tokenizer.pad_id, "most_wordpieces": longest}
    record |= {"int8_bits": BITS} if "int8" in precisions else {}
    write_json(folder / RECORD, record | {"files": {name: sha256(folder / name) for name in names}})


def write_image_tower(
    model: RetrievalModel, card: Mapping[str, Any], folder: str | Path, *, most_tokens: int = MOST_TOKENS
) -> dict[str, Any]:
    """Write `image.onnx`; returns what stands in `onnx.json`: inputs, the largest size and the file's hash."""
    file, draw = Path(folder) / IMAGE, photo_inputs(model, card)
    names = list(draw(1, 1))
    tower = ImageTower(model.image_encoder, names)
    _write_tower(file, tower, draw, (*IMAGE_SIZES, (2, most_tokens)), "image_encoder")
    inputs = [given.name for given in session_of(file).get_inputs()]
    return {"image_inputs": inputs, "most_tokens": most_tokens, "files": {IMAGE: sha256(file)}}


def image_arrays(images: ImageBatch) -> dict[str, Tensor]:
    """The inputs of `image.onnx` by name, as far as the batch has them; in float32 as `ImageBatch.to` widens them."""
    images = images.to("cpu")
    arrays: dict[str, Tensor | None] = {name: getattr(images, name) for name in SEGMENTATION}
    if images.seg_map is not None:
        arrays["seg_map"] = images.seg_map.to(torch.uint8)
    for source, name in TOKENS.items():
        if (tokens := getattr(images, source)) is not None:
            arrays |= {source: tokens.values, f"{name}_mask": tokens.mask, f"{name}_boxes": _boxes(images, name)}
    return {name: tensor for name, tensor in arrays.items() if tensor is not None}


def images_of(arrays: Mapping[str, Tensor]) -> ImageBatch:
    """The batch of named arrays: what `image_arrays` takes apart."""
    sets: dict[str, Any] = {
        source: TokenSet(arrays[source], arrays[f"{name}_mask"]) if source in arrays else None
        for source, name in TOKENS.items()
    }
    others: dict[str, Any] = {
        name: arrays.get(name) for name in (*SEGMENTATION, *(f"{name}_boxes" for name in TOKENS.values()))
    }
    return ImageBatch(**sets, **others)


def run_image_tower(session: Any, images: ImageBatch) -> np.ndarray:
    """Embeddings [B, D] of a batch by `image.onnx`, opened with `onnx_text.session_of`."""
    arrays, wanted = image_arrays(images), [given.name for given in session.get_inputs()]
    return session.run(["embedding"], {name: arrays[name].numpy() for name in wanted})[0]


def _boxes(images: ImageBatch, name: str) -> Tensor | None:
    return images.region_boxes if name == "region" else images.grid_boxes


# ---- writing a tower


def _write_tower(file: Path, tower: nn.Module, draw: Any, sizes: Sequence[tuple[int, int]], key: str) -> int:
    """Export, compare, keep; returns the width of the embeddings."""
    tower.eval()
    cases = [draw(*size) for size in sizes]
    with torch.no_grad():
        expected = [tower(*case.values()).numpy() for case in cases]
        with replacing(file) as partial:
            try:
                most = _largest_sets(with_twins(tower, {}), cases[-1])
                _export(with_twins(tower, most), cases[1], partial)
                exported = [_run(partial, case) for case in cases]
            except (ConfigError, OSError):
                raise
            except Exception as reason:  # of torch, onnx and onnxruntime, for a part that ONNX cannot express
                said = shortened(" ".join(str(reason).split()), 300)
                raise ConfigError(f"the {key} of this model cannot be exported to ONNX: {said}") from reason
            apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(exported, expected, strict=True))
            if not apart <= ALLOWED:
                raise CheckpointError(
                    f"{file}: its embeddings differ from PyTorch's by {apart:.1e} (at most {ALLOWED:.0e} is allowed); "
                    f"a part of the {key} depends on what ONNX does not see"
                )
    return expected[0].shape[1]


def _export(tower: nn.Module, case: Mapping[str, Tensor], file: Path) -> None:
    """Write the graph, without the inputs that nothing reads."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(NOT_INSTALLED) from error
    axes = {name: {0: "batch"} | ({1: name.split("_")[0]} if _has_tokens(name) else {}) for name in case}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as aside:
        # Of the tracer, which sees constants where there are sizes: the comparison at several sizes settles that.
        warnings.simplefilter("ignore")
        # dynamo=True took 22 s where this takes 1, and gave one name to two values.
        options: dict[str, Any] = {"input_names": list(case), "output_names": ["embedding"], "opset_version": OPSET}
        traced = Path(aside) / file.name
        torch.onnx.export(tower, tuple(case.values()), str(traced), dynamo=False, dynamic_axes=axes, **options)
        graph = onnx.load(str(traced))
    read = {name for node in graph.graph.node for name in node.input}
    for unread in [given for given in graph.graph.input if given.name not in read]:
        graph.graph.input.remove(unread)
    onnx.save(graph, str(file))


def _has_tokens(name: str) -> bool:
    return name in ("ids", "mask", *TOKENS) or name.endswith(("_mask", "_boxes"))


def _run(file: Path, case: Mapping[str, Tensor]) -> np.ndarray:
    session = session_of(file, threads=1)
    wanted = [given.name for given in session.get_inputs()]
    return session.run(["embedding"], {name: case[name].numpy() for name in wanted})[0]


def _largest_sets(tower: nn.Module, case: Mapping[str, Tensor]) -> dict[nn.Module, int]:
    """How many tokens each GPO gets of the largest inputs."""
    most: dict[nn.Module, int] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, given: most.update({module: given[0].mask.shape[1]}))
        for module in tower.modules()
        if isinstance(module, GeneralizedPooling)
    ]
    tower(*case.values())
    for hook in hooks:
        hook.remove()
    return most


def _quantise(file: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it recommends a step that gains nothing here
    try:
        with replacing(target) as partial:
            # per_channel: on Flickr8k's dev split rsum falls by 2 with it and by 7 without, at the same speed.
            # reduce_range: seven bits. Processors without VNNI add products of eight bits in sixteen, which overflow.
            quantize_dynamic(str(file), str(partial), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    finally:
        root.setLevel(before)


# ---- inputs to compare with


def _lengths(batch: int, tokens: int) -> Tensor:
    """Lengths [B, 1] of sets from full to nearly empty."""
    return torch.linspace(tokens, max(tokens // 3, 1), batch).long().unsqueeze(1)


def text_inputs(words: int) -> Any:
    def draw(batch: int, tokens: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(tokens)
        ids = torch.randint(words, (batch, tokens), generator=chance)
        return {"ids": ids, "mask": torch.arange(tokens) < _lengths(batch, tokens)}

    return draw


def photo_inputs(model: RetrievalModel, card: Mapping[str, Any]) -> Any:
    """Draws named inputs of the image tower, of the sizes that the recipe of the model says."""
    encoders: list[Any] = [each for each in model.image_encoder.modules() if hasattr(each, "source")]
    classes = next(_values_of("classes", card["model"]), 1)

    def draw(batch: int, tokens: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(tokens)
        drawn: dict[str, Tensor] = {}
        mask = torch.arange(tokens) < _lengths(batch, tokens)
        for encoder in encoders:
            name = TOKENS[encoder.source]
            values = torch.rand(batch, tokens, encoder.project.width, generator=chance) * mask.unsqueeze(-1)
            drawn |= {encoder.source: values, f"{name}_mask": mask}
            if encoder.boxes:
                corners = torch.rand(batch, tokens, 2, 2, generator=chance).sort(dim=2).values.flatten(2)
                drawn[f"{name}_boxes"] = corners * mask.unsqueeze(-1)
        if "seg" in card["fields"]:
            shares = torch.rand(batch, classes, SCENE_SIDE, SCENE_SIDE, generator=chance)
            # From one class in a photo to all of them and void; in a large batch, void alone too.
            kinds = torch.linspace(1, classes + 1, batch).long().view(-1, 1, 1)
            numbers = torch.randint(classes + 1, (batch, MAP_SIDE, MAP_SIDE), generator=chance) % kinds
            numbers[: batch // 4] = classes
            drawn["seg_semantic"] = shares / shares.sum(dim=1, keepdim=True)
            drawn["seg_map"] = torch.where(numbers == classes, VOID, numbers).to(torch.uint8)
            drawn["seg_categories"] = (torch.rand(batch, classes, generator=chance) > 0.5).float()
        return drawn

    return draw


def _values_of(key: str, recipe: Any) -> Iterator[int]:
    """The numbers that a recipe gives its parts under this name."""
    if isinstance(recipe, Mapping):
        if isinstance(recipe.get(key), int):
            yield recipe[key]
        for part in recipe.values():
            yield from _values_of(key, part)
