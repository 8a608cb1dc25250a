"""The forms that the field's evaluators take: fed as they feed them, they give the embeddings of the retriever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize, pad
from torch.utils.data import DataLoader, default_collate

from threeshnet import metrics
from threeshnet.export.adapters import ClipModel, MtebEncoder
from threeshnet.retriever import Retriever

from .test_onnx import DIM, TEXTS, bigru, branch, model_of

CAPTIONS = [["a red bike", "dogs"], ["a dog on grass"], ["zebra", "a", "a red dog"], ["red grass"]]
OWNERS = torch.tensor([0, 0, 1, 2, 2, 2, 3])


class OfColours(Retriever):
    """Photos of one colour, whose embedding is the colour: what extractors do is tested elsewhere."""

    def encode_photos(self, photos: Any, **_: Any) -> Tensor:
        colours = torch.tensor([photo.getpixel((0, 0)) for photo in photos]) / 255
        return normalize(pad(colours, (0, DIM - 3), value=0.1), dim=-1)


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return OfColours(model_of(branch("regions"), bigru()), {"fields": ["region"]})


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.new("RGB", (8 + number, 8), (60 * number, 200 - 50 * number, 90)) for number in range(4)]


def test_mteb_gets_the_embeddings_of_each_side(retriever: Retriever, photos: list[Image.Image]) -> None:
    model = MtebEncoder(retriever)
    texts = DataLoader([{"id": str(row), "text": text} for row, text in enumerate(TEXTS)], batch_size=4)  # pyright: ignore
    found = model.encode(texts, task_metadata=None, hf_split="test", hf_subset="default", prompt_type="query")
    np.testing.assert_allclose(found, retriever.encode_texts(TEXTS).numpy(), atol=1e-6)
    images = [{"id": ["0", "1", "2"], "image": photos[:3]}, {"id": ["3"], "image": photos[3:]}]
    found = model.encode(images, hf_split="test")
    np.testing.assert_array_equal(found, retriever.encode_photos(photos).numpy())
    with pytest.raises(ValueError, match="images or of texts, found id, image, text"):
        model.encode([{"id": ["0"], "image": photos[:1], "text": ["a"]}])
    one, other = retriever.encode_texts(TEXTS), retriever.encode_photos(photos)
    assert torch.equal(model.similarity(one.numpy(), other.numpy()), one @ other.T)
    torch.testing.assert_close(
        model.similarity_pairwise(one.numpy(), one.numpy()), torch.ones(len(one)), atol=1e-6, rtol=0
    )


def collated(batch: Any) -> tuple[Tensor, list[list[str]]]:
    """Images stacked, captions as lists: as data sets of captions are loaded for a CLIP."""
    images, texts = zip(*batch, strict=True)
    return default_collate(list(images)), list(texts)


def test_a_clip_evaluation_finds_our_recalls(retriever: Retriever, photos: list[Image.Image]) -> None:
    model = ClipModel(retriever)
    data: Any = [(model.preprocess(photo), texts) for photo, texts in zip(photos, CAPTIONS, strict=True)]
    images, texts = [], []
    for numbers, captions in DataLoader(data, batch_size=3, collate_fn=collated):
        images.append(model.encode_image(numbers))
        texts.append(model.encode_text(model.tokenizer([text for several in captions for text in several])))
    assert not model.kept  # a photo is held until it is encoded
    image, text = torch.cat(images), torch.cat(texts)
    flat = [text for several in CAPTIONS for text in several]
    torch.testing.assert_close(text, retriever.encode_texts(flat), atol=1e-6, rtol=0)
    torch.testing.assert_close(image, retriever.encode_photos(photos))
    first = (text @ image.T).argmax(dim=1) == OWNERS
    ours = metrics.recall(retriever.similarity(image, text), OWNERS)
    assert ours["t2i"]["R@1"] == pytest.approx(100 * first.float().mean().item())


def test_photos_of_another_process_are_missed(retriever: Retriever) -> None:
    with pytest.raises(KeyError, match="num_workers=0"):
        ClipModel(retriever).encode_image(torch.tensor([3]))
