"""ONNX files of both towers: equal to PyTorch at sizes that they were not traced with; a changed file is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import pytest
import torch
from experiments.benchmarks.export.towers import draw_as_trained
from torch import nn

from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.hybrid import HybridEncoder
from threeshnet.encoders.image import ImageEncoder, TokenProjection
from threeshnet.encoders.kernel import KernelPooling, Roots
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.parts import CategoryToken, FusedTokens, LocalTokens, SceneTokens
from threeshnet.encoders.segments import SegmentTokens
from threeshnet.encoders.text.bert import BertTextEncoder, from_architecture
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.encoders.text.convolution import ConvolutionTextEncoder
from threeshnet.errors import CheckpointError, ConfigError
from threeshnet.export.onnx_text import OnnxText, session_of
from threeshnet.export.onnx_towers import images_of, photo_inputs, run_image_tower, write_image_tower, write_text_tower
from threeshnet.fusion.activations import Sigmoid, Softmax
from threeshnet.fusion.box_knowledge import BoxGeometry
from threeshnet.fusion.semantic import SemanticFusion
from threeshnet.fusion.spatial import SpatialFusion
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.pooling.maximum import MaximumPooling
from threeshnet.records import ImageBatch, TokenSet

CLASSES, DIM, WIDTH, MOST, WORDS = 4, 8, 6, 40, 20
VOCABULARY = [*SPECIALS, "a", "red", "bike", "##s", "dog", "on", "grass"]
TEXTS = ["a red bike", "dogs", "a dog on grass " * 9, "", "zebra", "a red dog on red grass"]
EXACT: dict[str, Any] = {"atol": 2e-6, "rtol": 0}


def branch(
    source: str,
    *,
    activation: type[nn.Module] = Sigmoid,
    fusion: bool = True,
    boxes: bool = False,
    segments: bool = False,
) -> nn.Module:
    fusions = {
        "semantic": SemanticFusion(classes=CLASSES, dim=DIM, activation=activation()),
        "spatial": SpatialFusion(classes=CLASSES, dim=DIM),
    }
    parts: dict[str, nn.Module] = {"local": LocalTokens()}
    if fusion:
        parts |= {"fused": FusedTokens(fusions=fusions, dim=DIM), "scene": SceneTokens(classes=CLASSES, dim=DIM)}
        parts["category"] = CategoryToken(classes=CLASSES, dim=DIM)
    if segments:
        parts["segments"] = SegmentTokens(classes=CLASSES, dim=DIM)
    codes = {"geometry": BoxGeometry(dim=DIM)} if boxes else None
    project = TokenProjection(width=WIDTH, dim=DIM)
    return ImageEncoder(source=source, project=project, parts=parts, pooling=GeneralizedPooling(), boxes=codes)


def convolution() -> nn.Module:
    sizes = {"vocabulary_size": len(VOCABULARY), "dim": DIM, "word_width": 10, "hidden": 12}
    return ConvolutionTextEncoder(pooling=GeneralizedPooling(), **sizes)


def bert() -> nn.Module:
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = from_architecture(vocab_size=len(VOCABULARY), max_position_embeddings=32, **layers)
    return BertTextEncoder(bert=network, dim=DIM, pooling=GeneralizedPooling(), pretrained=False)


def bigru() -> nn.Module:
    return BiGRUTextEncoder(vocabulary_size=len(VOCABULARY), dim=DIM, pooling=GeneralizedPooling(), word_width=10)


def model_of(image_encoder: nn.Module, text_encoder: nn.Module) -> RetrievalModel:
    """In evaluation mode, with biases and running statistics as after a training."""
    tokenizer = Wordpieces(VOCABULARY, max_wordpieces=WORDS)
    model = RetrievalModel(image_encoder=image_encoder, text_encoder=text_encoder, tokenizer=tokenizer).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    draw_as_trained(model)
    return model


def card_of(*fields: str) -> dict[str, Any]:
    return {"model": {"image_encoder": {"parts": {"scene": {"classes": CLASSES}}}}, "fields": list(fields)}


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    torch.manual_seed(0)
    return model_of(branch("regions"), bert())


@pytest.fixture(scope="module")
def folder(model: RetrievalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    write_text_tower(model, folder, precisions=("float32", "int8"))
    return folder


def kernel() -> nn.Module:
    pooling = KernelPooling(width=WIDTH, dim=DIM, photos=7)
    pooling.keep(torch.rand(6, WIDTH))
    pooling.coefficients.normal_()
    return ImageEncoder(source="grid", project=Roots(width=WIDTH), parts={"local": LocalTokens()}, pooling=pooling)


IMAGES = {
    "region": (lambda: branch("regions", boxes=True, segments=True), ("region", "seg")),
    "grid, softmax": (lambda: branch("grid", activation=Softmax), ("grid", "seg")),
    "no guidance": (lambda: branch("grid", fusion=False), ("grid", "seg")),
    "hybrid": (
        lambda: HybridEncoder(branches={"region": branch("regions", activation=Softmax), "grid": branch("grid")}),
        ("region", "grid", "seg"),
    ),
    "kernel": (lambda: HybridEncoder(branches={"grid": branch("grid"), "kernel": kernel()}), ("grid", "seg")),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_tower_equals_the_model(kind: str, tmp_path: Path) -> None:
    build, fields = IMAGES[kind]
    model, card = model_of(build(), bigru()), card_of(*fields)
    record = write_image_tower(model, card, tmp_path, most_tokens=MOST)
    assert ("seg_map" in record["image_inputs"]) is (kind != "no guidance")  # inputs that nothing reads are gone
    session, draw = session_of(tmp_path / "image.onnx"), photo_inputs(model, card)
    for batch, tokens in ((1, 1), (1, 17), (3, 8), (5, MOST)):
        images = images_of(draw(batch, tokens))
        expected = model.encode_images(images).numpy()
        np.testing.assert_allclose(run_image_tower(session, images), expected, **EXACT)
    with pytest.raises(Exception, match=r"(?i)onnxruntime"):  # more than was stated is an error, not another number
        run_image_tower(session, images_of(draw(2, MOST + 9)))


@pytest.mark.parametrize("encoder", [bert, bigru, convolution])
def test_a_text_tower_equals_the_model(encoder: Any, tmp_path: Path) -> None:
    model = model_of(branch("regions"), encoder())
    write_text_tower(model, tmp_path)
    tower, expected = OnnxText(tmp_path, threads=1), model.encode_texts(TEXTS).numpy()
    for batch_size in (1, 4, 64):
        found = tower.encode_texts(TEXTS, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, **EXACT)
        assert found.dtype == np.float32


def test_int8_is_near(folder: Path) -> None:
    exact, near = (OnnxText(folder, precision=name).encode_texts(TEXTS) for name in ("float32", "int8"))
    assert 0 < np.abs(exact - near).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-5)


def test_int8_products_fit_every_processor(folder: Path) -> None:
    """Without VNNI, sums of products with weights of eight bits overflow; those with seven do not."""
    graph = onnx.load(folder / "text.int8.onnx").graph
    stored = {kept.name: onnx.numpy_helper.to_array(kept) for kept in graph.initializer}
    weights = [
        stored[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger" and node.input[1] in stored
    ]
    assert len(weights) == 7
    assert all(np.abs(values.astype(int)).max() == 64 for values in weights)


def test_a_file_with_weights_of_eight_bits_is_refused(folder: Path, tmp_path: Path) -> None:
    older = shutil.copytree(folder, tmp_path / "older")
    record = json.loads((older / "onnx.json").read_text())
    assert record.pop("int8_bits") == 7
    (older / "onnx.json").write_text(json.dumps(record))
    OnnxText(older)
    with pytest.raises(CheckpointError, match=r"weights of eight bits.*export again with int8=true"):
        OnnxText(older, precision="int8")


def test_what_is_no_list_of_sentences(folder: Path) -> None:
    assert OnnxText(folder).encode_texts([]).shape == (0, DIM)
    with pytest.raises(TypeError, match="not one string"):
        OnnxText(folder).encode_texts("a dog")


def test_neither_torch_nor_transformers_is_loaded(folder: Path) -> None:
    code = f"""
