"""The authors' checkpoints: read without running anything in the file, every key accounted for."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.encoders.image import ImageEncoder, TokenProjection
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.parts import CategoryToken, FusedTokens, LocalTokens, SceneTokens
from threeshnet.encoders.text.bert import BertTextEncoder
from threeshnet.encoders.text.sources import untrained, wordpieces
from threeshnet.errors import CheckpointError, ConfigError, Problems, one_of
from threeshnet.files import read_tensors
from threeshnet.fusion.activations import Sigmoid, Softmax
from threeshnet.fusion.semantic import SemanticFusion
from threeshnet.fusion.spatial import SpatialFusion
from threeshnet.pooling.generalized import GeneralizedPooling

log = logging.getLogger(__name__)
OFFICIAL_FIELDS = ("region", "seg")  # what the authors' region model reads of a shard
ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": Sigmoid, "softmax": Softmax}

# The authors' module -> ours. Longest prefix first where one contains another.
IMAGE_MODULES = {
    "embed_seg_C.1": "parts.scene.embed.embed",
    "embed_seg_C.4": "parts.scene.embed.norm",
    "embed_category.0": "parts.category.embed.embed",
    "embed_category.3": "parts.category.embed.norm",
    "crossmodalfusion_sm.MLP_image": "parts.fused.fusions.semantic.key",
    "crossmodalfusion_sm.MLP_seg": "parts.fused.fusions.semantic.query",
    "crossmodalfusion_sm.embed_seg_HW.2": "parts.fused.fusions.semantic.summary.embed",
    "crossmodalfusion_sm.embed_seg_HW.5": "parts.fused.fusions.semantic.summary.norm",
    "crossmodalfusion_sm.fc_scale": "parts.fused.fusions.semantic.gate",
    "crossmodalfusion_sm.fc_1": "parts.fused.fusions.semantic.out",
    "crossmodalfusion_sp.MLP_image": "parts.fused.fusions.spatial.query",
    "crossmodalfusion_sp.embedding_Seg.0": "parts.fused.fusions.spatial.places.conv",
    "crossmodalfusion_sp.embedding_Seg.1": "parts.fused.fusions.spatial.places.norm",
    "crossmodalfusion_sp.embed_fusion": "parts.fused.fusions.spatial.out",
    "fc": "project.linear",
    "mlp": "project.mlp",
    "seg_mlp": "parts.scene.mlp",
    "fusion_mlp": "parts.fused.mlp",
    "gpool.gru": "pooling.gru",
    "gpool.linear": "pooling.score",
}
TEXT_MODULES = {"bert": "bert", "linear": "linear", "gpool.gru": "pooling.gru", "gpool.linear": "pooling.score"}
MLP_LAYERS = {"layers.0": "enter", "bns.0": "norm", "layers.1": "leave"}
# In the files and never used: the BatchNorm behind an MLP's last layer, BERT's pooler, a buffer of old transformers.
UNUSED = ("bns.1.", "bert.pooler.", "bert.embeddings.position_ids")


def load_official_checkpoint(
    path: str | Path, text_config: str | Path, activation: str = "sigmoid", *, allow_pickle: bool = False
) -> RetrievalModel:
    """The region model of an authors' checkpoint, in evaluation mode.

    `text_config` is a folder (or a hub name) with the BERT's `config.json` and `vocab.txt`: the weights are in the
    checkpoint. `allow_pickle` unpickles a file that holds more than the authors' options and numbers, and runs the code
    in it: only for a file that you made yourself. Raises CheckpointError naming every key that has no place, and
    ConfigError for an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(one_of("activation", activation, ACTIVATIONS))
    image_state, text_state = (
        {key.removeprefix("module."): value for key, value in state.items()}  # of DataParallel
        for state in read_states(Path(path), allow_pickle=allow_pickle)
    )
    dim, width, classes = _sizes(Path(path), image_state)
    image_encoder = _image_encoder(dim, width, classes, ACTIVATIONS[activation]())
    text_encoder = BertTextEncoder(bert=untrained(text_config), dim=dim, pooling=GeneralizedPooling(), pretrained=True)
    problems = Problems(f"{path} does not fit the authors' layout")
    _load(image_encoder, image_state, IMAGE_MODULES, "image", problems)
    _load(text_encoder, text_state, TEXT_MODULES, "text", problems)
    problems.raise_as(
        CheckpointError, "Expected the checkpoint of a 3SHNet region model with a BERT as in `text_config`."
    )
    model = RetrievalModel(image_encoder=image_encoder, text_encoder=text_encoder, tokenizer=wordpieces(text_config))
    return model.eval()


def is_official_checkpoint(path: Path, *, allow_pickle: bool = False) -> bool:
    """Whether the file is a readable checkpoint of the authors' layout."""
    try:
        read_states(path, allow_pickle=allow_pickle)
    except CheckpointError:
        return False
    return True


