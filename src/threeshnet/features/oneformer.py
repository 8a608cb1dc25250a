"""OneFormer, which is told its task in words (Jain et al., OneFormer, CVPR 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedConfig
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from threeshnet.errors import DataError
from threeshnet.features.huggingface import quietly
from threeshnet.features.panoptic import PanopticSegmentation

TASK = "the task is panoptic"  # the words of its training
VOCABULARY = ("vocab.json", "merges.txt")  # of its tokenizer, CLIP's


class OneFormerSegmentation(PanopticSegmentation):
    """OneFormer as `PanopticSegmentation`; the folder must hold its tokenizer too (vocab.json, merges.txt)."""

    families = ("oneformer",)

    def prepared_by(self, config: PreTrainedConfig) -> Any:
        """Tokenizes the task, and gives the image processor without its class table.

        That table would be fetched from another repository of the hub, and serves training alone.
        """
        missing = [file for file in VOCABULARY if not (self.folder / file).is_file()]
        if missing:  # transformers would go on with an empty vocabulary
            raise DataError(
                f"{self.folder}: {', '.join(missing)} missing, the words that OneFormer is told its task in"
            )
        try:
            with quietly():
                words = CLIPTokenizer.from_pretrained(self.folder)
                processor = OneFormerImageProcessorPil.from_pretrained(self.folder, class_info_file=None)
        except (OSError, ValueError, TypeError) as reason:
            raise DataError(
                f"{self.folder}: no tokenizer ({', '.join(VOCABULARY)}) and image processor of OneFormer: {reason}"
            ) from reason
        length = config.task_seq_len  # pyright: ignore[reportAttributeAccessIssue]
        task = words(TASK, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self.task: Tensor  # [1, length] int64, zeros after the words, as in its training
        self.register_buffer("task", torch.as_tensor(task["input_ids"] * task["attention_mask"]), persistent=False)
        return processor

    def told(self, photos: int) -> dict[str, Tensor]:
        return {"task_inputs": self.task.expand(photos, -1)}