import sys
from threeshnet.export.onnx_text import OnnxText
OnnxText({str(folder)!r}).encode_texts(["a dog"])
print([name for name in ("torch", "transformers", "pytorch_lightning", "onnx", "hydra") if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["text.onnx", "tokenizer.json"])
def test_a_changed_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == name:
            content[len(content) // 2] ^= 1
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that was exported"):
        OnnxText(tmp_path).encode_texts(["a dog"])


def test_a_folder_that_is_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"onnx\.json: no such file; make the folder with `make export FORMAT=onnx"
    ):
        OnnxText(tmp_path)
    (tmp_path / "onnx.json").write_text('{"format": 7}')
    with pytest.raises(CheckpointError, match="not of this version"):
        OnnxText(tmp_path)
    (tmp_path / "onnx.json").write_text((folder / "onnx.json").read_text())
    with pytest.raises(CheckpointError, match=r"text\.onnx: no such file"):
        OnnxText(tmp_path)


class ByBatch(MaximumPooling):
    """Its result depends on the batch, which a trace keeps as a constant."""

    def forward(self, tokens: TokenSet) -> torch.Tensor:
        return super().forward(tokens) + float(tokens.lengths.sum())


class Unknown(MaximumPooling):
    """ONNX has no such operation."""

    def forward(self, tokens: TokenSet) -> torch.Tensor:
        return torch.linalg.qr(super().forward(tokens))[0]


@pytest.mark.parametrize(
    ("pooling", "error", "said"),
    [(ByBatch, CheckpointError, "differ from PyTorch's by"), (Unknown, ConfigError, "cannot be exported to ONNX")],
)
def test_a_part_that_onnx_cannot_express_is_refused(
    pooling: type[nn.Module], error: type[Exception], said: str, tmp_path: Path
) -> None:
    encoder = bert()
    encoder.pooling = pooling()
    with pytest.raises(error, match=said):
        write_text_tower(model_of(branch("regions"), encoder), tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_arrays_of_a_batch(model: RetrievalModel, tmp_path: Path) -> None:
    card = card_of("region", "seg")
    write_image_tower(model, card, tmp_path, most_tokens=MOST)
    images = images_of(photo_inputs(model, card)(2, 5))
    assert images.regions is not None
    assert images.seg_map is not None
    assert images.seg_semantic is not None
    values = images.regions.values.half()
    stored = images._replace(regions=TokenSet(values, images.regions.mask), seg_map=images.seg_map.float())
    stored = ImageBatch(*stored)._replace(seg_semantic=images.seg_semantic.half())
    found = run_image_tower(session_of(tmp_path / "image.onnx"), stored)
    np.testing.assert_allclose(found, model.encode_images(stored).numpy(), **EXACT)
