"""What photos show, by their captions: mean sentence vectors of an encoder that is not trained here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import normalize

from threeshnet.encoders.text.sources import pretrained, wordpieces
from threeshnet.errors import ConfigError
from threeshnet.records import TokenSet

SENTENCES = 256  # at a time, short ones first


class CaptionMeanings:
    """A sentence's vector is the mean of a BERT's last hidden states (Reimers and Gurevych, EMNLP 2019, section 3).

    `name` is a BERT that was trained to tell sentences apart: `minilm`, a folder or a name on the hub.
    """

    def __init__(self, *, name: str = "minilm") -> None:
        self.name = name

    def __call__(self, texts: Sequence[str], owners: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Captions and the image of each [captions] -> mean vectors of unit length [images, width], float32.

        Raises ConfigError for an image without captions, and DataError when the BERT is not found.
        """
        images = int(owners.max(initial=-1)) + 1
        count = torch.from_numpy(np.bincount(owners, minlength=images))
        if not count.all():
            raise ConfigError(f"image {int(count.argmin())} has no caption, so nothing says what it shows")
        tokenizer = wordpieces(self.name)
        network: Any = pretrained(self.name)  # the type that transformers gives its `to` takes no device
        bert = network.to(device).eval()
        total = torch.zeros(images, bert.config.hidden_size)
        pieces = [encoded.ids for encoded in tokenizer.encode(list(texts))]
        order = np.argsort([len(ids) for ids in pieces], kind="stable")
        parts = [order[start : start + SENTENCES] for start in range(0, len(order), SENTENCES)]
        for rows in track(parts, "captions", console=Console(stderr=True), transient=True):
            vectors = sentence_vectors(bert, tokenizer.pad([pieces[row] for row in rows]).to(device))
            total.index_add_(0, torch.from_numpy(owners[rows]).long(), vectors.cpu())
        return normalize(total, dim=1)  # of the sum: the mean has the same direction


@torch.inference_mode()
def sentence_vectors(bert: nn.Module, sentences: TokenSet) -> Tensor:
    """Wordpiece ids [b, N] -> vectors of unit length [b, width]: means over all wordpieces."""
    hidden = bert(input_ids=sentences.values, attention_mask=sentences.mask.long()).last_hidden_state
    return normalize((hidden * sentences.mask.unsqueeze(-1)).sum(dim=1).float(), dim=1)