def read_states(path: Path, *, allow_pickle: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The image state and the text state of the file, weights-only: nothing in the file is run.

    A file that holds more is read with `allow_pickle` alone, and a warning says so.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected an authors' checkpoint (.pth or .pth.tar)")
    try:
        with torch.serialization.safe_globals(_harmless_types()):
            content: Any = read_tensors(path)
    except Exception as reason:
        if not allow_pickle:
            raise CheckpointError(
                f"{path} could not be read without running code in it: {unreadable(reason)}; "
                "allow_pickle=true runs it, which is for a file that you made yourself"
            ) from reason
        content = _unpickled(path)
    states = content.get("model") if isinstance(content, dict) else None
    pair = states if isinstance(states, list | tuple) and len(states) == 2 else ()
    if not pair or not all(isinstance(state, dict) and all(isinstance(key, str) for key in state) for state in pair):
        content_kind = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected `model` to be [image state, text state]; found {content_kind}")
    return pair[0], pair[1]


def _unpickled(path: Path) -> Any:
    """The content of a file whose owner asked to have it run."""
    log.warning("%s: allow_pickle=true, so whatever code is in this file is RUN now", path)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as reason:
        raise CheckpointError(f"{path} could not be read even as a pickle: {unreadable(reason)}") from reason


def unreadable(reason: Exception) -> str:
    """Why torch would not read a file; its own words go on to advise reading it unsafely.

    >>> unreadable(RuntimeError("… Unsupported global: GLOBAL os.system was not allowed …"))
    'it holds os.system'
    """
    forbidden = re.search(r"GLOBAL (\S+)", str(reason))
    return f"it holds {forbidden.group(1)}" if forbidden else str(reason).split("\n")[0].split(". ")[0]


def _harmless_types() -> list[Any]:
    """What the authors' files hold besides tensors: their options, and recalls as numpy numbers."""
    kinds = [np.dtype, *{type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")}]
    scalar = np.float64(0).__reduce__()[0]
    # NumPy 2 moved the function, and the published files were written with NumPy 1.
    return [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]


def _sizes(path: Path, state: dict[str, Tensor]) -> tuple[int, int, int]:
    """D, the width of a region, and C."""
    shapes = []
    for key in ("fc.weight", "embed_category.0.weight"):
        if key not in state:
            raise CheckpointError(f"{path}: key {key!r} is missing, so the sizes of the model are unknown")
        if not isinstance(state[key], Tensor) or state[key].ndim != 2:
            raise CheckpointError(f"{path}: {key} is no matrix, so the sizes of the model are unknown")
        shapes.append(state[key].shape)
    (dim, width), (_, classes) = shapes
    return dim, width, classes


def _image_encoder(dim: int, width: int, classes: int, activation: nn.Module) -> ImageEncoder:
    fusions = {
        "semantic": SemanticFusion(classes=classes, dim=dim, activation=activation),
        "spatial": SpatialFusion(classes=classes, dim=dim),
    }
    parts = {
        "category": CategoryToken(classes=classes, dim=dim),
        "local": LocalTokens(),
        "fused": FusedTokens(fusions=fusions, dim=dim),
        "scene": SceneTokens(classes=classes, dim=dim),
    }
    project = TokenProjection(width=width, dim=dim)
    return ImageEncoder(source="regions", project=project, parts=parts, pooling=GeneralizedPooling())


def _load(module: nn.Module, state: dict[str, Tensor], names: dict[str, str], side: str, problems: Problems) -> None:
    """Copies `state` into `module` under our names; what has no place, no source or another shape is a problem."""
    ours = module.state_dict()
    renamed = {}
    for key, value in state.items():
        if any(mark in key for mark in UNUSED):
            continue
        name = _rename(key, names)
        if name is None or name not in ours:
            problems.add(f"{side} key {key} has no place in the model")
        elif fault := weight_fault(ours[name], value):
            problems.add(f"{side} key {key} {fault}")
        elif ours[name].shape != value.shape:
            problems.add(f"{side} key {key} is {tuple(value.shape)}, expected {tuple(ours[name].shape)}")
        else:
            renamed[name] = value
    problems.extend(f"{side} weight {name} is missing" for name in ours if name not in renamed and not problems)
    if not problems:
        module.load_state_dict(renamed)


def weight_fault(ours: Tensor, value: Any) -> str | None:
    """Why something cannot be a weight, whatever its shape: no tensor, of another kind, or with NaN in it."""
    if not isinstance(value, Tensor):
        return f"is no tensor but {type(value).__name__}"
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return "is no plain tensor"
    if value.is_floating_point() != ours.is_floating_point() or value.is_complex():
        return f"is of type {value.dtype}, expected {ours.dtype}"
    if value.shape == ours.shape and not value.isfinite().all():
        return "holds numbers that are not finite"
    return None


def _rename(key: str, names: dict[str, str]) -> str | None:
    for theirs in sorted(names, key=len, reverse=True):
        if key.startswith(theirs + "."):
            rest = key.removeprefix(theirs + ".")
            for layer, ours in MLP_LAYERS.items():
                if rest.startswith(layer + "."):
                    rest = ours + rest.removeprefix(layer)
            return f"{names[theirs]}.{rest}"
    return None
