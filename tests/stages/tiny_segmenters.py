"""Folders with tiny random segmenters, one function a family, as `save_pretrained` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    PreTrainedModel,
    SwinConfig,
)
from transformers.models.detr import DetrConfig
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

Names = tuple[str, ...]
STAGES = ["stage1", "stage2", "stage3", "stage4"]
EDGES = {"shortest_edge": 64, "longest_edge": 128}  # pixels
QUERIES = 6
LAYER = {"layers": 1, "ffn_dim": 16, "attention_heads": 2}


def labels(names: Names) -> dict[str, Any]:
    """The class table in the form that configurations take."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def swin() -> SwinConfig:
    sizes: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    sizes["out_features"] = STAGES
    return SwinConfig(**sizes, image_size=64)


def saved(model: PreTrainedModel, processor: Any, folder: Path) -> Path:
    """The folder, with what hub repositories hold: configuration, weights, preprocessor_config.json."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def mask2former(folder: Path, names: Names) -> Path:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=QUERIES,
        **labels(names),
    )
    processor = Mask2FormerImageProcessorPil(size=EDGES, size_divisor=32)
    return saved(Mask2FormerForUniversalSegmentation(config), processor, folder)


def maskformer(folder: Path, names: Names) -> Path:
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        f"{half}_{what}": number for half in ("encoder", "decoder") for what, number in LAYER.items()
    }
    layers["use_timm_backbone"] = False
    decoder = DetrConfig(d_model=16, num_queries=QUERIES, **layers)
    config = MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **labels(names)
    )
    processor = MaskFormerImageProcessorPil(size=EDGES, size_divisor=32)
    return saved(MaskFormerForInstanceSegmentation(config), processor, folder)


def oneformer(folder: Path, names: Names) -> Path:
    torch.manual_seed(0)
    words = vocabulary(folder)
    config = OneFormerConfig(
        backbone_config=swin(),
        num_queries=QUERIES,
        task_seq_len=8,
        text_encoder_width=32,
        text_encoder_context_length=8,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=words,
        text_encoder_n_ctx=2,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        **labels(names),
    )
    saved(OneFormerForUniversalSegmentation(config), OneFormerImageProcessorPil(size=EDGES), folder)
    # As on the hub: the class table of the processor lies in a data set of its own, which nothing offline has.
    file = folder / "preprocessor_config.json"
    content = json.loads(file.read_text()) | {"repo_path": "nobody/nothing", "class_info_file": "coco_panoptic.json"}
    file.write_text(json.dumps(content))
    return folder


def vocabulary(folder: Path) -> int:
    """Writes a CLIP tokenizer that knows letters and `th`; its number of words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "th", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return len(entries)


def eomt(folder: Path, names: Names) -> Path:
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        num_blocks=1,
        num_queries=QUERIES,
        num_register_tokens=1,
        num_upscale_blocks=1,
        **labels(names),
    )
    processor = EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    return saved(EomtForUniversalSegmentation(config), processor, folder)


FAMILIES = {"mask2former": mask2former, "maskformer": maskformer, "oneformer": oneformer, "eomt": eomt}
