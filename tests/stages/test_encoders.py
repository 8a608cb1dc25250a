"""Both sides: blind to padding and order, equal to the plain form, clear about what they lack."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.hybrid import HybridEncoder
from threeshnet.encoders.image import ImageEncoder, TokenProjection
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.parts import CategoryToken, FusedTokens, LocalTokens, SceneTokens
from threeshnet.encoders.text.bert import BertTextEncoder, from_architecture
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.encoders.text.convolution import ConvolutionTextEncoder
from threeshnet.errors import ConfigError, DataError
from threeshnet.fusion.activations import Sigmoid, Softmax
from threeshnet.fusion.semantic import SemanticFusion
from threeshnet.fusion.spatial import SpatialFusion
from threeshnet.nn.masking import unit
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.pooling.maximum import MaximumPooling
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import ImageBatch, TokenSet

CLASSES, DIM, WIDTH, VOCABULARY = 4, 8, 6, 20
EXACT = {"atol": 1e-9, "rtol": 1e-9}
WORDS = ("a", "red", "bike", "##s", "dog", "on", "grass", "the", "runs")


def image_encoder(
    source: str = "regions", activation: nn.Module | None = None, pooling: nn.Module | None = None
) -> ImageEncoder:
    """All of 3SHNet in small, in evaluation mode and float64, with running statistics that are not 0 and 1."""
    torch.manual_seed(2)
    fusions = {
        "semantic": SemanticFusion(classes=CLASSES, dim=DIM, activation=activation or Sigmoid()),
        "spatial": SpatialFusion(classes=CLASSES, dim=DIM),
    }
    parts = {
        "category": CategoryToken(classes=CLASSES, dim=DIM),
        "local": LocalTokens(),
        "fused": FusedTokens(fusions=fusions, dim=DIM),
        "scene": SceneTokens(classes=CLASSES, dim=DIM),
    }
    project = TokenProjection(width=WIDTH, dim=DIM)
    encoder = ImageEncoder(source=source, project=project, parts=parts, pooling=pooling or GeneralizedPooling())
    encoder.double()(image_batch([3, 4]))
    return encoder.eval()


def image_batch(lengths: list[int], seed: int = 0) -> ImageBatch:
    torch.manual_seed(seed)
    count, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    regions = TokenSet(torch.rand(count, longest, WIDTH, dtype=torch.float64), mask)
    grid = TokenSet(torch.rand(count, 4, WIDTH, dtype=torch.float64), torch.ones(count, 4, dtype=torch.bool))
    semantic = torch.rand(count, CLASSES, 7, 7, dtype=torch.float64).softmax(dim=1)
    seg_map = torch.randint(0, CLASSES, (count, 64, 64), dtype=torch.uint8)
    return ImageBatch(regions, grid, semantic, seg_map, torch.randint(0, 2, (count, CLASSES)).double())


def bert() -> BertTextEncoder:
    torch.manual_seed(3)
    architecture = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    made = from_architecture(vocab_size=VOCABULARY, hidden_size=8, max_position_embeddings=24, **architecture)
    return BertTextEncoder(bert=made, dim=DIM, pooling=GeneralizedPooling(), pretrained=False).double().eval()


def bigru(pooling: nn.Module | None = None) -> BiGRUTextEncoder:
    torch.manual_seed(3)
    made = BiGRUTextEncoder(vocabulary_size=VOCABULARY, dim=DIM, word_width=5, pooling=pooling or GeneralizedPooling())
    return made.double().eval()


def captions_of(lengths: list[int], longest: int | None = None, seed: int = 0) -> TokenSet:
    torch.manual_seed(seed)
    mask = torch.arange(longest or max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return TokenSet(torch.randint(5, VOCABULARY, mask.shape) * mask, mask)


@pytest.mark.parametrize(("share", "alters"), [(None, True), (0.3, True), (0.0, False)])
def test_dropout_of_bert_alters_a_training_step_alone(share: float | None, alters: bool) -> None:
    encoder = BertTextEncoder(bert=bert().bert, dim=DIM, pooling=GeneralizedPooling(), pretrained=True, dropout=share)
    captions = captions_of([5, 3])
    left_out = encoder.double().eval()(captions)
    assert (encoder.train()(captions) - left_out).abs().max().gt(1e-3).item() == alters


@pytest.mark.parametrize("share", [-0.1, 1.0, 10])
def test_dropout_of_no_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=f"text_dropout={share} must be at least 0 and below 1"):
        BertTextEncoder(bert=bert().bert, dim=DIM, pooling=GeneralizedPooling(), pretrained=True, dropout=share)


# ---- images


@settings(max_examples=25)
@given(data=st.data())
def test_an_image_embedding_sees_neither_padding_nor_order_nor_its_neighbours(data: st.DataObject) -> None:
    activation, pooling = (
        data.draw(st.sampled_from([Sigmoid(), Softmax()])),
        data.draw(st.sampled_from([GeneralizedPooling(), MeanPooling(), MaximumPooling()])),
    )
    encoder = image_encoder(activation=activation, pooling=pooling)
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    images = image_batch(lengths, seed=data.draw(st.integers(0, 9)))
    expected = encoder(images)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(len(lengths), dtype=torch.float64), **EXACT)

    values, mask = images.regions
    padding = data.draw(st.integers(0, 3))
    padded = F.pad(values, (0, 0, 0, padding)).masked_fill(
        ~F.pad(mask, (0, padding)).unsqueeze(-1), data.draw(st.sampled_from([0.0, 1e4]))
    )
    order = data.draw(st.permutations(range(padded.shape[1])))
    changed = TokenSet(padded[:, order], F.pad(mask, (0, padding))[:, order])
    torch.testing.assert_close(encoder(images._replace(regions=changed)), expected, **EXACT)

    alone = ImageBatch(
        *(
            TokenSet(*(t[:1] for t in part)) if isinstance(part, tuple) else part[:1]
            for part in images
            if part is not None
        )
    )
    torch.testing.assert_close(encoder(alone), expected[:1], **EXACT)


def test_the_image_side_is_the_set_of_the_paper() -> None:
    """[category | local | fused | scene]: 2n + 50 real tokens, pooled together."""
    encoder, images = image_encoder(), image_batch([2, 5])
    seen: list[TokenSet] = []
    encoder.pooling.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    encoder(images)
    assert seen[0].lengths.tolist() == [2 * 2 + 50, 2 * 5 + 50]
    local, projected = encoder.project(images.regions)
    torch.testing.assert_close(local.values - encoder.project.mlp(images.regions.values), projected.values, **EXACT)
    torch.testing.assert_close(seen[0].values[:, 1:6], local.values, **EXACT)


def test_hybrid_is_the_unit_sum_of_its_branches() -> None:
    images = image_batch([2, 5, 1])
    region, grid = image_encoder("regions"), image_encoder("grid")
    branches = {"region": region, "grid": grid}
    weighted = HybridEncoder(branches=branches, weights={"grid": 0.5})(images)
    torch.testing.assert_close(weighted, unit(region(images) + 0.5 * grid(images)), **EXACT)
    with pytest.raises(ConfigError, match=r"image_encoder\.weights='gird' does not exist; there are: region, grid"):
        HybridEncoder(branches=branches, weights={"gird": 0.5})
    found = HybridEncoder(branches=branches)(images)
    total = region(images) + grid(images)
    torch.testing.assert_close(found, total / total.norm(dim=1, keepdim=True), **EXACT)


def test_highlights_are_of_the_parts_that_are_there() -> None:
    images = image_batch([2, 5])
    found = image_encoder(activation=Softmax()).highlights(images)
    assert found["semantic"].shape == (2, 5)
    assert found["spatial"].shape == (2, 5, 4096)
    local = ImageEncoder(
        source="regions",
        project=TokenProjection(width=WIDTH, dim=DIM),
        parts={"local": LocalTokens()},
        pooling=MeanPooling(),
    )
    assert local.double().highlights(images) == {}


def test_what_an_image_encoder_refuses() -> None:
    project, pooling = TokenProjection(width=WIDTH, dim=DIM), MeanPooling()
    with pytest.raises(ConfigError, match="source='region' does not exist; there are: regions, grid"):
        ImageEncoder(source="region", project=project, parts={"local": LocalTokens()}, pooling=pooling)
    with pytest.raises(ConfigError, match=r"parts=\[\]"):
        ImageEncoder(source="regions", project=project, parts={}, pooling=pooling)
    encoder, images = image_encoder(), image_batch([2])
    with pytest.raises(DataError, match="the model reads regions, the batch holds grid"):
        encoder(images._replace(regions=None))
    with pytest.raises(DataError, match="the batch holds neither"):
        encoder(images._replace(regions=None, grid=None))


# ---- sentences


def plain_bert(encoder: BertTextEncoder, captions: TokenSet) -> Tensor:
    """All sentences at once, padded to the longest."""
    hidden = encoder.bert(input_ids=captions.values, attention_mask=captions.mask.long()).last_hidden_state
    return unit(encoder.pooling(TokenSet(encoder.linear(hidden), captions.mask)))


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), padding=st.integers(0, 3), seed=st.integers(0, 9))
def test_bert_in_length_groups_is_bert(lengths: list[int], padding: int, seed: int) -> None:
    encoder, captions = bert(), captions_of(lengths, seed=seed)
    expected = plain_bert(encoder, captions)
    torch.testing.assert_close(encoder(captions), expected, **EXACT)
    longer = TokenSet(*(F.pad(tensor, (0, padding)) for tensor in captions))
    torch.testing.assert_close(encoder(longer), expected, **EXACT)


def plain_bigru(encoder: BiGRUTextEncoder, ids: Tensor) -> Tensor:
    """One sentence [n], nothing padded, nothing packed."""
    forward, backward = encoder.gru(encoder.embedding(ids).unsqueeze(0))[0].chunk(2, dim=-1)
    states = (forward + backward) / 2
    return F.normalize(encoder.pooling(TokenSet(states, torch.ones(1, len(ids), dtype=torch.bool))), dim=-1)


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), padding=st.integers(0, 3))
def test_bigru_sees_no_padding(lengths: list[int], padding: int) -> None:
    captions = captions_of(lengths, longest=max(lengths) + padding)
    for pooling in (GeneralizedPooling(), MeanPooling(), MaximumPooling()):
        encoder = bigru(pooling)
        expected = torch.cat([plain_bigru(encoder, ids[mask]) for ids, mask in zip(*captions, strict=True)])
        torch.testing.assert_close(encoder(captions), expected, **EXACT)


def plain_convolution(encoder: ConvolutionTextEncoder, ids: Tensor) -> Tensor:
    """One sentence [n], word by word: the words around it, and none beyond its ends."""
    words, (weight, bias) = encoder.embedding(ids), (encoder.convolution.weight, encoder.convolution.bias)
    middle, hidden = weight.shape[2] // 2, []
    for place in range(len(ids)):
        near = [(offset, place + offset - middle) for offset in range(weight.shape[2])]
        summed = [weight[:, :, offset] @ words[at] for offset, at in near if 0 <= at < len(ids)]
        hidden.append(torch.stack([bias, *summed]).sum(dim=0).relu())
    states = encoder.linear(torch.stack(hidden)).unsqueeze(0)
    return F.normalize(encoder.pooling(TokenSet(states, torch.ones(1, len(ids), dtype=torch.bool))), dim=-1)


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), padding=st.integers(0, 3))
def test_a_convolution_sees_no_padding(lengths: list[int], padding: int) -> None:
    captions = captions_of(lengths, longest=max(lengths) + padding)
    torch.manual_seed(3)
    sizes = {"vocabulary_size": VOCABULARY, "dim": DIM, "word_width": 5, "hidden": 7, "near": 3}
    encoder = ConvolutionTextEncoder(pooling=GeneralizedPooling(), **sizes).double().eval()
    expected = torch.cat([plain_convolution(encoder, ids[mask]) for ids, mask in zip(*captions, strict=True)])
    torch.testing.assert_close(encoder(captions), expected, **EXACT)


@pytest.mark.parametrize("near", [0, 4])
def test_a_convolution_has_a_middle(near: int) -> None:
    with pytest.raises(ConfigError, match=f"near={near}.*odd"):
        ConvolutionTextEncoder(vocabulary_size=VOCABULARY, dim=DIM, pooling=MeanPooling(), near=near)


# ---- both


def retrieval_model() -> RetrievalModel:
    tokenizer = Wordpieces([*SPECIALS, *WORDS])
    return RetrievalModel(image_encoder=image_encoder(), text_encoder=bert(), tokenizer=tokenizer).eval()


def test_sentences_come_back_in_the_order_given() -> None:
    model = retrieval_model()
    texts = ["a dog on the grass", "dog", "a red bikes", "the dog runs on a red grass", "a dog"]
    one_by_one = torch.cat([model.encode_texts([text]) for text in texts])
    for batch_size in (1, 2, 3, 100):
        torch.testing.assert_close(model.encode_texts(texts, batch_size=batch_size), one_by_one)
    assert one_by_one.dtype == torch.float32
    torch.testing.assert_close(one_by_one.norm(dim=1), torch.ones(5))


def test_images_are_encoded_as_float32_of_unit_length() -> None:
    images = image_batch([2, 4])
    embedding = retrieval_model().encode_images(images)
    assert embedding.dtype == torch.float32
    assert not embedding.requires_grad
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_what_encode_texts_refuses() -> None:
    with pytest.raises(TypeError, match="list of sentences"):
        retrieval_model().encode_texts("a dog")
    with pytest.raises(ValueError, match="no sentence"):
        retrieval_model().encode_texts([])
