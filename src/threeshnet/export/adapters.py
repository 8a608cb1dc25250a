"""A model in the forms that the field's own evaluators take: mteb and CLIP_benchmark.

Both take anything that encodes photos and sentences as `Retriever` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from threeshnet.errors import ConfigError
from threeshnet.records import TokenSet
from threeshnet.retriever import Retriever

KINDS = ("image", "text")


class Encoder(Protocol):
    """What encodes photos and sentences, such as a `Retriever`."""

    def encode_photos(self, photos: Sequence[Any], /) -> Tensor: ...

    def encode_texts(self, texts: Sequence[str], /) -> Tensor: ...


class MtebEncoder:
    """A model for `mteb.evaluate(MtebEncoder(retriever), tasks)`, in tasks whose sides are images or texts."""

    def __init__(self, encoder: Encoder, name: str = "threeshnet/model", revision: str = "none") -> None:
        """`name` (`<owner>/<model>`) and `revision` stand in mteb's results."""
        self.encoder, self.name, self.revision = encoder, name, revision

    def encode(self, inputs: Iterable[Mapping[str, Any]], **task: Any) -> np.ndarray:
        """Embeddings [B, D] of batches that hold `image` (PIL images) or `text`; what mteb says of the task is unused.

        Raises ValueError for a batch with both or neither: the model has no embedding of a photo with a sentence.
        """
        parts = []
        for batch in inputs:
            kinds = [kind for kind in KINDS if kind in batch]
            if len(kinds) != 1:
                raise ValueError(f"expected batches of images or of texts, found {', '.join(batch)}")
            encode = self.encoder.encode_photos if kinds == ["image"] else self.encoder.encode_texts
            parts.append(encode(list(batch[kinds[0]])))
        return torch.cat(parts).cpu().numpy()

    def similarity(self, one: Any, other: Any) -> Tensor:
        """Cosine similarity [B, C] of embeddings [B, D] and [C, D]."""
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    def similarity_pairwise(self, one: Any, other: Any) -> Tensor:
        """Cosine similarity [B] of embeddings [B, D] row by row."""
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb notes about the model.  Raises ConfigError where mteb is not installed."""
        try:
            from mteb.models.model_meta import ModelMeta  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("mteb is not installed: `pip install 'threeshnet[mteb]'`, about 1 GB") from error
        facts = {"name": self.name, "revision": self.revision, "modalities": list(KINDS), "languages": ["eng-Latn"]}
        return ModelMeta.create_empty(overwrites=facts)


class ClipModel:
    """A model for CLIP_benchmark: `zeroshot_retrieval.evaluate(model, loader, model.tokenizer, device, amp=False)`.

    Our photos have many sizes and go through extractors, while a CLIP takes one tensor. So `preprocess`, the transform
    of the data set, keeps the photo and gives its number, and `encode_image` encodes the photos of such numbers. Both
    have to run in one process: give the loader `num_workers=0`.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.kept: dict[int, Image.Image] = {}
        self.count = 0

    def preprocess(self, photo: Image.Image) -> Tensor:
        """The number of a photo, [] int64; the photo is held until it is encoded."""
        self.kept[self.count] = photo
        self.count += 1
        return torch.tensor(self.count - 1)

    def encode_image(self, numbers: Tensor) -> Tensor:
        """Embeddings [B, D] of the photos of numbers [B].  Raises KeyError for one that this process has not kept."""
        if missing := [number for number in numbers.tolist() if number not in self.kept]:
            raise KeyError(f"photos {missing[:3]} were not kept by this process: give the loader num_workers=0")
        return self.retriever.encode_photos([self.kept.pop(number) for number in numbers.tolist()]).to(numbers.device)

    def tokenizer(self, texts: Sequence[str]) -> Tensor:
        """Wordpiece ids [B, N] of sentences, padded."""
        return self.retriever.model.tokenizer(list(texts)).values

    def encode_text(self, ids: Tensor) -> Tensor:
        """Embeddings [B, D] of wordpiece ids [B, N]; no wordpiece of a sentence is the padding's."""
        captions = TokenSet(ids, ids != self.retriever.model.tokenizer.pad_id)
        model = self.retriever.model
        return model.text_encoder(captions.to(model.device)).float().to(ids.device)
